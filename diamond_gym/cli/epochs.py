"""Epochs of a whole training on a terminal: a row each, and when the last will be done."""

import time
from collections.abc import Mapping
from datetime import timedelta

from diamond_gym.trainers.diamond import DiamondConfig

_AGAIN = 20  # rows after which the header is repeated
# heading, width, and the metrics of a column
_COLUMNS = (
    ("real steps", 10, ("real/steps",)),
    ("score", 8, ("real/score",)),
    ("test", 8, ("test/score",)),
    ("denoiser", 8, ("denoiser/loss",)),
    ("reward", 7, ("reward_end/loss_rew",)),
    ("end", 7, ("reward_end/loss_end",)),
    ("λ-return", 8, ("agent/lambda_return",)),
    ("entropy", 7, ("agent/policy_entropy",)),
    ("reward P/R", 10, ("test/reward_precision", "test/reward_recall")),
    ("end P/R", 10, ("test/end_precision", "test/end_recall")),
    ("frames/s", 8, ("speed/dreamed_frames_per_second",)),
)


class EpochTable:
    """Rows of equal widths, with a header now and then. P/R: precision and recall in the last test collection."""

    def __init__(self) -> None:
        self._rows = 0
        self._tests: dict[str, float] = {}

    def line(self, epoch: int, figures: Mapping[str, float], left: str) -> str:
        """The row of an epoch.

        Args:
            epoch: Its number.
            figures: Its metrics; those of test collections stay until the next one.
            left: How long the rest will take.
        """
        self._tests |= {name: value for name, value in figures.items() if name.startswith("test/")}
        known = {**self._tests, **figures}
        cells = [f"{epoch:>6,}"]
        cells += [_cell([known[name] for name in names if name in known], width) for _, width, names in _COLUMNS]
        row = "  ".join([*cells, f"{left:>16}"])
        header = "  ".join([" epoch", *(f"{title:>{width}}" for title, width, _ in _COLUMNS), f"{'left':>16}"])
        self._rows += 1
        return f"{header}\n{row}" if self._rows % _AGAIN == 1 else row


class Rates:
    """What an update takes here, measured in the epochs of this sitting, and what is left to do.

    Args:
        config: The training.
        epoch: Epochs done before.
    """

    def __init__(self, config: DiamondConfig, epoch: int) -> None:
        self._config, self._epoch = config, epoch
        self._seconds = {"world model": 0.0, "agent": 0.0}
        self._timed = {"world model": 0, "agent": 0}
        self._done = {"world model": 0, "agent": 0}
        self._other, self._epochs = 0.0, 0
        self._began = self._last = time.perf_counter()
        self._before = 0.0, 0

    def begin(self) -> None:
        """An epoch begins."""
        self._began = self._last = time.perf_counter()
        self._done = dict.fromkeys(self._done, 0)
        self._before = self._seconds["agent"], self._timed["agent"]

    def progress(self, kind: str, step: int) -> None:
        """An update is done, the `step`-th of its kind in this epoch."""
        now = time.perf_counter()
        if kind not in self._done:  # playing: its time is part of the rest of an epoch
            return
        if step > 1:  # before the first, games were played, or dreams begun
            self._seconds[kind] += now - self._last
            self._timed[kind] += 1
        self._last, self._done[kind] = now, step

    def end(self) -> dict[str, float]:
        """An epoch is over: its speeds, as metrics."""
        took = time.perf_counter() - self._began
        updates = sum(self._done[kind] * self._per_update(kind) for kind in self._done)
        self._other += max(0.0, took - updates)
        self._epochs += 1
        self._epoch += 1
        self._done = dict.fromkeys(self._done, 0)
        figures = {"speed/epoch_seconds": took}
        seconds, windows = self._seconds["agent"] - self._before[0], self._timed["agent"] - self._before[1]
        if windows and seconds:
            agent = self._config.agent
            frames = windows * agent.optimizer.batch_size * agent.horizon
            figures["speed/dreamed_frames_per_second"] = frames / seconds
        return figures

    def left(self) -> str:
        """The time to the end of the training, as far as it has been measured."""
        done, total = self._config.updates(self._epoch), self._config.updates(self._config.epochs)
        seconds = (self._config.epochs - self._epoch) * self._other / max(1, self._epochs)
        for i, kind in enumerate(("world model", "agent")):
            remaining = total[i] - done[i] - self._done[kind]
            if remaining and not self._timed[kind]:
                return "?"
            seconds += remaining * self._per_update(kind)
        return str(timedelta(seconds=round(min(seconds, 8.64e8))))

    def _per_update(self, kind: str) -> float:
        return self._seconds[kind] / max(1, self._timed[kind])


def _cell(values: list[float], width: int) -> str:
    texts = [f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" for value in values]
    if len(texts) == 2:
        texts = [f"{value:.2f}" for value in values]
    return f"{'/'.join(texts):>{width}}"
