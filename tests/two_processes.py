"""What each of two processes does for test_processes: `torchrun --nproc-per-node 2 two_processes.py FOLDER`."""

import sys
from dataclasses import replace
from pathlib import Path

import torch
import worlds
from stubs import StubWorldModel
from test_diamond import ID, TINY

from diamond_gym.data import EpisodeStore
from diamond_gym.networks.actor_critic import ActorCriticConfig
from diamond_gym.trainers.actor_critic import ActorCriticTrainer, AgentFitConfig
from diamond_gym.trainers.collect_games import GymGames, about_env
from diamond_gym.trainers.diamond import DiamondTrainer
from diamond_gym.trainers.loop import ALONE, Processes, launch
from diamond_gym.trainers.optim import OptimizerConfig
from diamond_gym.trainers.run import RunFolder
from diamond_gym.trainers.world_model import WorldModelTrainer

STEPS = 6
PLAIN = replace(worlds.CONFIG, motion_weight=0.0, focus=0.0, ema_decay=0.0)
EVERYTHING = replace(
    worlds.CONFIG,
    start_focus=0.5,
    agency_weight=3.0,
    reward_end_length=8,
    reward_end_dreams_from=0.2,
    reward_end_dream_length=2,
)
# three rows: one process has one of them, the other two; two rows of reward/end: one each, at times without a real step
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


def fit(store: EpisodeStore, config, processes: Processes = ALONE):
    """Metrics of every step, and the state after the last."""
    made = WorldModelTrainer(config, store, total_steps=10, seed=3, processes=processes)
    metrics = [{k: float(v) for k, v in made.train_step().items()} for _ in range(STEPS)]
    return metrics, made.state_dict()


def agent(processes: Processes = ALONE, state=None, steps: int = STEPS):
    """The same for the agent, in dreams whose numbers are whole."""
    made = ActorCriticTrainer(AGENT, seed=1, processes=processes)
    torch.nn.init.normal_(made.agent.actor_linear.weight, generator=torch.Generator().manual_seed(4))
    made.dream_in(StubWorldModel().dream(made.num_dreams, horizon=5), seed=2)
    if state is not None:
        made.load_state_dict(state)
    metrics = [{k: float(v) for k, v in made.train_step().items()} for _ in range(steps)]
    return metrics, made.state_dict()


def diamond(folder: Path, processes: Processes = ALONE):
    """The outer loop, left after two epochs and gone on with: figures by epoch, weights, experience."""
    figures = []
    for epochs in (2, 4):
        with RunFolder(folder, tensorboard=False, main=processes.main) as run:
            games = GymGames(ID, TINY.num_envs) if processes.main else None
            made = DiamondTrainer(TINY, run, about_env(ID), games, processes=processes)
            figures += [made.train_epoch() for _ in range(made.epoch, epochs)]
            made.close()
        processes.wait()
    weights = made.world_model.world_model.weights() | made.agent.agent.state_dict()
    return figures, weights, [(episode.obs, episode.act) for episode in made.store]


def main(folder: Path) -> None:
    processes = launch("cpu")
    store = EpisodeStore(folder / "walks")
    found = {
        "folder": folder,
        "rank": processes.rank,
        "world": processes.world,
        "any": [processes.any(False), processes.any(processes.rank == 1)],
        "plain": fit(store, PLAIN, processes),
        "everything": fit(store, EVERYTHING, processes),
        "uneven": fit(store, UNEVEN, processes),
        "agent": agent(processes),
        "resumed": agent(processes, agent(steps=2)[1], STEPS - 2),  # begun by one process, gone on with by two
        "diamond": diamond(folder / "diamond", processes),
        "interrupted": agent(processes, steps=2),
    }
    processes.wait()
    torch.save(found, folder / f"{processes.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
