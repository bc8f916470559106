"""Does a long dream stay on the data? Colours that real play never shows, and errors in closed loop."""

import torch
from torch import Tensor

from benchmarks.gpu.experience import Experience
from benchmarks.gpu.graph import Chance, Graph
from benchmarks.gpu.worlds import World

_BIN = 16  # levels of 255


class Seen:
    """Which colours real play shows within two pixels of each place, in bins of 16 levels, one bin of tolerance.

    Args:
        frames: uint8 (N, 3, H, W).
    """

    def __init__(self, frames: Tensor) -> None:
        _, _, h, w = frames.shape
        seen = torch.zeros(h * w, 16**3, dtype=torch.bool, device=frames.device)
        places = torch.arange(h * w, device=frames.device)
        for part in frames.split(4096):
            seen[places.expand(len(part), -1), self._colours(part)] = True
        cube = seen.view(h, w, 16, 16, 16)
        for dim, reach in ((0, 2), (1, 2), (2, 1), (3, 1), (4, 1)):
            cube = _spread(cube, dim, reach)
        self._seen = cube.reshape(h * w, 16**3)
        self._places = places

    @staticmethod
    def _colours(frames: Tensor) -> Tensor:
        """(N, 3, H, W) -> the index of each pixel's bin, int64 (N, H*W)."""
        r, g, b = (frames.long() // _BIN).unbind(1)
        return ((r * 16 + g) * 16 + b).flatten(1)

    def artefacts(self, frames: Tensor) -> Tensor:
        """The share of the pixels of frames (N, 3, H, W) whose colour real play never shows there, (N,)."""
        return (~self._seen[self._places, self._colours(frames)]).float().mean(dim=1)


def _spread(x: Tensor, dim: int, reach: int) -> Tensor:
    """What is true within `reach` places along a dimension."""
    size, near = x.shape[dim], x.clone()
    for k in range(1, reach + 1):
        near.narrow(dim, k, size - k).logical_or_(x.narrow(dim, 0, size - k))
        near.narrow(dim, 0, size - k).logical_or_(x.narrow(dim, k, size - k))
    return near


@torch.no_grad()
def drift(
    world: World, held_out: Experience, seen: Seen, steps: int = 200, dreams: int = 128, seed: int = 0
) -> dict[str, float]:
    """Dreams in one denoising step under the actions of real play.

    Args:
        world: Whose averaged denoiser dreams.
        held_out: Real play that the world was not fitted to.
        seen: The colours of real play.
        steps: How long.
        dreams: How many.
        seed: Of the choice of windows.

    Returns:
        Shares of artefacts after 10, 50 and `steps` steps (in %), the error over that of repeating the last real frame
        after 1, 4 and 16, and how much moves after `steps` compared with the game.
    """
    t, device = world.t, world.device
    places = held_out.segments(t + steps, (0, 0))
    places.find(held_out.goes_on, held_out.event)
    held_out.places.pop()
    count = int(places.count)
    if not count:
        return {}
    chosen = torch.randint(count, (dreams,), generator=torch.Generator().manual_seed(seed))
    first = places.all[chosen.to(device)]
    offsets = torch.arange(t + steps, device=device)
    act = held_out.act[first[:, None] + offsets]
    window, acts = held_out.images(first, offsets[:t]), act[:, :t].clone()

    chance = Chance(device, seed)

    def step() -> Tensor:
        frame = world.predict(window, acts, chance.normal(*window[:, 0].shape))
        window.copy_(torch.cat((window[:, 1:], frame[:, None]), dim=1))
        return frame

    run = Graph(step, world.stream, chance=chance)
    figures: dict[str, float] = {}
    with world.on_stream():
        window.copy_(held_out.images(first, offsets[:t]))
        start = window[:, -1].clone()
        for i in range(steps):
            acts.copy_(act[:, i : i + t])
            before = window[:, -1].clone()
            frame = run()
            real = held_out.images(first + t + i, offsets[:1])[:, 0]
            n = i + 1
            if n in (1, 4, 16):
                error, copying = ((x - real).square().mean() for x in (frame, start))
                figures[f"over_copy_{n}"] = float(error / copying)
            if n in (10, 50, steps):
                pixels = ((frame + 1) * 127.5).round().to(torch.uint8)
                figures[f"artefacts_{n}"] = 100 * float(seen.artefacts(pixels).mean())
            if n == steps:
                really = held_out.images(first + t + i - 1, offsets[:1])[:, 0]
                moving = ((frame - before).abs().amax(1) > 0.05).float().mean()
                figures["moving"] = float(moving / ((real - really).abs().amax(1) > 0.05).float().mean())
    return {name: float(f"{value:.4g}") for name, value in figures.items()}
