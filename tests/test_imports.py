"""Imports run one way, and `import diamond_gym` stays cheap: read from the source, module by module."""

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TREES = {"diamond_gym": "diamond_gym", "trainers": "diamond_gym.trainers", "registry": "diamond_gym.registry"}

# A module may import those of its own rank (but not in a circle) and of lower ranks. A room's modules have ranks of
# their own in the rooms of ROOMS; any other package counts as one.
ROOMS = ("networks", "data", "envs")
RANKS = [
    {
        "errors",
        "files",
        "schema",
        "frames",
        "cuda_graphs",
        "randomness",
        "device",
    },
    {"actions"},
    {"action_spaces", "csgo", "networks.triton_norm"},
    {
        "networks.blocks",
        "networks.preconditioning",
        "data.about",
        "data.episode_files",
    },
    {"sampler", "networks.denoiser", "networks.reward_end", "networks.actor_critic", "data.episodes", "data.convert"},
    {"data"},
    {"networks.folding", "data.segments", "data.on_device", "data.checks", "data.importers"},
    {"networks.kernels", "networks.kernels.training", "networks.kernels.dreams", "data.importing", "data.preview"},
    {"networks.inference", "networks.ways", "data.stores", "data.sampling"},
    {"networks"},
    {"starts", "dream_state"},
    {"dream"},
    {"two_stage"},
    {"world_model"},
    {"registry"},
    {"envs.arguments", "envs.batch_env", "envs.single_env", "envs.atari_game", "envs.atari", "envs.catch"},
    {"envs.checks"},
    {"envs.vector_env"},
    {"wrappers"},
    {"envs.dream_env"},
    {"envs"},
    {"sb3"},
    {"trainers"},
    {"cli", "play"},
    {"__main__"},
]
RANK = {name: rank for rank, names in enumerate(RANKS) for name in names}

# Imports against the order that are right nevertheless; each is made within a function or for types alone.
EXCEPTIONS = {
    ("diamond_gym.networks.denoiser", "networks.folding"): "a network folds itself when it is asked to",
    ("diamond_gym.networks.denoiser", "networks.inference"): "a network folds itself when it is asked to",
    ("diamond_gym.networks.reward_end", "networks.inference"): "a network folds itself when it is asked to",
    ("diamond_gym.world_model", "registry"): "the card is a plain dataclass, named in signatures only",
}

# Third-party modules that only modules whose names begin so may import.
ONLY = {
    "tyro": ("cli",),
    # its environments, its algorithms, its files, its trainings
    "stable_baselines3": ("sb3", "trainers.as_dreamed", "trainers.sb3"),
    "ale_py": ("envs.atari",),
    **dict.fromkeys(("starlette", "uvicorn", "websockets"), ("play",)),
}


@cache
def modules() -> dict[str, Path]:
    """Every module's import name and path, each once although links lead to some of them twice."""
    found = {}
    for folder, package in TREES.items():
        for path in sorted((ROOT / folder).rglob("*.py")):  # rglob follows no links
            if "__pycache__" in path.parts or path.relative_to(ROOT / folder).parts[0] in (
                "trainers",
                "registry",
            ):
                continue
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join([package, *parts]).removesuffix(".__init__")] = path
    return found


def part(module: str) -> str:
    """`"registry"` for `diamond_gym.registry.card`, "networks.blocks" in a room; "" for `diamond_gym` itself."""
    words = module.split(".")[1:]
    return ".".join(words[:2] if words and words[0] in ROOMS else words[:1])


