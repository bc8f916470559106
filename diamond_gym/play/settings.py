"""How a game begins, and how a server lets play."""

from dataclasses import dataclass
from pathlib import Path

from diamond_gym.play.recording import ActionLog


@dataclass(frozen=True)
class Begin:
    """How a game begins.

    Attributes:
        seed: Of everything random.
        quality: How frames are sampled; None for the model's own way.
        agent: Whether an agent looks on.
        agent_file: Its .zip; None for the model's own.
        agent_plays: Whether it plays until somebody else does.
        horizon: Steps after which a dream ends, None for never.
        real: Whether the real game runs beside it.
        record: The store that the game is recorded into, from the first step on; None to record only when asked to.
        replay: A recording to be played again.
    """

    seed: int = 0
    quality: str | None = None
    agent: bool = True
    agent_file: str | None = None
    agent_plays: bool = False
    horizon: int | None = None
    real: bool = False
    record: Path | None = None
    replay: ActionLog | None = None


@dataclass(frozen=True)
class Settings:
    """The settings of the server and of its games, as the command got them.

    Attributes:
        begin: How games begin where clients say nothing else; its seed is not used. Without a `world`, each is recorded
            into a store of its own within the folder `record`.
        seed: Of the dreams that clients do not seed; None for another one each time.
        world: The world that quality, agent, recording and replay are meant for; None for all.
        fps: Steps a second, at first.
        host: The address that the server is bound to.
        max_sessions: Games that may be played at the same time.
    """

    begin: Begin = Begin()
    seed: int | None = None
    world: str | None = None
    fps: int = 15
    host: str = "127.0.0.1"
    max_sessions: int = 4
