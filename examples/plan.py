"""Random-shooting planning in a dream, with `clone_state` and `restore_state`, beside the model's own agent.

The planner tries random action sequences from the present state, goes back, and plays the beginning of the sequence
with the highest return. It plans in the very model that it is scored in, which a real game does not offer.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import diamond_gym
from diamond_gym.dream import Dream
from diamond_gym.sampler import SamplerConfig
from diamond_gym.world_model import WorldModel


@dataclass(frozen=True)
class Args:
    """How much is tried; edit the defaults, or call `main(model, Args(...))`."""

    model: str = "freeway-nano"
    num_envs: int = 8  # dreams that are scored, all at once
    steps: int = 48
    candidates: int = 8  # sequences tried at every plan
    plan: int = 24  # steps of a sequence
    hold: int = 8  # steps for which an action of a sequence is kept
    execute: int = 8  # steps played before planning again
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


def planner(dream: Dream, num_actions: int, args: Args) -> Callable[[int], Tensor]:
    """A policy that plans anew every `execute` steps."""
    generator = torch.Generator().manual_seed(args.seed)
    best: Tensor | None = None

    def sequence() -> Tensor:
        """Random actions (plan, B), each kept for `hold` steps."""
        drawn = torch.randint(num_actions, (-(-args.plan // args.hold), args.num_envs), generator=generator)
        return drawn.repeat_interleave(args.hold, 0)[: args.plan].to(dream.device)

    def act(t: int) -> Tensor:
        nonlocal best
        if t % args.execute == 0:
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
        return best[t % args.execute]

    return act


def own_agent(dream: Dream, model: WorldModel) -> Callable[[int], Tensor]:
    """The actor-critic that came with the model."""
    assert model.actor_critic is not None
    agent, state = model.actor_critic, model.actor_critic.initial_state(dream.num_envs, dream.device)

    @torch.no_grad()
    def act(t: int) -> Tensor:
        nonlocal state
        if t == 0 and dream.obs_window is not None:  # it has seen the frames before the start, too
            for earlier in dream.obs_window[:, :-1].unbind(1):
                _, _, state = agent(earlier, state)
        logits, _, state = agent(dream.obs, state)
        return torch.distributions.Categorical(logits=logits).sample()

    return act


def main(model: WorldModel, args: Args) -> dict[str, Tensor]:
    """The returns of random actions, of the planner and of the model's agent, from the same starts."""
    torch.manual_seed(args.seed)
    fast = SamplerConfig(num_denoising_steps=1)

    def dream() -> Dream:
        return model.dream(args.num_envs, sampler=fast, horizon=None)

    here, there = dream(), dream()
    returns = {
        "random": play(
            dream(), lambda t: torch.randint(model.num_actions, (args.num_envs,), device=model.device), args
        ),
        "planning": play(here, planner(here, model.num_actions, args), args),
    }
    if model.actor_critic is not None:
        returns["agent"] = play(there, own_agent(there, model), args)
    for name, values in returns.items():
        print(f"{name:9} {values.mean().item():6.2f} in {args.steps} steps, mean of {args.num_envs} dreams")
    return returns


if __name__ == "__main__":
    args = Args()
    main(diamond_gym.load_world_model(args.model), args)
