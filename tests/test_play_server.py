"""The play server over real sockets: its frames, its pace, branches and recordings."""

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("starlette", reason="the extra play is not installed")
pytest.importorskip("uvicorn", reason="the extra play is not installed")
pytest.importorskip("websockets", reason="the extra play is not installed")

from PIL import Image
from play_client import Client, House
from stubs import ACTIONS, save_tiny_model

from diamond_gym.actions import Box, MultiBinary, MultiDiscrete
from diamond_gym.play import channel
from diamond_gym.play.player import Player
from diamond_gym.play.protocol import Kind
from diamond_gym.play.recording import ActionLog
from diamond_gym.play.worlds import Worlds

pytestmark = pytest.mark.usefixtures("no_error_is_logged")


def test_frames_are_those_of_the_environment(house: House, worlds: Worlds) -> None:
    env = gym.make(
        "DiamondDream-v0", model=worlds.first.folder, device="cpu", precision="float32", max_episode_steps=-1
    )
    obs, _ = env.reset(seed=5)
    with Client(house).paused() as client:
        assert (client.frames[client.first] == obs).all()
        for action in np.random.default_rng(0).integers(0, ACTIONS, 12).tolist():
            frame = client.step(action)
            if client.state["episode_step"] == 0:
                obs, _ = env.reset()
            else:
                obs, reward, terminated, _, _ = env.step(action)
                assert (client.state["reward"], client.state["terminated"]) == (reward, terminated)
            assert (frame == obs).all()


def test_the_dream_runs_by_itself_while_it_is_seen(house: House) -> None:
    with Client(house).start() as client:
        for _ in range(200):
            client.receive()
            if client.state["step"] > 5:
                break
        assert client.state["step"] > 5
        assert client.state["target_fps"] == 30
        client.send("visible", on=False)
        client.until("state", hidden=True)
        time.sleep(0.3)
        client.send("speed", fps=7)
        still = client.until("state", target_fps=7)["step"]
        client.send("visible", on=True)
        client.until("state", hidden=False)
        while client.state["step"] < still + 3:
            client.receive()


def test_keys_become_actions(house: House) -> None:
    with Client(house).paused() as client:
        for keys, action in (["space"], 1), (["w"], 2), (["w", "space"], 3), ([], 0), (["nonsense"], 0):
            client.send("keys", down=keys)
            step = client.state["step"] + 1
            client.send("step")
            client.until("state", step=step)
            assert client.state["action"] == action or client.state["episode_step"] == 0


def test_going_back_and_on_over_the_wire(house: House) -> None:
    with Client(house).paused() as client:
        first = client.first
        frames = [client.step(action) for action in (1, 2, 3, 1, 2, 3, 0, 1, 2, 3)]
        client.send("seek", step=first + 4)
        assert client.until("state", seek=first + 4)["timeline"]["last"] == first + 10
        client.send("thumbnails", count=5)
        client.send("resume_from", step=first + 4)
        client.until("state", seek=None)
        client.send("pause", on=True)
        client.send("seek", step=first + 4)
        client.send("resume_from", step=first + 4)
        client.send("pause", on=True)
        client.until("state", paused=True, step=first + 4)
        assert client.kinds[Kind.THUMBNAIL] == 5
        before = dict(client.frames)
        client.frames.clear()
        client.state["step"] = first + 4
        assert (client.step(2) == frames[4]).all()
        assert (before[first + 4] == frames[3]).all()


def test_a_branch_is_chosen_as_it_was_shown(house: House) -> None:
    with Client(house).paused() as client:
        client.step(1)
        at = client.alive()
        client.send("branch", kind="actions", steps=3)
        shown = client.until("branches", done=True)
        assert shown["labels"] == ["NOOP", "FIRE", "UP", "UPFIRE"]
        client.send("choose", index=2)
        client.until("state", branching=False)
        steps = min(3, client.state["step"] - at)
        client.send("seek", step=at + steps)
        client.until("state", branching=False)
        last = client.state["step"]
        while last not in client.frames:
            client.receive()
        assert (client.frames[last] == client.frames[-3000 - steps]).all()
        client.alive()
        client.send("branch", kind="dice", steps=2, count=3)
        client.until("branches")
        client.send("cancel_branch")
        client.until("state", branching=False)


def test_denoising_is_shown(house: House) -> None:
    with Client(house).paused() as client:
        client.send("denoise", on=True)
        client.until("state", denoise=True)
        client.step(1)
        while Kind.SPREAD not in client.kinds:
            client.receive()
        assert client.kinds[Kind.DENOISING] >= 3  # two steps of the tiny model's, and the noise


def test_a_slow_client_loses_frames_and_no_steps(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "_PATIENCE", 0.5)
    with Client(house, draws=False).start() as client:
        while client.state["step"] < 40:
            client.receive()
        assert len(client.frames) < client.state["step"] / 2
        assert client.state["timeline"]["last"] == client.state["step"]


def test_what_cannot_be_done_is_said(house: House) -> None:
    with Client(house) as client:
        for message, code in [
            ({"type": "step"}, "not_started"), ({"type": "start", "world": "Nowhere"}, "unknown_world"),
            ({"type": "start", "world": "Breakout", "model": "../tiny"}, "unknown_world"),
            ({"type": "start", "world": "Breakout", "quality": "best"}, "unavailable"),
        ]:  # fmt: skip
            client.send(**message)
            assert client.until("error")["code"] == code
        client.paused()
        for message in [
            {"type": "seek", "step": 10**6}, {"type": "choose", "index": 0}, {"type": "control", "by": "agent"},
            {"type": "quality", "name": "quality"}, {"type": "action", "action": ACTIONS},
            {"type": "action", "action": [1]}, {"type": "export", "format": "gif"},
        ]:  # fmt: skip
            client.send(**message)
            assert client.until("error")["code"] == "unavailable"
        client.step(1)


