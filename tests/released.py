"""Models in the authors' released format, small ones, and the golden ones, to import and to pull."""

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from diamond_gym.data import About, Episode, EpisodeStore
from diamond_gym.networks.actor_critic import ActorCritic, ActorCriticConfig
from diamond_gym.networks.denoiser import Denoiser, DenoiserConfig, InnerModelConfig
from diamond_gym.networks.reward_end import RewardEnd, RewardEndConfig
from diamond_gym.registry import save_model
from diamond_gym.registry.released import read_released
from diamond_gym.world_model import WorldModel

GOLDEN = Path(__file__).parent / "golden"
ATARI, CSGO = GOLDEN / "atari", GOLDEN / "csgo"
ATARI_FILES = (ATARI / "agent.pt", ATARI / "agent.yaml", ATARI / "env.yaml")
CSGO_FILES = (CSGO / "csgo.pt", CSGO / "agent.yaml", CSGO / "env.yaml")
PULL = ["--start-steps", "100"]  # few, for what pulls a game that is there to be played

NETWORK = {"img_channels", "cond_channels", "depths", "channels", "attn_depths"}
INNER = NETWORK | {"num_steps_conditioning"}
REWARD_END = NETWORK | {"lstm_dim", "img_size"}
AGENT = {"lstm_dim", "img_channels", "img_size", "channels", "down"}


def as_released(config: Any, keys: set[str]) -> dict[str, Any]:
    """A configuration's table with the keys that the authors' files have, not those of this project alone."""
    return {key: value for key, value in asdict(config).items() if key in keys}


TINY: dict[str, Any] = {"cond_channels": 8, "depths": [1], "channels": [8], "attn_depths": [0]}


def tiny_release(
    folder: Path, num_actions: int = 4, size: int = 16, seed: int = 0, paper: bool = False
) -> tuple[Path, Path, Path]:
    """Writes a random model as the authors would, tiny or of the paper's size: `agent.pt`, `agent.yaml`, `env.yaml`."""
    torch.manual_seed(seed)
    sizes, small = ({}, {}) if paper else (TINY, {"lstm_dim": 8})
    inner = InnerModelConfig(num_actions=num_actions, **sizes | ({} if paper else {"num_steps_conditioning": 2}))
    reward_end = RewardEndConfig(img_size=size, num_actions=num_actions, **sizes, **small)
    layers = {} if paper else {"channels": [8, 8], "down": [1, 1]}
    agent = ActorCriticConfig(img_size=size, num_actions=num_actions, **layers, **small)
    model = WorldModel(Denoiser(DenoiserConfig(inner)), RewardEnd(reward_end), ActorCritic(agent))
    given: dict[str, Any] = {
        "denoiser": {"sigma_data": 0.5, "sigma_offset_noise": 0.3, "inner_model": as_released(inner, INNER)},
        "rew_end_model": as_released(reward_end, REWARD_END),
        "actor_critic": as_released(agent, AGENT),
    }
    given["rew_end_model"]["img_size"] = given["actor_critic"]["img_size"] = "${env.train.size}"
    folder.mkdir(parents=True, exist_ok=True)
    files = folder / "agent.pt", folder / "agent.yaml", folder / "env.yaml"
    torch.save(model.weights(), files[0])
    files[1].write_text(yaml.safe_dump(given))
    files[2].write_text(yaml.safe_dump({"train": {"id": "BreakoutNoFrameskip-v4", "size": size}}))
    return files


def authors_run(folder: Path) -> Path:
    """The folder of a run of the authors' code as it leaves one, with the agents of two epochs, the golden one last."""
    agents, config = folder / "checkpoints" / "agent_versions", folder / "config"
    agents.mkdir(parents=True)
    config.mkdir()
    tiny_release(folder / "other")[0].rename(agents / "agent_epoch_00095.pt")
    shutil.copyfile(ATARI_FILES[0], agents / "agent_epoch_00100.pt")
    training = {"training": {"num_autoregressive_steps": 1, "lr_warmup_steps": 100}, "optimizer": {"lr": 1e-4}}
    table = {
        "wandb": {"mode": "online", "name": None},
        "common": {"devices": "all", "seed": "${now:%Y}", "resume": False},
        "denoiser": {**training, "sigma_distribution": {"loc": -0.4, "scale": 1.2}},
        "rew_end_model": training,
        "actor_critic": {**training, "actor_critic_loss": {"backup_every": "${world_model_env.horizon}"}},
        "env": yaml.safe_load(ATARI_FILES[2].read_text()),
        "agent": yaml.safe_load(ATARI_FILES[1].read_text()),
        "world_model_env": {"horizon": 15, "diffusion_sampler": {"s_tmax": "${eval:'float(\"inf\")'}"}},
    }
    (config / "trainer.yaml").write_text(yaml.safe_dump(table))
    return folder


def episodes(folder: Path, num_actions: int = 5, size: int = 16, count: int = 3) -> Path:
    """A store of noise, of the golden agent's shapes."""
    rng = np.random.default_rng(0)
    with EpisodeStore(folder, "a", About("Breakout", (size, size, 3), num_actions)) as store:
        for _ in range(count):
            n = 8
            obs = rng.integers(0, 256, (n + 1, size, size, 3)).astype(np.uint8)
            act, no = rng.integers(0, num_actions, n), np.zeros(n, bool)
            store.append(Episode(obs, act, np.zeros(n, np.float32), no, no, {"first": True}))
    return folder


def spawns(folder: Path, count: int = 3, frames: int = 4, act: int = 51) -> Path:
    """Spawns of the golden engine's shapes, channels first as the authors have them."""
    rng = np.random.default_rng(1)
    for i in range(count):
        spawn = folder / str(i)
        spawn.mkdir(parents=True)
        np.save(spawn / "low_res.npy", rng.integers(0, 256, (frames, 3, 6, 8)).astype(np.uint8))
        np.save(spawn / "full_res.npy", rng.integers(0, 256, (frames, 3, 30, 40)).astype(np.uint8))
        np.save(spawn / "act.npy", rng.integers(0, 2, (frames, act)))
        np.save(spawn / "next_act.npy", rng.integers(0, 2, (5 + i, act)))
    return folder


def mirror(folder: Path, game: str = "Breakout", num_actions: int = 4) -> Path:
    """A mirror of the authors' repository with one game's tiny model and the golden engine."""
    pt, config, env = tiny_release(folder / "made", num_actions)
    for source, path in (
        (pt, f"atari_100k/models/{game}.pt"),
        (config, "atari_100k/config/agent/default.yaml"),
        (env, "atari_100k/config/env/atari.yaml"),
        (CSGO_FILES[0], "csgo/model/csgo.pt"),
        (CSGO_FILES[1], "csgo/config/agent/csgo.yaml"),
        (CSGO_FILES[2], "csgo/config/env/csgo.yaml"),
    ):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / path)
    spawns(folder / "csgo" / "spawn")
    return folder


def import_words(files: tuple[Path, Path, Path], *more: str, game: str = "Breakout") -> list[str]:
    """The command that imports them."""
    pt, config, env = map(str, files)
    return ["import-diamond", pt, "--config", config, "--env-config", env, "--game", game, *more]


def save_golden() -> str:
    """Puts the golden agent into the registry, and tells its name."""
    model = read_released(*ATARI_FILES, "Breakout", "golden")
    return save_model(replace(model.card, license="MIT"), model.weights).name
