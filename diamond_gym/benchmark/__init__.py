"""What `diamond-gym benchmark` measures: dreams, fittings and environments, beside a plain version of the same."""
