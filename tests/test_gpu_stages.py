"""The stages of `benchmarks/gpu.sh` at tiny sizes on a CPU, so that no GPU time is lost to a typing error."""

import json
import tarfile
import time
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.gpu import cells as cells_module
from benchmarks.gpu import curves, rates, run, table
from benchmarks.gpu import play as play_module
from benchmarks.gpu.experience import Experience
from benchmarks.gpu.graph import Graph
from benchmarks.gpu.play import Play, Task
from benchmarks.gpu.recipe import Recipe
from benchmarks.gpu.register import register
from benchmarks.gpu.worlds import World
from diamond_gym.chance import Chance
from diamond_gym.hallucination import SeenColours
from diamond_gym.registry import load_world_model
from diamond_gym.starts import load_starts

CPU = torch.device("cpu")
NORMAL = Recipe()
TINY = replace(
    NORMAL,
    inner=replace(NORMAL.inner, cond_channels=16, channels=[8, 8, 8]),
    reward_end=replace(NORMAL.reward_end, lstm_dim=8, cond_channels=8, channels=[8, 8, 8]),
    agent=replace(NORMAL.agent, lstm_dim=8, channels=[8, 8, 8, 8]),
    batch=3,
    reward_batch=2,
    num_dreams=2,
    horizon=2,
    reward_horizon=4,
    reward_dream=2,
    capacity=400,
    num_starts=20,
    dreams_every=2,
)


def a_play(steps=120, seed=0):
    """Games of 40 steps with a reward in the middle of each."""
    rng = np.random.default_rng(seed)
    t = np.arange(steps)
    frames = rng.integers(256, size=(steps, 64, 64, 3), dtype=np.uint8)
    end = t % 40 == 39
    return Play.of(frames, rng.integers(6, size=steps), (t % 40 == 20) * 2.0, end, ~end, np.array([2.0], np.float32))


class FakePlayers:
    """Plays without games or processes."""

    def __init__(self, processes, folder):
        self.folder, self.count = folder, 0

    def start(self, task):
        self.count += 1
        folder = self.folder / str(self.count)
        folder.mkdir()
        future = Future()
        future.set_result(a_play(seed=self.count).save(folder))
        return future

    def close(self):
        pass


@pytest.fixture
def players(monkeypatch, tmp_path):
    torch.manual_seed(0)
    folder = tmp_path / "played"
    folder.mkdir()
    monkeypatch.setattr(run, "Players", partial(FakePlayers, folder=folder))
    monkeypatch.setattr(run, "Recipe", lambda: TINY)


def test_segments_lie_within_games():
    experience = Experience(200, (3, 64, 64), CPU)
    places = experience.segments(6, (2, 4))
    assert experience.add(a_play()) == 120
    first, weight = places.draw(torch.rand(3, 500), 0.5)
    assert (first % 40 + 5 <= 39).all()
    near = ((first % 40 + 2 <= 20) & (first % 40 + 4 >= 20)) | ((first % 40 + 2 <= 39) & (first % 40 + 4 >= 39))
    assert near.float().mean() > 0.5
    assert weight[near].max() < weight[~near].min()
    # the weights make up for the focus: a weighted mean is that of even draws
    assert (weight * near).mean() == pytest.approx((places.num_events / places.count).item(), abs=0.05)


def test_no_event_no_focus():
    experience = Experience(200, (3, 64, 64), CPU)
    places = experience.segments(4, (0, 2))
    quiet = replace(a_play(), rew=np.zeros(120), end=np.zeros(120, np.bool_))
    experience.add(quiet)
    _, weight = places.draw(torch.rand(3, 50), 0.5)
    assert (weight == 1).all()


def test_random_numbers_are_new_at_every_call():
    chance = Chance(CPU, 0)
    draws = Graph(lambda: (chance.normal((4,)).clone(), chance.uniform((2, 2)).clone()), chance=chance)
    first, second = draws(), draws()
    assert all(not a.equal(b) for a, b in zip(first, second, strict=True))
    assert float(first[1].min()) >= 0


@pytest.mark.gpu
def test_a_replay_draws_new_numbers():
    device = torch.device("cuda")
    graphs = []
    for seed in range(3):  # several graphs on streams of their own, as worlds side by side have them
        chance = Chance(device, seed)
        graphs.append(Graph(lambda chance=chance: chance.normal((8,)).clone(), torch.cuda.Stream(), chance=chance))
    seen = []
    for _ in range(4):
        for graph in graphs:
            drawn = graph()
            torch.cuda.synchronize()
            seen.append(drawn.cpu().clone())
    assert len({tuple(draw.tolist()) for draw in seen}) == 12


def test_colours_that_real_play_never_shows():
    frames = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    frames[:, :, 10, 10] = 200
    seen = SeenColours(frames)
    dreamed = torch.zeros(4, 3, 64, 64, dtype=torch.uint8)
    dreamed[0] = frames[0]
    dreamed[1, :, 12, 8] = 208  # two pixels away, one bin off
    dreamed[2, :, 13, 10] = 200  # three pixels away
    dreamed[3, :, 10, 10] = 100  # another colour
    assert (seen.artefacts(dreamed) * 64 * 64).tolist() == pytest.approx([0, 0, 1, 1])


