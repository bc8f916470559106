"""A run's folder: its settings, checkpoint and metrics (JSON lines, TensorBoard, Weights & Biases)."""

import hashlib
import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import torch
from filelock import FileLock, Timeout

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
        self.path, self.main = path, main
        path.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(path / ".lock", timeout=0)
        try:
            if main:
                self._lock.acquire()
        except Timeout:
            raise DiamondGymError(f"another process is training in {path}; wait for it or name another --run") from None
        if main:
            for litter in path.rglob(".*.tmp-*"):  # of a process that was killed while it wrote
                if not litter.is_dir():
                    litter.unlink(missing_ok=True)
        self._metrics: IO[str] | None = None
        self._logged: set[tuple[int, frozenset[str]]] = set()
        self._from: int | None = None
        self._board: Any = None
        self._wants_board = tensorboard

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the logs and lets go of the folder."""
        for log in (self._metrics, self._board):
            if log is not None:
                log.close()
        self._lock.release()

    def settle(self, settings: dict[str, Any], may_change: frozenset[str] = frozenset()) -> None:
        """Writes the run's settings, or holds them against those it was begun with.

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
        if path.exists():
            begun = json.loads(path.read_text(encoding="utf-8"))
            for key in sorted({*begun, *settings} - may_change):
                for name, before, now in _differences(key, begun.get(key), settings.get(key)):
                    if now is None and before is not None and not _has(settings, name):
                        raise BadArgument(
                            f"the run in {self.path} is of another version of diamond-gym, which had an option {name}; "
                            "name another --run"
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
        if self._metrics is None:
            self._metrics = (self.path / METRICS).open("a")
        plain = {key: value if math.isfinite(value) else None for key, value in values.items()}
        self._metrics.write(json.dumps({"step": step, "time": round(time.time(), 3), **plain}) + "\n")
        self._metrics.flush()
        if self._wants_board:
            if self._board is None:
                self._board = _board(self.path, self._from)
            for key, value in values.items():
                self._board.add_scalar(key, value, step)

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


class _NoBoard:
    """Stands in for TensorBoard where it is not installed."""

    def add_scalar(self, key: str, value: float, step: int) -> None: ...

    def close(self) -> None: ...


def _board(path: Path, begins: int | None) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError:
        return _NoBoard()
    return SummaryWriter(str(path), purge_step=begins)


def _has(table: Mapping[str, Any], name: str) -> bool:
    """Whether a nested table has an option, by its full name."""
    here: Any = table
    for key in name.split("."):
        if not isinstance(here, Mapping) or key not in here:
            return False
        here = here[key]
    return True


def _differences(name: str, begun: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    """The options that differ, by their full names, at any depth: name, value then, value now."""
    if isinstance(begun, dict) and isinstance(now, dict):
        for key in sorted({*begun, *now}):
            yield from _differences(f"{name}.{key}", begun.get(key), now.get(key))
    elif begun != now:
        yield name, begun, now


def mirror_to_wandb(folder: Path, config: Mapping[str, Any]) -> None:
    """Has Weights & Biases copy what goes to TensorBoard from now on; a resumed run goes on there, too.

    Args:
        folder: The run's; its name becomes the run's name, and wandb's own files lie in it.
        config: Plain data.

    Raises:
        ModuleNotFoundError: wandb is not installed; the command line says how to.
    """
    import wandb

    name, key = folder.name, hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    wandb.init(
        project="diamond-gym", name=name, id=key, resume="allow", dir=folder, config=config, sync_tensorboard=True
    )
