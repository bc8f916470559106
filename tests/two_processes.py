"""What each of two processes does for test_processes: `torchrun --nproc-per-node 2 two_processes.py FOLDER`."""

import sys
from dataclasses import replace
from pathlib import Path

import torch
import worlds
from catch_loop import TINY, WORLD
from stubs import StubWorldModel
from two_stages import CONFIG as TWO_STAGES

from diamond_gym.data import EpisodeStore
from diamond_gym.networks.actor_critic import ActorCriticConfig
from diamond_gym.trainers.actor_critic import ActorCriticTrainer, AgentFitConfig
from diamond_gym.trainers.diamond import DiamondTrainer
from diamond_gym.trainers.loop import Rhythm, any_process, launch, mean_of_processes, train
from diamond_gym.trainers.optim import OptimizerConfig
from diamond_gym.trainers.run import RunFolder
from diamond_gym.trainers.two_stage import trainer_of

STEPS = 6
EVERYTHING = replace(
    worlds.CONFIG, prioritized=0.25, reward_end_length=8, reward_end_dreams_from=0.2, reward_end_dream_length=2
)
# three rows: one process has two of them, the other one; two rows of reward/end: one each, at times without a real step
UNEVEN = replace(
    worlds.CONFIG,
    denoiser_optimizer=replace(worlds.CONFIG.denoiser_optimizer, batch_size=3),
    reward_end_optimizer=replace(worlds.CONFIG.reward_end_optimizer, batch_size=2),
    reward_end_length=2,
    reward_end_every=1,
    focus=0.0,
)
AGENT = AgentFitConfig(
    ActorCriticConfig(lstm_dim=8, img_size=8, channels=[4, 4], down=[1, 1], num_actions=4),
    optimizer=OptimizerConfig(lr=1e-2, weight_decay=0, warmup_steps=2, max_grad_norm=0.05, batch_size=5),
    horizon=4,
)


def world_model(fabric, folder: Path, config, name: str):
    """Losses and weights of a training that is left after half of its steps and gone on with; the rows it draws."""
    losses = []
    for total in (STEPS // 2, STEPS):
        with RunFolder(folder / name, tensorboard=False, main=fabric.is_global_zero) as run:
            walks = EpisodeStore(folder / ("walks" if config.upsampler.factor is None else "large"))
            trainer = trainer_of(config)(config, walks, STEPS, seed=3, fabric=fabric)
            fabric.barrier()
            if (state := run.load()) is not None:
                trainer.load_state_dict(state)
            trainer.total_steps = total
            train(trainer, run, None, Rhythm(log_steps=1), lambda step, values: losses.append(values), fabric=fabric)
            fabric.barrier()
    return losses, trainer.world_model.weights(), trainer.denoiser_batches.sample().start


def agent(fabric):
    """Losses and weights of an agent, and the frames that it dreams."""
    trainer = ActorCriticTrainer(AGENT, seed=1, fabric=fabric)
    dream = StubWorldModel().dream(trainer.num_dreams, horizon=5)
    trainer.dream_in(dream, seed=2)
    losses = [{name: float(value) for name, value in trainer.train_step().items()} for _ in range(STEPS)]
    return losses, trainer.agent.state_dict(), dream.obs


def diamond(fabric, folder: Path):
    """Figures and weights of the outer loop, left after two epochs and gone on with, and the experience."""
    figures = []
    for epochs in (2, 4):
        with RunFolder(folder / "diamond", tensorboard=False, main=fabric.is_global_zero) as run:
            envs = WORLD.envs(TINY.num_envs) if fabric.is_global_zero else None
            trainer = DiamondTrainer(TINY, run, WORLD.about, envs, fabric=fabric)
            figures += [trainer.train_epoch() for _ in range(trainer.epoch, epochs)]
            trainer.close()
        fabric.barrier()
    weights = trainer.world_model.world_model.weights() | trainer.agent.agent.state_dict()
    return figures, weights, [(episode.obs, episode.act) for episode in trainer.store]


def main(folder: Path) -> None:
    fabric = launch("cpu")
    result = {
        "rank": fabric.global_rank,
        "world": fabric.world_size,
        "any": [any_process(fabric, False), any_process(fabric, fabric.global_rank == 1)],
        "mean": mean_of_processes(fabric, {"rank": float(fabric.global_rank)}),
        "everything": world_model(fabric, folder, EVERYTHING, "everything"),
        "uneven": world_model(fabric, folder, UNEVEN, "uneven"),
        "two_stages": world_model(fabric, folder, TWO_STAGES, "two_stages"),
        "agent": agent(fabric),
        "diamond": diamond(fabric, folder),
    }
    torch.save(result, folder / f"{fabric.global_rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
