"""From a name to a world model on its device, every byte verified on the way."""

import os
from typing import TYPE_CHECKING, Any

from diamond_gym.errors import DamagedModel
from diamond_gym.files import sha256_file
from diamond_gym.registry.models import Entry, read_entry, resolve

if TYPE_CHECKING:
    from diamond_gym.world_model import WorldModel


def load_world_model(
    name_or_folder: str | os.PathLike[str], device: str = "auto", precision: str = "auto"
) -> "WorldModel":
    """Loads a world model: tensors in, tensors out, on the device.

    Args:
        name_or_folder: A model's name, a game's name, or the folder of a model (see `resolve`).
        device: `"auto"` for CUDA, else MPS, else the CPU; or any name that torch knows.
        precision: `"auto"`, `"float32"` or `"bfloat16"`: the arithmetic of the networks.

    Returns:
        The world model, in evaluation mode.

    Raises:
        ModelNotFound: Nothing answers to the name.
        DamagedModel: A file is missing, truncated or not the one its card describes.
    """
    entry = verify(resolve(name_or_folder))
    from diamond_gym.world_model import WorldModel

    weights = read_weights(entry)
    starts = read_starts(entry)
    try:
        model = WorldModel.from_card(entry.card, weights, starts)
    except (RuntimeError, TypeError, KeyError, ValueError) as error:  # torch lists misfits over many lines
        raise DamagedModel(f"{entry.path}: card and weights do not fit together ({_brief(error)})") from error
    return model.to_device(device, precision)


def verify(entry: Entry) -> Entry:
    """Holds every file of a model against its card, by length and full SHA-256.

    Returns:
        The entry whose files were verified: the one given, or the newer one if the model has been replaced
        while it was being read.

    Raises:
        DamagedModel: A file is missing, truncated or another one.
    """
    while True:
        try:
            return _verify(entry)
        except DamagedModel:
            newer = read_entry(entry.path)
            if newer == entry:
                raise
            entry = newer


def read_weights(entry: Entry) -> dict[str, Any]:
    """A model's tensors by their state-dict keys, on the CPU, as they are stored."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = entry.file("weights")
    assert path is not None, "verify() has seen to it"
    try:
        return load_file(path)
    except SafetensorError as error:
        raise DamagedModel(f"{path}: not a safetensors file ({_brief(error)})") from None


def read_starts(entry: Entry) -> Any:
    """The real frames that a model's dreams begin from, or None if it has none."""
    path = entry.file("starts")
    if path is None:
        return None
    from diamond_gym.starts import load_starts

    return load_starts(path)


def _verify(entry: Entry) -> Entry:
    if "weights" not in entry.card.files:
        raise DamagedModel(f"{entry.path}: key 'files.weights' is missing")
    for kind, record in entry.card.files.items():
        path = entry.folder / record.name
        what = f"{path}: the {kind} file"
        if not path.is_file():
            raise DamagedModel(f"{what} is missing; {_remedy(entry)}")
        length = path.stat().st_size
        if length != record.bytes:
            state = "is truncated" if length < record.bytes else "is too long"
            raise DamagedModel(
                f"{what} {state} ({length} bytes, the card says {record.bytes}); {_remedy(entry)}"
            )
        if sha256_file(path) != record.sha256:
            raise DamagedModel(
                f"{what} is not the one its card describes (its SHA-256 differs); {_remedy(entry)}"
            )
    return entry


def _remedy(entry: Entry) -> str:
    if entry.bundled:
        return "install diamond-gym again"
    game = entry.card.game
    return (
        f"train it again with `diamond-gym train-wm --game {game}` or fetch it with `diamond-gym pull {game}`"
    )


def _brief(error: BaseException, longest: int = 200) -> str:
    """A library's message in one line of bearable length."""
    line = " ".join(str(error).split())
    return line if len(line) <= longest else f"{line[:longest]}..."
