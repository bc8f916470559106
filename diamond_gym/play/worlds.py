"""The worlds that can be played, and their models: loaded once, however many play in them."""

import math
import os
import threading
import time
import zipfile
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from diamond_gym.actions import ActionCodec
from diamond_gym.device import pick_device
from diamond_gym.dream import Dream
from diamond_gym.envs.checks import Quality, choose_sampler, open_model
from diamond_gym.errors import BadArgument, DamagedModel, DiamondGymError
from diamond_gym.play.agent import Agent, OwnAgent, SavedAgentLooksOn
from diamond_gym.play.controls import Controls, as_inputs, key_names, key_table
from diamond_gym.registry.card import Card
from diamond_gym.registry.card_fields import AGENT
from diamond_gym.registry.games import games
from diamond_gym.registry.loading import Precision
from diamond_gym.registry.models import Entry, read_entry, survey
from diamond_gym.trainers.worlds import can_play_atari, can_play_game

Pixels = npt.NDArray[np.uint8]

_IDLE = 2  # models that nobody plays in and that stay loaded


@dataclass
class Loaded:
    """A model in memory.

    Attributes:
        entry: Where it came from.
        dream: A dream of one row that nobody plays; a session gets a `twin` of it.
        lock: To be held by whoever begins a dream: starts are burnt in on first use.
        compiled: Whether its networks are compiled, which rounds a little otherwise.
        players: Games that use it.
        seconds: How long a step took when it was loaded.
        saved: Agents of Stable-Baselines3 that look on, by the path of their file; None for the model's own.
    """

    entry: Entry
    model: Any
    dream: Dream
    lock: threading.Lock = field(default_factory=threading.Lock)
    compiled: bool = False
    players: int = 0
    seconds: float = 0.0
    saved: dict[str | None, Any] = field(default_factory=dict)

    def is_of(self, entry: Entry) -> bool:
        """Whether an entry's model, and the agent that comes with it, are still the ones in memory."""
        mine, theirs = self.entry.card, entry.card
        agents = [(card.actor_critic, card.files.get(AGENT)) for card in (mine, theirs)]
        return self.entry.dreams == entry.dreams and agents[0] == agents[1]

    def warm_up(self) -> None:
        """Dreams two steps, so that no player waits for what the first one does, and times the second."""
        codec = self.model.codec
        act = as_inputs(Controls(codec, []).noop, codec, self.dream.device)
        self.dream.reset(0, start=0)
        for _ in range(2):
            began = time.perf_counter()
            self.dream.step(act, restart=False).rew.item()
            self.seconds = time.perf_counter() - began


class UnknownWorld(BadArgument):
    """There is no such world, or no such model of it."""

    code = "unknown_world"


class Worlds:
    """What can be played here, and what is loaded of it.

    Args:
        device: Of all models: "auto" or one of torch's.
        precision: Of their networks: "auto" (measured), "float32" or "bfloat16".
        compile: Whether to compile the networks.
        first: The model to offer first, also one from outside the registry; read again whenever worlds are listed.
    """

    def __init__(
        self, device: str = "auto", precision: Precision = "auto", compile: bool = False, first: Entry | None = None
    ) -> None:
        self._device, self._precision, self._compile = device, precision, compile
        self.first = first
        self.on_cpu = pick_device(device).type == "cpu"
        self._loaded: dict[str, Loaded] = {}
        self._lock = threading.Lock()

    def entries(self) -> dict[str, list[Entry]]:
        """The models that can be played, by world; the first world and its first model are the ones to offer first.

        They are read from the disk each time: a model may be fitted again, or come to be, while others are played.
        """
        found = sorted(survey()[0], key=lambda entry: entry.rank, reverse=True)
        if self.first is not None:
            with suppress(DamagedModel):  # removed, or being replaced: who plays in it goes on
                self.first = read_entry(self.first.path)
            found = [self.first, *(entry for entry in found if entry.path != self.first.path)]
        worlds: dict[str, list[Entry]] = {}
        for entry in found:
            if "starts" in entry.card.files:
                worlds.setdefault(entry.card.game, []).append(entry)
        names = list(worlds)
        order = names[:1] + sorted(names[1:]) if self.first is not None else sorted(names)
        return {name: worlds[name] for name in order}

    def entry(self, world: str, model: str | None = None) -> Entry:
        """The model that is meant, among those of `entries`; a client's words lead nowhere else.

        Raises:
            UnknownWorld: There is no such world or model.
        """
        for entry in self.entries().get(world, []):
            if model in (None, entry.name):
                return entry
        raise UnknownWorld("there is no such world" if model is None else "there is no such model of this world")

    def listing(self) -> list[dict[str, Any]]:
        """The worlds as clients see them, without loading any model; see docs/play-protocol.md."""
        return [
            {
                "name": name,
                "models": [
                    {
                        "name": entry.name,
                        "summary": entry.card.summary,
                        "stages": 1 if entry.card.upsampler is None else 2,
                        "agent": entry.card.has_agent,
                    }
                    for entry in entries
                ],
                "preview": f"/api/preview/{name}.png",
                "real": can_play_game(name) and is_like_the_game(entries[0].card),
                **controls_of(entries[0].card.codec, list(entries[0].card.action_meanings)),
                "size": list(entries[0].card.obs_shape[:2]),
                "qualities": qualities_of(entries[0].card),
            }
            for name, entries in self.entries().items()
        ]

    def preview(self, world: str) -> Pixels | None:
        """A picture of a world: the frame that its first start ends with, uint8 (H, W, C)."""
        entries = self.entries().get(world)
        return None if entries is None else first_frame(entries[0].file("starts"))

    def take(self, entry: Entry) -> Loaded:
        """A model in memory, for one more player; loads it if need be, which takes seconds.

        One that has been fitted again is loaded anew; the old one goes when its players leave.
        """
        with self._lock:
            key = str(entry.path)
            loaded = self._loaded.get(key)
            if loaded is None or not loaded.is_of(entry):
                model, _ = open_model(None, entry, self._device, self._precision, self._compile)
                if not self._compile:
                    model.use_kernels()  # at batch 1 a third to a half of the time; built once for a machine
                if self._precision == "auto":
                    model.settle_precision(1)
                loaded = self._loaded[key] = Loaded(entry, model, model.dream(1), compiled=self._compile)
                loaded.warm_up()
            loaded.players += 1
            return loaded

    def give_back(self, loaded: Loaded) -> None:
        """One player less; of models without players only a few stay in memory."""
        with self._lock:
            loaded.players -= 1
            idle = [key for key, other in self._loaded.items() if not other.players]
            idle.sort(key=lambda key: self._loaded[key] is loaded)  # the one just left stays longest
            for key in idle[: max(0, len(idle) - _IDLE)]:
                del self._loaded[key]


