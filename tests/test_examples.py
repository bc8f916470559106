"""The scripts and notebooks of examples/ run, and do what they say; README and documentation point at what exists."""

import contextlib
import importlib
import importlib.util
import io
import json
import re
import shlex
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import gymnasium as gym
import numpy as np
import pytest
import torch
from stubs import StubWorldModel, make_starts, tiny_networks

import diamond_gym
from diamond_gym.cli import _parse, commands, main
from diamond_gym.registry import entries
from diamond_gym.world_model import WorldModel

ROOT = Path(__file__).parents[1]
RECORDS = ("experiments.md", "models.md", "performance.md")
PAGES = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
GUIDES = [page for page in PAGES if page.name not in RECORDS]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def reinforce(model, monkeypatch) -> dict:
    """The script's names after three updates."""
    text = (ROOT / "examples" / "reinforce.py").read_text(encoding="utf-8")
    short = text.replace("UPDATES, ROLLOUT, GAMMA = 1_000, ", "UPDATES, ROLLOUT, GAMMA = 3, ")
    assert short != text
    monkeypatch.setattr(diamond_gym, "load_world_model", lambda name: model, raising=False)
    torch.manual_seed(0)
    scope = {}
    exec(compile(short, "reinforce.py", "exec"), scope)
    return scope


def test_reinforce(monkeypatch):
    scope = reinforce(StubWorldModel(), monkeypatch)
    assert scope["obs"].shape == (64, 3, 8, 8)
    assert torch.isfinite(scope["loss"])
    assert scope["returns"].shape == (15, 64)
    # R_t = r_t + γ R_{t+1} unless the step ended a dream
    last, before = scope["steps"][-1], scope["steps"][-2]
    assert torch.equal(scope["returns"][-1], last.rew)
    going_on = ~(before.end | before.trunc)
    torch.testing.assert_close(scope["returns"][-2], before.rew + 0.985 * going_on * last.rew)
    assert all(parameter.grad.abs().sum() > 0 for parameter in scope["agent"].parameters())


@pytest.mark.gpu
def test_reinforce_stays_on_the_device(monkeypatch):
    denoiser, reward_end = tiny_networks(16)
    scope = reinforce(WorldModel(denoiser, reward_end, starts=make_starts(size=16)).to("cuda"), monkeypatch)
    assert scope["obs"].device.type == "cuda"


class PaysForAction(torch.nn.Module):
    """Rewards action 2, and nothing else; a dream never ends but by the horizon."""

    def forward(self, obs, act, next_obs, state=None):
        b, t = act.shape
        rew = torch.where((act == 2)[..., None], torch.tensor([-9.0, -9.0, 9.0]), torch.tensor([-9.0, 9.0, -9.0]))
        memory = torch.zeros(1, b, 1)
        return rew, torch.tensor([9.0, -9.0]).expand(b, t, 2), (memory, memory)


def paying_model() -> StubWorldModel:
    model = StubWorldModel(size=36)  # the least that PPO's convolutions take
    model.reward_end = PaysForAction()
    return model


def test_ppo_learns_which_action_pays(monkeypatch):
    ppo, make_vec = load("ppo"), gym.make_vec

    def with_stub(id, **kwargs):
        return make_vec("DiamondDream-v0", model=paying_model(), **kwargs)

    monkeypatch.setattr(gym, "make_vec", with_stub)
    args = ppo.Args(total_steps=8 * 8 * 8, num_envs=8, rollout=8, horizon=8, learning_rate=3e-3, gamma=0.5)
    history = ppo.train(args)
    assert len(history) == 8
    assert history[0] < 4  # at random, a quarter of eight steps pays
    assert history[-1] > 6


class Plays2:
    """In the place of a saved agent: it always takes the action that pays."""

    @staticmethod
    def playing(num_envs, seed):
        return lambda obs, first: np.full(len(obs), 2)


