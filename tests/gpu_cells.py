"""A cell of a table that answers as it is asked to, in a module that a process imports in no time."""

import time


def cell_of(answer):
    """A cell's measurement."""
    if answer == "raise":
        raise ValueError("no such thing")
    if answer == "exit":
        raise SystemExit
    return lambda: {"result": 1} if answer == "fine" else time.sleep(60)