def imports(module: str) -> Iterator[tuple[str, int]]:
    """Absolute names of all that a module imports, anywhere in it, and the lines."""
    for node in ast.walk(ast.parse(modules()[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: imports are absolute here"
            assert node.module
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in modules() else node.module, node.lineno


def at_import(module: str) -> set[str]:
    """The modules of ours that are loaded when this one is: those imported at its top level."""
    tree = ast.parse(modules()[module].read_text(encoding="utf-8"))
    names = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names & set(modules())


def test_every_module_is_found_once() -> None:
    assert {
        "diamond_gym",
        "diamond_gym.registry.card",
        "diamond_gym.trainers",
        "diamond_gym.cli.models",
    } <= set(modules())
    assert len({path.resolve() for path in modules().values()}) == len(modules())


def test_every_part_has_its_place() -> None:
    unplaced = {part(module) for module in modules()} - set(RANK) - {""}
    assert not unplaced, f"give these a place in RANKS: {sorted(unplaced)}"


@pytest.mark.parametrize("module", modules())
def test_imports_run_one_way(module: str) -> None:
    if not part(module):
        return  # the package itself registers ids and re-exports; what it loads is tested below
    for name, line in imports(module):
        if name.split(".")[0] != "diamond_gym":
            continue
        target = part(name)
        if not target:
            # The package registers the ids, which only those need that make environments by id.
            above_envs = RANK[part(module)] > RANK["envs"]
            assert above_envs, f"{module}:{line}: import from the module, not from the package"
            continue
        if (module, target) not in EXCEPTIONS:
            assert RANK[target] <= RANK[part(module)], f"{module}:{line} imports {name}, against the order"


@pytest.mark.parametrize("module", [module for module in modules() if part(module).startswith(("networks", "data"))])
def test_rooms_apart(module: str) -> None:
    other = {"networks": "data", "data": "networks"}[part(module).split(".")[0]]
    for name, line in imports(module):
        assert part(name).split(".")[0] != other, f"{module}:{line}: networks and data know nothing of each other"


@pytest.mark.parametrize("module", modules())
def test_never_by_bare_name(module: str) -> None:
    for name, line in imports(module):
        assert name.split(".")[0] not in ("trainers", "registry"), f"{module}:{line}: import diamond_gym.{name}"


@pytest.mark.parametrize("module", modules())
def test_who_may_import_what(module: str) -> None:
    for name, line in imports(module):
        owners = ONLY.get(name.split(".")[0])
        ours = module.removeprefix("diamond_gym.")
        assert owners is None or ours.startswith(owners), f"{module}:{line}: only {owners} imports {name}"


def test_no_circles() -> None:
    graph = {module: at_import(module) - {module} for module in modules()}
    # A package's __init__ may gather what its modules define; the circle through it is Python's own.
    graph = {module: {name for name in names if not module.startswith(f"{name}.")} for module, names in graph.items()}
    while graph:
        leaves = {module for module, names in graph.items() if not names & set(graph)}
        assert leaves, f"these import each other: {sorted(graph)}"
        graph = {module: names for module, names in graph.items() if module not in leaves}


def test_exceptions_are_still_needed() -> None:
    for module, target in EXCEPTIONS:
        assert any(part(name) == target for name, _ in imports(module)), f"{module} no longer imports {target}"
        assert not any(part(name) == target for name in at_import(module)), f"{module} imports {target} at its top"


def test_every_entry_point_exists() -> None:
    import gymnasium

    import diamond_gym  # noqa: F401

    specs = [spec for name, spec in gymnasium.registry.items() if name.startswith("Diamond")]
    points = {str(point) for spec in specs for point in (spec.entry_point, spec.vector_entry_point) if point}
    assert len(points) == 5
    for module, _, name in (point.partition(":") for point in sorted(points)):
        assert hasattr(importlib.import_module(module), name), f"{module} has no {name}"


HEAVY = {
    "torch",
    "tyro",
    "rich",
    "ale_py",
    "stable_baselines3",
    "cv2",
    "imageio",
    "tensorboard",
    "safetensors",
    "starlette",
    "uvicorn",
    "websockets",
}


@pytest.mark.parametrize("module", ["diamond_gym", "diamond_gym.registry", "diamond_gym.cli"])
def test_import_loads_nothing_heavy(module: str) -> None:
    code = (
        "import sys, time; t = time.perf_counter(); import gymnasium; t2 = time.perf_counter(); "
        f"import {module}; print(t2 - t, time.perf_counter() - t2, *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    gymnasium, ours, *loaded = done.stdout.split()
    print(f"gymnasium {float(gymnasium):.3f} s, {module} {float(ours):.3f} s more")  # pytest -s shows it
    assert not HEAVY & set(loaded)


def test_load_world_model_is_there_when_asked_for() -> None:
    import diamond_gym
    from diamond_gym.registry import load_world_model

    assert diamond_gym.load_world_model is load_world_model
    assert "load_world_model" in diamond_gym.__all__
    assert all(hasattr(diamond_gym, name) for name in diamond_gym.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = diamond_gym.nothing  # type: ignore[attr-defined]
