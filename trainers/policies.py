"""Policies: random and scripted play, an actor-critic in games and in dreams, and the agents that come with models.

A random paddle seldom returns the ball, and a chicken that walks at random never crosses the road: a world model
fitted to such play has not seen what a good agent will do in it. The scripted players look at frames only.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from diamond_gym.actions import ActionCodec, Discrete
from diamond_gym.errors import BadArgument, ModelNotFound
from diamond_gym.networks.actor_critic import ActorCritic
from diamond_gym.registry import Entry, games
from diamond_gym.registry import game as find_game
from diamond_gym.registry.card_fields import AGENT
from diamond_gym.registry.loading import verified_file

if TYPE_CHECKING:
    from diamond_gym.dream import Dream
    from diamond_gym.envs.vector_env import DreamVectorEnv
    from diamond_gym.trainers.sb3_files import SavedAgent
    from diamond_gym.world_model import WorldModel

_Frames = npt.NDArray[np.uint8]
_Actions = npt.NDArray[np.int64]
_Places = npt.NDArray[np.float64]
_Player = Callable[[_Frames, _Frames], _Actions]  # from these frames and those before, both (B, H, W, 3)

_NOOP, _FIRE, _RIGHT, _LEFT = 0, 1, 2, 3  # the minimal actions of Breakout and, but for the words, of Pong
_UP = 1  # of Freeway
_AWAY = 4  # of RoadRunner: to the left
_SCRIPTED_STEPS, _RANDOM_STEPS, _HELD_STEPS = 24.0, 10.0, 4.0  # mean lengths of spells, and of a held random action


class Policy(Protocol):
    """Chooses actions for a batch of games."""

    def __call__(self, obs: npt.NDArray[np.uint8], first: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
        """From frames (B, H, W, C), and in which rows an episode begins (B,), to actions (B, ...)."""
        ...


MakePolicy = Callable[[int, np.random.Generator], Policy]  # from the number of rows


class StickyPolicy:
    """Uniform actions, each kept for a geometric number of steps.

    Held keys make a paddle travel, so that it meets the ball more often than by a policy that trembles.

    Args:
        actions: How many there are, 0..n-1, or the codec of other ones.
        repeat: Chance to keep the action for another step, per row (B,); 0 is the uniform random policy.
        rng: The source of chance.
    """

    def __init__(self, actions: int | ActionCodec, repeat: npt.NDArray[np.float64], rng: np.random.Generator) -> None:
        self._codec = Discrete(actions) if isinstance(actions, int) else actions
        self._repeat, self._rng = repeat, rng
        self._act: npt.NDArray[Any] = np.zeros((len(repeat), *self._codec.shape), self._codec.dtype)

    def __call__(self, obs: npt.NDArray[np.uint8], first: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
        """Chooses without looking."""
        new = self._codec.sample(self._rng, len(self._repeat))
        keep = (self._rng.random(len(self._repeat)) < self._repeat) & ~first
        self._act = np.where(keep.reshape(-1, *[1] * (new.ndim - 1)), self._act, new)
        return self._act


def explore(act: npt.NDArray[Any], epsilon: float, codec: ActionCodec, rng: np.random.Generator) -> npt.NDArray[Any]:
    """Puts uniform random actions in the place of some of a batch's (B, ...), each with chance `epsilon`."""
    if not epsilon:
        return act
    chance = rng.random(len(act)) < epsilon
    return np.where(chance.reshape(-1, *[1] * (act.ndim - 1)), codec.sample(rng, len(act)), act)


