"""Our own stores: what `collect` and `play --record` write."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from diamond_gym.data.about import ABOUT
from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.data.importers import Frame, Recording, Source, Steps

LOOKS_FOR = f"a store of diamond-gym ({ABOUT})"


def recognises(source: Path) -> bool:
    """Whether the folder is a store."""
    return (source / ABOUT).is_file()


def read(source: Path, camera: str | None = None) -> Source:
    """Its episodes."""
    store = EpisodeStore(source)

    def recording(number: int) -> Recording:
        n = int(store.lengths[number])

        def steps() -> Steps:
            records = store.steps(number, np.arange(n))
            unknown = store.pieces(number)[-1].unknown
            rew = None if "rew" in unknown else records["rew"].astype(np.float32)
            end, trunc = (None if name in unknown else bool(records[name][-1]) for name in ("end", "trunc"))
            return Steps(np.ascontiguousarray(records["act"]), rew, end, trunc)

        def frames(start: int) -> Iterator[Frame]:
            # Not from the store's maps: what they have shown counts as memory until they are closed.
            size, (h, w, c) = store.about.columns["obs"].row_bytes, store.about.frame_shape
            for piece in store.pieces(number):
                stop = piece.stop + (piece.stop == n)  # the frame between two pieces is in both
                with open(piece.path, "rb") as file:
                    for t in range(max(start, piece.link.first_step), stop):
                        file.seek(piece.begins["obs"] + (t - piece.link.first_step) * size)
                        yield np.frombuffer(file.read(size), np.uint8).reshape(c, h, w).transpose(1, 2, 0)

        return Recording(f"{number}", steps, frames, n + 1, store.info(number))

    about = store.about
    recordings = (recording(number) for number in range(len(store)))
    words, origin = about.action_meanings, str(source.resolve())
    return Source(recordings, about.num_actions, words, origin=origin, actions=about.actions, env=about.env)
