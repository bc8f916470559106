"""What moves between two frames, as numbers that do not depend on where it is; to hold actions against."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from diamond_gym.data.episode_files import Episode

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

_CELLS = 4  # a frame is cut into 4 rows and 4 columns of cells
LAGS = range(-4, 6)
_CLEAR, _LEAST = 5.0, 0.005  # an effect stands out by so many deviations of the other lags, and explains so much
_FOLDS = 4
_RIDGE = 300.0  # weight of the squared coefficients, in units of a feature's variance times steps / 1000
_SIDE = 64  # pixels of the longer side that are looked at


def grey(frames: npt.NDArray[np.uint8], side: int = _SIDE) -> Floats:
    """Frames in grey, no larger than `side`, by the mean of whole blocks.

    Args:
        frames: uint8 (N, H, W, C).
        side: Pixels of the longer side, at most.

    Returns:
        float32 (N, h, w), from 0 to 255.
    """
    n, h, w, _ = frames.shape
    block = max(1, -(-max(h, w) // side))
    h, w = h // block * block, w // block * block
    shape = n, h // block, block, w // block, block
    light: Floats = frames[:, :h, :w].mean(-1, dtype=np.float32).reshape(shape).mean((2, 4), dtype=np.float32)
    return light


def motion(frames: npt.NDArray[np.uint8]) -> Floats:
    """Movement from each frame to the next.

    A moving edge changes the brightness by (its speed) times (the gradient), so the product of the change in time and
    the gradient in space tells the direction of movement, whatever moves and wherever it is.

    Args:
        frames: uint8 (N+1, H, W, C).

    Returns:
        For each step, in each of 16 cells, rows, columns and the whole frame, the sums of those products in x and y
        and of the absolute change; float32 (N, 3 * 25).
    """
    light = grey(frames)
    change = light[1:] - light[:-1]
    middle = (light[1:] + light[:-1]) / 2
    down, right = np.gradient(middle, axis=(1, 2))
    maps = np.stack((change * right, change * down, np.abs(change)), 1)  # (N, 3, h, w)
    rows = np.add.reduceat(maps, _edges(maps.shape[2]), axis=2)
    cells = np.add.reduceat(rows, _edges(maps.shape[3]), axis=3)  # (N, 3, 4, 4)
    parts = (cells.reshape(*cells.shape[:2], -1), cells.sum(2), cells.sum(3), cells.sum((2, 3))[..., None])
    return np.concatenate(parts, -1).reshape(len(change), -1).astype(np.float32)


def _edges(size: int) -> npt.NDArray[np.int64]:
    return np.unique(np.arange(_CELLS) * size // _CELLS)


def action_features(episode: Episode, num_actions: int) -> Floats:
    """Actions as numbers for a linear model: one-hot where they are discrete, else their entries; float32 (N, A)."""
    if num_actions and episode.act.ndim == 1:
        one_hot: Floats = np.eye(num_actions, dtype=np.float32)[episode.act]
        return one_hot
    return episode.act.reshape(len(episode.act), -1).astype(np.float32)


def estimate_lag(movements: list[Floats], actions: list[Floats]) -> tuple[int | None, float]:
    """After how many steps an action shows in the frames.

    Args:
        movements: For each episode (N, M), as `motion` makes them.
        actions: For each episode (N, A).

    Returns:
        The steps, None where no effect can be seen; and the part of the movement that this lag explains alone.
    """
    alone = _explained_by_lag(movements, actions)
    middle = np.median(alone)
    spread = 1.4826 * np.median(np.abs(alone - middle)) + 1e-4
    best = float(alone.max())
    if best < _LEAST or (best - middle) / spread < _CLEAR:
        return None, best
    return LAGS[int(np.flatnonzero(alone >= 0.3 * best)[0])], best


def _explained_by_lag(movements: list[Floats], actions: list[Floats]) -> Doubles:
    """The part of the movement's variance that the actions of each lag explain and those of the others do not, (lags,).

    Lag k holds the action at t - k against the movement from t to t + 1. A linear model predicts each step's movement
    from the actions at all lags; what a lag explains on its own is what the model loses on unseen steps without it.
    Held keys make neighbouring lags alike, but only the one that acts keeps its part once the others are known.
    """
    inputs, outputs = [], []
    for movement, action in zip(movements, actions, strict=True):
        first, last = _within(len(movement))
        if last > first:
            inputs.append(np.stack([action[first - lag : last - lag] for lag in LAGS], 1))  # (n, lags, A)
            outputs.append(movement[first:last])
    if not inputs:
        return np.zeros(len(LAGS))
    x, y = np.concatenate(inputs).astype(np.float64), np.concatenate(outputs).astype(np.float64)
    y = _levelled(y)
    x -= x.mean(0)
    x /= np.maximum(x.std(0), 1e-3)
    if len(x) < 64 or not y.size:
        return np.zeros(len(LAGS))
    blocks = np.arange(len(x)) * 4 * _FOLDS // len(x) % _FOLDS  # of time: neighbours do not stand on both sides
    everything, alone = np.ones(len(LAGS), np.bool_), []
    for fold in range(_FOLDS):
        fit, test = blocks != fold, blocks == fold
        gram, cross = _products(x[fit], y[fit])
        ridge = _RIDGE * fit.sum() / 1000
        weights = _solve(gram, cross, everything, ridge)
        known = (y[fit] ** 2 - (y[fit] - _predict(x[fit], weights, everything)) ** 2).mean(0)
        best = np.argsort(known)[-max(1, y.shape[1] // 10) :]  # actions do not reach every part of a frame
        errors = []
        for left_out in (None, *range(len(LAGS))):
            used = np.arange(len(LAGS)) != left_out
            weights = _solve(gram, cross, used, ridge)
            errors.append(float(((y[test] - _predict(x[test], weights, used))[:, best] ** 2).mean()))
        alone.append(np.array(errors[1:]) - errors[0])
    return np.asarray(np.mean(alone, 0))


def steps_with_all_lags(lengths: Iterable[int]) -> int:
    """Of episodes of these lengths, the steps that can be held against actions at every lag: few in short episodes."""
    return sum(last - first for first, last in map(_within, lengths))


def _within(length: int) -> tuple[int, int]:
    """The steps of an episode whose actions at every lag are in it; none where they are fewer than 8."""
    first, last = LAGS[-1], length + LAGS[0]
    return (first, last) if last - first >= 8 else (0, 0)


def _products(x: Doubles, y: Doubles) -> tuple[Doubles, Doubles]:
    """What least squares need of inputs (n, lags, A) and outputs (n, M): (lags, A, lags, A) and (lags, A, M)."""
    n, lags, size = x.shape
    flat = x.reshape(n, -1)
    return (flat.T @ flat).reshape(lags, size, lags, size), (flat.T @ y).reshape(lags, size, -1)


def _solve(gram: Doubles, cross: Doubles, used: npt.NDArray[np.bool_], ridge: float) -> Doubles:
    """Weights (used lags * A, M) of a ridge regression on some of the lags."""
    size = int(used.sum()) * gram.shape[1]
    square = gram[used][:, :, used].reshape(size, size) + ridge * np.eye(size)
    return np.asarray(np.linalg.solve(square, cross[used].reshape(size, -1)))


def _predict(x: Doubles, weights: Doubles, used: npt.NDArray[np.bool_]) -> Doubles:
    return np.asarray(x[:, used].reshape(len(x), -1) @ weights)


def _levelled(y: Doubles) -> Doubles:
    """Features compressed as by a square root, centred, of variance 1, at most 4; without those that never change."""
    y = np.sign(y) * np.sqrt(np.abs(y))
    y = (y - y.mean(0))[:, y.std(0) > 1e-6]
    return np.asarray((y / y.std(0)).clip(-4, 4))
