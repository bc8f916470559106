"""How does DIAMOND's actor-critic learn where nothing is dreamed? The game itself in the world model's place.

Imagination is as in `diamond-gym train-agent`: windows of steps from starts of real play, on which the same trainer
updates the same network; only the frames, rewards and ends are the emulator's, put back to each start. What an agent
does not learn here, a better world model cannot teach it in as many windows.

    python -m benchmarks.perfect_simulator --game Pong --windows 2000 --out pong.jsonl

Each line of the file is the mean of the last windows: rewards, returns, entropy and losses as the trainer measures
them. At the end the agent plays full games beside random play. A start is
restored from ALE's own state, which is exact but for details of the television chip (see `envs/atari_game.py`).
"""

import json
import sys
import time
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from torch import Tensor

from diamond_gym.dream_state import DreamStep
from diamond_gym.envs.atari_game import AtariGame
from diamond_gym.errors import DiamondGymError
from diamond_gym.frames import to_frames
from diamond_gym.registry import game as find_game
from diamond_gym.trainers.actor_critic import ActorCriticTrainer, AgentFitConfig
from diamond_gym.trainers.evaluate import real_games, score
from diamond_gym.trainers.imagination import Imagination
from diamond_gym.trainers.policies import StickyPolicy
from diamond_gym.trainers.presets import AGENT, flags, preset_table

MEMORY = 4  # frames that a start shows, as the paper's world models remember


@dataclass(frozen=True)
class Experiment:
    """Trains DIAMOND's actor-critic in windows of the real game."""

    game: str = "Pong"
    """One of the 26 Atari 100k games."""
    windows: int = 2000
    """Updates, each on a window of every game."""
    minutes: float = float("inf")
    """Stop after so many."""
    episode: int = 15
    """Steps after which a game goes back to a start; 0: it is played to its end."""
    starts: int = 1000
    """States of sticky-random play that windows begin from."""
    fit: Annotated[AgentFitConfig, tyro.conf.arg(name="")] = field(default_factory=AgentFitConfig)
    """The agent and its training, as in `train-agent`: those of the preset nano, and the options on top. The batch
    size is the number of games."""
    score_games: int = 10
    """Full games at the end."""
    seed: int = 0
    """Of weights, actions and starts."""
    out: Path | None = None
    """Where the lines go."""


