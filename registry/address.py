"""Addresses of models on the Hugging Face hub: `hf:user/repo@revision`."""

import re
from dataclasses import dataclass
from typing import Self

from diamond_gym.errors import BadArgument

_WORD = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_-])?"
_ADDRESS = re.compile(rf"(?:hf:)?({_WORD}/{_WORD})(?:@([A-Za-z0-9][A-Za-z0-9_./-]{{0,99}}))?")


@dataclass(frozen=True)
class Address:
    """A repository on the hub, perhaps at one revision.

    Attributes:
        repository: `user/repo`.
        revision: A commit, tag or branch; None for any.
    """

    repository: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads `hf:user/repo@revision`, the first and the last part optional.

        Raises:
            BadArgument: It is no such address.
        """
        match = _ADDRESS.fullmatch(text)
        if match is None or ".." in text:
            raise BadArgument(f"'{text}' is not an address such as hf:user/repo@revision")
        return cls(match[1], match[2])

    def __str__(self) -> str:
        return f"hf:{self.repository}" + (f"@{self.revision}" if self.revision else "")
