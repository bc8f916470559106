"""Collecting: what lies in the store is what a game, replayed with the stored actions, shows."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("ale_py")

from diamond_gym.cli import main
from diamond_gym.data import EpisodeStore
from diamond_gym.envs.atari_game import FRAME_SKIP, MAX_FRAMES, SIZE
from diamond_gym.errors import BadArgument
from diamond_gym.networks.actor_critic import ActorCritic, ActorCriticConfig
from diamond_gym.registry import resolve
from diamond_gym.registry.card_fields import AGENT
from diamond_gym.trainers.collect import CollectConfig, Collector, CollectStats, games_for
from diamond_gym.trainers.policies import AgentPolicy, Policy, StickyPolicy
from diamond_gym.trainers.worlds import about_game, find_world


def collect(
    store: EpisodeStore,
    steps: int,
    num_envs: int,
    config: CollectConfig | None = None,
    policy: Policy | None = None,
    progress: Any = None,
) -> CollectStats:
    """Plays new games of the store's game."""
    with Collector(store, find_world(store.about.game).envs(num_envs), config, policy) as collector:
        return collector.collect(steps, progress)


@pytest.fixture(scope="module")
def breakout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two games of Breakout, in two runs of one collector."""
    folder = tmp_path_factory.mktemp("breakout")
    with EpisodeStore(folder, "a", about_game("Breakout")) as store:
        envs = find_world("Breakout").envs(2, noop_max=0)
        with Collector(store, envs, CollectConfig("random")) as collector:
            first = collector.collect(101)
            second = collector.collect(400)
        assert first.steps == 102  # both games step together
        assert store.num_steps == first.steps + second.steps
        assert sum(first.reward_signs) == first.steps
        assert second.reward_signs[2] == sum((e.rew > 0).sum() for e in store) - first.reward_signs[2]
        ended = sum(e.end[-1] or e.trunc[-1] for e in store)
        assert (first.episodes + second.episodes, len(store)) == (ended, ended + 2)
        assert second.scores
    return folder


def games_in(store: EpisodeStore) -> list[list[int]]:
    """Episodes of each game, chained by their frames: an episode begins with the frame that ended the one before."""
    games = list[list[int]]()
    for number, episode in enumerate(store):
        if episode.info["first"]:
            games.append([number])
            continue
        before = [g for g in games if store[g[-1]].end[-1] and (store[g[-1]].obs[-1] == episode.obs[0]).all()]
        assert before
        before[0].append(number)
    return games


def ale_py_vector() -> Any:
    """ALE's own batch of one game of Breakout, with the preprocessing of ours."""
    from ale_py.vector_env import AtariVectorEnv

    return AtariVectorEnv(
        "breakout",
        1,
        img_height=SIZE,
        img_width=SIZE,
        grayscale=False,
        stack_num=1,
        frameskip=FRAME_SKIP,
        maxpool=True,
        noop_max=0,
        max_num_frames_per_episode=MAX_FRAMES,
        repeat_action_probability=0.0,
        full_action_space=False,
        reward_clipping=False,
        use_fire_reset=False,
        life_loss_info=True,
    )


def test_a_replay_shows_the_same(breakout: Path) -> None:
    store = EpisodeStore(breakout)
    games = games_in(store)
    assert len(games) >= 3
    assert max(len(game) for game in games) == 5  # Breakout has five lives
    env = ale_py_vector()
    for game in games[:3]:
        # Which no-ops a later game began with is ALE's to draw; there are none here.
        obs, _ = env.reset(seed=0)
        for number in game:
            episode = store[number]
            np.testing.assert_array_equal(episode.obs[0], obs[0, 0])
            for t in range(len(episode)):
                obs, rew, end, trunc, _ = env.step(episode.act[t : t + 1])
                np.testing.assert_array_equal(episode.obs[t + 1], obs[0, 0])
                assert (episode.rew[t], episode.end[t], episode.trunc[t]) == (rew[0], end[0], trunc[0])


def test_the_same_seed_plays_on_differently(tmp_path: Path) -> None:
    config = CollectConfig(seed=3)

    def play(folder: Path) -> npt.NDArray[np.uint8]:
        with EpisodeStore(folder, "a", about_game("Boxing")) as store:
            collect(store, 8, 1, config)
            return store[-1].obs

    first, again, elsewhere = play(tmp_path / "a"), play(tmp_path / "a"), play(tmp_path / "b")
    np.testing.assert_array_equal(first, elsewhere)
    assert (first != again).any()


