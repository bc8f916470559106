"""Dreams of all bundled worlds side by side, as a picture that moves: `python examples/gallery.py docs/dream.gif`.

Each world is an ordinary Gymnasium environment; actions are random, each held for a few steps.
"""

import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

import diamond_gym  # noqa: F401  (registers the environments)
from diamond_gym.frames import tile, write_video

GAMES = "Breakout", "Boxing", "Freeway", "KungFuMaster", "MsPacman", "Pong"
STEPS, HELD, FPS, SCALE, SEED = 60, 6, 12, 2, 5

Frames = list[npt.NDArray[np.uint8]]


def dream(game: str) -> Frames:
    """The frames of STEPS steps, the first frame before them."""
    env: gym.Env[npt.NDArray[np.uint8], Any] = gym.make(f"DiamondDream-{game}-v0", max_episode_steps=STEPS + 1)
    env.action_space.seed(SEED)
    frame, _ = env.reset(seed=SEED)
    frames = [frame]
    for step in range(STEPS):
        if step % HELD == 0:
            action = env.action_space.sample()
        frame, _, ended, _, _ = env.step(action)
        frames.append(frame)
        if ended:
            env.reset()
    env.close()
    return frames


def main(out: Path) -> None:
    """Dreams in each world, and writes all of it."""
    together = zip(*map(dream, GAMES), strict=True)
    write_video(out, (tile(np.stack(frames), scale=SCALE, gap=2) for frames in together), FPS)
    print(f"wrote {out}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "dreams.gif"))
