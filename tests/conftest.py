"""What every test shares: a home of its own, so that no test sees or touches the user's models."""

import logging
import os
import tempfile
from collections.abc import Callable, Iterator
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


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A loop of `catch_loop` from beginning to end: its folder, figures by epoch, weights and episodes."""
    from catch_loop import train

    folder = tmp_path_factory.mktemp("whole")
    return folder, *train(folder, 4)


@pytest.fixture
def settle_recording(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Records on any device, unless a test takes it back; convolutions are exact, as what is compared is rounding."""
    import torch

    from diamond_gym.trainers import actor_critic, world_model
    from diamond_gym.trainers.optim import can_record

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)

    def record(yes: bool = True) -> None:
        def answer(device: Any, fabric: Any, config: Any) -> bool:
            return yes and can_record(torch.device("cuda"), fabric, config)

        for module in (world_model, actor_critic):
            monkeypatch.setattr(module, "can_record", answer)

    record()
    return record


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a play server offers: the tiny model before the bundled ones."""
    play_client = pytest.importorskip("play_client")
    return play_client.tiny_worlds(str(tmp_path_factory.mktemp("play")))


@pytest.fixture
def tiny_worlds() -> Any:
    """The same for one test, in its own home, without a server."""
    from stubs import save_tiny_model

    from diamond_gym.play.worlds import Worlds
    from diamond_gym.registry import resolve

    save_tiny_model()
    return Worlds("cpu", "float32", first=resolve("tiny"))


@pytest.fixture(scope="module")
def house(worlds: Any) -> Iterator[Any]:
    """A play server that runs in a thread."""
    from play_client import serving

    with serving(worlds) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium."""
    from play_page import CHROMIUM
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The address of a page that offers the bundled worlds."""
    from play_page import page_of, serve

    with serve(max_sessions=8) as house:
        yield page_of(house)


@pytest.fixture
def new_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens pages, and says what their scripts complained of."""
    from play_page import PATIENCE

    contexts, complaints = [], []

    def new(**options: Any) -> Any:
        contexts.append(browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options}))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
        return page

    yield new
    for context in contexts:
        context.close()
    assert [text for text in complaints if "WebSocket" not in text and "ERR_" not in text] == []


@pytest.fixture
def page(new_page: Callable[..., Any], address: str) -> Any:
    """A page that is in Breakout and stands still at the beginning of its dream."""
    from play_page import stand_still

    page = new_page()
    page.goto(f"{address}&world=Breakout")
    stand_still(page)
    return page


@pytest.fixture
def no_error_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No test may leave a traceback or any other error in the log."""
    caplog.set_level(logging.WARNING)
    yield
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR or record.exc_info]
    assert not errors
