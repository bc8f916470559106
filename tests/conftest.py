"""What every test shares: a home of its own, so that no test sees or touches the user's models."""

import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is no failure of the code.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

# `import diamond_gym` looks into the user's registry, and test modules import it before any fixture runs.
_EMPTY_HOME = tempfile.TemporaryDirectory(prefix="diamond-gym-tests-")
os.environ["DIAMOND_GYM_HOME"] = _EMPTY_HOME.name

# The tests' networks are too small for more threads, and what commands say of an overloaded machine is not asked for.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty DIAMOND_GYM_HOME for each test."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("DIAMOND_GYM_HOME", str(folder))
    return folder


@pytest.fixture
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a play server offers: the tiny model before the bundled ones."""
    play_client = pytest.importorskip("play_client")
    return play_client.tiny_worlds(str(tmp_path_factory.mktemp("play")))


@pytest.fixture(scope="module")
def house(worlds: Any) -> Iterator[Any]:
    """A play server that runs in a thread."""
    from play_client import serving

    with serving(worlds) as running:
        yield running


@pytest.fixture
def no_error_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No test may leave a traceback or any other error in the log."""
    caplog.set_level(logging.WARNING)
    yield
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR or record.exc_info]
    assert not errors
