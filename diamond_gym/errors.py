"""Errors that a user can put right, each a message of one line that names the fix."""


class DiamondGymError(Exception):
    """An error that the user can put right; its message is one clear line.

    The command line prints the message alone and exits with 1; a traceback is kept for our own mistakes.
    """


class BadArgument(DiamondGymError):
    """An argument that cannot be used as given; the command line exits with 2, as for a misspelt option."""


class BadConfig(BadArgument, ValueError):
    """A field of a configuration that cannot be used as given; the message says what it may be."""


class DiskFull(DiamondGymError):
    """There was no room to write something; what was there before is intact."""


class ModelNotFound(DiamondGymError):
    """There is no world model of the name or for the game that was asked for."""


class DamagedModel(DiamondGymError):
    """A world model's card or files are missing, truncated, or not those that its card describes."""


def one_line(message: object) -> str:
    """Another library's error, or a key of somebody's file, in one line of at most 160 characters, then "..."."""
    text = " ".join(str(message).split()) or type(message).__name__
    return text if len(text) <= 160 else f"{text[:160]}..."
