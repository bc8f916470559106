"""Losses of the agent: lambda-returns and the actor-critic objective.

Alonso et al. 2024 (arXiv 2405.12399): REINFORCE with a value baseline on imagined windows.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Categorical


@dataclass(frozen=True)
class ActorCriticLossConfig:
    """Weights of the agent's objective; the defaults are the paper's."""

    gamma: float = 0.985
    lambda_: float = 0.95
    weight_value_loss: float = 1.0
    weight_entropy_loss: float = 0.001


@dataclass(frozen=True)
class ActorCriticLoss:
    """The objective and its parts, scalars; loss is their sum."""

    loss: Tensor
    actions: Tensor
    values: Tensor
    entropy: Tensor
    policy_entropy: Tensor
    """Mean policy entropy in nats, without gradient."""


@torch.no_grad()
def lambda_returns(
    rew: Tensor, end: Tensor, trunc: Tensor, val_bootstrap: Tensor, gamma: float, lambda_: float
) -> Tensor:
    """TD(lambda) returns of a window whose episodes may end or be cut off anywhere.

    R_t = sign(r_t) + (1 - e_t) * gamma * ((1 - u_t) * (1 - lambda) + u_t) * V_t
          + (1 - max(e_t, u_t)) * gamma * lambda * R_{t+1},  R after the window = V of its last step,
    with e for an end, u for a truncation and V_t the value of the true frame after step t.

    Args:
        rew, end, trunc: (B, T).
        val_bootstrap: V_t, float32 (B, T).
        gamma: Discount.
        lambda_: Mixing weight.

    Returns:
        float32 (B, T), without gradient.
    """
    end, trunc = end.float(), trunc.float()
    going_on = 1 - torch.maximum(end, trunc)
    bootstrap = (1 - end) * ((1 - trunc) * (1 - lambda_) + trunc)
    one_step = rew.sign() + gamma * bootstrap * val_bootstrap
    returns = torch.empty_like(one_step)
    following = val_bootstrap[:, -1]
    for t in reversed(range(rew.shape[1])):
        following = one_step[:, t] + gamma * lambda_ * going_on[:, t] * following
        returns[:, t] = following
    return returns


def actor_critic_loss(
    logits_act: Tensor, act: Tensor, val: Tensor, returns: Tensor, config: ActorCriticLossConfig
) -> ActorCriticLoss:
    """REINFORCE with baseline, squared value error, entropy bonus.

    Args:
        logits_act: Policy logits (B, T, A).
        act: Actions taken, int64 (B, T).
        val: Values (B, T).
        returns: Lambda-returns (B, T), without gradient.
        config: Weights.
    """
    policy = Categorical(logits=logits_act)
    advantage = (returns - val).detach()
    actions = -(policy.log_prob(act) * advantage).mean()
    entropy = policy.entropy().mean()
    values = config.weight_value_loss * F.mse_loss(val, returns)
    loss_entropy = -config.weight_entropy_loss * entropy
    return ActorCriticLoss(actions + values + loss_entropy, actions, values, loss_entropy, entropy.detach())
