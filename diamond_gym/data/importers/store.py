"""Our own stores: what `collect` and `play --record` write."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from diamond_gym.data.about import ABOUT
from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.data.importers import Frame, Recording, Source, Steps

LOOKS_FOR = f"a store of diamond-gym ({ABOUT})"
_AT_ONCE = 64


def recognises(source: Path) -> bool:
    """Whether the folder is a store."""
    return (source / ABOUT).is_file()


def read(source: Path, camera: str | None = None) -> Source:
    """Its episodes."""
    store = EpisodeStore(source)

    def recording(number: int) -> Recording:
        n = int(store.lengths[number])

        def steps() -> Steps:
            records = store.steps(np.full(n, number), np.arange(n))
            unknown = store.unknown(number)
            rew = None if "rew" in unknown else records["rew"].astype(np.float32)
            end, trunc = (None if name in unknown else bool(records[name][-1]) for name in ("end", "trunc"))
            return Steps(np.ascontiguousarray(records["act"]), rew, end, trunc)

        def frames(start: int) -> Iterator[Frame]:
            for t in range(start, n + 1, _AT_ONCE):
                at = np.arange(t, min(t + _AT_ONCE, n + 1))
                yield from store.frames(np.full(len(at), number), at).transpose(0, 2, 3, 1)

        return Recording(f"{number}", steps, frames, n + 1, store.info(number))

    about = store.about
    return Source((recording(number) for number in range(len(store))), about.num_actions, about.action_meanings)
