"""Training: collecting experience, fitting world models, measuring them, and the agents' losses."""