def test_what_appears_is_drawn_evenly_by_place():
    play = a_play(400)
    appears = np.full(400, -1)
    appears[[5, 45, 85, 125, 165]], appears[[25, 65]], appears[100:110] = 3, 40, 9
    moves = np.zeros(64, np.int64)
    moves[9] = 60  # moving there is common
    experience = Experience(400, (3, 64, 64), CPU)
    places = experience.segments(6, (2, 4), 2)
    experience.add(replace(play, appears=appears, moves=moves))
    first, _ = places.draw(torch.rand(3, 600), 0.2, 0.5)
    drawn = {step: int((first + 2 == step).sum()) for step in (5, 45, 85, 125, 165, 25, 65)}
    one, other = (sum(drawn[step] for step in steps) for steps in ([5, 45, 85, 125, 165], [25, 65]))
    assert 250 < one + other < 380 and abs(one - other) < 100
    assert sum(int((first + 2 == step).sum()) for step in range(100, 110)) < 40


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_recording_leaves_weights_and_optimizers_as_they_were(device):
    world = World("Pong", 6, TINY, torch.device(device))
    before = world.state()
    world.record(a_play(seed=7))
    assert len(world.experience) == world.updates == world.windows == 0
    torch.testing.assert_close(world.state(), before, rtol=0, atol=0)
    parts = world.denoiser, world.reward_end, world.agent
    remembered = [value for part in parts for state in part.optimizer.state.values() for value in state.values()]
    assert remembered and all(float(value.abs().max()) == 0 for value in remembered)
    world.experience.add(a_play())
    world.early = True
    world.fit(TINY.reward_every)
    world.imagine(4)
    after = world.state()
    assert {key.split(".")[0] for key in before if not after[key].equal(before[key])} == {
        "denoiser", "rew_end_model", "actor_critic"
    }  # fmt: skip


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_all_parts_learn(device):
    world = World("Pong", 6, TINY, torch.device(device))
    world.experience.add(a_play())
    parts = (world.denoiser, world.reward_end, world.agent)
    before = [[p.detach().clone() for p in part.module.parameters()] for part in parts]
    world.fit(TINY.reward_every)
    world.imagine(1)
    world.experience.add(a_play(seed=1))
    world.imagine(TINY.dreams_every)  # those of the longer play begin on the way
    assert world._dreamed_from == len(world.experience) == 240
    world.read()
    for part, old in zip(parts, before, strict=True):
        assert any(not p.equal(q) for p, q in zip(part.module.parameters(), old, strict=True))


