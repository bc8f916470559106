"""Faults that the pictures of a recording show."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from diamond_gym.data.checks.findings import Finding, percent
from diamond_gym.data.episode_files import Episode


def picture_faults(episodes: Sequence[Episode], test: Sequence[Episode]) -> Iterator[Finding]:
    """Blank frames, and episodes whose red and blue are exchanged against the others."""
    blank = np.concatenate([np.ptp(episode.obs.reshape(len(episode.obs), -1), axis=1) < 8 for episode in episodes])
    if blank.mean() > 0.02:
        yield Finding(
            "blank-frames",
            "fault",
            f"{percent(float(blank.mean()))} of the frames are one colour",
            "cut loading screens out; check that the video was decoded",
            {"share": float(blank.mean())},
        )
    every = [*episodes, *test]
    if every[0].obs.shape[-1] == 3:
        colours = np.stack([_colours(episode.obs) for episode in every])
        swapped = [i for i in range(len(every)) if _exchanged(colours, i)]
        if swapped:
            held_out = sum(i >= len(episodes) for i in swapped)
            where = f", {held_out} of them held out" if held_out else ""
            yield Finding(
                "swapped-channels",
                "fault",
                f"red and blue are exchanged in {len(swapped)} of {len(every)} episodes{where}",
                "import the two kinds apart, with the format of each (BGR or RGB)",
                {"swapped": len(swapped), "episodes": len(every)},
            )


def _colours(obs: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """How often each level (of 16) comes in each channel, (3, 16)."""
    some = obs[:: max(1, len(obs) // 32)]
    counts = [np.bincount(some[..., channel].ravel() >> 4, minlength=16) for channel in range(3)]
    return np.stack(counts) / some[..., 0].size


def _exchanged(colours: npt.NDArray[np.float64], number: int) -> bool:
    """Whether an episode is far nearer to what most others look like once its red and blue are exchanged."""
    if len(colours) < 3:
        return False
    others = np.median(np.delete(colours, number, 0), 0)
    as_it_is = np.abs(colours[number] - others).sum()
    exchanged = np.abs(colours[number][::-1] - others).sum()
    return bool(as_it_is > 0.3 and exchanged < 0.6 * as_it_is)
