"""Actions of every kind: from spaces to what networks take, and back from the tables that cards and stores keep."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from diamond_gym import csgo
from diamond_gym.action_spaces import codec_of_model, codec_of_recordings, codec_of_space, codec_of_table
from diamond_gym.actions import Box, Discrete, MultiBinary, MultiDiscrete
from diamond_gym.data import About, Episode, EpisodeStore
from diamond_gym.data.sampling import SegmentSampler
from diamond_gym.errors import BadArgument, BadConfig, DiamondGymError
from diamond_gym.networks.blocks import embed

SPACES = {
    "discrete": spaces.Discrete(4),
    "buttons": spaces.MultiBinary(3),
    "buttons in rows": spaces.MultiBinary([2, 2]),
    "choices": spaces.MultiDiscrete([3, 2]),
    "choices in rows": spaces.MultiDiscrete([[3, 2], [2, 4]]),
    "numbers": spaces.Box(np.array([-1, 0], np.float32), np.array([1, 0.7], np.float32)),
    "one number": spaces.Box(-2.0, 2.0, ()),
    "whole numbers": spaces.Box(0, 255, (2,), np.uint8),
}


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_a_codec_of_a_space(space):
    codec = codec_of_space(space)
    assert codec.space == space and codec_of_table(codec.table, codec.num_inputs) == codec
    act = codec.sample(np.random.default_rng(0), 50)
    assert all(one in space for one in act) and codec.rest in space
    inputs = codec.encode(act)
    assert inputs.shape == ((50, codec.num_inputs) if codec.is_vector else (50,))
    assert inputs.dtype == (np.float32 if codec.kind == "box" else np.int64)
    assert codec.lowest <= inputs.min() and inputs.max() <= codec.highest
    np.testing.assert_array_equal(codec.encode(act[7]), inputs[7])
    np.testing.assert_array_equal(codec.check(act, (50,)), act)
    assert len(np.unique(inputs.reshape(50, -1), axis=0)) == len(np.unique(act.reshape(50, -1), axis=0)), "none is lost"
    for wrong in (act[:49], act + 300.5, act * np.nan, np.full(act.shape, -7), act.astype(str)):
        with pytest.raises(ValueError, match="actions must be .* got "):
            codec.check(wrong, (50,))


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_a_store_holds_them_and_segments_are_encoded(space, tmp_path):
    codec = codec_of_space(space)
    about = About.of("Own", (8, 6, 1), codec)
    act = codec.sample(np.random.default_rng(1), 20)
    obs = np.zeros((21, 8, 6, 1), np.uint8)
    with EpisodeStore(tmp_path, "a", about) as store:
        store.append(Episode(obs, act))
        if codec.dtype != np.uint8:  # which has no number beyond this space's
            with pytest.raises(ValueError, match="actions"):
                store.append(Episode(obs, np.full(act.shape, 100, act.dtype)))
    store = EpisodeStore(tmp_path)
    assert store.codec == codec and dict(store.about.actions) == codec.table
    np.testing.assert_array_equal(store[0].act, act)
    batch = SegmentSampler(store, 4, 8, True, np.random.default_rng(0)).sample()
    for row, start in enumerate(batch.start.tolist()):
        for j in range(4):
            inside = 0 <= start + j < 20
            shown = codec.encode(act[start + j]) if inside else np.zeros(batch.act.shape[2:])
            np.testing.assert_array_equal(batch.act[row, j], shown)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-1e4, 1e4, width=32), st.floats(0.0078125, 1e4, width=32)), min_size=1, max_size=5),
    st.integers(0, 2**31),
)
def test_numbers_keep_their_place_between_their_bounds(bounds, seed):
    low = np.array([a for a, _ in bounds])
    high = low + np.array([b for _, b in bounds])
    codec = Box(low.tolist(), high.tolist())
    act = codec.sample(np.random.default_rng(seed), 20)
    back = (codec.encode(act).astype(np.float64) + 1) / 2 * (high - low) + low
    np.testing.assert_allclose(back, act, atol=2e-6 * float(np.abs([low, high]).max() + 1))
    np.testing.assert_array_equal(codec.encode([low, high]), np.stack([-np.ones(len(low)), np.ones(len(low))]))


def test_networks_look_numbers_up_and_map_vectors():
    table = nn.Embedding(5, 3)
    act = torch.tensor([4, 0, 4])
    assert torch.equal(embed(table, act), table(act))
    one_hot = nn.functional.one_hot(act, 5)
    torch.testing.assert_close(embed(table, one_hot), table(act))
    numbers = torch.tensor([[0.5, -1.0, 0.0, 0.0, 2.0]])
    wanted = 0.5 * table.weight[0] - table.weight[1] + 2 * table.weight[4]
    torch.testing.assert_close(embed(table, numbers)[0], wanted)


def test_csgo_is_named_and_not_guessed():
    codec = codec_of_table({"kind": "csgo"}, 51)
    assert isinstance(codec, csgo.CsgoActions) and codec.part_names == csgo.NAMES
    act = codec.sample(np.random.default_rng(0), 6)
    np.testing.assert_array_equal(codec.encode(act), csgo.encode(act))
    np.testing.assert_array_equal(codec.encode(csgo.encode(act).astype(bool)), csgo.encode(act))
    assert codec.rest.tolist() == csgo.action().tolist()
    assert codec_of_space(spaces.MultiBinary(51)) == codec_of_model(None, 51, vectors=True) == MultiBinary([51])
    assert codec_of_model(None, 51, vectors=False) == Discrete(51)
    assert codec_of_space(spaces.MultiDiscrete(list(csgo.SIZES))).kind == "multi_discrete"


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Box(-np.inf, np.inf, (2,)), "no bounds"),
        (spaces.Box(-3e38, 3e38, (2,)), "no bounds"),
        (spaces.Discrete(3, start=1), "Discrete or MultiDiscrete from 0 on"),
        (spaces.MultiDiscrete([3, 2], start=[1, 0]), "Discrete or MultiDiscrete from 0 on"),
        (spaces.Dict({"a": spaces.Discrete(2)}), "Discrete or MultiDiscrete from 0 on"),
        (spaces.MultiDiscrete([4000, 4000]), "1 to 4096 numbers"),
    ],
)
def test_spaces_that_cannot_be_learned_are_one_line(space, message):
    with pytest.raises(BadArgument, match=message) as error:
        codec_of_space(space, "Own/World-v0")
    assert "\n" not in str(error.value) and "Own/World-v0" in str(error.value)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"kind": "wheel"}, "is one of multi_binary"),
        ({"kind": ["box"]}, "is one of multi_binary"),
        ({"kind": "box", "low": [0.0]}, "'high' is missing"),
        ({"kind": "box", "low": [0.0], "high": [1.0], "size": 3}, "no key 'size'"),
        ({"kind": "box", "low": [1.0], "high": [0.0]}, "low bounds below"),
        ({"kind": "box", "low": [0.0, 0.0], "high": [1.0]}, "have 1, 2 numbers"),
        ({"kind": "box", "low": [0.0], "high": [float("nan")]}, "cannot hold nan"),
        ({"kind": "box", "low": [0.0], "high": [1e300]}, "cannot hold 1e"),
        ({"kind": "box", "low": [0.0], "high": [1.0], "dtype": "object"}, "name of a type"),
        ({"kind": "box", "low": [-5], "high": [300], "dtype": "uint8"}, "cannot be made|low|Box"),
        ({"kind": "box", "low": [0.0] * 5000, "high": [1.0] * 5000}, "list of numbers"),
        ({"kind": "multi_binary", "shape": [4096, 4096]}, "numbers"),
        ({"kind": "multi_binary", "shape": []}, "1 numbers, not 51|numbers for the networks"),
        ({"kind": "multi_binary", "shape": [True]}, "cannot hold True"),
        ({"kind": "multi_discrete", "sizes": [0, 3]}, "cannot hold 0"),
        ({"kind": "multi_discrete", "sizes": [3, 3], "shape": [3]}, "have 2, 3 numbers"),
        ({"kind": "csgo", "keys": 3}, "no key 'keys'"),
        ({"kind": "multi_discrete", "sizes": [50, 2]}, "52 numbers for the networks, not 51"),
        ({}, None),
    ],
)
def test_tables_of_files_are_checked(table, message):
    if message is None:
        assert codec_of_table(table, 51) == Discrete(51)
        return
    with pytest.raises(BadConfig, match=message):
        codec_of_table(table, 51)


def test_what_recordings_suggest():
    assert codec_of_recordings(np.array([[True, False], [False, False]])) == MultiBinary([2])
    assert codec_of_recordings(np.array([[0, 1], [0, 1]])) == MultiBinary([2])
    assert codec_of_recordings(np.array([[0, 3], [1, 1]])) == MultiDiscrete([2, 4])
    assert codec_of_recordings(np.array([[0, -3], [1, 1]])).kind == "box"
    seen = codec_of_recordings(np.array([[0.5, -2.0], [1.5, -2.0]], np.float32))
    assert seen == Box([0.5, -2.0], [1.5, -2.0])
    assert seen.encode([9.0, -2.0]).tolist() == [1.0, -1.0], "beyond a bound is the bound"


def test_a_store_of_other_actions_is_refused(tmp_path):
    narrow, wide = (About.of("Own", (8, 8, 3), Box([-high], [high])) for high in (1.0, 2.0))
    EpisodeStore(tmp_path, "a", narrow).close()
    with pytest.raises(DiamondGymError, match="holds experience with actions"):
        EpisodeStore(tmp_path, "a", wide)
    (tmp_path / "store.json").write_text((tmp_path / "store.json").read_text().replace('"box"', '"bow"'))
    with pytest.raises(DiamondGymError, match="is damaged"):
        EpisodeStore(tmp_path)


def test_keys_of_vectors():
    buttons, choices = codec_of_space(SPACES["buttons"]), codec_of_space(SPACES["choices"])
    assert buttons.held({"1", "3"}).tolist() == [1, 0, 1]
    assert choices.held({"2", "q"}).tolist() == [2, 1] and choices.held(()).tolist() == [0, 0]
    numbers = codec_of_space(SPACES["numbers"])
    assert numbers.held({"d", "s"}).tolist() == [1.0, 0.0]
    assert numbers.held({"w"}) in numbers.space
    for codec in (buttons, choices, numbers):
        assert codec.keys and all(codec.held({key}) in codec.space for key in codec.keys)
