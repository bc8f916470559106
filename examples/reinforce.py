"""REINFORCE in a dream, on tensors alone: no frame is copied to the CPU, and no step waits for the device."""

import torch
from torch import nn

import diamond_gym

UPDATES, ROLLOUT, GAMMA = 1_000, 15, 0.985

model = diamond_gym.load_world_model("Breakout")  # on a CUDA device if there is one
dream = model.dream(num_envs=64, horizon=50)
obs = dream.reset(seed=0)  # float32 (64, 3, 64, 64) in [-1, 1]
agent = nn.Sequential(nn.Conv2d(3, 32, 8, 4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(model.num_actions))
agent.to(model.device)(obs)
optimizer = torch.optim.Adam(agent.parameters(), lr=1e-3)

for update in range(UPDATES):
    log_probs, steps = [], []
    for _ in range(ROLLOUT):
        policy = torch.distributions.Categorical(logits=agent(obs))
        act = policy.sample()
        steps.append(dream.step(act))  # rows that end restart within the step
        log_probs.append(policy.log_prob(act))
        obs = steps[-1].obs
    returns = [torch.zeros_like(steps[-1].rew)]
    for step in reversed(steps):
        returns.append(step.rew + GAMMA * returns[-1] * ~(step.end | step.trunc))
    returns = torch.stack(returns[:0:-1])
    loss = -(torch.stack(log_probs) * (returns - returns.mean())).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if update % 50 == 0:
        print(f"update {update}: {torch.stack([step.rew for step in steps]).mean().item():.4f} rewards per step")
