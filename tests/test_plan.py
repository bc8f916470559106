"""The plan of a training: counts that can be checked by hand, rates that were measured, nothing left behind."""

from dataclasses import replace
from functools import partial

import pytest
import torch
import worlds
from test_diamond import ID, TINY

from diamond_gym import cli
from diamond_gym.cli.dry_run import clock, print_plan, scaled
from diamond_gym.data import About
from diamond_gym.errors import BadArgument
from diamond_gym.sampler import SamplerConfig
from diamond_gym.trainers import plan as planning
from diamond_gym.trainers.collect_games import GymGames, about_env
from diamond_gym.trainers.diamond import DiamondConfig
from diamond_gym.trainers.flop import count, count_fit, denoiser_calls, flop_of
from diamond_gym.trainers.plan import Phase, plan, plan_world_model


def test_the_papers_work():
    """6.1 GFLOP a denoiser call and 194 million dreamed frames a run."""
    paper = DiamondConfig().for_game(About("Pong", (64, 64, 3), 6))
    flop = count(paper, (64, 64, 3))
    assert flop.denoiser_call == pytest.approx(6.1e9, rel=0.01)
    assert flop.denoiser_row == pytest.approx(2 * 3 * flop.denoiser_call, rel=0.02)  # two predictions, back is twice
    assert flop.dreamed_frame == pytest.approx(3 * flop.denoiser_call, rel=0.06)
    windows = paper.first_agent_steps + (paper.epochs - 1) * paper.agent_steps
    assert windows * paper.agent.horizon * paper.agent.optimizer.batch_size == pytest.approx(194e6, rel=0.01)


def test_calls_per_frame():
    for sampler in (SamplerConfig(), SamplerConfig(num_denoising_steps=5, order=2)):
        calls = 0

        class Counting:
            def condition(self, obs, act, sigma_cond, sigmas):
                return self.denoise

            def denoise(self, noisy, sigma):
                nonlocal calls
                calls += 1
                return noisy

        from diamond_gym.sampler import sample

        sample(Counting().condition, torch.zeros(1, 2, 3, 4, 4), torch.zeros(1, 2), torch.zeros(1, 3, 4, 4), sampler)
        assert denoiser_calls(sampler) == calls


def test_flop_of_a_network_done_by_hand():
    config = replace(worlds.CONFIG, num_autoregressive_steps=0)
    call, training, _, _ = count_fit(config, (8, 8, 3))
    wide = replace(config, reward_end=replace(config.reward_end, img_size=16))
    twice, _, _, _ = count_fit(wide, (16, 16, 3))
    assert 2 * call < training <= 3 * call
    assert 3 * call < twice < 5 * call  # four times the pixels; attention in the middle grows faster, embeddings do not
    _, longer, _, _ = count_fit(replace(config, num_autoregressive_steps=1), (8, 8, 3))
    assert longer == 2 * training
    lstm = torch.nn.LSTM(8, 16, batch_first=True)
    assert flop_of(lstm, lambda: lstm(torch.zeros(1, 5, 8, device="meta"))[0])[0] == 5 * 2 * 4 * 16 * (8 + 16)


def test_a_plan_counts_the_work_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    state = torch.get_rng_state()
    phases = plan(TINY, about_env(ID), GymGames(ID, TINY.num_envs), seconds=1.0)
    assert not list(tmp_path.iterdir())
    assert torch.equal(torch.get_rng_state(), state)
    playing, fit, agent = phases
    assert (playing.amount, playing.unit, playing.flop) == (40, "real steps", 0)
    assert fit.amount == 3 + 3 * 2 and agent.amount == 3 + 3 * 2
    assert fit.facts == {"denoiser calls, forwards and back": 9 * 2 * 2, "reward/end segments": 9 * 2}
    assert agent.facts == {"dreamed frames": 9 * 2 * 3, "denoiser calls": 9 * 2 * 3}
    flop = count(TINY.for_game(about_env(ID)), about_env(ID).frame_shape)
    assert fit.flop == 18 * (flop.denoiser_row + flop.reward_end_row) and agent.flop == 54 * flop.dreamed_frame
    assert all(phase.per_second > 0 and phase.seconds == phase.amount / phase.per_second for phase in phases)


def test_a_world_models_plan(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    about = about_env(ID)
    phases = plan_world_model(TINY.for_game(about).fit, about, GymGames(ID, 16), 500, 7, seconds=0.5)
    assert [(phase.name, phase.amount) for phase in phases] == [("playing", 500), ("world model", 7)]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("cost", "whole"), [(0.001, True), (0.4, True), (2.0, False), (30.0, False)])
@pytest.mark.parametrize("overhead", [0.0, 0.1])
def test_pieces_grow_as_far_as_the_budget_goes(monkeypatch, cost, whole, overhead):
    """A machine on which a part takes `overhead` seconds, and `cost` in proportion to its size."""
    now, largest = 0.0, 0.0

    def piece(part):
        nonlocal largest
        largest = max(largest, part)

        def run():
            nonlocal now
            now += overhead + cost * part

        return run

    monkeypatch.setattr(planning.time, "perf_counter", lambda: now)
    assert planning._seconds_of(piece, 32, budget=4.0) == pytest.approx(overhead + cost)
    assert (largest == 1) == whole
    assert now < 10.0


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("plan", ["train", "--env", ID, "--preset", "smoke"], ["dreamed frames", "agent", "1,000 real steps"]),
        (
            "plan_world_model",
            ["train-wm", "--game", "Pong", "--preset", "nano"],
            ["36,000 real steps", "10,000 updates"],
        ),
    ],
)
def test_dry_runs_leave_nothing(name, words, said, home, tmp_path, monkeypatch, capsys):
    if words[0] == "train-wm":
        pytest.importorskip("ale_py")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(planning, name, partial(getattr(planning, name), seconds=0.1))
    assert cli.main([*words, "--dry-run", "--device", "cpu", "--precision", "float32"]) == 0
    printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert all(word in printed for word in [*said, "FLOP/s", "together"]), printed
    assert not list(home.iterdir()) and not list(tmp_path.iterdir())


def test_a_run_without_dreams_has_no_such_plan():
    with pytest.raises(BadArgument, match="model-free"):
        plan(replace(TINY, model_free=True), about_env(ID), GymGames(ID, 1))


def test_it_is_printed(capsys):
    phases = [
        Phase("playing", 100_000, "real steps", 0.0, 50.0, {}),
        Phase("agent", 404_600, "windows", 3.7e18, 0.5, {"dreamed frames": 194_208_000}),
    ]
    print_plan(phases, "cpu in float32")
    said = capsys.readouterr().out
    for words in ("194,208,000", "3.7 EFLOP", "0:33:20", "9 days, 8:46", "9 days, 9:20", "cpu in float32"):
        assert words in said, words
    assert (scaled(6.09e9), scaled(12), clock(59.6), clock(90_000)) == ("6.09 G", "12 ", "0:01:00", "1 day, 1:00")
