"""Loops of the kind that CleanRL writes, in plain PyTorch over `gym.make_vec`: they run, and one learns in a dream."""

import gymnasium as gym
import numpy as np
import torch
from stubs import StubWorldModel
from torch import nn

import diamond_gym  # noqa: F401


class PaysForAction(nn.Module):
    """Rewards action 2, and nothing else; a dream never ends but by the horizon."""

    def forward(self, obs, act, next_obs, state=None):
        b, t = act.shape
        rew = torch.where((act == 2)[..., None], torch.tensor([-9.0, -9.0, 9.0]), torch.tensor([-9.0, 9.0, -9.0]))
        end = torch.tensor([9.0, -9.0]).expand(b, t, 2)
        memory = torch.zeros(1, b, 1)
        return rew, end, (memory, memory)


def test_a_cleanrl_loop_learns():
    torch.manual_seed(0)
    model = StubWorldModel()
    model.reward_end = PaysForAction()
    envs = gym.make_vec("DiamondDream-v0", num_envs=8, model=model, max_episode_steps=10, quality="fast")
    envs = gym.wrappers.vector.RecordEpisodeStatistics(envs)
    height, width, channels = envs.single_observation_space.shape
    agent = nn.Sequential(nn.Flatten(), nn.Linear(height * width * channels, 32), nn.Tanh(), nn.Linear(32, 5))
    optimizer = torch.optim.Adam(agent.parameters(), lr=2e-2)
    num_steps, gamma = 16, 0.5

    def evaluate(obs):
        out = agent(torch.as_tensor(obs).float() / 255 - 0.5)
        return torch.distributions.Categorical(logits=out[:, :4]), out[:, 4]

    obs, _ = envs.reset(seed=0)
    returns, began = [], np.zeros(8, bool)
    for _update in range(16):
        log_probs, values, entropies, rewards, dones, counted = [], [], [], [], [], []
        for _step in range(num_steps):
            dist, value = evaluate(obs)
            action = dist.sample()
            obs, reward, terminated, truncated, info = envs.step(action.numpy())
            counted.append(torch.as_tensor(~began))  # in mode NEXT_STEP, the step after an end is a reset
            began = terminated | truncated
            log_probs.append(dist.log_prob(action))
            values.append(value)
            entropies.append(dist.entropy())
            rewards.append(torch.as_tensor(reward).float())
            dones.append(torch.as_tensor(began).float())
            returns += info["episode"]["r"][info["_episode"]].tolist() if "episode" in info else []
        with torch.no_grad():
            target, targets = evaluate(obs)[1], []
            for reward, done in zip(reversed(rewards), reversed(dones), strict=True):
                target = reward + gamma * (1 - done) * target
                targets.insert(0, target)
        log_prob, value, target = torch.stack(log_probs), torch.stack(values), torch.stack(targets)
        kept = torch.stack(counted).float()
        policy_loss = (-log_prob * (target - value.detach()) * kept).mean()
        value_loss = ((target - value).square() * kept).mean()
        loss = policy_loss + 0.5 * value_loss - 0.01 * torch.stack(entropies).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    envs.close()
    assert np.mean(returns[:8]) < 5  # at random, a quarter of ten steps pays
    assert np.mean(returns[-16:]) > 8


def test_a_cleanrl_style_loop_over_make_vec():
    """Advantage actor-critic: rollouts of tensors, bootstraps at truncations, one optimiser."""
    torch.manual_seed(0)
    kwargs = {"model": StubWorldModel(), "max_episode_steps": 6, "autoreset_mode": "SameStep"}
    envs = gym.make_vec("DiamondDream-v0", num_envs=4, **kwargs)
    body = nn.Sequential(nn.Flatten(), nn.Linear(8 * 8 * 3, 32), nn.Tanh())
    actor, critic = nn.Linear(32, 4), nn.Linear(32, 1)
    parameters = [*body.parameters(), *actor.parameters(), *critic.parameters()]
    optimiser, before = torch.optim.Adam(parameters, 1e-3), [p.detach().clone() for p in parameters]

    def value(frames):
        return critic(body(torch.as_tensor(np.asarray(frames)).float() / 255))[:, 0]

    obs, _ = envs.reset(seed=0)
    for _ in range(3):
        log_probs, values, rewards, dones = [], [], [], []
        for _ in range(8):
            features = body(torch.as_tensor(obs).float() / 255)
            policy = torch.distributions.Categorical(logits=actor(features))
            action = policy.sample()
            log_probs.append(policy.log_prob(action))
            values.append(critic(features)[:, 0])
            obs, reward, terminated, truncated, info = envs.step(action.numpy())
            reward = torch.as_tensor(reward, dtype=torch.float32)
            if truncated.any():
                rows = np.flatnonzero(truncated & ~terminated)
                if len(rows):
                    reward[rows] += 0.99 * value(np.stack(info["final_obs"][rows])).detach()
            rewards.append(reward)
            dones.append(torch.as_tensor(terminated | truncated))
        target, loss = value(obs).detach(), torch.zeros(())
        for t in reversed(range(8)):
            target = rewards[t] + 0.99 * target * ~dones[t]
            advantage = target - values[t]
            loss = loss + (advantage**2 - log_probs[t] * advantage.detach()).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert all(torch.isfinite(p).all() for p in parameters)
    assert any(not torch.equal(p, old) for p, old in zip(parameters, before, strict=True))
