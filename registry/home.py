"""Where models lie: those that came with the package, and those of this user."""

import os
from pathlib import Path


def bundled_folder() -> Path:
    """The folder of the models in the package; they lie flat in it."""
    return Path(__file__).parent


def home_folder() -> Path:
    """This user's folder: `$DIAMOND_GYM_HOME`, else the system's place for data. It may not exist yet."""
    chosen = os.environ.get("DIAMOND_GYM_HOME")
    if chosen:
        return Path(chosen).expanduser()
    from platformdirs import user_data_path  # only needed here, and `import diamond_gym` should stay cheap

    return user_data_path("diamond-gym", appauthor=False)


def models_folder() -> Path:
    """The user's registry: one folder per model, named as the model."""
    return home_folder() / "models"