class AgentPolicy:
    """Samples the agent's actions, and begins each episode with a fresh memory.

    Args:
        actor_critic: The agent, on its device.
        num_envs: Rows of a batch, B.
        rng: The source of chance.
        temperature: Divides the logits: below 1 the agent is surer of itself, as it has to be on Freeway.
    """

    def __init__(
        self, actor_critic: ActorCritic, num_envs: int, rng: np.random.Generator, temperature: float = 1.0
    ) -> None:
        self._agent, self._rng, self._temperature = actor_critic, rng, temperature
        self._device = next(actor_critic.parameters()).device
        self._state = actor_critic.initial_state(num_envs, self._device)

    def state_dict(self) -> dict[str, Any]:
        """All that the next actions depend on, but for the agent."""
        return {"memory": [part.clone() for part in self._state], "rng": self._rng.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes back to a state."""
        hx, cx = (part.to(self._device, copy=True) for part in state["memory"])
        self._state = hx, cx
        self._rng.bit_generator.state = state["rng"]

    @torch.no_grad()
    def __call__(self, obs: npt.NDArray[np.uint8], first: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """From frames (B, H, W, C) and the rows in which an episode begins (B,) to actions (B,)."""
        images = torch.from_numpy(obs.copy()).to(self._device).permute(0, 3, 1, 2).float() / 255 * 2 - 1
        going_on = torch.from_numpy(~first).to(self._device)[:, None]
        hx, cx = (part * going_on for part in self._state)
        logits, _, self._state = self._agent(images, (hx, cx))
        chances = (logits.double() / self._temperature).softmax(dim=1).cumsum(dim=1).cpu().numpy()
        # By NumPy's randomness, so that the device makes no difference to the stream.
        drawn = np.sum(chances < self._rng.random(len(obs))[:, None], axis=1, dtype=np.int64)
        return drawn.clip(max=chances.shape[1] - 1)


class HeldActions:
    """Random actions, each kept for some steps, as a person would.

    Args:
        envs: Whose actions they are; its action space is seeded.
        repeat: For how many steps an action is kept, on average.
        seed: Seeds all of it.
    """

    def __init__(self, envs: "DreamVectorEnv", repeat: float, seed: int) -> None:
        self._space, self._chance, self._rng = envs.action_space, 1 / repeat, np.random.default_rng(seed)
        self._space.seed(seed)
        self._act: npt.NDArray[Any] = self._space.sample()

    def __call__(self, obs: npt.NDArray[np.uint8], first: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
        """The actions (B, ...) of the next step."""
        new = self._rng.random(len(first)) < self._chance
        drawn = self._space.sample()
        self._act = np.where(new.reshape(-1, *[1] * (drawn.ndim - 1)), drawn, self._act)
        return self._act


class DreamPolicy(AgentPolicy):
    """An agent that plays as it was trained to: where a dream begins, it has seen the start's earlier frames.

    Of two stages these are the large ones that a start keeps, often none but the present one.

    Args:
        actor_critic: The agent, on the dream's device.
        dream: Where it plays.
        rng: The source of chance.
    """

    def __init__(self, actor_critic: ActorCritic, dream: "Dream", rng: np.random.Generator) -> None:
        super().__init__(actor_critic, dream.num_envs, rng)
        self._dream = dream

    @torch.no_grad()
    def __call__(self, obs: npt.NDArray[np.uint8], first: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """From the dream's present frames (B, H, W, C) and the rows in which one has just begun (B,) to actions."""
        if first.any():
            rows = torch.from_numpy(np.flatnonzero(first)).to(self._device)
            memory = self._agent.initial_state(len(rows), self._device)
            for earlier in self._dream.shown_window[rows, :-1].unbind(1):
                _, _, memory = self._agent(earlier, memory)
            hx, cx = (old.index_copy(0, rows, new) for old, new in zip(self._state, memory, strict=True))
            self._state = hx, cx
            first = np.zeros_like(first)
        return super().__call__(obs, first)


def _centre(bright: npt.NDArray[np.bool_]) -> _Places:
    """The mean index of what is true along the last axis, (B,); NaN where nothing is."""
    count = bright.sum(axis=-1)
    total = (bright * np.arange(bright.shape[-1])).sum(axis=-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _breakout(obs: _Frames, before: _Frames) -> _Actions:
    """Keeps the paddle under the ball, and serves when there is none."""
    size = obs.shape[1]
    walls = slice(round(size * 0.05), round(size * 0.95))

    def seen(frames: _Frames) -> tuple[_Places, _Places]:
        field = frames[:, round(size * 0.46) : round(size * 0.875), walls, 0]
        return _centre(field.max(axis=1) > 80), _centre(frames[:, round(size * 0.89), walls, 0] > 60)

    return _follow(seen(obs), seen(before), size / 14, _FIRE)


def _pong(obs: _Frames, before: _Frames) -> _Actions:
    """Keeps the right paddle at the ball's height; "right" is up here."""
    size = obs.shape[1]
    rows = slice(round(size * 0.17), round(size * 0.92))

    def seen(frames: _Frames) -> tuple[_Places, _Places]:
        field = frames[:, rows].astype(np.int16)
        # Ball and background differ most in blue, the green paddle and the background in green less red.
        ball = field[:, :, round(size * 0.13) : round(size * 0.87), 2].max(axis=2) > 48
        right = field[:, :, round(size * 0.87) : round(size * 0.94)]
        return -_centre(ball), -_centre((right[..., 1] - right[..., 0]).max(axis=2) > 10)

    return _follow(seen(obs), seen(before), size / 14, _NOOP)


def _always(act: int) -> _Player:
    """Takes one action, whatever it sees."""
    return lambda obs, before: np.full(len(obs), act, np.int64)


def _follow(now: tuple[_Places, _Places], before: tuple[_Places, _Places], near: float, unseen: int) -> _Actions:
    """Actions that bring the paddle to the ball; it coasts on for a step after the key is released."""
    (ball, paddle), (old_ball, old_paddle) = now, before
    ahead = ball + np.nan_to_num(ball - old_ball)
    coasting = paddle + np.nan_to_num(paddle - old_paddle)
    distance = ahead - coasting
    act = np.where(distance > near, _RIGHT, np.where(distance < -near, _LEFT, _NOOP))
    return np.where(np.isnan(distance), unseen, act).astype(np.int64)


PLAYERS: Mapping[str, _Player] = {
    "Breakout": _breakout,
    "Pong": _pong,
    "Freeway": _always(_UP),
    "RoadRunner": _always(_AWAY),
}


def check_scripted(name: str) -> None:
    """Raises BadArgument where there is no script for a game."""
    if name not in PLAYERS:
        raise BadArgument(f"there is a scripted player for {', '.join(PLAYERS)}, not for {name}")


class ScriptedPolicy:
    """Plays a game by a simple script, between spells of held random actions.

    The random spells bring what the script never does: misses, detours, states a learning agent will wander into.

    Args:
        name: The game, one of `PLAYERS`.
        num_envs: Rows of a batch, B.
        rng: The source of chance.

    Raises:
        BadArgument: There is no script for this game.
    """

    def __init__(self, name: str, num_envs: int, rng: np.random.Generator) -> None:
        check_scripted(name)
        self._num_actions = find_game(name).num_actions
        self._player, self._rng = PLAYERS[name], rng
        self._scripted = np.ones(num_envs, np.bool_)
        self._held = np.zeros(num_envs, np.int64)
        self._before: _Frames | None = None

    def __call__(self, obs: _Frames, first: npt.NDArray[np.bool_]) -> _Actions:
        """From frames (B, H, W, 3), and in which rows an episode begins (B,), to actions (B,)."""
        n = len(obs)
        chance = self._rng.random((3, n))
        ends = chance[0] < np.where(self._scripted, 1 / _SCRIPTED_STEPS, 1 / _RANDOM_STEPS)
        self._scripted ^= ends
        renew = (chance[1] < 1 / _HELD_STEPS) | ends | first
        self._held = np.where(renew, (chance[2] * self._num_actions).astype(np.int64), self._held)
        before = obs if self._before is None else np.where(first[:, None, None, None], obs, self._before)
        self._before = obs.copy()
        return np.where(self._scripted, self._player(obs, before), self._held)


def own_file(entry: Entry, device: str = "auto") -> "SavedAgent | None":
    """The agent of Stable-Baselines3 that lies beside a model; None if there is none.

    Raises:
        DiamondGymError: The file is not the one that the card describes, none of SB3's, or needs its pickles to be
            opened.
    """
    path = verified_file(entry, AGENT)
    if path is None:
        return None
    from diamond_gym.trainers.sb3_files import open_agent

    return open_agent(path, device)


def own_agent(model: "WorldModel") -> ActorCritic:
    """The agent of the paper's kind that came with a model.

    Raises:
        ModelNotFound: It has none; the message says how to come by one.
    """
    if model.actor_critic is not None:
        return model.actor_critic
    if model.card is None:
        raise ModelNotFound("this world model has no agent of its own")
    game = model.card.game
    advice = f": train one with `diamond-gym train-agent --game {game}`, or fetch the authors' with `pull {game}`"
    raise ModelNotFound(
        f"the world model '{model.card.name}' has no agent of its own{advice if game in games() else ''}"
    )
