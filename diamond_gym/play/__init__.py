"""A dream in the browser or the terminal: `diamond-gym play`. Only this package imports starlette."""
