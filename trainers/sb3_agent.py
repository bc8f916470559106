"""Training an agent of Stable-Baselines3 in dreams (or in the real game), and scoring one in the real game."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from diamond_gym.errors import BadArgument
from diamond_gym.registry import Entry, resolve, with_agent_file
from diamond_gym.registry import game as find_game
from diamond_gym.sb3_agents import AgentConfig, learn, make_agent, recent_return, training_envs
from diamond_gym.sb3_files import AgentCard, SavedAgent, open_agent, packed, save_agent
from diamond_gym.trainers.scores import Scores, play, real_games, score_random
from diamond_gym.trainers.sitting import interruptible

__all__ = ["AgentConfig", "AgentTraining", "open_agent", "register_file", "score_agent", "score_random", "train_agent"]

_TOLD = ("algo", "steps", "seconds", "seed", "frame_stack", "quality", "max_episode_steps", "settings")  # by a card


@dataclass(frozen=True)
class AgentTraining:
    """How a training went.

    Attributes:
        reason: "steps" when all are done, "minutes" when time was up, "interrupted" after Ctrl-C.
        steps: Steps done, over all rows.
        seconds: How long it took.
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
    """Trains an agent and saves it, also where Ctrl-C or the time ends the training early.

    Args:
        config: What to learn, and where.
        out: The .zip to write.
        minutes: Time limit of the training.
        progress: Called with the steps so far.

    Raises:
        DiamondGymError: There is no such game or model, the model is of another game, or `out` cannot be
            written.
    """
    model = sha = ""
    if not config.real:
        entry = resolve(config.model or config.game)
        if entry.card.game != config.game:
            raise BadArgument(f"the model {entry.name} dreams {entry.card.game}, not {config.game}")
        model, sha = entry.name, entry.card.files["weights"].sha256
    if out.suffix != ".zip" or out.is_dir():
        raise BadArgument(f"an agent is saved as a .zip, not as {out}")
    out.parent.mkdir(parents=True, exist_ok=True)  # better now than after hours

    reason = "steps"
    envs, bridge = training_envs(config)
    try:
        agent = make_agent(config, envs)
        with interruptible() as interruption:
            began = time.monotonic()

            def going_on(steps: int) -> bool:
                nonlocal reason
                if progress is not None:
                    progress(steps)
                if interruption.asked or (minutes is not None and time.monotonic() - began > 60 * minutes):
                    reason = "interrupted" if interruption.asked else "minutes"
                return reason == "steps"

            learn(agent, config.steps, going_on)
            seconds = time.monotonic() - began
            card = AgentCard(
                game=config.game,
                algo=config.algo,
                trained_in="real" if config.real else "dream",
                model=model,
                model_sha256=sha,
                obs_shape=tuple(bridge.observation_space.shape or ()),  # type: ignore[arg-type]
                num_actions=int(bridge.action_space.n),  # type: ignore[attr-defined]
                frame_stack=config.frame_stack,
                steps=agent.num_timesteps,
                seconds=round(seconds, 1),
                seed=config.seed,
                quality=None if config.real else config.quality,
                max_episode_steps=None if config.real else config.max_episode_steps,
                settings=config.settings(),
            )
            save_agent(agent, out, card)
    finally:
        envs.close()
    return AgentTraining(reason, agent.num_timesteps, seconds, recent_return(agent), card)


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