class NoWaiting(TorchDispatchMode):
    """Refuses what has the host wait for a GPU: values of tensors, sizes that depend on them, numbers from the host."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "masked_select", "equal", "lift_fresh"), name
        indices = args[1] if name in ("index", "index_put", "index_put_") else []
        assert all(index is None or index.dtype != torch.bool for index in indices), "a choice of rows"
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("noise", [{}, {"past_noise": 0.3, "noise_cond": True}])
def test_nothing_that_a_graph_records_waits_for_the_device(noise, monkeypatch):
    world = World("Pong", 6, replace(TINY, **noise), CPU)
    world.experience.add(a_play())
    world.fit(TINY.reward_every)
    world.imagine(2)  # the starts are burnt in, as they are beforehand on a GPU
    world._imagination.dream._bank.prepare()
    world._imagination.dream._waits = False
    for part in (world.denoiser, world.reward_end, world.agent):  # optimizers wait on a CPU alone
        monkeypatch.setattr(part, "update", lambda loss: loss.backward())
    for name in ("denoiser", "reward_end"):
        chance = world._chances[name]
        chance.refill()
        with NoWaiting():
            getattr(world, f"_fit_{name}")(chance)
    world._chances["agent"].refill()
    with NoWaiting():
        world._train_agent(world._chances["agent"])


def test_the_networks_learn_from_the_noise_that_the_recipe_names():
    world = World("Pong", 6, replace(TINY, past_noise=0.3, noise_cond=True), CPU)
    world.experience.add(a_play())
    seen, loss = [], world.denoiser.module.model_output

    def output(noisy, cs, obs, act, sigma_cond=None):
        seen.append(sigma_cond)
        return loss(noisy, cs, obs, act, sigma_cond)

    world.denoiser.module.model_output = output
    for _ in range(4):
        world.fit_denoiser()
    levels = torch.cat(seen)
    assert (levels == 0).any() and (levels > 0).any() and levels.max() <= 0.3


def test_the_ablation(players, tmp_path, capsys):
    run.main(f"ablation --out {tmp_path} --device cpu --games Pong --updates 1 --drift-steps 5 --dreams 2".split())
    lines = json.loads((tmp_path / "ablation.json").read_text())["lines"]
    assert [line["variant"] for line in lines] == list(run.VARIANTS)
    assert all("artefacts_5" in line and "over_copy_1" in line for line in lines)


def test_the_loop(players, tmp_path, capsys, monkeypatch):
    ticks = count()
    monkeypatch.setattr(run.Clock, "__call__", lambda clock: next(ticks) / 10)  # however busy the machine is
    args = "--games Pong Boxing Asterix --agents Pong Pong --init Boxing --begin-with 50 --seconds 12 --log-every 0.5"
    args += " --agent-from 0.2 --play-after 2 --save-every 3 --part 20000"
    run.main(f"worlds --out {tmp_path} --device cpu {args}".split())
    for archive in tmp_path.glob("worlds-*.tar"):
        with tarfile.open(archive) as file:
            file.extractall(tmp_path, filter="data")
    for game in ("Pong", "Boxing", "Asterix"):
        facts = json.loads((tmp_path / f"{game}.json").read_text())
        last = facts["curve"][-1]
        assert last["updates"] > 4 and last["real_steps"] >= 120
        assert (last["windows"] > 2) == (game == "Pong") and (last["games"] > 0) == (game == "Pong")
        weights = load_file(tmp_path / f"{game}.safetensors")
        assert {key.split(".")[0] for key in weights} == {"denoiser", "rew_end_model", "actor_critic"}
        assert len(load_starts(tmp_path / f"{game}.starts.npz")) == TINY.num_starts
        card = register(tmp_path, game, "trial").card
        assert card.name == f"{game.lower()}-trial" and (card.actor_critic is not None) == (game == "Pong")
        model = load_world_model(card.name, "cpu", "float32")
        assert model.dream(1).reset(seed=0).shape == (1, 3, 64, 64)


def test_the_curves_are_drawn(tmp_path):
    curves.draw(tmp_path / "curves.png", ["Pong"])
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_first_play_is_mixed_scripted_and_the_bundled_agents():
    assert [task.policy for task in play_module.tasks_of("Asterix", 20_000, 0, 8, 5_000)] == ["mixed"] * 4
    policies = [task.policy for task in play_module.tasks_of("Breakout", 30_000, 0, 8, 5_000)]
    assert policies == ["mixed", "scripted", "bundled"] * 2
    assert len({task.seed for task in play_module.tasks_of("Breakout", 30_000, 0, 8, 5_000)}) == 6


@pytest.mark.parametrize(
    ("game", "policy"),
    [("Breakout", "mixed"), ("Breakout", "scripted"), ("Breakout", "bundled"), ("Freeway", "bundled")],
)
def test_play(game, policy):
    played = play_module.play(Task(game, 40, 2, 3, policy))
    assert played.frames.shape == (42, 64, 64, 3) or len(played.frames) == len(played.act) >= 40
    assert len(set(played.act.tolist())) > 1


def test_the_table(tmp_path, capsys):
    table.main(f"--out {tmp_path} --device cpu --tiny --batches 1 --sizes paper --ways graph plain eager".split())
    lines = json.loads((tmp_path / "table.json").read_text())["lines"]
    assert [line["way"] for line in lines] == ["graph", "plain", "eager"]
    assert all(line["frames_per_s"] > 0 for line in lines), lines


@pytest.mark.parametrize("what", ["fit", "early", "reward", "imagine"])
def test_the_rates(what):
    measure = rates.prepare(what, 2, 2, "cpu", 0.01, TINY)
    assert measure()["a_second"] > 0


def test_the_rates_of_the_papers_size(monkeypatch):
    small = {name: getattr(TINY, name) for name in ("inner", "reward_end", "agent")}
    monkeypatch.setattr(rates, "PAPER", rates.PAPER | small)
    assert rates.prepare("reward", 1, 2, "cpu", 0.01, TINY, size="paper")()["a_second"] > 0


def test_the_table_of_two_stages():
    (cell,) = [cell for cell in table.cells_of([1], ["csgo"], ["graph"]) if cell["quality"] == "fast"]
    assert table.prepare(**cell, device="cpu", tiny=True)()["frames_per_s"] > 0


def test_cells_that_fail_or_do_not_answer_are_said_to(tmp_path, capsys):
    cells = [{"answer": "fine"}, {"answer": "raise"}, {"answer": "exit"}]
    lines = cells_module.measured(cell_of, cells, 300, 300, tmp_path)
    assert lines[0] == {"answer": "fine", "result": 1}
    assert lines[1] == {"answer": "raise", "error": "ValueError: no such thing"}
    assert lines[2]["error"] == "the process has ended"
    (line,) = cells_module.measured(cell_of, [{"answer": "sleep"}], 0.1, 1, tmp_path)
    assert line["error"] == "not in time"


def cell_of(answer):
    """A cell's measurement."""
    if answer == "raise":
        raise ValueError("no such thing")
    if answer == "exit":
        raise SystemExit
    if answer == "sleep":
        time.sleep(60)
    return lambda: {"result": 1}


def test_the_script_names_its_stages(root: Path):
    text = (root / "benchmarks" / "gpu.sh").read_text()
    assert all(f"        {stage}) timeout" in text for stage in ("tests", "table", "rates", "ablation", "worlds"))
