"""What can be wrong with a recording: each function looks for one kind of fault."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from diamond_gym.data.checks.copies import copies
from diamond_gym.data.checks.motion import LAGS, action_features, estimate_lag, motion, steps_with_all_lags
from diamond_gym.data.episode_files import Episode
from diamond_gym.data.episodes import EpisodeStore

_FROZEN_SECONDS_STEPS = 45  # steps without a change of any pixel: three seconds at 15 a second


@dataclass(frozen=True)
class Finding:
    """Something that a check found.

    Attributes:
        name: A short name for scripts, such as `"action-offset"`.
        level: "fault" for what spoils a training, "note" for what is worth knowing.
        text: What was found, with numbers.
        advice: What to do.
        numbers: The same numbers for scripts.
    """

    name: str
    level: Literal["fault", "note"]
    text: str
    advice: str
    numbers: dict[str, Any] = field(default_factory=dict)


def lengths(store: EpisodeStore, memory: int) -> Iterator[Finding]:
    """Episodes shorter than the memory and the step that is learnt from it."""
    short = int((store.lengths < memory + 1).sum())
    if short / len(store) > 0.1:
        yield Finding(
            "short-episodes",
            "fault",
            f"{short} of {len(store)} episodes have fewer than {memory + 1} steps",
            "record longer episodes, or join pieces of one recording; a shorter memory can learn from them too",
            {"short": short, "episodes": len(store)},
        )


def actions(episodes: Sequence[Episode], store: EpisodeStore) -> Iterator[Finding]:
    """Actions, buttons or axes that are never or hardly used."""
    act = np.concatenate([episode.act.reshape(len(episode), -1) for episode in episodes])
    names = list(store.about.action_meanings)
    if store.about.num_actions and store.about.action_shape == ():
        used = np.bincount(act[:, 0].astype(np.int64), minlength=store.about.num_actions) / len(act)
        kind = "action"
    elif act.dtype.kind in "iub":
        used, kind = (act != 0).mean(0), "button"
    else:
        used, kind = (act.std(0) > 1e-6).astype(np.float64), "axis"
    label = [names[i] if i < len(names) else str(i) for i in range(len(used))]
    never = [label[i] for i in np.flatnonzero(used == 0)]
    seldom = [f"{label[i]} ({_percent(used[i])})" for i in np.flatnonzero((used > 0) & (used < 0.002))]
    # of many buttons some are naturally never pressed; of all that there are, that is a fault
    level: Literal["fault", "note"] = "note" if kind == "button" and len(never) < len(used) else "fault"
    plural = "axes never move" if kind == "axis" else f"{kind}s are never used"
    if never and (kind != "button" or len(never) == len(used) or len(never) > len(used) // 2):
        yield Finding(
            "unused-actions",
            level,
            f"{len(never)} of {len(used)} {plural}: {_listed(never)}",
            "record play that uses them, or leave them out of the action space; a dream cannot know what they do",
            {"never": never},
        )
    if seldom:
        yield Finding(
            "rare-actions",
            "note",
            f"hardly ever used: {_listed(seldom)}",
            "record more play that uses them",
            {"seldom": seldom},
        )


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words[:6]) + (f" and {len(words) - 6} more" if len(words) > 6 else "")


def timing(episodes: Sequence[Episode]) -> Iterator[Finding]:
    """Frames that stand still: for long, or at every k-th step."""
    still = [(episode.obs[1:] == episode.obs[:-1]).all((1, 2, 3)) for episode in episodes]
    longest = max((_longest_run(flags) for flags in still), default=0)
    total = sum(map(len, still))
    share = sum(int(flags.sum()) for flags in still) / total
    rates = {float(episode.info["fps"]) for episode in episodes if "fps" in episode.info}
    if (period := _period(still)) is not None:
        kept, every = period
        yield Finding(
            "repeated-frames",
            "fault",
            f"frames change in {kept} of every {every} steps only: the frame rate is higher than the source's",
            f"import again with --fps of {kept}/{every} of the present rate",
            {"kept": kept, "every": every, "share": share},
        )
    elif share > 0.5 or longest >= _FROZEN_SECONDS_STEPS:
        yield Finding(
            "frozen-frames",
            "fault",
            f"{_percent(share)} of the frames repeat the one before; the longest standstill lasts {longest} steps",
            "cut menus, pauses and loading screens out of the recording",
            {"share": share, "longest": longest},
        )
    if len(rates) > 1:
        yield Finding(
            "mixed-frame-rates",
            "fault",
            f"episodes have different frame rates: {_listed([f'{rate:g}' for rate in sorted(rates)])}",
            "import all of them with one --fps",
            {"rates": sorted(rates)},
        )


def _longest_run(flags: npt.NDArray[np.bool_]) -> int:
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False])).astype(np.int8)))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def _period(still: Sequence[npt.NDArray[np.bool_]]) -> tuple[int, int] | None:
    """Changing steps and steps of a rhythm in which frames stand still; None for no rhythm."""
    for every in range(2, 9):
        phases = []
        for flags in still:
            if len(flags) >= 4 * every:
                parts = np.array([flags[phase::every].mean() for phase in range(every)])
                phases.append(np.sort(parts))  # episodes need not begin at the same phase
        if not phases:
            continue
        mean = np.mean(phases, axis=0)
        moving = int((mean < 0.5).sum())
        if 0 < moving < every and mean[:moving].max() < 0.35 and mean[moving:].min() > 0.95:
            return moving, every
    return None


def effects(episodes: Sequence[Episode], store: EpisodeStore) -> Iterator[Finding]:
    """Actions against what moves: how many steps later it shows, if at all."""
    movements = [motion(episode.obs) for episode in episodes]
    actions = [action_features(episode, store.about.num_actions) for episode in episodes]
    if not any(len(action) > 1 and (action != action[0]).any() for action in actions):
        return
    lag, alone = estimate_lag(movements, actions)
    steps = steps_with_all_lags(map(len, movements))
    if lag is None:
        if steps >= 1000:
            yield Finding(
                "no-visible-effect",
                "fault",
                f"in {steps:,} steps the actions explain no movement at any offset from {LAGS[0]} to {LAGS[-1]}",
                "check that actions and frames are of the same recording, and that the actions' numbers mean "
                "the same thing throughout",
                {"explained": alone},
            )
    elif lag < 0 or lag > 1:
        where = f"{-lag} steps before" if lag < 0 else f"{lag} steps after"
        yield Finding(
            "action-offset",
            "fault",
            f"effects show {where} the action they belong to (most games: 0 or 1 steps after)",
            f"import again with --action-offset {-lag}",
            {"offset": lag, "explained": alone},
        )
    elif lag == 1:
        yield Finding(
            "late-effect",
            "note",
            "effects show one step after the action, as they do in games that respond late",
            "nothing, if the game is like that; else import with --action-offset -1",
            {"offset": lag, "explained": alone},
        )


def outcomes(episodes: Sequence[Episode]) -> Iterator[Finding]:
    """Rewards and ends that are missing, partly missing, never seen, or impossible."""
    steps = sum(map(len, episodes))
    for name, word in (("rew", "rewards"), ("end", "ends")):
        missing = sum(name in episode.unknown for episode in episodes)
        if missing == len(episodes):
            advice = f"nothing, if the world has no {word}: its dreams then have none either"
            yield Finding(f"no-{word}", "note", f"there are no {word}", advice)
        elif missing:
            yield Finding(
                f"partly-no-{word}",
                "fault",
                f"{missing} of {len(episodes)} episodes have no {word}",
                f"record {word} for all episodes or for none: a model would learn that nothing happens in them",
                {"missing": missing, "episodes": len(episodes)},
            )
        elif steps >= 2000 and not any(getattr(episode, name).any() for episode in episodes):
            level: Literal["fault", "note"] = "fault" if name == "rew" else "note"
            yield Finding(
                f"{word}-never-seen",
                level,
                f"in {steps:,} steps there are no {word} but zeros"
                if name == "rew"
                else f"no episode of {steps:,} steps ends by itself",
                "record play that reaches some; a model cannot learn what it has not seen",
            )
    wrong = sum(int((~np.isfinite(episode.rew)).sum()) for episode in episodes)
    if wrong:
        yield Finding("impossible-rewards", "fault", f"{wrong} rewards are not finite numbers", "mend the source")


def copied_play(store: EpisodeStore, test: EpisodeStore) -> Iterator[Finding]:
    """Held-out play that is also in the training play."""
    if copied := sorted({number for number, _ in copies(store, test)}):
        yield Finding(
            "copies-across-split",
            "fault",
            f"{len(copied)} of {len(test)} held-out episodes hold play that is in the training episodes too",
            "split again by whole recordings: diamond-gym data split keeps copies on one side",
            {"copied": copied},
        )


def pictures(episodes: Sequence[Episode], test: Sequence[Episode]) -> Iterator[Finding]:
    """Blank frames, and episodes whose red and blue are exchanged against the others."""
    blank = np.concatenate([np.ptp(episode.obs.reshape(len(episode.obs), -1), axis=1) < 8 for episode in episodes])
    if blank.mean() > 0.02:
        yield Finding(
            "blank-frames",
            "fault",
            f"{_percent(float(blank.mean()))} of the frames are one colour",
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


def _percent(part: float) -> str:
    """A share of 1 as a percentage."""
    return f"{100 * part:.1f} %" if part < 0.1 else f"{100 * part:.0f} %"
