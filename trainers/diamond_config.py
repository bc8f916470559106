"""What DIAMOND's outer loop does how often: play, updates and tests of an epoch.

Alonso et al. 2024 (arXiv 2405.12399): the appendix for the defaults.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from diamond_gym.data.about import About
from diamond_gym.errors import BadArgument
from diamond_gym.sampler import SamplerConfig
from diamond_gym.schema import check_least, check_option, check_shares
from diamond_gym.trainers.actor_critic import AgentFitConfig
from diamond_gym.trainers.world_model_config import WorldModelConfig
from diamond_gym.trainers.worlds import check_learnable


@dataclass(frozen=True)
class DiamondConfig:
    """A whole training; the defaults are the paper's for Atari 100k."""

    fit: WorldModelConfig = field(default_factory=WorldModelConfig)
    agent: AgentFitConfig = field(default_factory=AgentFitConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    epochs: int = 1000
    """Epochs in all; the last ones, when the real steps are used up, train without collecting."""
    real_steps: int = 100_000
    """Steps of the real game, in all."""
    first_steps: int = 5_000
    """Real steps of the first epoch; more follow, by `steps_per_epoch`, while there are too few rewards."""
    first_steps_at_most: int = 10_000
    first_rewards: int = 10
    """How many rewards of the two rarer signs, taken together, have to be seen to end the first collection."""
    steps_per_epoch: int = 100
    world_model_steps: int = 400
    """Updates of denoiser and reward/end model per epoch."""
    agent_steps: int = 400
    first_world_model_steps: int = 10_000
    """Updates in the first epoch. What `fit` starts after a share of all updates starts by then at the latest."""
    first_agent_steps: int = 5_000
    num_envs: int = 1
    """How many real games are played side by side."""
    epsilon: float = 0.01
    """Chance of a random action while collecting."""
    temperature: float | None = None
    """Temperature of the policy while collecting (default: 1; in Freeway 0.01, as the authors have it, since a reward
    there takes many steps up in a row)."""
    num_starts: int = 1024
    """Pieces of real play that dreams begin from, drawn anew in each epoch and whenever this many dreams have begun."""
    test_every: int = 20
    """Epochs between test collections: whole games that nothing learns from; 0 for none."""
    test_episodes: int = 4
    test_steps_at_most: int = 27_000
    """Steps after which a game of a test collection is cut off (27,000 is ALE's own half hour)."""
    register_best: bool = False
    """Register world model and agent as they were at the test with the best score, not as they are at the end, since
    an agent can unlearn (False: the paper's)."""
    final_episodes: int = 100
    """Whole games that score the agent that is registered."""

    def __post_init__(self) -> None:
        check_least(self, epochs=1, real_steps=1, first_steps=1, first_steps_at_most=1, steps_per_epoch=1)
        check_least(self, num_envs=1, num_starts=1)
        check_least(self, first_rewards=0, test_every=0, test_episodes=1, test_steps_at_most=1, final_episodes=0)
        check_least(self, world_model_steps=0, agent_steps=0, first_world_model_steps=0, first_agent_steps=0)
        check_shares(self, "epsilon")
        check_option(self, "temperature", lambda value: value > 0, "more than 0")

    def updates(self, epochs: int) -> tuple[int, int]:
        """Updates of the world model and of the agent in the first so many epochs."""
        if epochs == 0:
            return 0, 0
        model = self.first_world_model_steps + (epochs - 1) * self.world_model_steps
        return model, self.first_agent_steps + (epochs - 1) * self.agent_steps

    def for_game(self, about: About) -> "DiamondConfig":
        """The same with a game's image size and actions filled in; errors as those of `check_learnable`."""
        check_learnable(about, numbered=True)
        if self.fit.without_rewards:
            raise BadArgument("the agent learns from rewards: leave out --fit.without-rewards")
        shape, num_actions = about.frame_shape, about.num_actions
        fit, agent = self.fit.for_frames(shape, num_actions), self.agent.for_frames(shape, num_actions)
        first = self.first_world_model_steps / max(1, self.updates(self.epochs)[0])
        shares = "autoregressive_from", "reward_end_dreams_from"  # if they were later, an agent would learn without
        settled: dict[str, Any] = {name: first for name in shares if first < getattr(fit, name) < 1}
        settled["age_of"] = fit.age_of or ("steps" if self.num_envs > 1 else "episodes")
        fit = replace(fit, **settled)
        temperature = self.temperature or (0.01 if about.game == "Freeway" else 1.0)
        return replace(self, fit=fit, agent=agent, temperature=temperature)
