"""Training an agent of Stable-Baselines3 in dreams (or in the real game), and scoring one in the real game."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from diamond_gym.errors import BadArgument
from diamond_gym.registry import Entry, with_agent_file
from diamond_gym.registry import game as find_game
from diamond_gym.sb3_agents import AgentConfig, recent_return
from diamond_gym.sb3_files import AgentCard, SavedAgent, open_agent, packed, save_agent
from diamond_gym.trainers.sb3_fit import RHYTHM, SB3Fit
from diamond_gym.trainers.scores import Scores, play, real_games, score_random
from diamond_gym.trainers.sitting import sit

__all__ = [
    "AgentConfig",
    "AgentTraining",
    "open_agent",
    "register_file",
    "save_training",
    "score_agent",
    "score_random",
    "train_agent",
]

_TOLD = ("algo", "steps", "seconds", "seed", "frame_stack", "quality", "max_episode_steps", "settings")  # by a card


@dataclass(frozen=True)
class AgentTraining:
    """How a training went.

    Attributes:
        reason: "steps" when all are done, "minutes" when time was up, "interrupted" after Ctrl-C.
        steps: Steps done, over all rows and sittings.
        seconds: How long they took.
        recent_return: Mean return of the last hundred training episodes, if any has ended.
        card: What was written into the agent's file.
    """

    reason: str
    steps: int
    seconds: float
    recent_return: float | None
    card: AgentCard


def train_agent(
    config: AgentConfig,
    out: Path,
    minutes: float | None = None,
    progress: Callable[[int], None] | None = None,
) -> AgentTraining:
    """Trains an agent in one sitting and saves it, also where Ctrl-C or the time ends the training early.

    Both end it after the rollout in hand. Nothing else is kept: a training that can go on another time is an `SB3Fit`
    with a run's folder.

    Args:
        config: What to learn, and where.
        out: The .zip to write.
        minutes: Time limit of the training.
        progress: Called after each step of the batch with the steps so far.

    Raises:
        DiamondGymError: There is no such game or model, the model is of another game, or `out` cannot be
            written.
    """
    if out.suffix != ".zip" or out.is_dir():
        raise BadArgument(f"an agent is saved as a .zip, not as {out}")
    out.parent.mkdir(parents=True, exist_ok=True)  # better now than after hours
    with SB3Fit(config, progress=progress) as fit:
        return save_training(fit, out, sit(fit, None, minutes, RHYTHM).reason)


def save_training(fit: SB3Fit, out: Path, reason: str) -> AgentTraining:
    """Writes the agent as it is by now, with its card.

    Args:
        fit: The training.
        out: The .zip to write.
        reason: Why it ended, see `AgentTraining`.
    """
    config, space = fit.config, fit.bridge.observation_space
    card = AgentCard(
        game=config.game,
        algo=config.algo,
        trained_in="real" if config.real else "dream",
        model="" if fit.entry is None else fit.entry.name,
        model_sha256="" if fit.entry is None else fit.entry.card.files["weights"].sha256,
        obs_shape=tuple(space.shape or ()),  # type: ignore[arg-type]
        num_actions=int(fit.bridge.action_space.n),  # type: ignore[attr-defined]
        frame_stack=config.frame_stack,
        steps=fit.step,
        seconds=round(fit.seconds, 1),
        seed=config.seed,
        quality=None if config.real else config.quality,
        max_episode_steps=None if config.real else config.max_episode_steps,
        settings=fit.settings,
    )
    save_agent(fit.agent, out, card)
    return AgentTraining(reason, fit.step, fit.seconds, recent_return(fit.agent), card)


def register_file(entry: Entry, path: Path) -> Entry:
    """Registers a model together with a saved agent as its own, made as small as it can be; `path` stays as it is.

    Raises:
        DiamondGymError: The agent cannot be opened, cannot play the model's game, or did not learn in this model's
            dreams.
    """
    saved, card = open_agent(path, "cpu"), entry.card
    saved.check(card.game, card.obs_shape, card.num_actions)
    if saved.card is None or saved.card.model_sha256 != card.files["weights"].sha256:
        raise BadArgument(f"{path} was not trained in the dreams of {entry.name} as it is now")
    told = asdict(saved.card)
    facts = {key: told[key] for key in _TOLD if told[key] is not None}
    return with_agent_file(entry, packed(path), facts)


def score_agent(
    agent: SavedAgent,
    game: str,
    episodes: int,
    num_envs: int = 10,
    seed: int = 0,
    deterministic: bool = False,
    max_episode_steps: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Scores:
    """Scores an agent over full real games.

    Args:
        agent: Opened by `open_agent`.
        game: One of the 26.
        episodes: How many games.
        num_envs: How many of them side by side.
        seed: Of games and actions.
        deterministic: Whether to take the likeliest action; sampling, as the paper tests, is the default.
        max_episode_steps: Cuts longer games; None for ALE's own half hour of play.
        progress: Called with the number of finished games.

    Raises:
        BadArgument: The agent is of another game, sees other frames or has other actions.
    """
    rows = min(num_envs, episodes)
    envs = real_games(game, rows, max_episode_steps)
    try:
        agent.check(game, envs.single_observation_space.shape or (), find_game(game).num_actions)
        with torch.random.fork_rng():  # seeded, without touching the caller's stream
            torch.manual_seed(seed)
            return play(agent.playing(rows, deterministic, seed), envs, game, episodes, seed, progress)
    finally:
        envs.close()
