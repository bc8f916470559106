"""Starts of dreams, drawn from real play."""

import math

import numpy as np

from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.data.segments import SegmentSampler, cut, windows
from diamond_gym.errors import DiamondGymError
from diamond_gym.starts import Starts
from diamond_gym.two_stage import in_two_sizes
from diamond_gym.world_model import WorldModel

_GREY = 128  # what padding before an episode's first frame looks like in pixels


_BYTES = 64 << 20  # of the frames of the starts of a model of two stages, at full size


def starts_for(model: WorldModel, store: EpisodeStore, seed: int = 0) -> Starts:
    """Draws starts for a model as it takes them: of two stages fewer, since the frames are large, in both sizes."""
    t = model.denoiser.num_steps_conditioning
    if model.upsampler is None:
        return draw_starts(store, t, seed=seed)
    n = min(1024, max(16, _BYTES // (model.upsampler.num_steps_conditioning * math.prod(store.about.frame_shape))))
    return in_two_sizes(draw_starts(store, t, n, seed), model.upsampler)


def draw_starts(store: EpisodeStore, t: int, n: int = 1024, seed: int = 0) -> Starts:
    """Draws real pieces of T frames: up to a quarter of them beginnings of games, the others from anywhere.

    Args:
        store: Where from.
        t: Frames per piece.
        n: Pieces.
        seed: Seeds the choice.
    """
    rng = np.random.default_rng(seed)
    lengths = store.lengths
    firsts = [i for i in range(len(store)) if store.info(i).get("first") and lengths[i] >= t]
    firsts = sorted(rng.permutation(firsts)[: n // 4].tolist())
    beginning = cut(store, np.array(firsts, np.int64), np.zeros(len(firsts), np.int64), t)
    anywhere = windows(store, n - len(firsts), t, seed, past=t - 1)
    obs = np.concatenate((beginning.obs, anywhere.obs)).transpose(0, 1, 3, 4, 2)
    act = np.concatenate((beginning.act, anywhere.act))[:, : t - 1]
    return Starts(np.ascontiguousarray(obs), act, np.arange(len(act)) < len(firsts))


def replay_starts(store: EpisodeStore, t: int, n: int, rng: np.random.Generator) -> Starts:
    """Draws pieces of T frames as the denoiser's segments are drawn: newer episodes more often.

    Where a piece reaches over the beginning of its episode, the frames there are mid-grey, the padding with
    which the networks were trained.

    Args:
        store: Where from.
        t: Frames per piece, T.
        n: Pieces.
        rng: The source of chance.
    """
    if not store.num_steps:
        raise DiamondGymError(f"there is no experience in {store.folder} to dream from")
    batch = SegmentSampler(store, t, n, False, rng).sample()
    obs = np.where(batch.mask_padding[:, :, None, None, None], batch.obs, np.uint8(_GREY))
    return Starts(np.ascontiguousarray(obs.transpose(0, 1, 3, 4, 2)), batch.act[:, : t - 1], batch.start < 1)
