"""The run of `diamond-gym train`: epoch after epoch, what is shown of them, and what is made of the result."""

import shlex
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import torch

from diamond_gym.cli.epochs import EpochTable, Rates
from diamond_gym.cli.progress import console, counting, training_bar
from diamond_gym.errors import BadArgument
from diamond_gym.registry import Entry
from diamond_gym.trainers.aggregate import SCORES, write_scores
from diamond_gym.trainers.diamond import Diamond
from diamond_gym.trainers.evaluate import Scores, score
from diamond_gym.trainers.grounds import Ground
from diamond_gym.trainers.loop import Interruption, Processes, interruptible
from diamond_gym.trainers.model_free import ModelFree
from diamond_gym.trainers.register import register_run
from diamond_gym.trainers.run import RunFolder
from diamond_gym.trainers.videos import dream_film, real_film

if TYPE_CHECKING:
    from diamond_gym.cli.train import Train

_ROWS = 10  # games side by side that score the agent
_AGREE_STEPS = 8


class _Stop(Exception):
    """Somebody asked to stop in the middle of an epoch."""


class Loop:
    """A run in its folder.

    Args:
        wishes: What was typed.
        run: The folder.
        ground: Where to play.
        device: Where to train.
        precision: Of the world model.
        processes: Who shares the work.
    """

    def __init__(
        self,
        wishes: "Train",
        run: RunFolder,
        ground: Ground,
        device: torch.device,
        precision: str,
        processes: Processes,
    ) -> None:
        self._wishes, self._run, self._ground, self._processes = wishes, run, ground, processes
        self._precision = precision
        about, config = ground.about(), wishes.loop.for_game(ground.about())
        self._log = None
        if wishes.wandb and processes.main:
            from diamond_gym.trainers.run import WandbLog

            self._log = WandbLog(run.path, {**asdict(wishes.loop), "game": about.game, "seed": wishes.seed})
        self._training: Diamond | ModelFree
        if config.model_free:
            if not processes.alone:
                raise BadArgument("--model-free is for one process: leave out torchrun")
            self._training = ModelFree(config, run, about, ground, wishes.seed, device)
        else:
            games = ground.games(config.num_envs) if processes.main else None
            self._training = Diamond(
                config, run, about, games, wishes.seed, device, precision, processes, wishes.compile, ground.test_games
            )
        sizes = f"agent {_millions(self._training.agent.agent)}"
        if isinstance(self._training, Diamond):
            model = self._training.world_model.world_model
            sizes = ", ".join(f"{name} {_millions(part)}" for name, part in model.parts.items()) + f", {sizes}"
        console.print(
            f"{run.path}: {about.game}, epoch {self._training.epoch:,} of {config.epochs:,} on {device} "
            f"in {precision} ({sizes})",
            soft_wrap=True,
        )

    def run(self) -> int:
        """Trains to the end or until it is stopped; returns the exit code."""
        training = self._training
        try:
            reason = self._epochs()
            if reason != "done":
                where = f"epoch {training.epoch:,} of {training.config.epochs:,} done"
                lost = "; the one in hand was dropped" if reason == "interrupted" else ""
                console.print(f"stopped with {where}{lost}; repeat the command to go on")
                return 130 if reason == "interrupted" else 0
            if self._processes.main:
                self._finish()
            return 0
        finally:
            training.close()
            if self._log is not None:
                self._log.close()

    def _epochs(self) -> str:
        training, wishes, began = self._training, self._wishes, time.monotonic()
        rates, table = Rates(training.config, training.epoch), EpochTable()
        with interruptible() as interruption, training_bar(training.config.epochs, training.epoch) as bar:

            def progress(kind: str, step: int) -> None:
                rates.progress(kind, step)
                bar(training.epoch, f"epoch {training.epoch + 1}: {kind} {step:,}, {rates.left()} left")
                if kind == "playing" and not self._processes.alone:
                    return  # the others wait, and cannot be asked
                if self._asked(interruption, step):
                    raise _Stop

            while training.epoch < training.config.epochs:
                rates.begin()
                try:
                    figures = training.train_epoch(progress)
                except _Stop:
                    return "interrupted"
                figures |= (speeds := rates.end())
                self._run.log(training.epoch, speeds)
                if self._log is not None:
                    self._log.log(training.epoch, figures)
                console.print(table.line(training.epoch, figures, rates.left()), soft_wrap=True, highlight=False)
                if self._processes.main and wishes.videos_every and training.epoch % wishes.videos_every == 0:
                    self._film()
                if self._processes.any(interruption.asked):
                    return "interrupted" if training.epoch < training.config.epochs else "done"
                late = wishes.minutes is not None and time.monotonic() - began > 60 * wishes.minutes
                if self._processes.any(late) and training.epoch < training.config.epochs:
                    return "minutes"
        return "done"

    def _asked(self, interruption: Interruption, step: int) -> bool:
        if self._processes.alone:
            return interruption.asked
        return step % _AGREE_STEPS == 0 and self._processes.any(interruption.asked)

    def _film(self) -> None:
        """Writes what the agent sees in dreams by now, and in the real game."""
        from diamond_gym.cli.dream import write_video

        training = self._training
        folder = self._run.path / "videos"
        folder.mkdir(exist_ok=True)
        films = {"real": real_film(self._ground, training.agent.agent, training.epoch)}
        if isinstance(training, Diamond):
            films["dream"] = dream_film(training)
        for name, frames in films.items():
            write_video(folder / f"epoch-{training.epoch:04d}-{name}.mp4", frames, 15)

    def _finish(self) -> None:
        training, wishes = self._training, self._wishes
        entry = None if isinstance(training, ModelFree) else self._register(training)
        if training.config.final_episodes == 0:
            return
        scores = self._score()
        low, high = scores.interval()
        console.print(f"{scores.mean:.2f} ({low:.2f} to {high:.2f}) in {len(scores.scores)} whole games of the end")
        self._run.log(training.epoch, {"final/score": scores.mean, "final/episodes": float(len(scores.scores))})
        if self._log is not None:
            self._log.log(training.epoch, {"final/score": scores.mean})
        if wishes.game is not None:
            write_scores(self._run.path / SCORES, {"diamond": scores})
            console.print(f"human-normalised {scores.human_normalised:.3f}")
        if entry is not None:
            from diamond_gym.registry import update_card

            agent = entry.card.training["agent"] | {"score": scores.mean, "episodes": len(scores.scores)}
            update_card(entry, replace(entry.card, training={**entry.card.training, "agent": agent}))

    def _register(self, training: Diamond) -> Entry:
        wishes = self._wishes
        smoke = wishes.preset == "smoke" and wishes.name is None
        words = ["--game", wishes.game] if wishes.game else ["--env", wishes.env or ""]
        command = "diamond-gym " + shlex.join(["train", *words, "--preset", wishes.preset])
        source = None if wishes.game else f"the Gymnasium environment {wishes.env}"
        entry = register_run(
            training, wishes.name or wishes.label, wishes.preset, self._precision, command, source,
            self._run.path / "model" if smoke else None,
        )  # fmt: skip
        console.print(f"{'wrote' if smoke else 'registered'} {entry.name} in {entry.folder}", soft_wrap=True)
        if smoke:
            console.print("a smoke run has learnt nothing, so it is not registered; with --name it would be")
        else:
            console.print(f'gym.make("DiamondDream-{entry.card.game}-v0") dreams with it from now on')
        return entry

    def _score(self) -> Scores:
        training = self._training
        games = training.config.final_episodes
        envs = self._ground.whole(min(_ROWS, games))
        name = self._ground.about().game
        try:
            with counting(f"playing {name}", games, "games") as advance:
                return score(training.agent.agent, envs, name, games, self._wishes.seed, progress=advance)
        finally:
            envs.close()


def _millions(module: torch.nn.Module) -> str:
    return f"{sum(parameter.numel() for parameter in module.parameters()) / 1e6:.2f} M"
