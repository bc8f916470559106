"""A model's card as Markdown, for people."""

from collections.abc import Iterator, Mapping
from typing import Any

from diamond_gym.registry.card import Card
from diamond_gym.registry.card_fields import Table

PREVIEW = "preview"
"""The kind of file that is a picture of the model's dreams."""

_CITATION = """\
```bibtex
@inproceedings{alonso2024diamond,
  title     = {Diffusion for World Modeling: Visual Details Matter in Atari},
  author    = {Eloi Alonso and Adam Jelley and Vincent Micheli and Anssi Kanervisto and Amos Storkey
               and Tim Pearce and Fran{\\c{c}}ois Fleuret},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2024},
}

@software{diamond_gym,
  title  = {diamond-gym: dreams as Gymnasium environments},
  author = {{diamond-gym contributors}},
}
```"""

_ALWAYS_TRUE = (
    "It knows only what its data showed; everything else is made up, however plausible it looks.",
    "A dream remembers only as many frames as the denoiser sees, and drifts further from the game the longer it lasts.",
    "Rewards are signs (-1, 0 or 1) sampled from the model's prediction; they are not the game's score.",
)


def human_card(card: Card) -> str:
    """Renders a card as Markdown: data, training, figures, known failures, licence and citation.

    What `known_failures` in the card's `figures` or `training` table says is listed beside what is true of every such
    model, and `history` in `training` as numbered stages; the tables `data` and `agent` in `training` become sections
    of their own.
    """
    training, figures = dict(card.training), dict(card.figures)
    data, agent = training.pop("data", {}), training.pop("agent", {})
    history = [f"{i}. {stage}" for i, stage in enumerate(_list(training, "history"), 1)]
    failures = [*_list(training, "known_failures"), *_list(figures, "known_failures")]
    height, width, channels = card.obs_shape
    about = {
        "game": card.game,
        "created": card.created,
        "observations": f"uint8 ({height}, {width}, {channels})",
        "actions": ", ".join(card.action_meanings) or (card.codec.space if card.codec.is_vector else card.num_actions),
        "parts": ", ".join(card.networks),
        "sampler": ", ".join(f"{key} {_value(value)}" for key, value in card.sampler.items()) or "the paper's",
    }
    files = {record.name: f"{record.bytes:,} bytes, SHA-256 `{record.sha256}`" for record in card.files.values()}
    picture = card.files.get(PREVIEW)
    preview = f"![Real frames, with dreamed frames below them]({picture.name})" if picture else ""
    # A command is shown as code; a sentence, as of a model that several stages made, as it is.
    source = f"`{card.source}`" if card.source and not card.source.endswith(".") else card.source
    sections = {
        "": "\n\n".join(filter(None, (card.summary, preview))),
        "Model": _table(about),
        "Data": _table(data) or "Not recorded.",
        "Training": "\n\n".join(filter(None, (source, "\n".join(history), _table(training)))) or "Not recorded.",
        "Agent": _table(agent) if isinstance(agent, Mapping) else str(agent),
        "Figures": _table(figures) or "None measured yet.",
        "Known failures": "\n".join(f"- {line}" for line in (*failures, *_ALWAYS_TRUE)),
        "Files": _table(files) or "None.",
        "Licence": f"{card.license}. The game belongs to its owners; these files hold none of its program.",
        "Citation": _CITATION,
    }
    text = "\n\n".join(f"## {title}\n\n{body}" if title else body for title, body in sections.items() if body)
    return f"# {card.name}\n\n{text}\n"


def readme(card: Card) -> str:
    """The human card as the README of a repository on the hub, with what the hub reads at its head."""
    license = card.license.lower() if card.license in ("MIT", "Apache-2.0") else "other"
    tags = ["reinforcement-learning", "world-model", "diffusion", "diamond", "gymnasium", card.game]
    head = ["---", "library_name: diamond-gym", f"license: {license}", "tags:", *(f"- {tag}" for tag in tags), "---"]
    return "\n".join([*head, human_card(card)])


def _list(table: dict[str, Any], key: str) -> list[Any]:
    """Takes a list out of a table; what is no list stays there."""
    return table.pop(key) if isinstance(table.get(key), list) else []


def _table(table: Mapping[str, Any]) -> str:
    rows = [f"| {key} | {_value(value).replace('|', '&#124;')} |" for key, value in flat_rows(table)]
    return "\n".join(["| | |", "|---|---|", *rows]) if rows else ""


def flat_rows(table: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """A nested table's rows, the names of nested keys joined with a dot."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from flat_rows(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _value(value: Table | Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(_value(item) for item in value)
    return str(value)