def test_planning_finds_what_random_actions_do_not(monkeypatch):
    plan = load("plan")
    args = plan.Args(num_envs=4, steps=8, candidates=8, plan=4, hold=2)
    monkeypatch.setattr(plan, "own_file", lambda entry, device: None if entry.name == "pong-nano" else Plays2)
    returns = plan.main(paying_model(), args)
    assert returns.keys() == {"random", "planning", "agent"}
    assert (returns["agent"] == args.steps).all()
    assert plan.own_agent(paying_model().dream(1), 4, plan.Args(model="pong-nano")) is None
    assert returns["planning"].mean() > returns["random"].mean() + 2
    # The planner's trials leave no trace: what it played, played again, gives the same return.
    dream = paying_model().dream(args.num_envs, horizon=None)
    act, played = plan.planner(dream, 4, args), []
    first = plan.play(dream, lambda t: played.append(act(t)) or played[-1], args)
    assert torch.equal(plan.play(dream, lambda t: played[t], args), first)


def test_the_gallery_shows_every_bundled_world(monkeypatch, tmp_path):
    import imageio.v3 as iio

    gallery = load("gallery")
    assert sorted(gallery.GAMES) == sorted(entry.card.game for entry in entries() if entry.bundled)
    monkeypatch.setattr(gallery, "STEPS", 2)
    gallery.main(tmp_path / "gallery.gif")
    frames = iio.imread(tmp_path / "gallery.gif")
    assert frames.shape[:3] == (3, 2 * 128 + 2, 3 * 128 + 4)
    assert (frames[0] != frames[2]).any()


def notebooks() -> list[Path]:
    return sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_notebook(path, monkeypatch, tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    scope = {"__name__": "__main__"}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), path.name, "exec"), scope)


def test_there_are_two_notebooks_without_output():
    assert len(notebooks()) == 2
    for path in notebooks():
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        assert all(not cell["outputs"] for cell in cells if cell["cell_type"] == "code")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_snippets_are_written_as_they_are_found(page):
    """A formatter of the Python in Markdown takes the marker for a comparison, after which it is shown as it stands."""
    for line in page.read_text(encoding="utf-8").splitlines():
        if re.match(r"-+ ?8 ?<", line):
            found = re.fullmatch(r'--8<-- "(.+)"', line)
            assert found and (ROOT / found[1]).exists(), line


def test_readme_is_short():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert len(text.split()) <= 1000


@cache
def help_of(command: str) -> str:
    """All options of a command, as its help prints them."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        for flag in ("--help-all", "--help"):
            try:
                code = main([command, flag])
            except SystemExit as stopped:
                code = stopped.code
            if not code:
                break
    return out.getvalue()


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_and_options_exist(page):
    """Every `diamond-gym COMMAND --option` of README and guides is one; records of experiments may name older ones."""
    text = page.read_text(encoding="utf-8")
    for line in re.findall(
        r"(?:^\$ |`)(?:.* )?(?:diamond-gym|diamond_gym.cli --) ([a-z][^`|#\n]*)", text, re.MULTILINE
    ):
        command, *words = line.split()
        if words and f"{command} {words[0]}" in commands():
            command, *words = f"{command} {words[0]}", *words[1:]
        assert command in commands(), line
        for option in (word for word in words if word.startswith("--")):
            assert re.search(rf"{re.escape(option)}(?![\w-])", help_of(command)), line


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_shown_commands_can_be_typed(page):
    """Every `$ diamond-gym ...` of README and guides is taken by the parser, values and all."""
    shown = r"^\$ (?:.* )?(?:diamond-gym|-m diamond_gym(?: --)?) ((?:.*\\\n)*.*)$"
    for line in re.findall(shown, page.read_text(encoding="utf-8"), re.MULTILINE):
        command, *words = shlex.split(line.replace("\\\n", " "), comments=True)
        if words and f"{command} {words[0]}" in commands():
            command, *words = f"{command} {words[0]}", *words[1:]
        module, _, name = commands()[command].partition(":")
        _parse(getattr(importlib.import_module(module), name), command, words)
