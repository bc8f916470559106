"""The snippets of docs/other-libraries.md run as they stand, where their libraries are installed."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from stubs import save_tiny_model

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "other-libraries.md").read_text(encoding="utf-8")
SNIPPETS = {
    f"{section.splitlines()[0]}-{number}": code
    for section in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    for number, code in enumerate(re.findall(r"^```python\n(.*?)^```$", section, flags=re.DOTALL | re.MULTILINE))
}


def imported(code: str) -> set[str]:
    """The top-level names of the modules that a snippet imports."""
    nodes = list(ast.walk(ast.parse(code)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.split(".")[0] for name in names}


def test_every_library_has_its_snippet() -> None:
    sections = re.findall(r"^## (.+)$", PAGE, flags=re.MULTILINE)
    assert len(sections) == 8
    assert sections == list(dict.fromkeys(name.rpartition("-")[0] for name in SNIPPETS))


# to load TorchRL takes longest, and tests/test_torchrl.py uses it in all ways
SLOW = {name: [pytest.mark.slow] for name in SNIPPETS if name.startswith("TorchRL")}


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW.get(name, [])) for name in SNIPPETS])
def test_the_snippet_runs(name: str, home: Path, tmp_path: Path) -> None:
    code = SNIPPETS[name]
    real = {"ale_py", "cv2"} if "DiamondReal" in code or "AtariStack" in code else set()
    brought = {"jax"} if "minari" in imported(code) else set()  # by its extra `create`, without which it makes none
    for module in sorted(imported(code) | real | brought):
        pytest.importorskip(module)
    save_tiny_model(size=64)
    variables = {
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "MINARI_DATASETS_PATH": str(tmp_path / "datasets"),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env={**os.environ, **variables}
    )
    assert done.returncode == 0, done.stderr[-4000:]
