"""Loads world models by name, verifying every file before it is used."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

from diamond_gym.action_spaces import codec_of_model
from diamond_gym.errors import DamagedModel, one_line
from diamond_gym.files import sha256_file
from diamond_gym.registry.card import Card
from diamond_gym.registry.games import games
from diamond_gym.registry.models import Entry, read_entry, resolve
from diamond_gym.registry.published import published

if TYPE_CHECKING:
    from torch import Tensor

    from diamond_gym.starts import Starts
    from diamond_gym.world_model import WorldModel

T = TypeVar("T")
Precision = Literal["auto", "float32", "bfloat16"]


def load_world_model(
    model: str | os.PathLike[str] | Entry, device: str = "auto", precision: Precision = "auto"
) -> "WorldModel":
    """Loads a world model: tensors in, tensors out, on the device.

    Args:
        model: A model's name, a game's name, the folder of a model (see `resolve`), or what `resolve` found.
        device: `"auto"` for CUDA, else MPS, else the CPU; or any name that torch knows.
        precision: `"auto"`, `"float32"` or `"bfloat16"`: the arithmetic of the networks.

    Returns:
        The world model, in evaluation mode.

    Raises:
        ModelNotFound: There is no model of that name.
        DamagedModel: A file is missing, truncated or not the one its card describes.
    """
    entry, weights, starts = read_model(model if isinstance(model, Entry) else resolve(model))
    from diamond_gym.world_model import WorldModel

    try:
        loaded = WorldModel.from_card(entry.card, weights, starts)
    except (RuntimeError, TypeError, KeyError, ValueError, ArithmeticError) as error:
        raise DamagedModel(f"{entry.path}: card and weights do not fit together ({one_line(error)})") from error
    return loaded.to_device(device, precision)


def verify(entry: Entry) -> Entry:
    """Checks every file of a model against its card, by length and full SHA-256.

    Returns:
        The entry whose files were verified: the one given, or the newer one if the model was replaced meanwhile.

    Raises:
        DamagedModel: A file is missing, truncated or not the one its card describes.
    """
    return _read_current(lambda entry: entry, entry)


def verified_file(entry: Entry, kind: str) -> Path | None:
    """The path of a model's file of one kind, checked against its card as by `verify`; None if the card names none."""
    return _read_current(lambda entry: entry.file(kind), entry, kind)


def read_extras(entry: Entry) -> dict[str, bytes]:
    """The verified contents of a model's further files, its picture and its agent's, as `save_model` takes them."""
    kinds = (kind for kind in entry.card.files if kind not in ("weights", "starts"))
    return {kind: path.read_bytes() for kind in kinds if (path := verified_file(entry, kind)) is not None}


def read_model(entry: Entry) -> "tuple[Entry, dict[str, Tensor], Starts | None]":
    """Verifies and reads a model's files.

    Returns:
        The entry that was read (as for `verify`), its tensors by state-dict key, on the CPU and as they
        are stored, and the real frames that its dreams begin from, or None if it has none.

    Raises:
        DamagedModel: A file is missing, truncated, not the one its card describes, or not readable.
    """
    return _read_current(_read_model, entry)


def _read_current(read: Callable[[Entry], T], entry: Entry, *kinds: str) -> T:
    """Verifies and reads a model's files (of all kinds by default); starts again if it is replaced meanwhile."""
    while True:
        try:
            if "weights" not in entry.card.files:
                raise DamagedModel(f"{entry.path}: key 'files.weights' is missing")
            for kind in kinds or entry.card.files:
                if kind in entry.card.files:
                    _verify_file(entry, kind)
            return read(entry)
        except DamagedModel:
            newer = read_entry(entry.path)
            if newer == entry:
                raise
            entry = newer


def _read_model(entry: Entry) -> "tuple[Entry, dict[str, Tensor], Starts | None]":
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from diamond_gym.starts import load_starts

    path, starts_path = entry.folder / entry.card.files["weights"].name, entry.file("starts")
    try:
        weights = load_file(path)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise DamagedModel(f"{path}: not readable as safetensors ({one_line(error)})") from None
    check_tensors(weights, str(path))
    starts = load_starts(starts_path) if starts_path else None
    if starts is not None:
        check_starts(entry.card, starts, str(starts_path))
    return entry, weights, starts


def check_starts(card: Card, starts: "Starts", where: str) -> None:
    """Checks that a model can dream from these starts: frames of its size, as many as it sees, and its actions.

    Raises:
        DamagedModel: They are another model's; `where` is what the error calls their file.
    """
    seen = (card.num_steps_conditioning, *card.frame_shape)
    if starts.obs.shape[1:] != seen:
        raise DamagedModel(f"{where}: starts of shape {starts.obs.shape[1:]}, but the model sees {seen}")
    if starts.full_res is not None and starts.full_res.shape[2:] != card.obs_shape:
        raise DamagedModel(f"{where}: full-size frames {starts.full_res.shape[2:]}, not {card.obs_shape}")
    codec = codec_of_model(card.codec, card.num_actions, vectors := starts.act.ndim == 3)
    if vectors and starts.act.shape[2] != card.num_actions:
        raise DamagedModel(f"{where}: actions of {starts.act.shape[2]} parts, but the model has {card.num_actions}")
    if vectors != codec.is_vector or (starts.act.dtype == np.float32) != (codec.kind == "box"):
        raise DamagedModel(f"{where}: actions are {starts.act.dtype} {starts.act.shape[2:]}, not those of {codec}")
    least, most = codec.lowest, codec.highest
    for act, low in ((starts.act, least), (starts.next_act, -1)):
        if act is not None and act.size and not (low <= act.min() and act.max() <= most):
            raise DamagedModel(f"{where}: its actions are not all from {least} to {most}, the model's")


