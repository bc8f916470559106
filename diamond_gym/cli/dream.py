"""`diamond-gym dream`: a video of dreams, and how fast they were dreamed."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import tyro

from diamond_gym.cli.options import OWN, check_agent, check_files, check_horizon, check_least, missing
from diamond_gym.cli.terminal import counting
from diamond_gym.errors import BadArgument
from diamond_gym.frames import tile, write_video
from diamond_gym.registry import resolve
from diamond_gym.registry.loading import Precision

if TYPE_CHECKING:
    from diamond_gym.envs.vector_env import DreamVectorEnv

SUFFIXES = (".mp4", ".gif")
_Player = Callable[[npt.NDArray[np.uint8], npt.NDArray[np.bool_]], npt.NDArray[Any]]


@dataclass(frozen=True)
class DreamCommand:
    """Dreams with random actions or an agent's, writes a video of the dreams, and prints how fast they were."""

    game: str | None = None
    """The game to dream."""
    model: str | None = None
    """A model's name or folder, instead of the game's default model."""
    agent: str | None = None
    """Who plays: own (the model's own agent), or the .zip of a Stable-Baselines3 agent (default: random actions)."""
    steps: int = 500
    """Steps per environment."""
    num_envs: int = 4
    """Dreams side by side."""
    seed: int = 0
    """Seeds starts, dreams and actions."""
    out: Path | None = None
    """The video to write: .mp4 or .gif; none if not given."""
    quality: Literal["fast", "paper", "fine", "quality"] | None = None
    """fast, paper or fine; for CSGO fast or quality (default: what the model's card says)."""
    max_episode_steps: int = 50
    """Steps after which a dream restarts; -1 for no limit."""
    repeat: int = 4
    """For how many steps a random action is kept, on average."""
    starts: Annotated[str, tyro.conf.arg(metavar="{any,first,INT}")] = "any"
    """Where dreams begin: any stored start, first (beginnings of games), or a number."""
    fps: int = 15
    """Frames per second of the video (the game itself shows 15 of these a second)."""
    scale: int = 3
    """Screen pixels per pixel in the video."""
    device: str = "auto"
    """auto, cpu, cuda, ..."""
    precision: Precision = "auto"
    """auto (measured), float32 or bfloat16."""
    compile: bool = False
    """Compile the networks, for faster frames: seconds at first on x86 CPUs, else a minute or two."""

    def __post_init__(self) -> None:
        if self.game is None and self.model is None:
            missing("what to dream: diamond-gym dream Breakout, or the name of a model")
        check_least(self, steps=1, num_envs=1, repeat=1, fps=1, scale=1, seed=0)
        if not re.fullmatch("any|first|[0-9]{1,18}", self.starts):
            raise BadArgument(f"--starts must be any, first or a start's number, not {self.starts!r:.60}")
        check_horizon(self, "max_episode_steps")
        check_files(self, out=SUFFIXES)
        if self.out is not None and not self.out.parent.is_dir():
            raise BadArgument(f"--out must be in an existing folder, not in {self.out.parent}")
        check_agent(self.agent)

    def run(self) -> int:
        """Dreams, writes and reports."""
        from gymnasium.vector import AutoresetMode

        from diamond_gym.envs.vector_env import DreamVectorEnv

        envs = DreamVectorEnv(
            game=self.game,
            model=self.model,
            num_envs=self.num_envs,
            device=self.device,
            precision=self.precision,
            compile=self.compile,
            quality=self.quality,
            max_episode_steps=self.max_episode_steps,
            starts=int(self.starts) if self.starts.isdigit() else self.starts,
            autoreset_mode=AutoresetMode.SAME_STEP,
        )
        with self._player(envs) as player:
            frames, returns, ends, seconds = self._play(envs, player)
        envs.close()
        dreamed = self.steps * self.num_envs
        print(f"{dreamed:,} frames in {seconds:.1f} s: {dreamed / seconds:.1f} frames/s at batch {self.num_envs}")
        mean = f", mean return {np.mean(returns):.2f}" if returns else ""
        print(f"{len(returns)} episodes ended or were cut, {ends} of them ended by the model{mean}")
        if self.out is not None:
            write_video(self.out, frames, self.fps)
            print(f"wrote {self.out}")
        return 0

    @contextmanager
    def _player(self, envs: "DreamVectorEnv") -> Iterator[_Player]:
        """Whoever chooses the actions, from frames (B, H, W, C) and the rows in which a dream begins (B,)."""
        from diamond_gym.trainers.policies import DreamPolicy, HeldActions, own_agent, own_file

        if self.agent is None:
            yield HeldActions(envs, self.repeat, self.seed)
            return
        saved = own_file(resolve(self.model or self.game or ""), self.device) if self.agent == OWN else None
        if self.agent == OWN and saved is None:
            yield DreamPolicy(own_agent(envs.world_model), envs.dream, np.random.default_rng([self.seed, 9]))
        else:
            import torch

            from diamond_gym.trainers.sb3_files import open_agent

            agent, card = saved or open_agent(self.agent, self.device), envs.world_model.card
            assert card is not None
            agent.check(card.game, card.obs_shape, card.codec)
            with torch.random.fork_rng():  # its policy draws from torch's own stream
                torch.manual_seed(self.seed)
                yield agent.playing(self.num_envs, seed=self.seed)

    def _play(
        self, envs: "DreamVectorEnv", player: _Player
    ) -> tuple[list[npt.NDArray[np.uint8]], list[float], int, float]:
        """Returns a sheet per step, the finished episodes' returns, how many were ended by the model, and the time."""
        obs, _ = envs.reset(seed=self.seed)
        first = np.ones(self.num_envs, np.bool_)
        score, returns, ends = np.zeros(self.num_envs), list[float](), 0
        frames = [tile(obs, scale=self.scale, gap=2)] if self.out else []
        began = time.perf_counter()
        with counting("dreaming", self.steps * self.num_envs, "frames") as advance:
            for step in range(self.steps):
                obs, rew, terminated, truncated, _ = envs.step(player(obs, first))
                score += rew
                first = terminated | truncated
                returns += score[first].tolist()
                ends += int(terminated.sum())
                score[first] = 0
                if self.out:
                    frames.append(tile(obs, scale=self.scale, gap=2))
                advance((step + 1) * self.num_envs)
        return frames, returns, ends, time.perf_counter() - began
