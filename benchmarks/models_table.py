"""The tables of docs/models.md from the bundled models' cards: what survives in dreams, what moves, and returns.

    python -m benchmarks.models_table

The figures in the cards are those of `diamond-gym evaluate-wm NAME --save`; what a card has not is `–`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from diamond_gym.registry import resolve
from diamond_gym.trainers.things import things

MODELS = ("breakout-nano", "freeway-nano", "pong-nano", "mspacman-nano", "kungfumaster-nano", "boxing-nano")
_AFTER = (50, 200)
_NONE = "–"


def survival(cards: Mapping[str, Mapping[str, Any]], policy: str) -> list[str]:
    """Of each model that was measured under a policy: shares alive, artefacts and the distance after 50 and 200 steps.

    Args:
        cards: The game and the figures of each model by its name.
        policy: Who played.
    """
    rows = [
        "| Model | all alive after 50 steps | after 200 | alive, where not always | artefacts in % (in the game) "
        "| nearest real frame (in the game) |",
        "|---|---|---|---|---|---|",
    ]
    for name, card in cards.items():
        looks = card["figures"].get("looks", {}).get(policy, {})
        parts = [looks[f"after_{after}"] for after in _AFTER if f"after_{after}" in looks]
        if len(parts) < len(_AFTER):
            continue
        games = [part["real"] for part in parts]
        lost = [
            f"{thing.name} {_pair(f'{part[thing.name]:.2f}' for part in parts)}"
            for thing in things(card["game"])
            if any(part[thing.name] < 1 for part in parts)
        ]
        cells = [_alive(part) for part in parts] + ["; ".join(lost) or _NONE]
        for key, written in (("artefacts", _percent), ("nearest", "{:.1f}".format)):
            dreamed, real = (_pair(written(part[key]) for part in side) for side in (parts, games))
            cells.append(f"{dreamed} ({real})")
        rows.append(f"| `{name}` | {' | '.join(cells)} |")
    return rows


def returns(cards: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Mean returns of 50 steps in dream and game of each model and policy that was measured."""
    rows = ["| Model | player | in dreams | in the game | difference |", "|---|---|---|---|---|"]
    for name, card in cards.items():
        for policy in ("random", "agent"):
            figures = card["figures"].get("returns", {}).get(policy)
            cells = [_NONE] * 3 if figures is None else [_mean(figures, key) for key in ("dream", "real", "difference")]
            player = "random play" if policy == "random" else "own agent"
            rows.append(f"| `{name}` | {player} | {' | '.join(cells)} |")
    return rows


def movement(cards: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """How much of each model's dreams moves after 200 steps of random play, of what moves in the game."""
    rows = ["| Model | moving pixels, over the game's | brightness, over the game's |", "|---|---|---|"]
    for name, card in cards.items():
        if figures := card["figures"].get("drift"):
            rows.append(f"| `{name}` | {figures['moving_over_real']:.2f} | {figures['brightness_over_real']:.3f} |")
    return rows


def _alive(part: Mapping[str, Any]) -> str:
    low, high = part["all_interval_95"]
    return f"**{part['all']:.2f}** ({low:.2f} to {high:.2f})"


def _pair(cells: Iterable[str]) -> str:
    return ", ".join(cells)


def _mean(figures: Mapping[str, Any], key: str) -> str:
    between = ""
    if f"{key}_interval_95" in figures:  # a single start has none
        low, high = figures[f"{key}_interval_95"]
        between = f" ({low:.2f} to {high:.2f})"
    return f"{figures[key]:.2f}{between}".replace("-", "−")


def _percent(share: float) -> str:
    return f"{100 * share:.3f}".rstrip("0").rstrip(".")


def tables() -> dict[str, list[str]]:
    """All tables as lines of Markdown, by what they are of."""
    cards = {}
    for name in MODELS:
        card = resolve(name).card
        cards[name] = {"game": card.game, "figures": card.figures}
    policies = {"random play": survival(cards, "random"), "the agents' play": survival(cards, "agent")}
    return {**policies, "after 200 steps": movement(cards), "returns": returns(cards)}


if __name__ == "__main__":
    for title, lines in tables().items():
        print(f"{title}\n\n" + "\n".join(lines) + "\n")
