"""Training the agent in dreams: lambda-returns, the actor-critic objective, and the steps of it.

Alonso et al. 2024 (arXiv 2405.12399): REINFORCE with a value baseline on imagined windows.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Categorical

from diamond_gym.cuda_graphs import Draws, OutsideRandom
from diamond_gym.dream import Dream
from diamond_gym.errors import BadArgument
from diamond_gym.networks.actor_critic import ActorCritic, ActorCriticConfig
from diamond_gym.networks.denoiser import InnerModel
from diamond_gym.networks.kernels.training import train_with_kernels
from diamond_gym.schema import AGENT_LOSS, check_config, check_least, fill_in
from diamond_gym.starts import Starts
from diamond_gym.trainers.imagination import Imagination, Window
from diamond_gym.trainers.loop import ALONE, Objective, Processes, own_rows
from diamond_gym.trainers.optim import OptimizerConfig, can_record, load_optimizer, lr_factor, update

if TYPE_CHECKING:
    from diamond_gym.registry import Entry
    from diamond_gym.trainers.recorded import RecordedUpdates


@dataclass(frozen=True)
class ActorCriticLossConfig:
    """Weights of the agent's objective; the defaults are the paper's."""

    gamma: float = 0.985
    lambda_: float = 0.95
    weight_value_loss: float = 1.0
    weight_entropy_loss: float = 0.001

    def __post_init__(self) -> None:
        check_config(self, AGENT_LOSS)


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
    logits_act: Tensor,
    act: Tensor,
    val: Tensor,
    returns: Tensor,
    config: ActorCriticLossConfig,
    mean: Callable[[Tensor], Tensor] = torch.mean,
) -> ActorCriticLoss:
    """REINFORCE with baseline, squared value error, entropy bonus.

    Args:
        logits_act: Policy logits (B, T, A).
        act: Actions taken, int64 (B, T).
        val: Values (B, T).
        returns: Lambda-returns (B, T), without gradient.
        config: Weights.
        mean: The mean of values (B, T) over the steps that count; of all by default.
    """
    policy = Categorical(logits=logits_act, validate_args=False)  # validation waits for the device
    advantage = (returns - val).detach()
    actions = -mean(policy.log_prob(act) * advantage)
    entropy = mean(policy.entropy())
    values = config.weight_value_loss * mean(F.mse_loss(val, returns, reduction="none"))
    loss_entropy = -config.weight_entropy_loss * entropy
    return ActorCriticLoss(actions + values + loss_entropy, actions, values, loss_entropy, entropy.detach())


def window_loss(window: Window, config: ActorCriticLossConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """The objective on a window, and figures of it, without gradient."""
    returns = lambda_returns(window.rew, window.end, window.trunc, window.val_bootstrap, config.gamma, config.lambda_)
    loss = actor_critic_loss(window.logits_act, window.act, window.val, returns, config, window.mean)
    return loss.loss, {
        "agent/loss_actions": loss.actions.detach(),
        "agent/loss_values": loss.values.detach(),
        "agent/policy_entropy": loss.policy_entropy,
        "agent/lambda_return": window.mean(returns),
        "agent/reward_per_step": window.mean(window.rew),
        "agent/ends_per_step": window.mean(window.end.float()),
    }


@dataclass(frozen=True)
class AgentFitConfig:
    """How the agent is trained; the defaults are the paper's."""

    network: ActorCriticConfig = field(default_factory=ActorCriticConfig)
    loss: ActorCriticLossConfig = field(default_factory=ActorCriticLossConfig)
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(weight_decay=0.0, max_grad_norm=100.0))
    """Its batch size is the number of dreams that run side by side."""
    horizon: int = 15
    """Steps of a window, after which the weights are updated, and of a dream, after which it restarts."""

    def __post_init__(self) -> None:
        check_least(self, horizon=1)

    def for_frames(self, frame_shape: tuple[int, int, int], num_actions: int) -> Self:
        """The same with a world's frames (H, W, C) and number of actions filled in; raises as `fill_in`."""
        h, w, c = frame_shape
        frame: dict[str, Any] = {"img_size": h, "img_width": None if w == h else w, "img_channels": c}
        return replace(self, network=fill_in(self.network, "network", **frame, num_actions=num_actions))

    def for_model(self, entry: "Entry") -> Self:
        """The same with a registered model's frames and actions filled in.

        Raises:
            BadArgument: The model's actions are not numbered.
        """
        card = entry.card
        if card.codec.is_vector:
            raise BadArgument(
                f"DIAMOND's agent takes numbered actions, and those of {entry.name} are {card.codec.space}: "
                f"train with --algo {'ppo or sac' if card.codec.kind == 'box' else 'ppo'}"
            )
        return self.for_frames(card.obs_shape, card.num_actions)


