"""The numbers of a whole training.

Alonso et al. 2024 (arXiv 2405.12399), appendix; the defaults are the paper's for Atari 100k.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from diamond_gym.data.episode_files import About
from diamond_gym.errors import BadArgument
from diamond_gym.networks.actor_critic import ActorCriticConfig
from diamond_gym.sampler import SamplerConfig
from diamond_gym.trainers.actor_critic import AgentFitConfig
from diamond_gym.trainers.fit_config import FitConfig


@dataclass(frozen=True)
class DiamondConfig:
    """The whole of a training; the defaults are the paper's for Atari 100k."""

    fit: FitConfig = field(default_factory=FitConfig)
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
    """How often the two rarer signs of reward have to be seen, together, to end the first collection."""
    steps_per_epoch: int = 100
    world_model_steps: int = 400
    """Updates of denoiser and reward/end model per epoch."""
    agent_steps: int = 400
    first_world_model_steps: int = 10_000
    first_agent_steps: int = 5_000
    num_envs: int = 1
    """Real games side by side."""
    epsilon: float = 0.01
    """Chance of a random action while collecting."""
    temperature: float = 1.0
    """Of the policy while collecting; Freeway needs less than 1."""
    num_starts: int = 1024
    """Pieces of real play, drawn anew each epoch, that its dreams begin from."""
    test_every: int = 20
    """Epochs between test collections: whole games that nothing learns from; 0 for none."""
    test_episodes: int = 4
    test_steps_at_most: int = 27_000
    """Steps after which a game of a test collection is left as it stands (27,000 are ALE's own half hour)."""
    final_episodes: int = 100
    """Whole games that score the agent at the end."""
    model_free: bool = False
    """Train the same agent on the real game's own steps instead, without a world model, for comparison."""

    def __post_init__(self) -> None:
        """Refuses what makes no sense, in one line."""
        least = {"epochs": 1, "real_steps": 1, "first_steps": 1, "steps_per_epoch": 1, "num_envs": 1, "num_starts": 1}
        least |= {"test_episodes": 1, "test_steps_at_most": 1}
        least |= dict.fromkeys(("first_rewards", "test_every", "final_episodes", "world_model_steps"), 0)
        least |= dict.fromkeys(("agent_steps", "first_world_model_steps", "first_agent_steps"), 0)
        for name, bound in least.items():
            if getattr(self, name) < bound:
                flag = name.replace("_", "-")
                raise BadArgument(f"--{flag} must be at least {bound}, not {getattr(self, name)}")
        if not 0 <= self.epsilon <= 1:
            raise BadArgument(f"--epsilon is a chance, 0 to 1, not {self.epsilon}")
        if not self.temperature > 0:
            raise BadArgument(f"--temperature must be more than 0, not {self.temperature}")

    def updates(self, epochs: int) -> tuple[int, int]:
        """Updates of the world model and of the agent in the first so many epochs."""
        if epochs == 0:
            return 0, 0
        model = self.first_world_model_steps + (epochs - 1) * self.world_model_steps
        return 0 if self.model_free else model, self.first_agent_steps + (epochs - 1) * self.agent_steps

    def for_game(self, about: About) -> "DiamondConfig":
        """The same with a game's image size and actions filled in.

        Raises:
            BadArgument: Its frames are not square.
        """
        h, w, c = about.frame_shape
        if h != w:
            raise BadArgument(f"the networks see square frames, and those of {about.game} have {h}x{w} pixels")
        image: dict[str, Any] = {"img_channels": c, "num_actions": about.num_actions}
        inner = replace(self.fit.denoiser.inner_model, **image)
        fit = replace(
            self.fit,
            denoiser=replace(self.fit.denoiser, inner_model=inner),
            reward_end=replace(self.fit.reward_end, img_size=h, **image),
        )
        network: ActorCriticConfig = replace(self.agent.network, img_size=h, **image)
        return replace(self, fit=fit, agent=replace(self.agent, network=network))
