"""Agents of Stable-Baselines3 on disk: its own .zip, with a card of ours inside that says what was trained on what.

Such a .zip holds pickles, and opening a pickle runs whatever code is in it. To play, none is needed: here the
policy is built anew from the plain text beside them, and its weights are read as bare tensors. Only a policy
of somebody's own making cannot be known that way; then the caller has to say that the file is trusted.
"""

import importlib
import io
import json
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.save_util import json_to_data
from stable_baselines3.common.utils import get_device

from diamond_gym.action_spaces import codec_of_space, codec_of_table
from diamond_gym.actions import ActionCodec, Discrete
from diamond_gym.errors import BadArgument, DiamondGymError, one_line
from diamond_gym.files import atomic_path
from diamond_gym.schema import Number
from diamond_gym.trainers.policies import explore

CARD = "diamond_gym.json"  # the name within the .zip
_WEIGHTS, _OPTIMIZER = "policy.pth", "optimizer.pth"  # of SAC there are several of these
# The policies from images that are built without opening a pickle, by the module that a file names.
_KNOWN = {
    "stable_baselines3.common.policies": "ActorCriticCnnPolicy",  # of PPO and A2C
    "stable_baselines3.dqn.policies": "CnnPolicy",
    "stable_baselines3.sac.policies": "CnnPolicy",
    "sb3_contrib.common.recurrent.policies": "RecurrentActorCriticCnnPolicy",
}
_SIDE, _WIDEST, _LARGEST = Number(1, 512), 4096, 1 << 30
_TRAINING_ONLY = {"optimizer_class", "optimizer_kwargs"}
# What a .zip need not remember: where the last training stood, an eighth of a megabyte a row.
_LEFT_OUT = ["_last_obs", "_last_original_obs", "_last_episode_starts", "ep_info_buffer", "ep_success_buffer"]


