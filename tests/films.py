"""Films: frames alone, as what figures compare."""

import numpy as np

from diamond_gym.trainers.rollouts import Rollouts


def film(frames: np.ndarray) -> Rollouts:
    """Frames (N, T + H, C, h, w) whose first is the one to begin from."""
    n, h = len(frames), frames.shape[1] - 1
    return Rollouts(frames, np.zeros((n, h), np.int64), np.zeros((n, h), np.float32), np.zeros((n, h), bool))
