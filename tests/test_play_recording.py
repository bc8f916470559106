"""Recordings of play: what is kept, rewound, stored and read again."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diamond_gym.data.about import About
from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.errors import DiamondGymError
from diamond_gym.play import recording
from diamond_gym.play.recording import ActionLog, Recorder, frame_hash

ABOUT = About("Somewhere", (8, 6, 3), 4)


def frame(number):
    return np.full((8, 6, 3), number % 256, np.uint8)


def play(recorder, numbers):
    """Steps whose action, reward and frame all follow from a number."""
    for number in numbers:
        recorder.add(number % 4, float(number), False, False, frame(number))


def test_a_recording_is_a_store_of_episodes(tmp_path):
    recorder = Recorder()
    recorder.begin(frame(0), first=True)
    play(recorder, [1, 2])
    recorder.add(3, 1.0, True, False, frame(3))
    recorder.begin(frame(10))
    play(recorder, [11])
    recorder.begin(frame(20))  # nothing was played from here
    assert recorder.save(tmp_path / "my play", ABOUT, "person") == 2
    first, second = EpisodeStore(tmp_path / "my play")
    assert first.obs[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert first.act.tolist() == [1, 2, 3]
    assert first.rew.tolist() == [1, 2, 1]
    assert first.end.tolist() == [False, False, True]
    assert first.info == {"first": True, "policy": "person"}
    assert second.act.tolist() == [3]
    assert not second.over


@settings(deadline=None, max_examples=60)
@given(st.lists(st.one_of(st.integers(1, 6), st.integers(-8, -1), st.just(0)), max_size=12))
def test_rewinding_leaves_what_was_played_last(plan):
    """Beside a model that is a list of moments: play n steps, go back n moments, or begin a new episode (0)."""
    recorder, moments, number = Recorder(), [("begin", 0)], 0
    recorder.begin(frame(0))
    for part in plan:
        if part > 0:
            numbers = list(range(number + 1, number + 1 + part))
            number += part
            play(recorder, numbers)
            moments += [("step", n) for n in numbers]
        elif part == 0:
            number += 1
            recorder.begin(frame(number))
            moments.append(("begin", number))
        else:
            back = 100 + number
            recorder.rewind(-part, frame(back))
            moments = moments[:part] or [("begin", back)]
    assert [int(f[0, 0, 0]) for f in recorder.frames] == [n % 256 for _, n in moments]
    assert recorder.num_steps == sum(kind == "step" for kind, _ in moments)
    begins = [i for i, (kind, _) in enumerate(moments) if kind == "begin"]
    episodes = [[n for _, n in moments[i:j]] for i, j in zip(begins, [*begins[1:], None], strict=True)]
    assert [[int(f[0, 0, 0]) for f in part.obs] for part in recorder._parts] == episodes


def test_going_back_over_a_beginning_goes_on_in_the_episode_before(tmp_path):
    recorder = Recorder()
    recorder.begin(frame(0))
    play(recorder, [1, 2, 3])
    recorder.begin(frame(10))
    play(recorder, [11, 12, 13])
    recorder.rewind(4, frame(3))
    play(recorder, [4])
    recorder.save(tmp_path, ABOUT)
    (episode,) = EpisodeStore(tmp_path)
    assert episode.obs[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert episode.rew.tolist() == [1, 2, 3, 4]


def lose_a_life(recorder, number):
    recorder.add(number % 4, float(number), False, False, frame(number), life_lost=True)


def test_the_lives_of_a_game_are_linked_as_collections_link_them(tmp_path):
    for _ in range(2):  # the second time into the same store
        recorder = Recorder()
        recorder.begin(frame(0))
        play(recorder, [1])  # a game of one life
        recorder.begin(frame(10), first=True)
        play(recorder, [11])
        lose_a_life(recorder, 12)
        play(recorder, [13])
        lose_a_life(recorder, 14)
        recorder.add(0, 0.0, True, False, frame(15))
        recorder.begin(frame(20))
        lose_a_life(recorder, 21)  # and nothing was played after it
        assert [int(kept.max()) for kept in recorder.frames] == [0, 1, 10, 11, 12, 13, 14, 15, 20, 21]
        recorder.save(tmp_path, ABOUT, "person")
    store = EpisodeStore(tmp_path)
    assert [episode.obs[:, 0, 0, 0].tolist() for episode in store][:5] == [
        [0, 1], [10, 11, 12], [12, 13, 14], [14, 15], [20, 21],
    ]  # fmt: skip
    assert [bool(episode.end[-1]) for episode in store] == [False, True, True, True, True] * 2
    assert [store.info(i)["first"] for i in range(5)] == [False, True, False, False, False]
    assert store.before.tolist() == [-1, -1, 1, 2, -1, -1, -1, 6, 7, -1]


def test_rewinding_over_a_lost_life_takes_it_back(tmp_path):
    recorder = Recorder()
    recorder.begin(frame(0))
    play(recorder, [1])
    lose_a_life(recorder, 2)
    play(recorder, [3, 4])
    recorder.rewind(3, frame(1))
    play(recorder, [5])
    recorder.save(tmp_path, ABOUT)
    (episode,) = EpisodeStore(tmp_path)
    assert (episode.obs[:, 0, 0, 0].tolist(), episode.over) == ([0, 1, 5], False)


def test_rewinding_to_the_frame_of_a_lost_life_keeps_it(tmp_path):
    recorder = Recorder()
    recorder.begin(frame(0))
    lose_a_life(recorder, 1)
    play(recorder, [2, 3])
    recorder.rewind(2, frame(1))
    play(recorder, [4])
    recorder.save(tmp_path, ABOUT)
    one, other = EpisodeStore(tmp_path)
    assert (one.obs[:, 0, 0, 0].tolist(), one.over) == ([0, 1], True)
    assert (other.obs[:, 0, 0, 0].tolist(), other.over) == ([1, 4], False)


def test_steps_after_an_end_are_left_out():
    """As the steps of a dream are beside which the real game has ended already."""
    recorder = Recorder()
    recorder.begin(frame(0))
    play(recorder, [1])
    recorder.add(0, 0.0, True, False, frame(2))
    play(recorder, [3, 4])
    assert (len(recorder.frames), recorder.num_steps) == (3, 2)
    recorder.rewind(3, frame(1))
    play(recorder, [5])
    assert [int(kept.max()) for kept in recorder.frames] == [0, 1, 5]


def test_rewinding_over_an_end_opens_the_episode_again(tmp_path):
    recorder = Recorder()
    recorder.begin(frame(0))
    recorder.add(1, 0.0, True, False, frame(1))
    recorder.rewind(1, frame(0))
    recorder.add(2, 0.0, False, False, frame(2))
    recorder.save(tmp_path, ABOUT)
    (episode,) = EpisodeStore(tmp_path)
    assert (episode.act.tolist(), episode.over) == ([2], False)


def test_a_full_recording_keeps_what_it_has(monkeypatch):
    monkeypatch.setattr(recording, "MOST_STEPS", 3)
    recorder = Recorder()
    recorder.begin(frame(0))
    play(recorder, range(1, 9))
    assert recorder.num_steps == 3 and recorder.full
    assert len(recorder.frames) == 4
    recorder.begin(frame(20))
    play(recorder, [21])
    recorder.rewind(8, frame(2))  # seven of them came when it was full
    assert recorder.num_steps == 2 and not recorder.full
    play(recorder, [9])
    assert [int(kept.max()) for kept in recorder.frames] == [0, 1, 2, 9]


def test_an_empty_recording_makes_no_store(tmp_path):
    recorder = Recorder()
    recorder.begin(frame(0))
    assert recorder.save(tmp_path / "none", ABOUT) == 0
    assert not (tmp_path / "none").exists()


def test_a_store_of_another_game_is_refused(tmp_path):
    EpisodeStore(tmp_path, "a", About("Elsewhere", (8, 6, 3), 4)).close()
    recorder = Recorder()
    recorder.begin(frame(0))
    play(recorder, [1])
    with pytest.raises(DiamondGymError, match="use another folder"):
        recorder.save(tmp_path, ABOUT)


def test_actions_of_any_shape(tmp_path):
    recorder = Recorder()
    recorder.begin(frame(0))
    recorder.add(np.array([0.5, -1.0], np.float32), 0.0, False, False, frame(1))
    about = About("Cars", (8, 6, 3), 0, action_dtype="float32", action_shape=(2,))
    recorder.save(tmp_path, about)
    assert EpisodeStore(tmp_path)[0].act.tolist() == [[0.5, -1.0]]


def log():
    operations = [["reset", {"seed": 3}]]
    made = ActionLog("Somewhere", "some-model", "ab12", {"quality": None, "device": "cpu"}, operations)
    made.note(frame(0))
    for number in range(1, 120):
        operations.append(["act", number % 4])
        made.note(frame(number))
    return made


def test_a_log_is_read_as_it_was_written(tmp_path):
    log().write(tmp_path / "log.json")
    assert ActionLog.read(tmp_path / "log.json") == log()


def test_a_log_knows_the_frames_it_led_to():
    made = log()
    assert set(made.frames) == {1, 51, 101}
    assert made.agrees(51, frame(50))
    assert not made.agrees(51, frame(51))
    assert made.agrees(52, frame(7))  # none was noted
    del made.operations[60:]
    made.cut()
    assert set(made.frames) == {1, 51}
    assert frame_hash(frame(1)) != frame_hash(frame(2))


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.pop("operations"),
        lambda content: content.update(operations=[["act"]]),
        lambda content: content.update(operations=[[1, 2]]),
        lambda content: content.update(world=7),
        lambda content: content.update(frames={"a": "b"}),
        lambda content: content.update(diamond_gym_play=99),
        lambda content: content.update(more=1),
    ],
)
def test_a_damaged_log_is_one_line(tmp_path, change):
    path = tmp_path / "log.json"
    log().write(path)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(DiamondGymError, match="not a recording of diamond-gym play") as error:
        ActionLog.read(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[" * 5000, b"[]", b"null", b'{"diamond_gym_play": 1}'])
def test_rubbish_is_one_line(tmp_path, content):
    path = tmp_path / "log.json"
    path.write_bytes(content)
    with pytest.raises(DiamondGymError, match="not a recording of diamond-gym play"):
        ActionLog.read(path)


def test_no_log_is_one_line(tmp_path):
    with pytest.raises(DiamondGymError, match="there is no recording at"):
        ActionLog.read(tmp_path / "none.json")