@dataclass(frozen=True)
class AgentCard:
    """What an agent was trained on, and how.

    Attributes:
        game, algo, model, frame_stack, seed: As those of `diamond_gym.trainers.sb3.AgentConfig`; for the real game
            there is no model ("").
        trained_in: "dream" or "real".
        model_sha256: Of the world model's weights, where they are known.
        obs_shape: A single frame, (H, W, C).
        num_actions: Actions are 0..num_actions-1; of other ones the numbers that world models take for one.
        steps: Steps of training, over all rows.
        seconds: How long they took.
        quality, max_episode_steps: Of the dreams; None for the model's own way, and for the real game.
        settings: The algorithm's hyperparameters.
        actions: What kind of actions they are, as a world model's card has it; empty for numbered ones.
        data: The name of the recordings that its dreams began from; None for the model's own starts.
    """

    game: str
    algo: str
    trained_in: str
    model: str
    model_sha256: str
    obs_shape: tuple[int, int, int]
    num_actions: int
    frame_stack: int
    steps: int
    seconds: float
    seed: int
    quality: str | None
    max_episode_steps: int | None
    settings: dict[str, Any]
    format: int = 1
    actions: dict[str, Any] = field(default_factory=dict)
    data: str | None = None

    @property
    def codec(self) -> ActionCodec:
        """The actions that it takes."""
        return codec_of_table(self.actions, self.num_actions)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads what `json.dumps(asdict(card))` wrote; fields that are not known yet are left out."""
        table = json.loads(text)
        fields = {name: table[name] for name in cls.__dataclass_fields__ if name in table}
        if not all(isinstance(fields[name], str) for name in ("game", "algo", "model")):
            raise ValueError("its card is not valid")
        return cls(**{**fields, "obs_shape": tuple(table["obs_shape"])})


def save_agent(agent: BaseAlgorithm, path: Path, card: AgentCard) -> None:
    """Writes an agent as SB3 does, so that `PPO.load` reads it, with its card inside; whole or not at all."""
    with atomic_path(path) as temporary:
        agent.save(temporary, exclude=_LEFT_OUT)
        with zipfile.ZipFile(temporary, "a") as archive:
            archive.writestr(CARD, json.dumps(asdict(card), indent=2))


def packed(path: Path) -> bytes:
    """A saved agent as small as it can be to play, to lie beside a world model: about a quarter of the file.

    Weights are float16, DQN's target network is its other network, and the optimizer's memory is left out.
    SB3 reads such a file, too.
    """
    result = io.BytesIO()
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(result, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            if name == "system_info.txt":  # of the machine it was trained on
                continue
            content = source.read(name)
            if name == _WEIGHTS or name.endswith(_OPTIMIZER):
                state, buffer = _tensors(content), io.BytesIO()
                if name == _WEIGHTS:
                    half = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
                    # torch writes a tensor that has two names once
                    state = {key: half[key.replace("q_net_target.", "q_net.")] for key in state}
                else:
                    state["state"] = {}
                torch.save(state, buffer)
                content = buffer.getvalue()
            target.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)  # dated alike: same agent, same bytes
    return result.getvalue()


def _tensors(content: bytes) -> Any:
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


@dataclass(frozen=True)
class SavedAgent:
    """An agent that was opened in order to play.

    Attributes:
        path: Where it lies.
        policy: SB3's, on its device.
        channels: Channels of all that it sees, C × frame_stack.
        size: (H, W) of what it sees.
        codec: Of its actions.
        epsilon: DQN's chance of a random action where actions are not chosen greedily, else 0.
        card: None where the file was not written by this package.
    """

    path: Path
    policy: BasePolicy
    channels: int
    size: tuple[int, int]
    codec: ActionCodec
    epsilon: float
    card: AgentCard | None

    def check(self, game: str, obs_shape: tuple[int, ...], codec: ActionCodec) -> None:
        """Makes sure that the agent can play a game.

        Raises:
            BadArgument: It was trained for another one, sees other frames, or has other actions.
        """
        height, width, channels = obs_shape
        if self.card is not None and self.card.game != game:
            raise BadArgument(f"{self.path} was trained for {self.card.game}, not for {game}")
        if self.size != (height, width) or self.channels % channels:
            seen, shown = "{}×{} with {} channels".format(*self.size, self.channels), f"{height}×{width}×{channels}"
            raise BadArgument(f"{self.path} sees frames of {seen}, but {game} shows {shown}, or several of them")
        if self.codec != codec:
            mine, theirs = (
                c.space if self.codec.is_vector or codec.is_vector else c.num_inputs for c in (self.codec, codec)
            )
            raise BadArgument(f"{self.path} knows {mine} actions, but {game} has {theirs}")

    def playing(self, num_envs: int, deterministic: bool = False, seed: int = 0) -> "PlayingAgent":
        """The agent as a policy for `num_envs` games at once."""
        return PlayingAgent(self, num_envs, deterministic, seed)


class PlayingAgent:
    """A saved agent that chooses actions for a batch of games, with their frames stacked as in training.

    As `VecFrameStack` does it, there are black ones before an episode's first. The seed is that of DQN's random
    actions; actions sampled by the networks come from torch's own stream.
    """

    def __init__(self, agent: SavedAgent, num_envs: int, deterministic: bool = False, seed: int = 0) -> None:
        self._agent, self._deterministic = agent, deterministic
        self._rng = np.random.default_rng([seed, 2])
        self._seen = np.zeros((num_envs, *agent.size, agent.channels), np.uint8)
        self._memory: tuple[npt.NDArray[Any], ...] | None = None

    def __call__(self, obs: npt.NDArray[np.uint8], first: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
        """From frames (B, H, W, C) and the rows in which an episode begins (B,) to actions (B, ...)."""
        self._seen[first] = 0
        self._seen = np.concatenate((self._seen[..., obs.shape[-1] :], obs), axis=-1)
        act, self._memory = self._agent.policy.predict(self._seen, self._memory, first, self._deterministic)
        epsilon = 0.0 if self._deterministic else self._agent.epsilon
        return explore(act.astype(self._agent.codec.dtype), epsilon, self._agent.codec, self._rng)


def open_agent(path: str | Path, device: str = "auto", trust_pickles: bool = False) -> SavedAgent:
    """Opens a saved agent of PPO, A2C, DQN, SAC or sb3-contrib's RecurrentPPO that plays from images.

    Args:
        path: The .zip.
        device: "auto" or one of torch's.
        trust_pickles: Whether to open the file's pickles, as a policy of one's own needs it: any code in them runs.

    Raises:
        DiamondGymError: There is no such file, it is none of SB3's, or it needs its pickles.
    """
    path = Path(path)
    if not path.is_file():
        raise DiamondGymError(f"there is no agent at {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            text, weights = _member(archive, "data").decode(), _member(archive, _WEIGHTS)
            card = AgentCard.from_json(_member(archive, CARD).decode()) if CARD in archive.namelist() else None
        table, state = json.loads(text), _tensors(weights)
        shape, codec = table["observation_space"].get("_shape"), _codec(table["action_space"], card)
        epsilon = float(table.get("exploration_rate", 0.0))
        _check_sizes({**(table.get("policy_kwargs") or {})})
        settings = json_to_data(text) if trust_pickles else table
        if codec is None and trust_pickles:
            codec = codec_of_space(settings["action_space"], str(path))
    except Exception as error:  # each of zipfile, json, pickle and torch meets damage with exceptions of many kinds
        raise DiamondGymError(
            f"{path} is not an agent saved by Stable-Baselines3, or is damaged ({one_line(error)})"
        ) from None
    if not isinstance(shape, list) or len(shape) != 3 or codec is None:
        raise DiamondGymError(
            f"{path} does not play from images with numbered actions, as these games need; other actions are read "
            "from files of this package, or with --trust-pickles"
        )
    if not (all(map(_SIDE.accepts, shape)) and 0 <= epsilon <= 1):
        raise DiamondGymError(f"{path} describes no possible agent: frames, actions or chances are out of bounds")
    policy_class, keywords = _policy_class(path, settings, trust_pickles)
    try:
        with torch.random.fork_rng(devices=[]):  # it is filled with random weights before it is loaded
            policy = policy_class(spaces.Box(0, 255, tuple(shape), np.uint8), codec.space, lambda _: 0.0, **keywords)
        policy.load_state_dict(state)
    except Exception as error:  # whatever SB3 and torch make of keywords that are not what they should be
        raise DiamondGymError(f"{path} holds weights of another policy than it says ({one_line(error)})") from None
    policy = policy.to(get_device(device))
    policy.set_training_mode(False)
    channels, *size = shape  # SB3 stores images with their channels first
    return SavedAgent(path, policy, channels, tuple(size), codec, epsilon, card)


def _codec(space: dict[str, Any], card: AgentCard | None) -> ActionCodec | None:
    """The actions' codec by an agent's card, or of numbered ones by SB3's plain text; None where neither says it."""
    if card is not None:
        return card.codec
    numbered = str(space.get(":type:", "")).find("multi") < 0 and space.get("n") is not None
    return Discrete(int(space["n"])) if numbered else None


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).file_size > _LARGEST:  # when unpacked
        raise ValueError(f"{name} is far too large")
    return archive.read(name)


