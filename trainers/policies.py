"""Policies: random play, an actor-critic in real games and in dreams, and the agents that come with models."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from diamond_gym.actions import ActionCodec, Discrete
from diamond_gym.errors import BadArgument, ModelNotFound
from diamond_gym.networks.actor_critic import ActorCritic
from diamond_gym.registry import Entry, games
from diamond_gym.registry.card_fields import AGENT
from diamond_gym.registry.loading import verified_file
from diamond_gym.trainers.scripted import ScriptedPolicy, check_scripted

if TYPE_CHECKING:
    from diamond_gym.dream import Dream
    from diamond_gym.envs.vector_env import DreamVectorEnv
    from diamond_gym.trainers.sb3_files import SavedAgent
    from diamond_gym.world_model import WorldModel

POLICIES = ("random", "scripted", "agent")


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


def policies_of(has_agent: bool, game: str, wanted: Sequence[str] = ()) -> list[str]:
    """The policies to compare: those wanted, else random and, where the model has one, its own agent.

    Raises:
        BadArgument: There is no such policy, or the model has no agent.
    """
    for name in wanted:
        if name not in POLICIES:
            raise BadArgument(f"a policy is one of {', '.join(POLICIES)}, not {name}")
        if name == "scripted":
            check_scripted(game)
    if "agent" in wanted and not has_agent:
        raise BadArgument("this model has no agent of its own")
    return list(wanted) or (["random", "agent"] if has_agent else ["random"])


def policy_maker(model: "WorldModel", game: str, name: str, saved: "SavedAgent | None" = None) -> MakePolicy:
    """Makes policies by name, for any number of rows; the model's own agent may be a saved one beside it."""

    def make(rows: int, rng: np.random.Generator) -> Policy:
        if name == "scripted":
            return ScriptedPolicy(game, rows, rng)
        if name == "agent" and saved is not None:
            return saved.playing(rows, seed=int(rng.integers(2**31)))
        if name == "agent":
            assert model.actor_critic is not None
            return AgentPolicy(model.actor_critic, rows, rng)
        return StickyPolicy(model.codec, np.zeros(rows), rng)

    return make
