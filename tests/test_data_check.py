"""`data check`: planted faults are named, clean recordings are left in peace, offsets of actions are estimated."""

from dataclasses import replace

import numpy as np
import pytest

from diamond_gym.data.about import About
from diamond_gym.data.checks import check_store, coverage, damaged_files, estimate_lag
from diamond_gym.data.checks.copies import copies
from diamond_gym.data.checks.motion import action_features, motion
from diamond_gym.data.episode_files import Episode
from diamond_gym.data.episodes import EpisodeStore
from tests import first_person

FIRST_PERSON = About("Ground", (first_person.SIZE, first_person.SIZE, 3), 0, action_shape=(51,))


@pytest.fixture(scope="module")
def walks():
    return [first_person.episode(seed) for seed in range(10)]


@pytest.fixture(scope="module")
def pong():
    """Random play of the real Pong."""
    gym, _ = pytest.importorskip("gymnasium"), pytest.importorskip("ale_py")
    env, rng, episodes = gym.make("DiamondReal-Pong-v0"), np.random.default_rng(0), []
    for seed in range(6):
        frames, actions, rewards = [env.reset(seed=seed)[0]], [], []
        for t in range(400):
            if t == 0 or rng.random() < 0.5:
                action = int(rng.integers(6))
            frame, reward, *_ = env.step(action)
            frames.append(frame)
            actions.append(action)
            rewards.append(reward)
        no = np.zeros(400, np.bool_)
        cut = np.arange(400) == 399
        episodes.append(Episode(np.stack(frames), np.array(actions), np.array(rewards, np.float32), no, cut))
    return episodes


def stored(folder, episodes, about=FIRST_PERSON):
    with EpisodeStore(folder, "a", about) as store:
        store.write([(None, episode) for episode in episodes])
    return EpisodeStore(folder)


def names(store, test=None, level="fault", **options):
    return [finding.name for finding in check_store(store, test, **options) if finding.level == level]


def shifted(episode, by):
    """The episode as if each action had been written `by` steps too early, so that its effect shows so much later."""
    start, stop = max(0, -by), len(episode) - max(0, by)
    act = episode.act[start + by : stop + by]
    return Episode(
        episode.obs[start : stop + 1], act, episode.rew[start:stop], episode.end[start:stop], episode.trunc[start:stop]
    )


def test_a_clean_recording_of_first_person_play_has_no_fault(tmp_path, walks):
    store, held_out = stored(tmp_path / "train", walks[:7]), stored(tmp_path / "test", walks[7:])
    assert names(store, held_out) == []
    assert set(names(store, level="note")) >= {"no-rewards", "no-ends"}


def test_clean_play_of_pong_has_no_fault(tmp_path, pong):
    about = About("Pong", (64, 64, 3), 6, ("NOOP", "FIRE", "RIGHT", "LEFT", "RIGHTFIRE", "LEFTFIRE"))
    store, held_out = stored(tmp_path / "train", pong[:4], about), stored(tmp_path / "test", pong[4:], about)
    assert names(store, held_out) == []


@pytest.mark.parametrize("planted", [-2, -1, 0, 1, 2, 3])
def test_offsets_of_actions_are_estimated(walks, planted):
    moved = [shifted(episode, planted) for episode in walks]
    lag, _ = estimate_lag([motion(e.obs) for e in moved], [action_features(e, 0) for e in moved])
    assert lag == planted


@pytest.mark.slow
@pytest.mark.parametrize("planted", [-2, -1, 1, 2, 3])
def test_offsets_are_estimated_in_pong(pong, planted):
    """Pong itself answers one step late."""
    lags = []
    for by in (0, planted):
        moved = [shifted(episode, by) for episode in pong]
        lags.append(estimate_lag([motion(e.obs) for e in moved], [action_features(e, 6) for e in moved])[0])
    assert lags == [1, 1 + planted]


@pytest.mark.parametrize("planted", [-2, -1, 2, 3])
def test_wrong_offsets_are_faults_that_say_how_to_mend_them(tmp_path, walks, planted):
    store = stored(tmp_path, [shifted(episode, planted) for episode in walks])
    (finding,) = (finding for finding in check_store(store) if finding.level == "fault")
    assert finding.name == "action-offset"
    assert finding.numbers["offset"] == planted
    assert f"--action-offset {-planted}" in finding.advice


def test_actions_of_another_recording_have_no_effect(tmp_path, walks):
    mixed = [Episode(a.obs, b.act) for a, b in zip(walks, walks[1:] + walks[:1], strict=True)]
    assert names(stored(tmp_path, mixed)) == ["no-visible-effect"]


def test_episodes_too_short_for_all_offsets_are_no_fault(tmp_path, walks):
    """Games of seven steps, as Catch's: nothing can be said about offsets up to five steps in them."""
    pieces = [Episode(e.obs[t : t + 8], e.act[t : t + 7]) for e in walks for t in range(0, len(e) - 7, 7)]
    assert sum(map(len, pieces)) >= 1000
    assert names(stored(tmp_path, pieces)) == []


def test_repeated_frames_are_a_wrong_frame_rate(tmp_path, walks):
    doubled = [Episode(np.repeat(e.obs, 2, 0)[:-1], np.repeat(e.act, 2, 0)) for e in walks]
    findings = {finding.name: finding for finding in check_store(stored(tmp_path, doubled))}
    assert (findings["repeated-frames"].numbers["kept"], findings["repeated-frames"].numbers["every"]) == (1, 2)


def test_three_frames_of_four_are_seen_as_such(tmp_path, walks):
    index = np.repeat(np.arange(121), np.where(np.arange(121) % 3 == 2, 2, 1))
    paused = [Episode(e.obs[index], e.act[index[:-1]]) for e in walks]
    findings = {finding.name: finding for finding in check_store(stored(tmp_path, paused))}
    assert (findings["repeated-frames"].numbers["kept"], findings["repeated-frames"].numbers["every"]) == (3, 4)