def qualities_of(card: Card) -> list[Quality]:
    """The qualities in which a model dreams, fastest first."""
    if card.upsampler is not None:
        return ["fast", "quality"]
    return ["fast"] if card.is_student else ["fast", "paper", "fine"]


def own_quality(model: Any) -> str | None:
    """The name of the quality that is a model's own setting, if it has one."""
    names = qualities_of(model.card)
    return next((name for name in names if choose_sampler(model, name, {}) == choose_sampler(model, None, {})), None)


def first_frame(path: Path | None) -> Pixels | None:
    """The last frame of the first of the stored starts, read without unpacking the others; None if it cannot be."""
    if path is None:
        return None
    unreadable = suppress(OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error)
    with unreadable, zipfile.ZipFile(path) as archive, archive.open("obs.npy") as file:
        np.lib.format.read_magic(file)
        shape, in_fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
        size = math.prod(shape[1:])
        if dtype == np.uint8 and not in_fortran_order and len(shape) == 5 and size < 2**28:
            last: Pixels = np.frombuffer(file.read(size), np.uint8).reshape(shape[1:])[-1]
            return last
    return None


def leave_a_core() -> None:
    """Has torch compute with few threads, and leaves a core to the browser and to encoding, for the process as a whole.

    At batch 1 more than four hardly help, and threads that wait for a core make a step many times slower than a single
    thread. The user's own OMP_NUM_THREADS stands.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, min(4, torch.get_num_threads(), (os.cpu_count() or 1) - 1)))


def is_like_the_game(card: Card) -> bool:
    """Whether a model has the frames and the actions that its game of Atari has, as the environments show it."""
    game = games().get(card.game)
    return game is not None and card.obs_shape == (64, 64, 3) and card.num_actions == game.num_actions


def check_real(card: Card | None) -> None:
    """Refuses the real game where it cannot run here beside a model, or beside any for None (BadArgument)."""
    if card is not None and card.game not in games():
        raise BadArgument(f"there is no real game of {card.game}: only Atari's run beside their dreams")
    if not can_play_atari():
        raise BadArgument("the real game cannot be played here: pip install 'diamond-gym[atari]'")
    if card is not None and not is_like_the_game(card):
        raise BadArgument("this model's frames or actions are not the real game's")


def controls_of(codec: ActionCodec, meanings: list[str]) -> dict[str, Any]:
    """How a world is controlled, as clients see it."""
    numbered = math.prod(codec.shape) if codec.is_vector else codec.num_inputs
    kinds = {"discrete": "discrete", "csgo": "buttons", "multi_binary": "multi"}
    return {
        "kind": kinds.get(codec.kind, "vector"),
        "action_shape": list(codec.shape),
        "actions": meanings or [str(i) for i in range(numbered)],
        "keys": [[list(keys), action] for keys, action in key_table(codec, meanings)],
        "key_names": key_names(codec, meanings),
        "mouse": codec.kind == "csgo",
    }


def open_agent(loaded: Loaded, path: str | None = None) -> tuple[Agent | None, str]:
    """An agent for one session.

    Args:
        loaded: The model it looks at.
        path: The .zip of one of Stable-Baselines3's; None for the model's own.

    Returns:
        The agent, or None, and then why there is none; an empty text where the model simply has none.

    Raises:
        DiamondGymError: The file is no agent, or one of another game.
    """
    card = loaded.entry.card
    if path is None and not card.has_agent:
        return None, ""
    if path is None and loaded.model.actor_critic is not None:
        return OwnAgent(loaded.model.actor_critic), ""
    try:
        from diamond_gym.trainers.policies import own_file
        from diamond_gym.trainers.sb3_files import open_agent as opened
    except ModuleNotFoundError:
        why = "its agent needs stable_baselines3: pip install 'diamond-gym[sb3]'"
        if path is not None:
            raise DiamondGymError(why) from None
        return None, why
    if path not in loaded.saved:
        device = str(loaded.model.device)
        agent = opened(path, device) if path is not None else own_file(loaded.entry, device)
        if agent is not None:
            agent.check(card.game, card.obs_shape, card.codec)
        loaded.saved[path] = agent
    agent = loaded.saved[path]
    return (None if agent is None else SavedAgentLooksOn(agent)), ""
