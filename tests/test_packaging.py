"""What is installed is what is in the tree: every file once, all under the one import name."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TREES = {"diamond_gym": "diamond_gym", "trainers": "diamond_gym/trainers", "registry": "diamond_gym/registry"}


def requirement_name(requirement: str) -> str:
    return re.split(r"[\s<>=!~\[;]", requirement)[0].lower().replace("_", "-")


def tree() -> set[str]:
    """The files that belong in the wheel, by their paths there."""
    found = set()
    for folder, target in TREES.items():
        for path in (ROOT / folder).rglob("*"):  # follows no links
            hidden = any(part.startswith((".", "__pycache__")) for part in path.relative_to(ROOT).parts)
            if path.is_file() and not hidden:
                found.add(f"{target}/{path.relative_to(ROOT / folder).as_posix()}")
    return found


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, built from a copy of the tree, and the wheel, built from that sdist."""
    pytest.importorskip("build")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in TREES:  # a copy, so that neither an old build/ leaks into the wheel nor a new one into the tree
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    return next(built.glob("*.whl"))


def test_links_are_links() -> None:
    for name in ("trainers", "registry"):
        assert os.readlink(ROOT / "diamond_gym" / name) == f"../{name}"


def test_wheel_holds_the_tree(wheel: Path) -> None:
    names = [name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")]
    assert len(names) == len(set(names))
    assert {name for name in names if ".dist-info/" not in name} == tree()
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_wheel_holds_content_not_links(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for folder, target in TREES.items():
            assert archive.read(f"{target}/__init__.py") == (ROOT / folder / "__init__.py").read_bytes()
        assert archive.read("diamond_gym/registry/games.toml") == (ROOT / "registry/games.toml").read_bytes()


def test_sdist_holds_each_module_once(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    modules = [name for name in names if name.endswith((".py", ".toml")) and name.startswith(tuple(TREES))]
    expected = {
        str(path.relative_to(ROOT).as_posix())
        for name in TREES
        for path in (ROOT / name).rglob("*")
        if path.suffix in (".py", ".toml") and "__pycache__" not in path.parts
    }
    assert len(modules) == len(set(modules))
    assert set(modules) == expected


def test_wheel_imports_from_where_it_is_installed(wheel: Path, tmp_path: Path) -> None:
    installed = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(installed)
    code = (
        "import diamond_gym, diamond_gym.registry, diamond_gym.trainers, diamond_gym.cli, gymnasium\n"
        "print(*(m.__file__ for m in (diamond_gym, diamond_gym.registry, diamond_gym.trainers)), sep='\\n')\n"
        "assert len(diamond_gym.registry.games()) == 26\n"
        "gymnasium.spec('DiamondDream-Pong-v0')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
    )
    assert done.returncode == 0, done.stderr
    for path, folder in zip(done.stdout.split("\n"), ("", "registry", "trainers"), strict=False):
        assert Path(path) == installed / "diamond_gym" / folder / "__init__.py"


def test_every_import_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    distributions = {requirement_name(line) for group in groups for line in group}
    distributions.add("triton")  # comes with torch's builds for GPUs, and is done without elsewhere
    ours_by_another_name = {
        "cv2": "opencv-python-headless",
        "yaml": "pyyaml",
        "PIL": "pillow",
        "skimage": "scikit-image",
    }
    for file in (path for folder in TREES for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in (name.split(".")[0] for name in names):
                distribution = ours_by_another_name.get(name, name.replace("_", "-"))
                declared = name in sys.stdlib_module_names or distribution in distributions
                assert declared or name == "diamond_gym", f"{file}: {name} is in no list of pyproject.toml"


def test_extras_are_what_errors_recommend() -> None:
    from diamond_gym.cli import _EXTRAS

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(_EXTRAS.values()) <= set(project["optional-dependencies"])


def test_constraints_pin_every_direct_requirement() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    wanted = {requirement_name(line) for group in groups for line in group}
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), "plain pins: no local versions, no links"
    assert wanted - {"diamond-gym", "setuptools"} <= {requirement_name(line) for line in lines}


def test_the_lowest_versions_are_those_that_are_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    groups = [
        project["dependencies"],
        *(extras[name] for name in ("atari", "train", "sb3", "hub", "eval", "plot", "test")),
    ]
    bounds = dict(re.fullmatch(r"([\w.-]+)>=([\d.]+)", line).groups() for group in groups for line in group
                  if not line.startswith("diamond-gym"))  # fmt: skip
    lines = (ROOT / "constraints-lowest.txt").read_text().splitlines()[1:]
    pins = {requirement_name(name): number for name, number in (line.split("==") for line in lines)}
    assert {requirement_name(name) for name in bounds} - {"torch"} <= set(pins)
    for name, bound in bounds.items():
        if name != "torch":  # of 1.2 the lowest may be 1.2.0, or the first 1.2.x that there is
            assert f"{pins[requirement_name(name)]}.".startswith(f"{bound}."), name
