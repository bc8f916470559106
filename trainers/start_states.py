"""Starts of dreams, drawn from real play, and for imported checkpoints from a folder or the real game."""

import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.data.sampling import SegmentSampler
from diamond_gym.data.segments import Batch, cut
from diamond_gym.errors import BadArgument, DiamondGymError
from diamond_gym.files import temporary_folder
from diamond_gym.networks.actor_critic import ActorCritic, ActorCriticConfig
from diamond_gym.registry import games
from diamond_gym.starts import PADDING, Starts
from diamond_gym.two_stage import in_two_sizes
from diamond_gym.world_model import PREFIXES, WorldModel

if TYPE_CHECKING:
    from diamond_gym.registry.released import Released

_BYTES = 64 << 20  # of the frames of the starts of a model of two stages, at full size
_RECORDED_BYTES = 256 << 20  # of the frames of starts that are drawn for a training
_FEW, _MANY = 256, 8192  # such starts, at least and at most
_IMPORTED = 256  # starts of an imported checkpoint
_ADVICE = "give start states with --starts (a folder of collected episodes, or of spawns), or --starts none"


def starts_for(model: WorldModel, store: EpisodeStore) -> Starts:
    """Draws starts for a model as it takes them: of two stages fewer, since the frames are large, in both sizes."""
    t = model.denoiser.num_steps_conditioning
    if model.upsampler is None:
        return draw_starts(store, t)
    n = min(1024, max(16, _BYTES // (model.upsampler.num_steps_conditioning * math.prod(store.about.frame_shape))))
    return in_two_sizes(draw_starts(store, t, n), model.upsampler)


def recorded_starts(model: WorldModel, folder: str | Path) -> Starts:
    """Draws starts for the training of an agent from recordings, many more than the model brings with it.

    Args:
        model: What they are for.
        folder: The store of the recordings.

    Raises:
        BadArgument: They have other frames or actions than the model.
        DiamondGymError: There is no such store, or it is empty.
    """
    store = EpisodeStore(folder)
    store.codec = store.codec or model.codec
    if (store.about.frame_shape, store.codec) != (model.obs_shape, model.codec):
        raise BadArgument(f"{folder} holds other frames or actions than those of the world model")
    if model.upsampler is not None:
        return starts_for(model, store)
    t = model.denoiser.num_steps_conditioning
    return draw_starts(store, t, min(_MANY, max(_FEW, _RECORDED_BYTES // (t * math.prod(store.about.frame_shape)))))


def draw_starts(store: EpisodeStore, t: int, n: int = 1024, seed: int = 0) -> Starts:
    """Draws real pieces of T frames: up to a quarter of them beginnings of games, the others up to any frame.

    Where such a piece reaches over the beginning of its game, the frames there are mid-grey, as padding is in training:
    in a short game an agent would else never see its first T - 1 decisions.

    Args:
        store: Where from.
        t: Frames per piece.
        n: Pieces.
        seed: Seeds the choice.

    Raises:
        DiamondGymError: The store is empty.
    """
    _check_any(store)
    rng, lengths = np.random.default_rng(seed), store.lengths
    firsts = [i for i in range(len(store)) if store.info(i).get("first") and lengths[i] >= t]
    firsts = sorted(rng.permutation(firsts)[: n // 4].tolist())
    beginning = cut(store, np.array(firsts, np.int64), np.zeros(len(firsts), np.int64), t)
    place = rng.choice(store.num_steps, n - len(firsts), replace=n - len(firsts) > store.num_steps)
    episode = np.searchsorted(np.cumsum(lengths), place, side="right")
    step = place - (np.cumsum(lengths) - lengths)[episode]
    anywhere = cut(store, episode, step - (t - 1), t, across_lives=True)
    obs = np.concatenate((beginning.obs, _padded(anywhere))).transpose(0, 1, 3, 4, 2)
    act = np.concatenate((beginning.act, anywhere.act))[:, : t - 1]
    return Starts(np.ascontiguousarray(obs), act, np.arange(len(act)) < len(firsts))


def replay_starts(store: EpisodeStore, t: int, n: int, rng: np.random.Generator, **sampling: Any) -> Starts:
    """Draws pieces of T frames as the denoiser's segments are drawn: newer play more often.

    Where a piece reaches over the beginning of its episode, the frames there are mid-grey, the padding with
    which the networks were trained.

    Args:
        store: Where from.
        t: Frames per piece, T.
        n: Pieces.
        rng: The source of chance.
        sampling: How the denoiser's segments are drawn (`batches.sampling_of`).
    """
    _check_any(store)
    batch = SegmentSampler(store, t, n, False, rng, **sampling).sample()
    obs = np.ascontiguousarray(_padded(batch).transpose(0, 1, 3, 4, 2))
    return Starts(obs, batch.act[:, : t - 1], batch.start < 1)


def _check_any(store: EpisodeStore) -> None:
    if not store.num_steps:
        raise DiamondGymError(f"there is no experience in {store.folder} to dream from")


def _padded(batch: Batch) -> npt.NDArray[np.uint8]:
    return np.where(batch.mask_padding[:, :, None, None, None], batch.obs, np.uint8(PADDING))


def starts_from_folder(model: "Released", folder: Path, seed: int = 0) -> Starts:
    """Start states from a folder of collected episodes, or of spawns for a model of two stages, which are all taken.

    Args:
        model: What they are for.
        folder: A store of `diamond-gym collect`, or spawns in the released format.
        seed: Seeds the choice.

    Raises:
        BadArgument: The folder is neither, or holds another kind of experience.
        DamagedModel: A spawn cannot be used.
    """
    from diamond_gym.registry.spawn import is_spawn, read_spawn

    card = model.card
    if is_spawn(folder):
        if card.upsampler is None:
            raise BadArgument(f"{folder} holds spawns of a model of two stages, but this model has one")
        return read_spawn(folder, card)
    if card.upsampler is not None:
        raise BadArgument(f"{folder} is not a folder of spawns")
    if not (folder / "store.json").exists():
        raise BadArgument(f"{folder} is not a folder of collected episodes")
    store = EpisodeStore(folder)
    if store.about.frame_shape != card.frame_shape or store.codec != card.codec:
        actions = store.about.num_actions or (store.codec and store.codec.space) or store.about.action_dtype
        raise BadArgument(
            f"{folder} holds frames {store.about.frame_shape} and {actions} actions, "
            f"but the model needs {card.frame_shape} and {card.num_actions}"
        )
    return draw_starts(store, card.num_steps_conditioning, _IMPORTED, seed)


def can_collect(model: "Released") -> None:
    """Refuses where the checkpoint's own agent cannot play the real game.

    Raises:
        BadArgument: There is no such game here, no agent, or it was made for other actions.
    """
    card, game = model.card, games().get(model.card.game)
    if game is None:
        raise BadArgument(f"{card.game} is not a game that can be played here: {_ADVICE}")
    if card.actor_critic is None:
        raise BadArgument(f"the checkpoint has no agent that could play {card.game}: {_ADVICE}")
    if game.num_actions != card.num_actions:
        raise BadArgument(f"{card.game} has {game.num_actions} actions, the checkpoint {card.num_actions}: {_ADVICE}")
    if card.frame_shape[2] != 3:
        raise BadArgument(f"the checkpoint sees {card.frame_shape[2]} channels, the game has 3: {_ADVICE}")


def starts_from_game(
    model: "Released",
    steps: int,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Starts:
    """Start states from the real game, played by the checkpoint's own agent.

    Args:
        model: Whose agent plays, and what they are for.
        steps: How long it plays, over all games side by side.
        seed: Seeds the games, the agent and the choice.
        progress: Called with the steps so far.

    Raises:
        BadArgument: The agent cannot play the game.
    """
    from diamond_gym.trainers.collect import CollectConfig, Collector, games_for
    from diamond_gym.trainers.policies import AgentPolicy
    from diamond_gym.trainers.worlds import World, about_game

    can_collect(model)
    assert model.card.actor_critic is not None
    with torch.random.fork_rng(devices=[]):  # it is filled with random weights before it is loaded
        agent = ActorCritic(ActorCriticConfig(**model.card.actor_critic))
    prefix = PREFIXES["actor_critic"]
    agent.load_state_dict({k.removeprefix(prefix): v for k, v in model.weights.items() if k.startswith(prefix)})
    policy = AgentPolicy(agent.eval(), games_for(steps), np.random.default_rng([seed, 1]))
    world = World(about_game(model.card.game, model.card.frame_shape[:2]), model.card.game)
    with temporary_folder(Path(tempfile.gettempdir())) as folder, EpisodeStore(folder, "a", world.about) as store:
        with Collector(store, world.envs(games_for(steps)), CollectConfig(seed=seed), policy) as collector:
            collector.collect(steps, progress)
        return draw_starts(store, model.card.num_steps_conditioning, _IMPORTED, seed)
