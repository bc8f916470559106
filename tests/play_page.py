"""The page of `diamond-gym play` in Chromium, for the tests of it; conftest.py has the fixtures."""

import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import numpy as np
import pytest

pytest.importorskip("playwright", reason="needs playwright: pip install playwright")
pytest.importorskip("starlette", reason="the extra play is not installed")
pytest.importorskip("uvicorn", reason="the extra play is not installed")
pytest.importorskip("websockets", reason="the extra play is not installed")

from play_client import House, serving

from diamond_gym.envs import DreamEnv
from diamond_gym.play.worlds import Worlds
from diamond_gym.registry import load_world_model

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
browsers = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")

PATIENCE = 60_000  # ms: a busy machine may take its time
SEED = 7
NOOP, FIRE, RIGHT, LEFT = range(4)


@cache
def bundled() -> Worlds:
    """The bundled worlds, their models loaded once for all servers."""
    return Worlds("cpu", "float32")


def serve(**settings: Any) -> AbstractContextManager[House]:
    """A server of the bundled worlds in a thread."""
    return serving(bundled(), **{"seed": SEED, "fps": 15, **settings})


def page_of(house: House) -> str:
    """The address of a server's page."""
    return f"{house.address}/?token={house.token}"


def stand_still(page: Any) -> None:
    """Pauses, and goes back to the beginning."""
    page.wait_for_selector("#dream[data-step]")
    page.keyboard.press("p")
    page.wait_for_selector("#pause[aria-pressed=true]")
    page.keyboard.press("Backspace")
    # A step may have been under way; only a beginning follows no action.
    wait(page, lambda: not page.locator("#probabilities .taken").count() and is_settled(page))


def wait(page: Any, holds: Callable[[], Any]) -> None:
    """Waits until something holds."""
    end = time.monotonic() + PATIENCE / 1000
    while not holds():
        assert time.monotonic() < end, page.inner_text("body")
        page.wait_for_timeout(30)


def is_settled(page: Any) -> bool:
    """Whether the canvas shows the step that the read-outs are of."""
    return step_of(page) == int(page.text_content("#step"))


def step_of(page: Any) -> int:
    """The step whose frame the canvas shows."""
    return int(page.get_attribute("#dream", "data-step"))


def pixels(page: Any, canvas: str = "dream") -> np.ndarray:
    """What is on a canvas, at its own size: uint8 (H, W, 3)."""
    width, height, data = page.evaluate(
        """id => {
            const c = document.getElementById(id);
            return [c.width, c.height, Array.from(c.getContext("2d").getImageData(0, 0, c.width, c.height).data)];
        }""",
        canvas,
    )
    return np.array(data, np.uint8).reshape(height, width, 4)[..., :3]


def step(page: Any) -> np.ndarray:
    """Makes one step and gives its frame."""
    following = step_of(page) + 1
    page.keyboard.press(".")
    page.wait_for_selector(f'#dream[data-step="{following}"]')
    return pixels(page)


def environment(name: str, **keywords: Any) -> DreamEnv:
    """An environment that computes as the server does: with this package's kernels, where they can be built."""
    model = load_world_model(name, "cpu", "float32")
    model.use_kernels()
    return DreamEnv(model=model, max_episode_steps=-1, **keywords)


def breakout(**keywords: Any) -> tuple[Any, np.ndarray]:
    env = environment("breakout-nano", **keywords)
    return env, env.reset(seed=SEED)[0]