def test_a_frozen_recording(tmp_path, walks):
    def frozen(episode):
        obs = episode.obs.copy()
        obs[60:120] = obs[60]
        return Episode(obs, episode.act)

    assert "frozen-frames" in names(stored(tmp_path, [frozen(walks[0]), *walks[1:]]))


def test_mixed_frame_rates(tmp_path, walks):
    other = Episode(walks[0].obs, walks[0].act, info={"fps": 30})
    assert names(stored(tmp_path, [other, *walks[1:]])) == ["mixed-frame-rates"]


def test_swapped_channels(tmp_path, walks):
    swapped = Episode(np.ascontiguousarray(walks[4].obs[..., ::-1]), walks[4].act, info=walks[4].info)
    store = stored(tmp_path / "a", [*walks[:4], swapped, *walks[5:]])
    (finding,) = (finding for finding in check_store(store) if finding.level == "fault")
    assert (finding.name, finding.numbers["swapped"]) == ("swapped-channels", 1)
    held_out = stored(tmp_path / "b", [swapped])
    assert names(stored(tmp_path / "c", walks[:4]), held_out) == ["swapped-channels"]


def test_unused_actions(tmp_path, pong):
    few = [replace(e, act=e.act % 4) for e in pong]
    about = About("Pong", (64, 64, 3), 6, ("NOOP", "FIRE", "RIGHT", "LEFT", "RIGHTFIRE", "LEFTFIRE"))
    findings = {finding.name: finding for finding in check_store(stored(tmp_path, few, about))}
    assert findings["unused-actions"].level == "fault"
    assert findings["unused-actions"].numbers["never"] == ["RIGHTFIRE", "LEFTFIRE"]


def test_an_axis_that_never_moves(tmp_path, walks):
    about = About("Ground", FIRST_PERSON.frame_shape, 0, action_dtype="float32", action_shape=(2,))
    act = [np.stack([e.act[:, 0] - 0.5, np.zeros(len(e))], 1).astype(np.float32) for e in walks]
    store = stored(tmp_path, [Episode(e.obs, a) for e, a in zip(walks, act, strict=True)], about)
    assert "unused-actions" in names(store)


def test_rewards_never_seen_partly_missing_and_impossible(tmp_path, pong):
    about = About("Pong", (64, 64, 3), 6)
    none = [replace(e, rew=np.zeros_like(e.rew)) for e in pong]
    assert "rewards-never-seen" in names(stored(tmp_path / "none", none, about))
    half = [*pong[:3], *(Episode(e.obs, e.act) for e in pong[3:])]
    assert set(names(stored(tmp_path / "half", half, about))) >= {"partly-no-rewards", "partly-no-ends"}
    odd = pong[0].rew.copy()
    odd[5] = np.nan
    assert "impossible-rewards" in names(stored(tmp_path / "odd", [replace(pong[0], rew=odd), *pong[1:]], about))


def test_episodes_too_short_for_the_memory(tmp_path, walks):
    pieces = [Episode(e.obs[t : t + 4], e.act[t : t + 3]) for e in walks for t in range(0, 60, 6)]
    assert "short-episodes" in names(stored(tmp_path, pieces))
    assert "short-episodes" not in names(EpisodeStore(tmp_path), memory=2)


def test_blank_frames(tmp_path, walks):
    obs = walks[0].obs.copy()
    obs[:40] = 7
    assert "blank-frames" in names(stored(tmp_path, [Episode(obs, walks[0].act), *walks[1:]]))


def test_copies_across_the_split(tmp_path, walks):
    rng = np.random.default_rng(0)
    noise = rng.integers(-3, 4, walks[2].obs[40:120].shape)
    again = Episode(np.clip(walks[2].obs[40:120] + noise, 0, 255).astype(np.uint8), walks[2].act[40:119])
    store, held_out = stored(tmp_path / "a", walks[:5]), stored(tmp_path / "b", [walks[7], again])
    findings = {finding.name: finding for finding in check_store(store, held_out)}
    assert findings["copies-across-split"].numbers["copied"] == [1]
    assert not list(copies(walks[:5], walks[5:]))


def test_the_same_actions_somewhere_else_are_no_copy(walks):
    elsewhere = replace(walks[0], obs=first_person.episode(0, world=1).obs)
    assert not list(copies(walks[:2], [elsewhere]))


def test_damaged_files(tmp_path, walks):
    stored(tmp_path, walks[:3])
    victim = sorted(tmp_path.glob("*.safetensors"))[1]
    victim.write_bytes(victim.read_bytes()[:1000])
    (finding,) = damaged_files(tmp_path)
    assert (finding.name, finding.level) == ("damaged-file", "fault")
    assert victim.name in finding.text


def test_an_empty_store(tmp_path):
    EpisodeStore(tmp_path, "a", FIRST_PERSON).close()
    assert names(EpisodeStore(tmp_path)) == ["empty"]


def test_coverage_tells_what_was_never_seen(pong):
    familiar = coverage(pong[:4], pong[4:])
    obs = pong[5].obs.copy()
    obs[240:] = 255 - obs[240:]
    partly = coverage(pong[:4], [pong[4], replace(pong[5], obs=obs)])
    assert familiar.covered > 0.75
    assert partly.covered < familiar.covered - 0.15
    episode, first, distance = partly.worst[0]
    assert (episode, first >= 240) == (1, True)
    assert distance > partly.radius
    with pytest.raises(ValueError, match="at least two training episodes"):
        coverage(pong[:1], pong)
