"""What a check of a recording says."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Finding:
    """Something that a check found.

    Attributes:
        name: A short name for scripts, such as `"action-offset"`.
        level: "fault" for what spoils a training, "note" for what is worth knowing.
        text: What was found, with numbers.
        advice: What to do.
        numbers: The same numbers for scripts.
    """

    name: str
    level: Literal["fault", "note"]
    text: str
    advice: str
    numbers: dict[str, Any] = field(default_factory=dict)


def percent(part: float) -> str:
    """A part of 1 in percent, for people."""
    return f"{100 * part:.1f} %" if part < 0.1 else f"{100 * part:.0f} %"