class ActorCriticTrainer:
    """The state of an agent's training, and one step of it.

    On one GPU a step is a CUDA graph (`trainers.recorded`), if its dreams have one stage. These draw their numbers
    then from a generator of the trainer's, and a training that is resumed begins them anew.

    Attributes:
        config: What is trained, and how.
        step: Steps done.
        total_steps: Steps wanted, for whoever runs them.
        agent: The agent in training.
        imagination: Where it is trained. May be exchanged between steps, as the world model learns too; None before
            there is one.
    """

    _updates: "RecordedUpdates | None" = None  # where they can be CUDA graphs

    def __init__(
        self,
        config: AgentFitConfig,
        total_steps: int = 0,
        seed: int = 0,
        device: torch.device | str = "cpu",
        fabric: Processes = ALONE,
    ) -> None:
        """Builds the agent and its optimizer.

        Args:
            config: What is trained, and how.
            total_steps: See the attribute.
            seed: Seeds the weights.
            device: Where the agent lives.
            fabric: The processes that train together, each in dreams of its own.
        """
        self.config, self.total_steps, self.step = config, total_steps, 0
        self._fabric, self._device = fabric, torch.device(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            agent = ActorCritic(config.network)
        self.agent = agent.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if torch.device(device).type == "cpu":
            train_with_kernels(self.agent)
        self._seed = seed
        own, self._draws = config.optimizer, Draws(self._device, seed)
        if can_record(self._device, fabric, own):
            from diamond_gym.trainers.recorded import RecordedUpdates

            self._updates = RecordedUpdates("agent", self.agent, own, self._draws)
            self.optimizer = self._updates.optimizer
        else:
            self.optimizer = torch.optim.AdamW(
                self.agent.parameters(), lr=own.lr, eps=own.eps, weight_decay=own.weight_decay
            )
        self._objective = fabric.setup_module(Objective(self.agent, self._loss))
        self.imagination: Imagination | None = None
        self._recorded_in: Imagination | None = None  # the one whose windows wait for nothing

    @property
    def num_dreams(self) -> int:
        """How many of the batch's dreams are this process's."""
        return own_rows(self._fabric, self.config.optimizer.batch_size)

    def dream_in(self, dream: Dream, seed: int = 0) -> None:
        """Begins to train in these dreams, `num_dreams` of them; `seed` is theirs and the actions'."""
        seed += self._fabric.global_rank * dream.num_envs
        plain = type(dream) is Dream and isinstance(getattr(dream.denoiser, "inner_model", None), InnerModel)
        if self._updates is None or not plain:
            self.imagination = Imagination(self.agent, dream, seed)
            return
        self._updates.forget()
        self._seed = seed
        self._draws.reseed(seed)
        dream.draw_from(OutsideRandom(dream.num_envs, self._device, self._draws))
        self.imagination = self._recorded_in = Imagination(self.agent, dream, seed, self._draws.uniform)

    @property
    def keeps_dreams(self) -> bool:
        """Whether a checkpoint holds the dreams; those of several processes, and recorded ones, begin anew from it."""
        return self._fabric.world_size == 1 and not self.records

    @property
    def records(self) -> bool:
        """Whether a step is a CUDA graph."""
        return self.imagination is not None and self.imagination is self._recorded_in

    def dream_on(self, starts: Starts) -> None:
        """Begins all dreams anew from other starts, as many of them, with their networks' weights as they are by now.

        All is written where it was, so that a recorded step stays.
        """
        assert self.imagination is not None
        self.imagination.dream.bank.replace(starts)
        self.imagination.begin()

    def train_step(self) -> dict[str, float | Tensor]:
        """Imagines one window and updates the agent on it.

        Returns:
            Parts of the loss and figures of the window, as tensors that have not been waited for.
        """
        config = self.config.optimizer
        factor = lr_factor(self.step, config.warmup_steps)
        self.step += 1
        if self._updates is not None and self.records:
            return {**self._updates(self._objective, factor)}
        return {**update("agent", self._fabric, self._objective, self.optimizer, self._objective, config, factor)}

    def _loss(self) -> tuple[Tensor, dict[str, Tensor]]:
        assert self.imagination is not None, "the agent needs dreams to be trained in"
        return window_loss(self.imagination.window(self.config.horizon), self.config.loss)

    def state_dict(self) -> dict[str, Any]:
        """Everything the next step depends on, but for the world model, and the dreams unless it `keeps_dreams`."""
        dreams = self.imagination.state_dict() if self.imagination is not None and self.keeps_dreams else None
        return {
            "step": self.step,
            "agent": self.agent.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "imagination": dreams,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes back to a state, also of another device: where `keeps_dreams`, the same steps follow, bit for bit."""
        self.step = state["step"]
        self.agent.load_state_dict(state["agent"])
        load_optimizer(self.optimizer, state["optimizer"])
        if self._updates is not None:
            self._updates.forget()  # the optimizer's state is elsewhere now
        if self.imagination is not None and self.records:
            self._draws.reseed(int(np.random.SeedSequence([self._seed, self.step]).generate_state(1)[0]))
            self.imagination.begin()
        elif self.imagination is not None and state["imagination"] is not None and self.keeps_dreams:
            self.imagination.load_state_dict(state["imagination"])