def _check_sizes(keywords: Any, left: int = 32) -> int:
    """Refuses keywords of a policy whose numbers would make it huge; returns how many more numbers there may be."""
    if isinstance(keywords, dict | list):
        for item in keywords.values() if isinstance(keywords, dict) else keywords:
            left = _check_sizes(item, left)
    elif isinstance(keywords, int | float):
        left -= 1
        if left < 0 or not abs(keywords) <= _WIDEST:
            raise ValueError("its policy is far too large")
    return left


def _policy_class(path: Path, table: dict[str, Any], trusted: bool) -> tuple[type[BasePolicy], dict[str, Any]]:
    """The policy that a file names and what it was made with, from plain text or from trusted pickles."""
    named, keywords = table.get("policy_class"), table.get("policy_kwargs") or {}
    if trusted:
        if not (isinstance(named, type) and issubclass(named, BasePolicy)):
            raise DiamondGymError(f"{path} holds no policy of Stable-Baselines3")
        return named, keywords
    module = str(named.get("__module__")) if isinstance(named, dict) else ""
    plain = {key: value for key, value in keywords.items() if key not in (":type:", ":serialized:")}
    pickled = ":serialized:" in keywords and not set(plain) <= _TRAINING_ONLY
    if module not in _KNOWN or pickled:
        raise DiamondGymError(
            f"{path} needs its pickles to be opened, which runs any code in them: "
            "if you trust the file, say so (--trust-pickles)"
        )
    try:
        result: type[BasePolicy] = getattr(importlib.import_module(module), _KNOWN[module])
    except ModuleNotFoundError:
        raise DiamondGymError(f"{path} is an agent of sb3-contrib: pip install sb3-contrib") from None
    playing = {key: value for key, value in plain.items() if key not in _TRAINING_ONLY}
    return result, {**playing, "optimizer_class": lambda *_, **__: None}  # torch's own take seconds to import
