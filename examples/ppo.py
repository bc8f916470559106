"""PPO in one file over `gym.make_vec`, in the manner of CleanRL: an agent for a dream, scored in the same dream.

Schulman et al. 2017 (arXiv 1707.06347). The agent sees the last frames stacked along the channels.
"""

from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical

import diamond_gym  # noqa: F401  (registers the ids)


@dataclass(frozen=True)
class Args:
    """What is trained, and how; edit the defaults, or call `train(Args(...))`."""

    env_id: str = "DiamondDream-Pong-v0"
    total_steps: int = 100_000
    num_envs: int = 16
    rollout: int = 64
    horizon: int = 20  # steps of a dream: short dreams drift less
    quality: str = "fast"
    frame_stack: int = 2
    learning_rate: float = 2.5e-4
    gamma: float = 0.98
    gae_lambda: float = 0.95
    epochs: int = 3
    minibatches: int = 4
    clip: float = 0.1
    entropy: float = 0.01
    value: float = 0.5
    max_grad_norm: float = 0.5
    seed: int = 0


class Agent(nn.Module):
    """Policy and value over stacked uint8 frames (B, stack * C, H, W)."""

    def __init__(self, channels: int, num_actions: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 32, 8, 4), nn.ReLU(),
            nn.Conv2d(32, 64, 4, 2), nn.ReLU(),
            nn.Flatten(), nn.LazyLinear(256), nn.ReLU(),
        )  # fmt: skip
        self.actor, self.critic = nn.Linear(256, num_actions), nn.Linear(256, 1)

    def forward(self, frames: Tensor) -> tuple[Categorical, Tensor]:
        """The policy and the value (B,)."""
        features = self.body(frames.float() / 255)
        return Categorical(logits=self.actor(features)), self.critic(features)[:, 0]


def pixels(obs: np.ndarray) -> Tensor:
    """(B, H, W, C) -> (B, C, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(obs.transpose(0, 3, 1, 2)))


def train(args: Args) -> list[float]:
    """Trains an agent and returns the mean return of the dreams that ended, update by update."""
    torch.manual_seed(args.seed)
    envs = gym.make_vec(
        args.env_id,
        num_envs=args.num_envs,
        max_episode_steps=args.horizon,
        quality=args.quality,
        autoreset_mode="SameStep",
    )
    envs = gym.wrappers.vector.RecordEpisodeStatistics(envs)
    channels = envs.single_observation_space.shape[2]
    agent = Agent(args.frame_stack * channels, int(envs.single_action_space.n))
    frames = pixels(envs.reset(seed=args.seed)[0]).repeat(1, args.frame_stack, 1, 1)
    agent(frames)
    optimizer = torch.optim.Adam(agent.parameters(), lr=args.learning_rate, eps=1e-5)
    history: list[float] = []

    for update in range(args.total_steps // (args.num_envs * args.rollout)):
        seen, actions, log_probs, values, rewards, dones, ended = [], [], [], [], [], [], []
        for _ in range(args.rollout):
            with torch.no_grad():
                policy, value = agent(frames)
            action = policy.sample()
            obs, reward, terminated, truncated, info = envs.step(action.numpy())
            reward = torch.as_tensor(reward, dtype=torch.float32)
            rows = np.flatnonzero(truncated & ~terminated)
            if len(rows):  # the horizon is no end of the game: go on with the value of the last frame
                last = torch.cat((frames[rows, channels:], pixels(np.stack(info["final_obs"][rows]))), 1)
                with torch.no_grad():
                    reward[rows] += args.gamma * agent(last)[1]
            done = torch.from_numpy(terminated | truncated)
            for values_of, new in zip(
                (seen, actions, log_probs, values, rewards, dones),
                (frames, action, policy.log_prob(action), value, reward, done),
                strict=True,
            ):
                values_of.append(new)
            frames = torch.cat((frames[:, channels:], pixels(obs)), 1)
            frames[done] = pixels(obs)[done].repeat(1, args.frame_stack, 1, 1)
            ended += info["episode"]["r"][info["_episode"]].tolist() if "episode" in info else []

        # Generalized advantage estimation (Schulman et al. 2016)
        advantages, advantage = [], torch.zeros(args.num_envs)
        with torch.no_grad():
            next_value = agent(frames)[1]
        for reward, value, done in zip(reversed(rewards), reversed(values), reversed(dones), strict=True):
            delta = reward + args.gamma * next_value * ~done - value
            advantage = delta + args.gamma * args.gae_lambda * advantage * ~done
            advantages.insert(0, advantage)
            next_value = value
        batch = [torch.cat(part) for part in (seen, actions, log_probs, values, advantages)]

        for _ in range(args.epochs):
            for index in torch.randperm(len(batch[0])).chunk(args.minibatches):
                b_seen, b_actions, b_log_probs, b_values, b_advantages = (part[index] for part in batch)
                policy, value = agent(b_seen)
                ratio = (policy.log_prob(b_actions) - b_log_probs).exp()
                normed = (b_advantages - b_advantages.mean()) / (b_advantages.std() + 1e-8)
                policy_loss = -torch.min(normed * ratio, normed * ratio.clamp(1 - args.clip, 1 + args.clip)).mean()
                value_loss = (b_advantages + b_values - value).square().mean()
                loss = policy_loss + args.value * value_loss - args.entropy * policy.entropy().mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), args.max_grad_norm)
                optimizer.step()
        history.append(float(np.mean(ended)) if ended else float("nan"))
        print(f"update {update + 1}: return {history[-1]:.2f} over {len(ended)} dreams, value loss {value_loss:.4f}")
    envs.close()
    return history


if __name__ == "__main__":
    train(Args())
