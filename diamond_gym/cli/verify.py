"""`diamond-gym verify NAME | --all`: whether models are what their cards say."""

import sys
from dataclasses import dataclass

import tyro

from diamond_gym.errors import BadArgument, DamagedModel
from diamond_gym.registry import resolve, survey, verify


@dataclass(frozen=True)
class Verify:
    """Holds models' files against their cards, byte by byte."""

    name: tyro.conf.Positional[str | None] = None
    """A model's name, a game's name, or the folder of a model."""
    all: bool = False
    """All models at hand."""

    def __post_init__(self) -> None:
        if (self.name is None) != self.all:
            raise BadArgument("which? Name a model, or say --all")

    def run(self) -> int:
        """Verifies; tells each model, and returns 1 if any is damaged."""
        found, problems = ([resolve(self.name)], {}) if self.name is not None else survey()
        for entry in found:
            try:
                verify(entry)
            except DamagedModel as error:
                problems[entry.name] = " ".join(str(error).split())
            else:
                print(f"{entry.name}: {len(entry.card.files)} files, as its card says")
        for problem in problems.values():
            print(problem, file=sys.stderr)
        return 1 if problems else 0
