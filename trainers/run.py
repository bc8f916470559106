"""A run's folder: its settings, checkpoint and metrics (JSON lines, TensorBoard, Weights & Biases)."""

import hashlib
import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Self

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from diamond_gym.errors import BadArgument, DamagedModel, DiamondGymError
from diamond_gym.files import atomic_path, atomic_write

CHECKPOINT = "checkpoint.pt"
SETTINGS = "settings.json"
METRICS = "metrics.jsonl"


class RunFolder:
    """The files of one training run, held by one process; others of the same training may read.

    Args:
        path: See the attribute.
        tensorboard: Whether to write events for it, where it is installed.
        main: Whether this is the process that holds and writes; to another, `settle`, `save` and `log` do nothing.

    Attributes:
        path: The folder: `settings.json`, `checkpoint.pt`, `metrics.jsonl`, TensorBoard's events, pictures.

    Raises:
        DiamondGymError: Another process trains in the folder.
    """

    def __init__(self, path: Path, tensorboard: bool = True, main: bool = True) -> None:
        self.path, self.main, self._wants_board = path, main, tensorboard
        self._logged: set[tuple[int, frozenset[str]]] = set()
        self._from: int | None = None
        self._opened = ExitStack()
        path.mkdir(parents=True, exist_ok=True)
        if not main:
            return
        try:
            self._opened.enter_context(FileLock(path / ".lock", timeout=0))
        except Timeout:
            raise DiamondGymError(f"another process is training in {path}; wait for it or name another --run") from None
        for litter in path.rglob(".*.tmp-*"):  # of a process that was killed while it wrote
            if not litter.is_dir():
                litter.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the logs and lets go of the folder."""
        self._opened.close()

    def settle(self, settings: dict[str, Any], may_change: frozenset[str] = frozenset()) -> None:
        """Writes the run's settings, or holds them against those it was begun with.

        A run begins with its first checkpoint: until then nothing was learnt, and other settings take the place of
        those of a command that was refused or killed.

        Args:
            settings: Plain data, by the names of the options.
            may_change: Names that a resumed run may give another value.

        Raises:
            BadArgument: The run was begun with another value.
        """
        if not self.main:
            return
        path = self.path / SETTINGS
        settings = json.loads(json.dumps(settings))  # as they will be read: tuples become lists
        if path.exists() and (self.path / CHECKPOINT).exists():
            begun = json.loads(path.read_text(encoding="utf-8"))
            for name, before, now in _differences(begun, settings):
                if name.partition(".")[0] in may_change:
                    continue
                if _ABSENT in (before, now):
                    lacked = "no" if before is _ABSENT else "an"
                    raise BadArgument(
                        f"the run in {self.path} is of another version of diamond-gym, which had {lacked} option "
                        f"{name}; name another --run"
                    )
                raise BadArgument(
                    f"the run in {self.path} was begun with {name} = {before}, not {now}; "
                    "repeat its options or name another --run"
                )
        with atomic_write(path, "w") as file:
            json.dump(settings, file, indent=2)

    def save(self, state: dict[str, Any]) -> None:
        """Replaces the checkpoint in one step; the old one stays if anything goes wrong."""
        if self.main:
            with atomic_path(self.path / CHECKPOINT) as temporary:
                torch.save(state, temporary)

    def load(self) -> dict[str, Any] | None:
        """The last checkpoint on the CPU, or None for a new run; metrics of later steps, to be done anew, are dropped.

        Raises:
            DamagedModel: The file cannot be read.
        """
        path = self.path / CHECKPOINT
        if not path.exists():
            self._drop_metrics(after=-1)
            return None
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch has many words for a bad file
            raise DamagedModel(f"{path} is not a readable checkpoint; remove it to begin the run anew") from error
        step = state.get("epoch", state.get("step"))
        if step is not None:
            self._drop_metrics(after=step)
        return state

    @contextmanager
    def resuming(self) -> Iterator[None]:
        """Is around whatever takes the parts of a checkpoint in.

        Raises:
            DamagedModel: They are not those of this training, as in a run of another version.
        """
        try:
            yield
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
            raise DamagedModel(
                f"the checkpoint in {self.path} is of another version of diamond-gym, so that the run cannot go on: "
                "name another --run"
            ) from error

    def log(self, step: int, values: dict[str, float]) -> None:
        """Appends a line to metrics.jsonl and the values to TensorBoard, each step once; NaN is written as null."""
        if not self.main or (step, frozenset(values)) in self._logged:
            return
        self._logged.add((step, frozenset(values)))
        plain = {key: value if math.isfinite(value) else None for key, value in values.items()}
        self._metrics.write(json.dumps({"step": step, "time": round(time.time(), 3), **plain}) + "\n")
        self._metrics.flush()
        if self._board is not None:
            for key, value in values.items():
                self._board.add_scalar(key, value, step)

    @cached_property
    def _metrics(self) -> IO[str]:
        return self._opened.enter_context((self.path / METRICS).open("a"))

    @cached_property
    def _board(self) -> Any:
        """TensorBoard's writer; None where it is not wanted, or not installed."""
        if not self._wants_board:
            return None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError:
            return None
        return self._opened.enter_context(SummaryWriter(str(self.path), purge_step=self._from))

    def _drop_metrics(self, after: int) -> None:
        """Drops the lines of later steps, and one that was half written; TensorBoard passes over them, too."""
        path = self.path / METRICS
        if not self.main or not path.exists():
            return
        kept = []
        for line in path.read_text().splitlines():
            with suppress(ValueError, TypeError, KeyError):
                row = json.loads(line)
                if row["step"] <= after:
                    kept.append(line)
                    self._logged.add((row["step"], frozenset(row) - {"step", "time"}))
        with atomic_write(path, "w") as file:
            file.writelines(f"{line}\n" for line in kept)
        self._from = after + 1