class RealDream:
    """A batch of games with what `Imagination` asks of a `Dream`.

    Attributes:
        num_envs: Games, B.
        obs_window: The last frames of each, float32 (B, 4, 3, 64, 64) in [-1, 1].
    """

    device = torch.device("cpu")

    def __init__(self, experiment: Experiment) -> None:
        self.num_envs, self._episode = experiment.fit.optimizer.batch_size, experiment.episode
        self._rng = np.random.default_rng([experiment.seed, 1])
        self._games = [AtariGame(experiment.game, terminal_on_life_loss=True) for _ in range(self.num_envs)]
        self.num_actions = len(find_game(experiment.game).action_meanings)
        self._starts = self._play(experiment.starts)
        self._steps = np.zeros(self.num_envs, np.int64)
        self.obs_window: Tensor | None = None

    def _play(self, count: int) -> list[tuple[Any, np.ndarray[Any, Any]]]:
        """States at random moments of sticky-random play, each with the frames that led to it, uint8 (4, 64, 64, 3)."""
        game, starts = self._games[0], []
        policy = StickyPolicy(self.num_actions, np.array([7 / 8]), self._rng)
        frames = []
        game.over = True
        while len(starts) < count:
            if game.over:
                game.reset()
                frames = [game.obs()] * MEMORY
            game.step(int(policy(frames[-1][None], np.zeros(1, np.bool_))[0]))
            frames = [*frames[1:], game.obs()]
            if not game.over and self._rng.random() < 0.05:
                starts.append((game.ale.cloneState(), np.stack(frames), game.lives))
        return starts

    def _begin(self, row: int) -> np.ndarray[Any, Any]:
        state, frames, lives = self._starts[int(self._rng.integers(len(self._starts)))]
        game = self._games[row]
        game.ale.restoreState(state)
        game.lives, game.over, self._steps[row] = lives, False, 0
        return frames

    @property
    def obs(self) -> Tensor:
        """The current frames, float32 (B, 3, 64, 64)."""
        return self.shown_window[:, -1]

    @property
    def shown_window(self) -> Tensor:
        """The last frames."""
        assert self.obs_window is not None
        return self.obs_window

    def reset(self, seed: int | None = None) -> None:
        """Begins every game from a start."""
        self.obs_window = _tensor(np.stack([self._begin(row) for row in range(self.num_envs)]))

    def refresh(self) -> None:
        """A game needs none."""

    def step(self, act: Tensor) -> DreamStep:
        """Plays one step of every game; what is over begins anew."""
        assert self.obs_window is not None
        rew, (end, trunc) = np.zeros(self.num_envs, np.float32), np.zeros((2, self.num_envs), np.bool_)
        frames = []
        for row, (game, action) in enumerate(zip(self._games, act.tolist(), strict=True)):
            reward, end[row], over = game.step(action)
            self._steps[row] += 1
            rew[row], trunc[row] = np.sign(reward), over or self._steps[row] == self._episode
            frames.append(game.obs())
        final = _tensor(np.stack(frames))
        window = torch.cat((self.obs_window[:, 1:], final[:, None]), dim=1)
        for row in np.flatnonzero(end | trunc):
            window[row] = _tensor(self._begin(int(row)))
        self.obs_window = window
        nothing = torch.zeros(self.num_envs, dtype=torch.int64)
        ends = torch.from_numpy(end)
        return DreamStep(
            obs=window[:, -1],
            rew=torch.from_numpy(rew),
            end=ends,
            trunc=torch.from_numpy(trunc & ~end),
            rew_prob=torch.zeros(self.num_envs, 3),
            end_prob=ends.float(),
            final_obs=final,
            start=nothing,
            final_start=nothing,
            trajectory=[],
        )


def _tensor(frames: np.ndarray[Any, Any]) -> Tensor:
    """uint8 (..., H, W, C) to float32 (..., C, H, W) in [-1, 1]."""
    return to_frames(torch.from_numpy(frames))


def main(experiment: Experiment) -> None:
    """Trains, prints and scores."""
    dream = RealDream(experiment)
    network = replace(experiment.fit.network, num_actions=dream.num_actions)
    trainer = ActorCriticTrainer(replace(experiment.fit, network=network), seed=experiment.seed)
    trainer.imagination = Imagination(trainer.agent, dream, experiment.seed)  # type: ignore[arg-type]
    begun, sums, count = time.monotonic(), dict[str, float](), 0
    lines = list[dict[str, Any]]()
    for window in range(1, experiment.windows + 1):
        for name, value in trainer.train_step().items():
            sums[name] = sums.get(name, 0.0) + float(value)
        count += 1
        late = time.monotonic() - begun > 60 * experiment.minutes
        if window % 50 == 0 or window == experiment.windows or late:
            line: dict[str, Any] = {"window": window, "minutes": round((time.monotonic() - begun) / 60, 2)}
            line |= {name.removeprefix("agent/"): round(total / count, 5) for name, total in sums.items()}
            lines.append(line)
            print(json.dumps(line), flush=True)
            sums, count = {}, 0
        if late:
            break
    with closing(real_games(experiment.game, min(10, experiment.score_games), None)) as envs:
        for name, agent in (("agent", trainer.agent), ("random", None)):
            scores = score(agent, envs, experiment.game, experiment.score_games, experiment.seed)
            line = {"player": name, "mean": scores.mean, "interval_95": scores.interval(), "games": len(scores.scores)}
            lines.append(line)
            print(json.dumps(line), flush=True)
    if experiment.out is not None:
        experiment.out.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    preset = {name: value for name, value in preset_table("nano", AGENT).items() if name != "steps"}
    try:
        main(tyro.cli(Experiment, args=[*flags(preset), *sys.argv[1:]]))
    except DiamondGymError as error:
        raise SystemExit(str(error)) from None
