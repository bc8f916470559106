"""Random-shooting planning in a dream, with `clone_state` and `restore_state`, beside the model's own agent.

The planner tries random action sequences from the present state, goes back, and plays the one with the highest return.
It plans in the very model that it is scored in, random numbers included, which a real game does not offer.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

import diamond_gym
from diamond_gym.dream import Dream
from diamond_gym.frames import to_pixels
from diamond_gym.registry import resolve
from diamond_gym.trainers.policies import own_file
from diamond_gym.world_model import WorldModel


@dataclass(frozen=True)
class Args:
    """How much is tried; edit the defaults, or call `main(model, Args(...))`."""

    model: str = "mspacman-nano"
    num_envs: int = 8  # dreams that are scored, all at once
    steps: int = 48
    candidates: int = 8  # sequences tried at every plan
    plan: int = 12  # steps of a sequence
    hold: int = 4  # steps for which an action of a sequence is kept
    gamma: float = 0.97
    seed: int = 0


def play(dream: Dream, act: Callable[[int], Tensor], args: Args) -> Tensor:
    """The undiscounted return (B,) of each dream; what comes after a dream's end does not count."""
    dream.reset(seed=args.seed)
    total, alive = torch.zeros(args.num_envs, device=dream.device), torch.ones(args.num_envs, device=dream.device)
    for t in range(args.steps):
        step = dream.step(act(t), restart=False)
        total += step.rew * alive
        alive *= ~step.end
    return total


def uniform(dream: Dream, num_actions: int, args: Args) -> Callable[[int], Tensor]:
    """Uniformly random actions."""
    generator = torch.Generator().manual_seed(args.seed)
    return lambda t: torch.randint(num_actions, (args.num_envs,), generator=generator).to(dream.device)


def planner(dream: Dream, num_actions: int, args: Args) -> Callable[[int], Tensor]:
    """A policy that plans anew when a sequence has been played."""
    generator = torch.Generator().manual_seed(args.seed)
    best: Tensor | None = None

    def sequence() -> Tensor:
        """Random actions (plan, B), each kept for `hold` steps."""
        drawn = torch.randint(num_actions, (-(-args.plan // args.hold), args.num_envs), generator=generator)
        return drawn.repeat_interleave(args.hold, 0)[: args.plan].to(dream.device)

    def act(t: int) -> Tensor:
        nonlocal best
        if t % args.plan == 0:
            now = dream.clone_state(include_rng=True)
            found = torch.full((args.num_envs,), -torch.inf, device=dream.device)
            best = sequence()
            for _ in range(args.candidates):
                tried, value, alive = sequence(), torch.zeros_like(found), torch.ones_like(found)
                for h, actions in enumerate(tried):
                    step = dream.step(actions, restart=False)
                    value += args.gamma**h * step.rew * alive
                    alive *= ~step.end
                better = value > found
                best, found = torch.where(better, tried, best), torch.where(better, value, found)
                dream.restore_state(now)
        assert best is not None
        return best[t % args.plan]

    return act


def own_agent(dream: Dream, num_actions: int, args: Args) -> Callable[[int], Tensor] | None:
    """The agent of Stable-Baselines3 that lies beside the model, if there is one."""
    saved = own_file(resolve(args.model), str(dream.device))
    if saved is None:
        return None
    policy = saved.playing(args.num_envs, seed=args.seed)

    def act(t: int) -> Tensor:
        pixels = to_pixels(dream.obs).cpu().numpy()
        return torch.as_tensor(policy(pixels, np.full(args.num_envs, t == 0)), device=dream.device)

    return act


def main(model: WorldModel, args: Args) -> dict[str, Tensor]:
    """The returns of random actions, of the planner and of the model's own agent, from the same starts."""
    returns = {}
    for name, make in {"random": uniform, "planning": planner, "agent": own_agent}.items():
        dream = model.dream(args.num_envs, horizon=None)
        act = make(dream, model.num_actions, args)
        if act is not None:
            returns[name] = play(dream, act, args)
            mean, error = returns[name].mean().item(), returns[name].std().item() / args.num_envs**0.5
            print(f"{name:9} {mean:6.2f} ± {error:.2f} in {args.steps} steps, over {args.num_envs} dreams")
    return returns


if __name__ == "__main__":
    args = Args()
    main(diamond_gym.load_world_model(args.model), args)