_ABSENT = object()


def _differences(begun: Mapping[str, Any], now: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The options that differ, at any depth: full name, value then, value now, each `_ABSENT` where it is not there."""
    for key in sorted({*begun, *now}):
        before, after = begun.get(key, _ABSENT), now.get(key, _ABSENT)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _differences(before, after, f"{above}{key}.")
        elif before != after and (before, after) not in ((None, _ABSENT), (_ABSENT, None)):
            yield f"{above}{key}", before, after


def mirror_to_wandb(folder: Path, config: Mapping[str, Any]) -> None:
    """Has Weights & Biases copy what goes to TensorBoard from now on; a resumed run goes on there, too.

    Args:
        folder: The run's; its name becomes the run's name, and wandb's own files lie in it.
        config: Plain data.

    Raises:
        ModuleNotFoundError: wandb is not installed; the command line says how to.
    """
    import wandb

    key = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    settled = {"project": "diamond-gym", "resume": "allow", "sync_tensorboard": True}
    wandb.init(name=folder.name, id=key, dir=folder, config=config, **settled)


class Means:
    """Running means of metrics, fetched from the device only when asked for."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, int]] = {}
        self._new: dict[str, list[float | Tensor]] = {}

    def add(self, metrics: Mapping[str, float | Tensor]) -> None:
        """Takes in one step's metrics."""
        for name, value in metrics.items():
            self._new.setdefault(name, []).append(value)

    def check(self, step: int) -> dict[str, float]:
        """The means since the last time.

        Raises:
            DiamondGymError: One is NaN or infinite: the training has diverged.
        """
        means = {name: total / count for name, (total, count) in self.state_dict().items()}
        for name, value in means.items():
            if not math.isfinite(value):
                raise DiamondGymError(
                    f"{name} became {value} by step {step}; the last good checkpoint is kept: "
                    "lower the learning rate and repeat the command with another --run"
                )
        return means

    def take(self, step: int) -> dict[str, float]:
        """The means since the last time, and a fresh start; errors as `check`'s."""
        means, self._sums = self.check(step), {}
        return means

    def state_dict(self) -> dict[str, tuple[float, int]]:
        """Sum and count of each metric, as plain data."""
        for name, values in self._new.items():
            total, count = self._sums.get(name, (0.0, 0))
            new = torch.stack([torch.as_tensor(value, dtype=torch.float32) for value in values])
            self._sums[name] = total + float(new.cpu().double().sum()), count + len(values)
        self._new = {}
        return dict(self._sums)

    def load_state_dict(self, state: Mapping[str, tuple[float, int]]) -> None:
        """Goes back to a state."""
        self._sums, self._new = dict(state), {}
