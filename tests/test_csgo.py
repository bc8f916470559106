"""CS:GO's actions, as people write them and as the networks take them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diamond_gym import csgo

ACTIONS = st.tuples(*(st.integers(0, size - 1) for size in csgo.SIZES))


@given(st.lists(ACTIONS, min_size=1, max_size=4))
def test_encode_and_decode_are_inverse(actions):
    act = np.array(actions)
    inputs = csgo.encode(act)
    assert (inputs.shape, inputs.dtype) == ((len(act), 51), np.int64)
    np.testing.assert_array_equal(csgo.decode(inputs), act)
    np.testing.assert_array_equal(csgo.encode(csgo.decode(inputs)), inputs)
    np.testing.assert_array_equal(csgo.encode(act[0]), inputs[0])
    assert csgo.decode(inputs[None].astype(np.int8)).dtype == np.int64


@given(ACTIONS)
def test_names_and_actions_are_inverse(act):
    pressed, x, y = csgo.describe(act)
    np.testing.assert_array_equal(csgo.action(*pressed, mouse_x=x, mouse_y=y), act)


def test_the_order_of_the_51_numbers():
    """The data's: keys, clicks, the mouse sideways, the mouse up and down, each ascending."""
    assert " ".join(csgo.NAMES) == "w a s d space ctrl shift 1 2 3 r left right mouse_x mouse_y"
    assert (len(csgo.MOUSE_X), len(csgo.MOUSE_Y), csgo.NUM_INPUTS) == (23, 15, 51)
    for bins in (csgo.MOUSE_X, csgo.MOUSE_Y):
        assert list(bins) == sorted(bins)
        assert [-x for x in reversed(bins)] == list(bins)
    assert (csgo.MOUSE_X[0], csgo.MOUSE_X[-1], csgo.MOUSE_Y[0], csgo.MOUSE_Y[-1]) == (-1000, 1000, -200, 200)
    nothing = np.flatnonzero(csgo.encode(csgo.action()))
    assert nothing.tolist() == [13 + 11, 36 + 7]
    everything = csgo.encode(csgo.action(*csgo.BUTTONS, mouse_x=1000, mouse_y=-200))
    assert np.flatnonzero(everything).tolist() == [*range(13), 35, 36]
    assert np.flatnonzero(csgo.encode(csgo.action("r", "left"))).tolist()[:2] == [10, 11]


def test_the_mouse_takes_the_nearest_bin():
    assert csgo.describe(csgo.action("w", mouse_x=-37, mouse_y=5000)) == (("w",), -30, 200)
    assert csgo.describe(csgo.action(mouse_x=0.4))[1] == 0


def test_what_is_no_action_is_refused():
    with pytest.raises(ValueError, match=r"no key or button 'q'.* w a s d"):
        csgo.action("q")
    for wrong in (np.zeros(14, int), np.zeros(15), [-1] + [0] * 14, [2] + [0] * 14, [0] * 13 + [23, 0]):
        with pytest.raises(ValueError, match="an action is 15 integers"):
            csgo.encode(wrong)
    for wrong in (np.zeros(50), np.full(51, 2), np.full(51, 0.5)):
        with pytest.raises(ValueError, match="51 numbers of 0 and 1"):
            csgo.decode(wrong)
    for place in (24, 43):  # no bin of one of the two, and then two of them
        inputs = csgo.encode(csgo.action())
        inputs[place] = 0
        with pytest.raises(ValueError, match="exactly one bin"):
            csgo.decode(inputs)
        inputs[[place, place + 1]] = 1
        with pytest.raises(ValueError, match="exactly one bin"):
            csgo.decode(inputs)
