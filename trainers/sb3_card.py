"""What the file of a saved agent says of it: what it was trained on, and how."""

import json
from dataclasses import dataclass, field
from typing import Any, Self

from diamond_gym.action_spaces import codec_of_table
from diamond_gym.actions import ActionCodec

FORMAT = 1


@dataclass(frozen=True)
class AgentCard:
    """What an agent was trained on, and how.

    Attributes:
        game, algo, model, frame_stack, seed: As those of `diamond_gym.trainers.sb3.AgentConfig`; for the real game
            there is no model ("").
        trained_in: "dream" or "real".
        model_sha256: Of the world model's weights, where they are known.
        obs_shape: A single frame, (H, W, C).
        num_actions: Actions are 0..num_actions-1; of other ones the numbers that world models take for one.
        steps: Steps of training, over all rows.
        seconds: How long they took.
        quality, max_episode_steps: Of the dreams; None for the model's own way, and for the real game.
        settings: The algorithm's hyperparameters.
        format: Of this card.
        actions: What kind of actions they are, as a world model's card has it; empty for numbered ones.
    """

    game: str
    algo: str
    trained_in: str
    model: str
    model_sha256: str
    obs_shape: tuple[int, int, int]
    num_actions: int
    frame_stack: int
    steps: int
    seconds: float
    seed: int
    quality: str | None
    max_episode_steps: int | None
    settings: dict[str, Any]
    format: int = FORMAT
    actions: dict[str, Any] = field(default_factory=dict)

    @property
    def codec(self) -> ActionCodec:
        """The actions that it takes."""
        return codec_of_table(self.actions, self.num_actions)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads what `json.dumps(asdict(card))` wrote; fields that are not known yet are left out."""
        table = json.loads(text)
        fields = {name: table[name] for name in cls.__dataclass_fields__ if name in table}
        if not all(isinstance(fields[name], str) for name in ("game", "algo", "model")):
            raise ValueError("its card is none")
        return cls(**{**fields, "obs_shape": tuple(table["obs_shape"])})