def _verify_file(entry: Entry, kind: str) -> None:
    record = entry.card.files[kind]
    path = entry.folder / record.name
    try:
        length = path.stat().st_size
        if length < record.bytes:
            fault = f"is truncated ({length} bytes, the card says {record.bytes})"
        elif length > record.bytes:
            fault = f"is too long ({length} bytes, the card says {record.bytes})"
        elif sha256_file(path) != record.sha256:
            fault = "is not the one its card describes (its SHA-256 differs)"
        else:
            return
    except FileNotFoundError:
        fault = "is missing"
    except OSError as error:
        raise DamagedModel(f"{path}: the {kind} file cannot be read ({error.strerror})") from None
    raise DamagedModel(f"{path}: the {kind} file {fault}; {_remedy(entry)}")


def _remedy(entry: Entry) -> str:
    """What brings a damaged model back, by where it came from."""
    card, game, pulled = entry.card, entry.card.game, entry.card.training.get("pulled", {})
    if entry.bundled:
        return "install diamond-gym again"
    if pulled.get("repository") in {model.repository for model in published().values()}:
        return f"fetch it again with `diamond-gym pull {game}`"
    if "repository" in pulled:
        return f"fetch it again with `diamond-gym remove {card.name}` and `diamond-gym pull hf:{pulled['repository']}`"
    if game in games():
        return f"train it again with `diamond-gym train-wm --game {game}` or fetch it with `diamond-gym pull {game}`"
    return f"make it again: {card.source}" if card.source.startswith("diamond-gym ") else "copy it here again"


def check_tensors(tensors: "Mapping[str, Tensor]", where: str) -> None:
    """Checks that tensors are dense, of a usual type of floats, finite, and have memory of its own for each element.

    Args:
        tensors: By key.
        where: What to call their file in an error.

    Raises:
        DamagedModel: One of them is not.
    """
    import torch

    floats = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    for key, tensor in tensors.items():
        if tensor.layout is not torch.strided or tensor.dtype not in floats or tensor.device.type != "cpu":
            raise DamagedModel(f"{where}: key '{one_line(key)}' is not a dense tensor of floats of 16, 32 or 64 bits")
        reach = 0  # of the dimensions within, in elements
        for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
            if size > 1 and stride <= reach:
                raise DamagedModel(f"{where}: key '{one_line(key)}' has elements that share memory")
            reach += stride * max(size - 1, 0)
        # unlike isfinite() of the tensor itself, aminmax() needs no copy of it
        if tensor.numel() and not all(value.isfinite() for value in tensor.aminmax()):
            raise DamagedModel(f"{where}: key '{one_line(key)}' holds values that are not finite")


def check_weights(card: Card, weights: "Mapping[str, Tensor]", where: str) -> None:
    """Checks tensors against the networks that a card describes, without making the networks.

    Args:
        card: Its tables of networks.
        weights: Tensors by prefixed key.
        where: What to call the tensors' file in an error.

    Raises:
        DamagedModel: A key is missing, left over or of another shape, or a tensor cannot be used.
    """
    expected = expected_shapes(card, where)
    differences = {"missing": sorted(set(expected) - set(weights)), "left over": sorted(set(weights) - set(expected))}
    for what, keys in differences.items():
        if keys:
            count = "1 key is" if len(keys) == 1 else f"{len(keys)} keys are"
            raise DamagedModel(f"{where}: {count} {what} for networks of this configuration: '{one_line(keys[0])}'")
    for key, shape in expected.items():
        if (own := tuple(weights[key].shape)) != shape:
            raise DamagedModel(f"{where}: key '{key}' has shape {own}, but its configuration makes it {shape}")
    check_tensors(weights, where)


def expected_shapes(card: Card, where: str) -> dict[str, tuple[int, ...]]:
    """Every state-dict key of the networks that a card describes, with its shape; takes no memory.

    Raises:
        DamagedModel: There is no network of such a configuration.
    """
    import torch

    from diamond_gym.world_model import WorldModel

    card.check(where)
    try:
        with torch.device("meta"):
            model = WorldModel.unfilled(card)
    except (RuntimeError, TypeError, ValueError, LookupError, ArithmeticError) as error:
        raise DamagedModel(f"{where}: there is no network of this configuration ({one_line(error)})") from None
    return {key: tuple(tensor.shape) for key, tensor in model.weights().items()}
