"""A made-up first-person world for tests: a view into a large picture, moved by CS:GO's keys and mouse."""

import numpy as np

from diamond_gym import csgo
from diamond_gym.data.episode_files import Episode

SIZE = 48


def episode(seed: int, steps: int = 160, world: int = 0) -> Episode:
    """Play in a world: the mouse turns the view (it wraps round), w and s go nearer and back, a and d step aside."""
    rng, turn = np.random.default_rng([seed, 1]), np.array([-12, -6, 0, 6, 12])
    picture = _picture(world)
    x, y, depth = (int(rng.integers(len(picture))) for _ in range(2)), 0, 1.0
    (x, y), depth = tuple(x), 1.0
    act, frames = [], [_view(picture, x, y, depth)]
    for t in range(steps):
        if t % 3 == 0:
            keys = [key for key in ("w", "a", "s", "d") if rng.random() < 0.3]
            yaw, pitch = rng.choice(turn), rng.choice([-4, 0, 0, 4])
        vector = np.zeros(csgo.NUM_INPUTS, np.int64)
        vector[[csgo.KEYS.index(key) for key in keys]] = 1
        vector[13 + int(np.searchsorted(np.linspace(-12, 12, 23), yaw))] = 1
        vector[36 + int(np.searchsorted(np.linspace(-4, 4, 15), pitch))] = 1
        act.append(vector)
        x, y = x + yaw // 2 + 2 * ("d" in keys) - 2 * ("a" in keys), y + pitch // 2
        depth = float(np.clip(depth + 0.04 * (("w" in keys) - ("s" in keys)), 0.8, 1.25))
        frames.append(_view(picture, x, y, depth))
    return Episode(np.stack(frames), np.stack(act), info={"fps": 16})


def _picture(world: int, side: int = 256) -> np.ndarray:
    """A smooth random picture that wraps round, sky above and ground below; uint8 (side, side, 3)."""
    rng = np.random.default_rng([world, 7])
    spectrum = np.fft.fft2(rng.standard_normal((side, side, 3)), axes=(0, 1))
    far = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))[..., None]
    smooth = np.fft.ifft2(spectrum * np.exp(-((far / 0.06) ** 2)), axes=(0, 1)).real
    height = np.cos(np.arange(side) / side * 2 * np.pi)[:, None, None]
    colours = np.array([95, 120, 190]) * (0.5 + height / 2) + np.array([95, 130, 90]) * (0.5 - height / 2)
    return np.clip(colours + 45 * smooth / smooth.std(), 0, 255).astype(np.uint8)


def _view(picture: np.ndarray, x: int, y: int, depth: float) -> np.ndarray:
    steps = ((np.arange(SIZE) - SIZE // 2) / depth).astype(int)
    return picture[(y + steps)[:, None] % len(picture), (x + steps) % len(picture)]
