"""Whole stores: what one holds, several merged, one split so that near copies stay together, and export to Minari."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diamond_gym.data.checks.copies import copies
from diamond_gym.data.checks.motion import grey
from diamond_gym.data.episode_files import sequence_of
from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.data.importers import Recording, merged
from diamond_gym.data.importers import store as stores
from diamond_gym.data.importing import Import
from diamond_gym.errors import BadArgument, DiamondGymError
from diamond_gym.files import disk_space_for

_LIKE = 2.0  # mean difference of grey levels, below which two pieces of episodes are near copies
_SIDE, _MOMENTS = 8, 8


def facts(store: EpisodeStore) -> dict[str, Any]:
    """What a store holds, as plain data: sizes, lengths, actions, rewards and ends."""
    about, lengths = store.about, store.lengths
    numbered, rewards = bool(about.num_actions), list[npt.NDArray[np.float32]]()
    counts, ended, truncated = np.zeros(max(1, about.num_actions), np.int64), 0, 0
    known = {"rew": 0, "end": 0, "trunc": 0}
    for number, n in enumerate(lengths.tolist()):
        steps = store.steps(number, np.arange(n))
        if numbered:
            counts += np.bincount(steps["act"], minlength=len(counts))
        rewards.append(steps["rew"])
        ended, truncated = ended + int(steps["end"][-1]), truncated + int(steps["trunc"][-1])
        for name in known:
            known[name] += name not in store.pieces(number)[-1].unknown
    rew = np.concatenate(rewards or [np.zeros(0, np.float32)])
    words = about.action_meanings or [str(i) for i in range(about.num_actions)]
    return {
        "game": about.game,
        "frames": list(about.frame_shape),
        "episodes": len(store),
        "steps": store.num_steps,
        "shortest": int(lengths.min()) if len(store) else 0,
        "longest": int(lengths.max(initial=0)),
        "actions": dict(zip(words, counts.tolist(), strict=True)) if numbered else None,
        "action_space": str(about.codec.space) if about.codec is not None and not numbered else None,
        "action_type": f"{about.action_dtype} {tuple(about.action_shape)}",
        "rewards": None if not known["rew"] else {"sum": float(rew.sum()), "not_zero": int((rew != 0).sum())},
        "ended": ended if known["end"] else None,
        "truncated": truncated if known["trunc"] else None,
        "bytes": sum(path.stat().st_size for path in store.folder.iterdir()),
    }


def first_steps(store: EpisodeStore, steps: int) -> EpisodeStore:
    """The store as it was when it held so many steps, opened for reading.

    Raises:
        DiamondGymError: It never held just so many.
    """
    pieces = [piece for number in range(len(store)) for piece in store.pieces(number)]
    sizes = sorted((sequence_of(Path(piece.path).name), piece.num_steps) for piece in pieces)
    for (mark, _), so_far in zip(sizes, accumulate(size for _, size in sizes), strict=True):
        if so_far == steps:
            result = EpisodeStore(store.folder, about=store.about, until=mark)
            result.codec = store.codec
            return result
    raise DiamondGymError(f"{store.folder} has {store.num_steps:,} steps and never had just {steps:,}")


def merge(folders: list[Path], into: Path) -> EpisodeStore:
    """Writes the episodes of several stores of one kind into a new one.

    Raises:
        DiamondGymError: They hold different things, one is named twice, or there is something at `into`.
    """
    if twice := [folder for i, folder in enumerate(folders) if folder.resolve() in map(Path.resolve, folders[:i])]:
        raise BadArgument(f"{twice[0]} is named twice")
    opened = [EpisodeStore(folder) for folder in folders]
    for store in opened[1:]:  # of whatever game
        opened[0].about.check_same(replace(store.about, game=opened[0].about.game, env=""), opened[0].folder)
    source = merged([stores.read(folder) for folder in folders])
    return Import(source, into, opened[0].about.game).run()


def split(folder: Path, first: Path, second: Path, share: float, seed: int = 0) -> tuple[EpisodeStore, EpisodeStore]:
    """Writes a store's episodes into two new ones.

    Lives of one game, and episodes of which pieces look the same, stay on one side.

    Args:
        folder: The store, which stays as it is.
        first: Where about 1 - `share` of the steps go.
        second: Where the rest goes, for testing.
        share: Of the steps, for `second`.
        seed: Seeds the choice.

    Raises:
        DiamondGymError: All episodes belong together, or there is something at one of the folders.
    """
    if not 0 < share < 1:
        raise BadArgument(f"--share must be between 0 and 1, not {share}")
    for path in (first, second):
        if path.exists():
            raise BadArgument(f"{path} is already there: choose another name, or remove it")
    store = EpisodeStore(folder)
    groups: dict[int, list[int]] = {}
    for number, group in enumerate(together(store)):
        groups.setdefault(group, []).append(number)
    if len(groups) < 2:
        raise DiamondGymError(f"{folder}: its {len(store)} episodes are one game or near copies, and cannot be split")
    chosen, steps, wanted = set[int](), 0, share * store.num_steps
    for key in np.random.default_rng(seed).permutation(list(groups)).tolist():
        size = int(store.lengths[groups[key]].sum())
        if not chosen or (steps + size <= wanted + size / 2 and len(chosen) + len(groups[key]) < len(store)):
            chosen, steps = chosen | set(groups[key]), steps + size
    source, sides = stores.read(folder), []
    recordings = list(source.recordings)
    for path, is_second in ((first, False), (second, True)):
        part: list[Recording] = [r for i, r in enumerate(recordings) if (i in chosen) == is_second]
        sides.append(Import(replace(source, recordings=part), path, store.about.game).run())
    return sides[0], sides[1]


def together(store: EpisodeStore) -> list[int]:
    """For each episode a number of the group with which it must stay: lives of one game, and near copies."""
    parent = list(range(len(store)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    for number, before in enumerate(store.before.tolist()):
        if before >= 0:
            parent[root(number)] = root(before)
    looks = np.stack([_look(store, number) for number in range(len(store))]) if len(store) else np.zeros((0, 1))
    for number in range(1, len(store)):
        for other in np.flatnonzero(np.abs(looks[:number] - looks[number]).mean(1) < _LIKE).tolist():
            parent[root(number)] = root(other)
    for number, other in copies(store, store):
        parent[root(number)] = root(other)
    return [root(number) for number in range(len(store))]


def _look(store: EpisodeStore, number: int) -> npt.NDArray[np.float32]:
    """An episode in small: grey pictures of at most 8 by 8 at moments from its beginning to its end, flat."""
    t = np.linspace(0, store.lengths[number], _MOMENTS).astype(np.int64)
    frames = store.frames(number, t).transpose(0, 2, 3, 1)
    return grey(frames, _SIDE).reshape(-1)


def export_minari(store: EpisodeStore, dataset_id: str, lossless: bool = True) -> Path:
    """Writes a store as a Minari data set into Minari's cache, episode by episode, and returns its folder.

    Raises:
        DiamondGymError: There is a data set of this id, the id is none, or the disk is full.
    """
    import minari
    from gymnasium import spaces
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_dataset import parse_dataset_id
    from minari.storage import get_dataset_path

    try:
        parse_dataset_id(dataset_id)
    except (ValueError, TypeError):  # the latter where there is no version
        raise BadArgument(f"{dataset_id[:60]!r} is not a data set's id: call it NAME-v0, or mine/NAME-v0") from None
    about = store.about
    action_space: spaces.Space[Any]
    if about.num_actions:
        action_space = spaces.Discrete(about.num_actions)
    elif about.codec is not None and about.codec.shape == about.action_shape:
        action_space = about.codec.space
    elif about.action_dtype == "bool":
        action_space = spaces.MultiBinary(about.action_shape)
    else:
        act = np.concatenate([episode.act for episode in store])
        low, high = act.min(0), act.max(0)
        action_space = spaces.Box(low, high, about.action_shape, np.dtype(about.action_dtype).type)
    observation_space = spaces.Box(0, 255, about.frame_shape, np.uint8)

    def buffers() -> Iterator[EpisodeBuffer]:
        for episode in store:
            trunc = episode.trunc.copy()
            trunc[-1] |= not episode.over  # what was cut went on unseen; Minari knows no other word for it
            yield EpisodeBuffer(
                observations=episode.obs,
                actions=episode.act,
                rewards=episode.rew,
                terminations=episode.end,
                truncations=trunc,
            )

    folder = Path(get_dataset_path(dataset_id))
    if folder.exists():
        raise BadArgument(f"there is a data set {dataset_id} in {folder}: choose another id")
    each = buffers()
    words: dict[str, Any] = {"observation_space": observation_space, "action_space": action_space}
    try:
        with disk_space_for(folder):
            data = minari.create_dataset_from_buffers(
                dataset_id, [next(each)], **words, data_format="hdf5", jpeg_encoding=not lossless
            )
            for buffer in each:
                data.update_dataset_from_buffer([buffer])
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, ValueError | StopIteration):
            raise DiamondGymError(f"{dataset_id} cannot be written: {error}") from error
        raise
    return Path(os.fspath(folder))
