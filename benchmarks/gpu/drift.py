"""Does a long dream stay on the data? Colours that real play never shows, and errors in closed loop."""

import torch
from torch import Tensor

from benchmarks.gpu.experience import Experience
from benchmarks.gpu.graph import Graph
from benchmarks.gpu.worlds import World
from diamond_gym.chance import Chance
from diamond_gym.hallucination import SeenColours


@torch.no_grad()
def drift(
    world: World, held_out: Experience, seen: SeenColours, steps: int = 200, dreams: int = 128, seed: int = 0
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
        frame = world.predict(window, acts, chance.normal(window[:, 0].shape))
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
