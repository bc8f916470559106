"""A player's dream: equal to an environment's, rewound exactly, branched as shown, watched by an agent."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from engines import LARGE, SMALL, golden_engine
from stubs import ACTIONS, StubWorldModel, save_tiny_model

import diamond_gym  # noqa: F401
from diamond_gym import csgo
from diamond_gym.envs import DreamEnv
from diamond_gym.errors import BadArgument
from diamond_gym.networks.actor_critic import ActorCritic, ActorCriticConfig
from diamond_gym.play import timeline
from diamond_gym.play.agent import OwnAgent, one_of
from diamond_gym.play.branches import Branches, Spread
from diamond_gym.play.controls import Controls
from diamond_gym.play.session import PlaySession
from diamond_gym.registry import load_world_model


def acts(seed: int, steps: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, ACTIONS, steps).tolist()


def play(session: PlaySession, actions: list[int]) -> list[tuple]:
    """All that a player is shown, step by step; a dream that has ended begins anew."""
    seen = []
    for action in actions:
        step = session.apply("reset") if session.now.ended else session.apply("act", action)
        seen.append(shown(step))
    return seen


def shown(step) -> tuple:
    return (
        step.step, step.obs.tobytes(), step.action, step.reward, step.total, step.end_prob, step.terminated,
        step.truncated, step.start, step.seed, step.episode, step.episode_step, step.quality, step.probabilities,
        step.value,
    )  # fmt: skip


def agent() -> OwnAgent:
    torch.manual_seed(3)
    network = ActorCritic(ActorCriticConfig(lstm_dim=8, img_size=8, channels=[8, 8], down=[1, 1], num_actions=ACTIONS))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return OwnAgent(network.eval())


def session(end_bias: float = -1.0, **kwargs) -> PlaySession:
    return PlaySession(StubWorldModel(end_bias=end_bias), agent=agent(), **{"seed": 5, **kwargs})


@pytest.mark.parametrize("quality", [None, "fast"])
def test_frames_are_those_of_the_environment(quality: str | None) -> None:
    save_tiny_model()
    env = gym.make("DiamondDream-v0", model="tiny", quality=quality, max_episode_steps=9)
    played = PlaySession(load_world_model("tiny"), seed=11, quality=quality, horizon=9)
    obs, info = env.reset(seed=11)
    assert (played.now.obs == obs).all()
    assert played.now.start == info["start"]
    ends = 0
    for action in acts(0, 25):
        if played.now.ended:
            ends += 1
            obs, _ = env.reset()
            step = played.apply("reset")
        else:
            obs, reward, terminated, truncated, _ = env.step(action)
            step = played.apply("act", action)
            assert (step.reward, step.terminated, step.truncated) == (reward, terminated, truncated)
        assert (step.obs == obs).all()
    assert ends >= 2


def test_going_back_and_on_is_exact() -> None:
    played = session(horizon=13)
    before = play(played, acts(1, 40))
    assert any(step[10] for step in before), "a dream should have ended"
    for back in (40, 33, 16, 8, 7, 1, 0):
        earlier = played.rewind(back)
        assert shown(earlier) == (before[back - 1] if back else shown(played.at(0)))
        again = play(played, acts(1, 40)[back:])
        assert again == before[back:]
        assert len(played.operations) == 41


def test_going_back_forgets_what_came_after() -> None:
    played = session()
    first = play(played, acts(1, 20))
    played.rewind(10)
    assert played.now.step == 10
    with pytest.raises(BadArgument, match="0 to 10"):
        played.at(11)
    other = play(played, acts(2, 10))
    assert [step[1] for step in other] != [step[1] for step in first[10:]]
    assert shown(played.at(5)) == first[4]


def test_a_changed_quality_and_other_dice_are_replayed() -> None:
    played = session()
    play(played, acts(1, 5))
    played.apply("quality", "fast")
    play(played, acts(2, 5))
    played.apply("dice", 99)
    shown_first = play(played, acts(3, 4))
    played.rewind(11)
    assert play(played, acts(3, 4)[1:]) == shown_first[1:]
    played.rewind(3)
    assert played.now.quality is None
    assert [name for name, _ in played.operations] == ["reset", "act", "act", "act"]


def test_operations_are_a_recording() -> None:
    played = session()
    play(played, acts(1, 12))
    played.rewind(6)
    played.apply("dice", 4)
    played.apply("quality", "fast")
    play(played, acts(2, 8))
    again = PlaySession(StubWorldModel(end_bias=-1.0), agent=agent(), seed=None)
    for name, value in played.operations:
        step = again.apply(name, value)
    assert shown(step) == shown(played.now)


def test_the_timeline_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "MOST_STEPS", 30)
    played = session()
    before = play(played, acts(1, 100))
    assert 70 <= played.first <= 80
    assert shown(played.rewind(played.first)) == before[played.first - 1]
    assert play(played, acts(1, 100)[played.first :]) == before[played.first :]


def test_large_frames_shorten_the_timeline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "MOST_BYTES", 20_000)
    played = session()
    play(played, acts(1, 100))
    assert played.first > 50
    played.rewind(played.first)


def test_the_agent_sees_what_it_would_see_alone() -> None:
    played, alone = session(), agent()
    played.apply("act", 1)
    chances, value = alone.see(
        played.at(0).obs, PlaySession(StubWorldModel(end_bias=-1.0), seed=5).dream.obs_window[0], True
    )
    assert played.at(0).probabilities == tuple(chances)
    assert played.at(0).value == value
    assert sum(chances) == pytest.approx(1)
    chances, value = alone.see(played.now.obs, played.dream.shown_window[0], False)
    assert (played.now.probabilities, played.now.value) == (tuple(chances), value)


def test_the_agent_draws_alike_after_going_back() -> None:
    played = session()
    chosen = []
    for _ in range(12):
        chosen.append(played.now.agent_action)
        played.apply("reset") if played.now.ended else played.apply("act", chosen[-1], by="agent")
    played.rewind(4)
    assert played.now.agent_action == chosen[4]
    assert len(set(chosen)) > 1


def test_draws_follow_the_chances() -> None:
    drawn = (
        np.bincount([one_of([0.5, 0.0, 0.3, 0.2], np.random.default_rng(step)) for step in range(2000)], minlength=4)
        / 2000
    )
    assert np.abs(drawn - [0.5, 0.0, 0.3, 0.2]).max() < 0.04
    assert drawn[1] == 0


@pytest.mark.parametrize("kind", ["dice", "actions"])
@pytest.mark.parametrize("quality", [None, "fast"])
def test_a_chosen_branch_is_what_was_shown(kind: str, quality: str | None) -> None:
    for index in (0, 2, 3):
        played = session(-3.5, quality=quality)
        play(played, acts(1, 6))
        branches = Branches(played, played.dream.twin(), kind, 1, steps=5, count=4)
        assert len(branches.branches) == 4
        frames = [[] for _ in branches.branches]
        while not branches.done:
            frames[i := branches.advance()].append(branches.branches[i].obs.tobytes())
        assert len({tuple(shown) for shown in frames}) > 1, "the futures should differ"
        assert played.now.step == 6 and not played.now.ended, "the session stands still"
        chosen = branches.choose(index, played.apply)
        assert [played.at(7 + i).obs.tobytes() for i in range(len(frames[index]))] == frames[index]
        assert chosen.total == pytest.approx(played.at(6).total + branches.branches[index].reward)
        assert chosen.ended == branches.branches[index].ended


def test_branches_and_spread_leave_no_trace() -> None:
    played, alone = session(-9), session(-9)
    for one in (played, alone):
        play(one, acts(1, 6))
    twin = played.dream.twin()
    branches = Branches(played, twin, "dice", 1, steps=3)
    while not branches.done:
        branches.advance()
    spread = Spread(played, twin)
    while not spread.done:
        spread.advance()
    assert spread.heat_map().shape == (8, 8, 3)
    assert spread.heat_map().any()
    assert play(played, acts(2, 8)) == play(alone, acts(2, 8))


def test_the_trajectory_ends_in_the_frame() -> None:
    played = session()
    assert played.trajectory == []
    step = played.apply("act", 1)
    images = played.trajectory
    assert len(images) == played.dream.sampler.num_denoising_steps + 1
    assert (images[-1] == step.obs).all()
    assert (images[0] != step.obs).any()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("act", ACTIONS), ("act", -1), ("act", None), ("act", "1"), ("act", [1]), ("act", 1.5), ("reset", -1),
        ("reset", "x"), ("reset", True), ("start", None), ("start", 6), ("real", 1), ("dice", None),
        ("quality", "best"), ("quality", {}), ("act", {"a": 1}), ("act", [[1] * 600]), ("fly", 1),
    ],
)  # fmt: skip
def test_what_cannot_be_done_changes_nothing(name: str, value: object) -> None:
    played = session()
    play(played, acts(1, 3))
    before, operations = shown(played.now), list(played.operations)
    with pytest.raises(BadArgument):
        played.apply(name, value)
    assert (shown(played.now), played.operations) == (before, operations)
    twin = session()
    play(twin, acts(1, 3))
    assert play(played, acts(2, 5)) == play(twin, acts(2, 5))


def test_a_dream_that_has_ended_takes_no_action() -> None:
    played = session(horizon=2)
    play(played, [1, 1])
    assert played.now.truncated
    with pytest.raises(BadArgument, match="reset"):
        played.apply("act", 1)


def test_keys_are_actions() -> None:
    played = session()  # NOOP, FIRE, UP, UPFIRE
    controls = Controls(played.codec, played.meanings)
    assert (controls.idle, controls.take()) == (True, 0)
    for keys, action in (["space"], 1), (["w"], 2), (["space", "w"], 3), (["w", "s"], 0), (["a"], 0), (["q", "w"], 2):
        controls.hold(keys)
        assert controls.take() == action, keys
    controls.give(1)
    assert controls.take() == 1
    with pytest.raises(BadArgument):
        controls.give(ACTIONS)
    controls.hold([])
    assert controls.idle


def test_two_stages_are_played_as_one() -> None:
    model = golden_engine()
    env = DreamEnv(model=model, quality="quality", max_episode_steps=-1)
    played = PlaySession(model, seed=3, quality="quality")
    obs, _ = env.reset(seed=3)
    controls = Controls(played.codec, played.meanings)
    controls.hold(["w", "ctrl", "nonsense"])
    frames = []
    for dx, buttons in ((-30, 1), (0, 3), (500, 0), (4, 1), (0, 0)):
        controls.move(dx, -2, buttons)
        action = controls.take()
        pressed = [name for name, bit in (("left", 1), ("right", 2)) if buttons & bit]
        assert csgo.describe(action) == (("w", "ctrl", *pressed), dx, -2)
        obs, *_ = env.step(action)
        frames.append(played.apply("act", action).obs)
        assert (frames[-1] == obs).all()
        assert played.small is not None
        assert played.small.shape == (*SMALL, 3)
    assert played.trajectory[-1].shape == (*LARGE, 3)
    actions = [value for name, value in played.operations if name == "act"]
    played.rewind(2)
    for action, frame in zip(actions[2:], frames[2:], strict=True):
        assert (played.apply("act", action).obs == frame).all()
    branches = Branches(played, played.dream.twin(), "dice", actions[0], steps=2, count=2)
    while not branches.done:
        branches.advance()
    assert (branches.choose(1, played.apply).obs == branches.branches[1].obs).all()
    with pytest.raises(BadArgument, match="too many"):
        Branches(played, played.dream.twin(), "actions", actions[0])
    assert Controls(played.codec, played.meanings).noop.tolist() == csgo.action().tolist()
