"""Keys for actions that are vectors: which ones do anything, and the action that held keys mean.

Buttons have the digits. Of several choices each has a row of the keyboard, whose keys are its values from 1 on, and 0
where none is held. Of numbers within bounds each has two keys, one for its lowest and one for its highest value, and
rests where neither is held. Numbered actions have keys by their words (`registry.games.keys_to_action`), and CS:GO its
own (`diamond_gym.csgo`).
"""

from collections.abc import Collection, Iterator

from diamond_gym.actions import ActionCodec, Array

DIGITS = "1234567890"
_ROWS = (DIGITS, "qwertyuiop", "asdfghjkl", "zxcvbnm")
_PAIRS = (("a", "d"), ("s", "w"), ("q", "e"), ("z", "c"), ("1", "2"), ("3", "4"), ("5", "6"), ("7", "8"), ("9", "0"))


def key_settings(codec: ActionCodec) -> list[tuple[str, int, float]]:
    """What each key sets: its name, the place in the flattened action, and the number that it puts there.

    Keys are few: the parts of an action for which none is left rest.
    """
    return list(_settings(codec))


def _settings(codec: ActionCodec) -> Iterator[tuple[str, int, float]]:
    box = codec.space
    if codec.kind == "multi_binary":
        yield from ((key, i, 1) for i, key in zip(range(codec.num_inputs), DIGITS, strict=False))
    elif codec.kind == "multi_discrete":
        for i, (size, row) in enumerate(zip(box.nvec.ravel().tolist(), _ROWS, strict=False)):  # type: ignore[attr-defined]
            yield from ((key, i, value) for value, key in zip(range(1, size), row, strict=False))
    elif codec.kind == "box":
        bounds = zip(box.low.ravel().tolist(), box.high.ravel().tolist(), strict=True)  # type: ignore[attr-defined]
        for i, (pair, (low, high)) in enumerate(zip(_PAIRS, bounds, strict=False)):
            yield from ((pair[0], i, low), (pair[1], i, high))


def held_action(codec: ActionCodec, held: Collection[str]) -> Array:
    """The action, of the codec's shape and type, while these keys are held."""
    act = codec.rest.copy().reshape(-1)
    for key, place, value in key_settings(codec):
        if key in held:
            act[place] = value
    return act.reshape(codec.shape)