def test_a_whole_game_is_one_episode_if_wanted(tmp_path: Path) -> None:
    config = CollectConfig("random", life_loss_ends=False)
    with EpisodeStore(tmp_path, "a", about_game("Breakout")) as store:
        stats = collect(store, 260, 1, config)
        assert stats.scores == [store[0].rew.sum()]
        assert [episode.info["first"] for episode in store] == [True, True]


def test_your_own_policy_and_epsilon(tmp_path: Path) -> None:
    seen = list[tuple[Any, list[bool]]]()

    def fire(obs: npt.NDArray[np.uint8], first: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        seen.append((obs.shape, first.tolist()))
        return np.ones(2, np.int64)

    with EpisodeStore(tmp_path, "a", about_game("Breakout")) as store:
        collect(store, 120, 2, policy=fire)
        begun = sum(first for _, firsts in seen for first in firsts)
        assert begun >= len(store) > 2  # an episode that has just begun as collecting stops is not stored
        assert seen[0] == ((2, 64, 64, 3), [True, True])
        assert seen[1][1] == [False, False]
        assert all((episode.act == 1).all() for episode in store)
        steps = store.num_steps
        collect(store, 400, 2, CollectConfig(epsilon=0.5), fire)
        act = np.concatenate([episode.act for episode in store])[steps:]
        assert np.mean(act != 1) == pytest.approx(0.375, abs=0.12)


def test_ctrl_c_keeps_what_was_played(tmp_path: Path) -> None:
    def stop(steps: int) -> None:
        if steps >= 20:
            raise KeyboardInterrupt

    store = EpisodeStore(tmp_path, "a", about_game("Pong"))
    with pytest.raises(KeyboardInterrupt):
        collect(store, 1000, 2, progress=stop)
    assert EpisodeStore(tmp_path).num_steps == 20


def test_an_unfinished_episode_goes_on_with_the_next_collection(tmp_path: Path) -> None:
    with EpisodeStore(tmp_path, "a", about_game("Pong")) as store:
        with Collector(store, find_world("Pong").envs(1)) as collector:
            for steps in (3, 1, 5):
                collector.collect(steps)
        assert store.lengths.tolist() == [9]
        assert not (store[0].end | store[0].trunc).any()
        collect(store, 4, 1)  # other games
        assert store.lengths.tolist() == [9, 4]


def test_sticky_actions() -> None:
    rng = np.random.default_rng(0)
    policy = StickyPolicy(6, np.array([0.0, 0.75]), rng)
    first = np.zeros(2, np.bool_)
    act = np.array([policy(np.zeros((2, 1, 1, 3), np.uint8), first) for _ in range(4000)])
    changed = (act[1:] != act[:-1]).mean(axis=0)
    assert changed == pytest.approx([5 / 6, 0.25 * 5 / 6], abs=0.03)
    assert np.bincount(act[:, 1], minlength=6) / 4000 == pytest.approx([1 / 6] * 6, abs=0.05)


def test_an_agent_plays() -> None:
    agent = ActorCritic(ActorCriticConfig(lstm_dim=8, channels=[4, 4], down=[1, 1], img_size=8, num_actions=3))
    agent.actor_linear.bias.data[:] = np.log(4)  # never mind the frames: chances 4 : 4 : 1
    agent.actor_linear.bias.data[2] = 0
    obs, going_on = np.zeros((600, 8, 8, 3), np.uint8), np.zeros(600, np.bool_)
    policy = AgentPolicy(agent, 600, np.random.default_rng(0))
    act = policy(obs, ~going_on)
    assert act.dtype == np.int64
    assert np.bincount(act) / 600 == pytest.approx([4 / 9, 4 / 9, 1 / 9], abs=0.06)
    policy(obs, going_on)
    remembered = policy._state[0]
    policy(obs, np.arange(600) < 300)
    assert (policy._state[0][0] != policy._state[0][300]).any()  # the first half has just begun again
    assert (remembered[0] == remembered[300]).all()
    surer = AgentPolicy(agent, 600, np.random.default_rng(0), temperature=0.2)
    assert np.mean(surer(obs, ~going_on) == 2) < 0.02


def test_command(tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["collect", "--game", "Pong", "--steps", "20", "--num-envs", "2"]) == 0
    assert main(["collect", "--game", "Pong", "--steps", "10", "--num-envs", "2"]) == 0
    assert EpisodeStore(home / "data" / "pong").num_steps == 30
    assert "30 steps" in capsys.readouterr().err
    out = tmp_path / "elsewhere"
    assert main(["collect", "--game", "Pong", "--steps", "4", "--num-envs", "1", "--out", str(out)]) == 0
    assert json.loads((out / "store.json").read_text())["game"] == "Pong"


def test_any_environment_by_its_id(home: Path) -> None:
    words = "--env DiamondGym/Catch-v0 --steps 20 --num-envs 2 --policy random"
    assert main(["collect", *words.split()]) == 0
    store = EpisodeStore(home / "data" / "catch")
    assert (store.about.game, store.about.frame_shape, store.num_steps) == ("Catch", (16, 16, 3), 20)
    assert store.lengths.max() == 7
    words = "--env CartPole-v1 --render-obs --size 24 --steps 4 --num-envs 1"
    assert main(["collect", *words.split()]) == 0
    assert EpisodeStore(home / "data" / "cartpole").about.frame_shape == (24, 24, 3)


def test_an_agent_of_stable_baselines3_plays(home: Path) -> None:
    words = "--game MsPacman --agent mspacman-nano --steps 12 --num-envs 2 --epsilon 0"
    assert main(["collect", *words.split()]) == 0
    store = EpisodeStore(home / "data" / "mspacman")
    assert store.num_steps == 12
    beside = resolve("mspacman-nano").file(AGENT)
    assert beside is not None
    again = home / "again"
    words = f"--game MsPacman --agent {beside} --steps 12 --num-envs 2 --epsilon 0 --out {again}"
    assert main(["collect", *words.split()]) == 0
    rows, steps = np.repeat(np.arange(2), 6), np.tile(np.arange(6), 2)
    np.testing.assert_array_equal(store.steps(rows, steps)["act"], EpisodeStore(again).steps(rows, steps)["act"])


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("--game Breakot", 2, "unknown game 'Breakot'; did you mean Breakout?"),
        ("--game Pong --steps -1", 2, "--steps must be at least 1, not -1"),
        ("--game Pong --num-envs 0", 2, "--num-envs must be at least 1, not 0"),
        ("--game Pong --noop-max -1", 2, "--noop-max must be at least 0"),
        ("--game Pong --noop-max 5000000000", 2, f"--noop-max must be at most {MAX_FRAMES:,}"),
        ("--game Pong --epsilon 2", 2, "--epsilon must be from 0 to 1"),
        ("--game Pong --epsilon nan", 2, "--epsilon: a number is wanted"),
        ("--game Pong --temperature 0", 2, "--temperature must be more than 0"),
        ("--game Pong --seed -1", 2, "--seed must be at least 0"),
        ("--game Pong --policy clever", 2, "clever"),
        ("--game Pong --agent nobody", 1, "nobody"),
        ("--game Pong --agent nobody.zip", 1, "there is no agent at nobody.zip"),
        ("--game Pong --agent mspacman-nano", 2, "was trained for MsPacman, not for Pong"),
        ("--game MsPacman --agent mspacman-nano --temperature 0.5", 2, "--temperature is for DIAMOND agents; this one"),
        ("", 2, "say what to play: --game"),
        ("--game Pong --env CartPole-v1", 2, "--game and --env exclude each other"),
        ("--game Pong --size 32", 2, "--render-obs and --size are for --env"),
        (
            "--env DiamondGym/Catch-v0 --policy scripted",
            2,
            "a scripted player for Breakout, Pong",
        ),
        ("--env DiamondGym/Catch-v0 --size 0", 2, "--size must be from 1 to 1,024 a side, not 0"),
        ("--env Nowhere-v0", 2, "Nowhere-v0 cannot be made"),
        ("--env CartPole-v1", 2, "--render-obs takes its rendered picture instead"),
    ],
)
def test_wrong_words(words: str, code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["collect", *words.split()]) == code
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1 or "--help" in printed, "one line, or tyro's own message"


def test_another_games_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    EpisodeStore(tmp_path, "a", about_game("Pong")).close()
    assert main(["collect", "--game", "Breakout", "--out", str(tmp_path)]) == 1
    assert "holds experience with game Pong, not Breakout" in capsys.readouterr().err


def test_wrong_configurations(tmp_path: Path) -> None:
    wrong: list[dict[str, Any]] = [{"epsilon": -0.1}, {"sticky_steps": 0.5}, {"seed": -1}]
    for fields in wrong:
        with pytest.raises(BadArgument):
            CollectConfig(**fields)
    with pytest.raises(BadArgument):
        find_world("Pong").envs(0)
    store = EpisodeStore(tmp_path, "a", about_game("Pong"))
    with pytest.raises(BadArgument, match="steps"):
        collect(store, 0, 1)


def test_short_plays_load_few_games() -> None:
    assert [games_for(steps) for steps in (1, 100, 400, 799, 800, 30_000)] == [2, 2, 8, 15, 16, 16]
