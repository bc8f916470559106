"""Where models lie: those that came with the package, and those of this user."""

import os
from pathlib import Path

from diamond_gym.errors import BadArgument
from diamond_gym.files import user_folder


def bundled_folder() -> Path:
    """The folder of the models in the package; they lie flat in it."""
    return Path(__file__).parent


def home_folder() -> Path:
    """This user's folder: `$DIAMOND_GYM_HOME`, else the system's place for data. It may not exist yet.

    Raises:
        BadArgument: It would lie in the home folder of a user who has none, as in many containers.
    """
    chosen = os.environ.get("DIAMOND_GYM_HOME")
    # os.path leaves a "~" that leads nowhere where pathlib raises a RuntimeError
    folder = Path(os.path.expanduser(chosen)) if chosen else user_folder("data")  # noqa: PTH111
    if folder is None or folder.parts[0].startswith("~"):
        raise BadArgument("there is no home folder to keep models, data and runs in: name a folder in DIAMOND_GYM_HOME")
    return folder


def models_folder() -> Path:
    """The user's registry: one folder per model, named as the model."""
    return home_folder() / "models"