CODECS = {
    "Box": (
        Box([-1, 0, -2], [1, 0.5, 2]), [-0.25, 0.5, 1.75],
        [[-1.5, 0, 0], [0, 0, 1e300], [10**300, 0, 0], [0.5], []],
    ),
    "Choices": (MultiDiscrete([3, 2]), [2, 1], [[3, 0], [-1, 0], [0.5, 0], [2**63, 0], [1]]),
    "Buttons": (MultiBinary([3]), [0, 1, 1], [[2, 0, 0], [0.5, 0, 0], [-1, 0, 0], [1, 1]]),
    "Box-in-rows": (
        Box([-1, 0, -2, 0], [1, 0.5, 2, 3], [2, 2]), [[-0.25, 0.5], [1.75, 2.5]],
        [[-0.25, 0.5, 1.75, 2.5], [[-0.25, 0.5]], [[-0.25], [0.5]], [[[-0.25, 0.5], [1.75, 2.5]]], [[0, 1], [0, 0]], 0],
    ),
    "Choices-in-rows": (
        MultiDiscrete([3, 2, 2, 4], [2, 2]), [[2, 1], [0, 3]],
        [[2, 1, 0, 3], [[2, 1], [2, 3]], [[2, 1], [0, 0.5]], [[2, 1]], [[]]],
    ),
    "Buttons-in-rows": (MultiBinary([2, 1]), [[0], [1]], [[0, 1], [[0, 1]], [[0], [2]]]),
    "One-number": (Box([-2], [2], []), -0.25, [[-0.25], 2.5, -(2**31), [[0]], []]),
}  # fmt: skip


@pytest.mark.parametrize("name", CODECS)
def test_actions_of_every_kind(name: str, house: House, worlds: Worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    codec, action, wrong = CODECS[name]
    monkeypatch.setenv("DIAMOND_GYM_HOME", str(worlds.first.folder.parents[1]))
    save_tiny_model(name.lower(), name, codec=codec)
    with Client(house).paused(world=name) as client:
        assert client.started["action_shape"] == list(np.shape(action))
        client.alive(action)
        client.step(action)
        assert client.state["action"] == (action if client.state["episode_step"] else None)
        for each in wrong:
            client.send("action", action=each)
            error = client.until("error")
            assert error["code"] == "unavailable"
            assert error["text"].startswith("this is not an action of") and "\n" not in error["text"]
        client.step(action)
        client.send("close")


def test_a_recording_is_fetched(house: House, tmp_path: Path) -> None:
    with Client(house).paused() as client:
        client.send("export", format="gif")
        assert client.until("error")["code"] == "unavailable"
        client.send("record", on=True)
        frames = [client.step(action) for action in (1, 2, 3)]
        steps = client.state["recording"]
        assert 1 <= steps <= 3, "a dream that has ended begins anew instead"
        client.send("record", on=False)
        recorded = client.until("recorded")
        assert (recorded["formats"], recorded["steps"]) == (["mp4", "gif", "log"], steps)
        for kind in ("gif", "log", "mp4"):
            client.send("export", format=kind)
            exported = client.until("exported")
            status, content = house.get(exported["url"] + f"?token={house.token}")
            assert (status, len(content)) == (200, exported["bytes"])
            (tmp_path / kind).write_bytes(content)
        assert house.get(exported["url"])[0] == 403
    assert b"ftyp" in content[:16]
    with Image.open(tmp_path / "gif") as film:
        assert film.n_frames == 4
        film.seek(3)
        error = np.abs(np.asarray(film.convert("RGB"))[::20, ::20].astype(int) - frames[-1])
        assert error.mean() < 20, "the last frame, in a GIF's 256 colours"
    log = ActionLog.read(tmp_path / "log")
    assert sum(name == "act" for name, _ in log.operations[-3:]) == steps
    for operation, action in zip(log.operations[-3:], (1, 2, 3), strict=True):
        assert operation in (["act", action], ["reset", None])


class VirtualTime(asyncio.SelectorEventLoop):
    """A loop on which waiting takes no time, and the clock tells what it would have taken."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self._selector.select = self.skip

    def skip(self, timeout: float | None) -> list:
        self.now += timeout or 0
        return []

    def time(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("compute", "seconds", "steps"),
    [
        (lambda step: 0.001, 20, 400), (lambda step: 0.01 + step * 7 % 35 / 1000, 20, 400),  # 45 of 50 ms at most
        (lambda step: 0.1, 20, 200),  # too slow: as fast as it can
        (lambda step: 0.2 if step == 10 else 0.01, 20, 400),  # a short delay is caught up with
        (lambda step: 5.01 if step == 10 else 0.01, 20, 300),  # a long one is not: no burst of steps after it
    ],
)  # fmt: skip
def test_the_pace_follows_the_clock(compute, seconds: int, steps: int) -> None:
    played = []

    class Paced:
        notices = ()
        view = staticmethod(lambda: None)

        def advance(self) -> SimpleNamespace:
            played.append(loop.time())
            return SimpleNamespace(ended=False)

    class Works:
        async def work(self, function, *args):
            await asyncio.sleep(compute(len(played)))
            return function(*args)

    async def run() -> None:
        player, game = Player(Works()), Paced()
        player.game, player.fps, player.channel._socket = game, 20, object()
        player.changed()
        task = asyncio.create_task(player._pace(game))
        await asyncio.sleep(seconds)
        task.cancel()
        await asyncio.wait([task])

    loop = VirtualTime()
    loop.run_until_complete(run())
    loop.close()
    assert abs(len(played) - steps) <= 2
    assert min(np.diff(played)) > 0.005, "two steps in one frame"
