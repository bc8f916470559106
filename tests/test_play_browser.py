"""The page of `diamond-gym play` in a real browser: what it shows is what the server dreams."""

import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("playwright", reason="needs playwright: pip install playwright")
pytest.importorskip("starlette", reason="the extra play is not installed")
pytest.importorskip("uvicorn", reason="the extra play is not installed")
pytest.importorskip("websockets", reason="the extra play is not installed")

from engines import LARGE, SMALL, golden_engine
from playwright import sync_api

from diamond_gym.envs import DreamEnv
from diamond_gym.play.server import STATIC, Server, Settings
from diamond_gym.play.serving import Running, listen
from diamond_gym.play.worlds import Worlds
from diamond_gym.registry import load_world_model, save_model

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
browsers = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
pytestmark = pytest.mark.browser

PATIENCE = 60_000  # ms: a busy machine may take its time
SEED = 7


@cache
def worlds() -> Worlds:
    """The bundled worlds, their models loaded once for all servers."""
    return Worlds("cpu", "float32")


@contextmanager
def serve(**settings: Any) -> Iterator[tuple[str, Callable[[], None]]]:
    """A server in a thread: the page's address, and what ends it."""
    server, ready = Server(worlds(), Settings(seed=SEED, **settings)), threading.Event()
    listening = listen("127.0.0.1", 0)
    running = Running(server, ready.set)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
    thread.start()

    def end() -> None:
        running.should_exit = True
        thread.join()

    try:
        assert ready.wait(PATIENCE / 1000)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/?token={server.token}", end
    finally:
        end()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serve(max_sessions=8) as (url, _):
        yield url


@pytest.fixture
def new_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens pages, and says what their scripts complained of."""
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
    """A page that is in Breakout and stands still at the beginning of the dream of `SEED`."""
    page = new_page()
    page.goto(f"{address}&world=Breakout")
    stand_still(page)
    return page


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


NOOP, FIRE, RIGHT, LEFT = range(4)


@browsers
def test_the_page_shows_the_frames_of_an_environment(page):
    env, obs = breakout()
    assert np.array_equal(pixels(page), obs)
    for key, action in (("Space", FIRE), ("ArrowRight", RIGHT), ("d", RIGHT), (None, NOOP), ("a", LEFT)):
        if key is not None:
            page.keyboard.down(key)
            page.wait_for_selector(".cap.down")
        obs, reward, *_ = env.step(action)
        assert np.array_equal(step(page), obs), key
        assert page.text_content("#reward") == {0: "0", 1: "+1", -1: "−1"}[reward]
        if key is not None:
            page.keyboard.up(key)


@browsers
def test_pause_and_going_on(page):
    before = step_of(page)
    assert page.text_content("#status") == "Paused"
    page.click("#pause")
    wait(page, lambda: step_of(page) > before + 3)
    page.keyboard.press("p")
    page.wait_for_selector("#pause[aria-pressed=true]")
    page.keyboard.press(",")  # the step before, which no step under way changes
    page.wait_for_selector("body[data-seek]")
    wait(page, lambda: is_settled(page))
    before = step_of(page)
    page.click("#step-once")
    page.wait_for_selector(f'#dream[data-step="{before + 1}"]')


@browsers
def test_a_new_start_and_the_speed(page):
    start, first = page.text_content("#start"), step_of(page)
    for _ in range(4):  # the same start may be drawn twice
        page.click("#new-start")
        wait(page, lambda: step_of(page) > first)
        first = step_of(page)
    page.focus("#speed")
    page.keyboard.press("ArrowRight")
    wait(page, lambda: page.text_content("#fps").endswith("of 16"))
    assert start.startswith("no. ")


@browsers
def test_rewinding_and_playing_on_from_there(page):
    page.keyboard.down("a")
    page.wait_for_selector(".cap.down")
    first = step_of(page)
    frames = {first + i + 1: step(page) for i in range(6)}
    page.focus("#timeline")
    for _ in range(3):
        page.keyboard.press("ArrowDown")  # on the slider, whose arrows are not for the world
    page.wait_for_selector(f'#dream[data-step="{first + 3}"]')
    assert np.array_equal(pixels(page), frames[first + 3])
    page.click("#resume-last")  # nothing is lost by looking back
    page.wait_for_selector("body:not([data-seek])")
    page.keyboard.press("p")
    page.wait_for_selector("#pause[aria-pressed=true]")
    page.evaluate(
        """step => {
        const strip = document.getElementById("timeline");
        strip.value = step;
        strip.dispatchEvent(new Event("input"));
    }""",
        first + 3,
    )
    page.wait_for_selector(f'#dream[data-step="{first + 3}"]')
    page.keyboard.press(".")  # the same dice, the same action: the same frame
    page.wait_for_selector(f'#dream[data-step="{first + 4}"]')
    assert np.array_equal(pixels(page), frames[first + 4])
    assert page.get_attribute("#timeline", "max") == str(first + 4)
    page.keyboard.press(",")
    page.wait_for_selector(f'#dream[data-step="{first + 3}"]')
    assert page.text_content("#pause-text") == "Play on from here"
    page.click("#pause")
    wait(page, lambda: step_of(page) > first + 4)
    assert page.text_content("#status") == "Live"


@browsers
def test_choosing_a_branch(page):
    env, _ = breakout()
    first = step_of(page)
    page.click("#branch-actions")
    page.wait_for_selector("#branches[open]")
    wait(page, lambda: "Choose one" in page.text_content("#branches-text"))
    assert page.locator(".branch b").all_text_contents() == ["nothing", "fire", "right", "left"]
    page.click(f'.branch[data-index="{LEFT}"]')
    page.wait_for_selector("#branches", state="hidden")
    wait(page, lambda: step_of(page) > first and is_settled(page))
    for _ in range(step_of(page) - first):
        obs = env.step(LEFT)[0]
    assert np.array_equal(pixels(page), obs)

    before = step_of(page)
    page.keyboard.press("b")
    page.wait_for_selector("#branches[open]")
    page.keyboard.press("Escape")
    page.wait_for_selector("#branches", state="hidden")
    assert np.array_equal(step(page), env.step(NOOP)[0])
    assert step_of(page) == before + 1


@browsers
def test_branches_on_their_way_do_not_come_back_after_escape(new_page, address):
    page = new_page()
    page.add_init_script(
        """addEventListener("keydown", (event) => {
            if (event.key !== "Escape" || !window.about) return;
            // What the server had sent by then arrives before, and after, the dialog says that it was closed.
            const late = () => window.socket.dispatchEvent(new MessageEvent("message", { data: window.about }));
            late();
            document.getElementById("branches").addEventListener("close", late, { once: true });
            setTimeout(() => { late(); document.body.dataset.late = "true"; }, 50);
        });
        window.WebSocket = class extends WebSocket {
            constructor(...rest) {
                super(...rest);
                window.socket = this;
                this.addEventListener("message", ({ data }) => {
                    if (typeof data === "string" && JSON.parse(data).type === "branches") window.about = data;
                });
            }
        };"""
    )
    page.goto(f"{address}&world=Breakout")
    stand_still(page)
    for _ in range(2):
        before = step_of(page)
        page.keyboard.press("b")
        page.wait_for_selector("#branches[open]")
        page.keyboard.press("Escape")
        page.wait_for_selector("body[data-late]")
        page.evaluate("delete document.body.dataset.late")
        step(page)
        assert step_of(page) == before + 1 and not page.locator("#branches[open]").count()


@browsers
def test_the_agent_plays_until_a_key_is_held(page):
    pytest.importorskip("stable_baselines3")
    page.click("#control [data-value=agent]")
    page.keyboard.press("p")
    page.wait_for_selector("body[data-by=agent]")
    assert page.text_content("#status") == "Agent plays"
    chances = [float(text.split()[0]) for text in page.locator(".bar-number").all_text_contents()]
    assert len(chances) == 4 and 97 < sum(chances) < 103
    assert re.fullmatch(r"[+−]?\d.*", page.text_content("#value"))
    page.keyboard.down("d")
    page.wait_for_selector("body[data-by=human]")
    page.wait_for_selector('.cap.down:not(.agent)[data-key="d"]')
    page.keyboard.up("d")
    page.wait_for_selector("body[data-by=agent]")
    page.keyboard.press("t")
    page.wait_for_selector("#control [data-value=human][aria-pressed=true]")


@browsers
def test_the_quality_is_switched_live(page):
    page.click("#quality [data-value=fast]")
    page.wait_for_selector("#quality [data-value=fast][aria-pressed=true]")
    env, _ = breakout(quality="fast")
    assert np.array_equal(step(page), env.step(NOOP)[0])


@browsers
def test_the_denoising(page):
    page.click("#denoise-switch")
    page.wait_for_selector("#denoising", state="visible")
    frame = step(page)
    page.wait_for_selector("[data-tile=spread]")
    tiles = page.locator("#denoising-steps canvas").count()
    assert tiles >= 3  # noise, at least one step, the spread
    page.evaluate("n => (document.querySelectorAll('#denoising-steps canvas')[n].id = 'last-step')", tiles - 2)
    assert np.array_equal(pixels(page, "last-step"), frame)


@browsers
def test_reality_beside(page):
    pytest.importorskip("ale_py")
    page.click("#real-switch")
    page.wait_for_selector("#screen-real", state="visible")
    page.wait_for_selector("#real[data-step]")
    step(page)
    wait(page, lambda: page.get_attribute("#real", "data-step") == page.get_attribute("#dream", "data-step"))
    dream, real = pixels(page).astype(int), pixels(page, "real").astype(int)
    wait(page, lambda: "levels" in page.text_content("#divergence"))
    assert abs(float(page.text_content("#divergence").split()[0]) - abs(dream - real).mean()) < 0.1
    assert pixels(page, "difference").shape == dream.shape
    page.click("#real-switch")
    page.wait_for_selector("#screen-real", state="hidden")


@browsers
def test_recording_and_its_downloads(page):
    page.keyboard.press("r")
    page.wait_for_selector("#record[aria-pressed=true]")
    for _ in range(3):
        step(page)
    page.keyboard.press("r")
    page.wait_for_selector("#downloads", state="visible")
    assert page.text_content("#recording-text").startswith("3 steps")
    store = Path(page.text_content("#recording-text").split(" in ")[1])
    assert any(store.iterdir())
    with page.expect_download() as log:
        page.click("[data-format=log]")
    assert json.loads(Path(log.value.path()).read_text())["world"] == "Breakout"
    with page.expect_download() as video:
        page.click("[data-format=gif]")
    assert Path(video.value.path()).read_bytes()[:3] == b"GIF"
    assert video.value.suggested_filename.startswith("Breakout")


@browsers
def test_fingers_on_a_phone(new_page, address):
    page = new_page(viewport={"width": 375, "height": 812}, has_touch=True, is_mobile=True)
    page.goto(f"{address}&world=Breakout")
    page.wait_for_selector("#dream[data-step]")
    assert page.is_visible("#pad") and not page.is_visible("#keys")
    box = page.locator('.cross [data-key="d"]').bounding_box()
    finger = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    touches = page.context.new_cdp_session(page)
    touches.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [finger]})
    page.wait_for_selector('.cross .on[data-key="d"]')
    page.wait_for_selector("#probabilities .taken:nth-child(3)", state="attached")  # RIGHT
    touches.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    page.wait_for_selector("#probabilities .taken:nth-child(1)", state="attached")
    assert page.locator(".cross .on").count() == 0


@browsers
@pytest.mark.parametrize("width", [375, 768, 1440])
def test_nothing_is_wider_than_the_screen(new_page, address, width):
    page = new_page(viewport={"width": width, "height": 800})
    page.goto(f"{address}&world=Breakout")
    page.wait_for_selector("#dream[data-step]")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    side = page.locator("#dream").bounding_box()["width"]
    assert side % 64 == 0, "pixels of the dream are whole pixels of the screen"


@browsers
def test_the_picker_and_two_tabs_with_dreams_of_their_own(new_page, address):
    first, second = new_page(), new_page()
    for page, seed in ((first, "7"), (second, "8")):
        page.goto(address)
        page.click('[data-world="Pong"]')
        page.fill("#picker-seed", seed)
        page.click("#picker-start")
        stand_still(page)
        assert page.text_content("#seed") == seed
    assert first.text_content("#world-name") == "Pong"
    before = step_of(first)
    step(second)
    assert step_of(first) == before
    env = environment("pong-nano")
    for page, seed in ((first, 7), (second, 8)):
        page.keyboard.press("Backspace")
        wait(page, lambda page=page, seed=seed: np.array_equal(pixels(page), env.reset(seed=seed)[0]))


@browsers
def test_everything_has_a_name_and_nothing_comes_from_elsewhere(page):
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, a, canvas:not([aria-hidden]), dialog")]
            .filter((e) => !(e.textContent.trim() || e.getAttribute("aria-label") || e.getAttribute("aria-labelledby")
                || e.labels?.length))
            .filter((e) => !e.hidden && !e.closest('#branch-grid, #denoising-steps')).map((e) => e.outerHTML)"""
    )
    assert unnamed == []
    origins = set(page.evaluate("performance.getEntriesByType('resource').map((e) => new URL(e.name).origin)"))
    assert origins == {page.evaluate("location.origin")}


@browsers
def test_the_mouse_and_the_small_picture_of_two_stages(new_page, address):
    model = golden_engine()
    save_model(model.card, model.weights(), model.starts)
    page, sent = new_page(), []
    page.on("websocket", lambda socket: socket.on("framesent", lambda text: sent.append(json.loads(text))))
    page.goto(f"{address}&world=CSGO")
    page.wait_for_selector("#inset[data-step]")
    assert pixels(page).shape == (*LARGE, 3) and pixels(page, "inset").shape == (*SMALL, 3)
    page.keyboard.down("c")
    page.wait_for_selector('.cap.down[data-key="ctrl"]')
    page.click("#dream")
    wait(page, lambda: page.evaluate("document.pointerLockElement?.id") == "dream")
    page.mouse.down(button="left")
    page.mouse.move(700, 300)
    page.mouse.move(760, 310)
    wait(page, lambda: any(each["type"] == "mouse" and each["dx"] and each["buttons"] == 1 for each in sent))
    assert any(each["type"] == "keys" and each["down"] == ["ctrl"] for each in sent)


@browsers
def test_a_lost_connection_is_taken_up_again(new_page, address):
    page, connections = new_page(), []

    def between(browser_side: Any) -> None:
        connections.append((browser_side, browser_side.connect_to_server()))

    page.route_web_socket(re.compile("/ws"), between)
    page.goto(f"{address}&world=Breakout")
    stand_still(page)
    frame, shown = step(page), step_of(page)
    browser_side, server_side = connections[-1]
    server_side.close()
    browser_side.close(code=3000)
    page.wait_for_selector("body[data-state=lost]")
    assert "connection is lost" in page.text_content("#veil-title")
    page.wait_for_selector("body[data-state=paused]")
    assert len(connections) > 1
    wait(page, lambda: step_of(page) == shown)
    assert np.array_equal(pixels(page), frame)
    frame = step(page)
    page.reload()  # goes on in its own dream, too
    page.wait_for_selector(f'#dream[data-step="{shown + 1}"]')
    assert np.array_equal(pixels(page), frame)


@browsers
def test_a_busy_server_says_so(new_page):
    with serve(max_sessions=1) as (url, _):
        first, second = new_page(), new_page()
        first.goto(f"{url}&world=Breakout")
        first.wait_for_selector("#dream[data-step]")
        second.goto(f"{url}&world=Breakout")
        second.wait_for_selector("body[data-state=busy]")
        assert "1 player at a time" in second.text_content("#veil-text")
        first.close()
        second.click("#veil-button")
        second.wait_for_selector("#dream[data-step]")


@browsers
def test_a_server_that_ends_says_so(new_page):
    with serve() as (url, end):
        page = new_page()
        page.goto(f"{url}&world=Breakout")
        page.wait_for_selector("#dream[data-step]")
        end()
        page.wait_for_selector("body[data-state=closed]")
        assert page.text_content("#veil-title") == "The server has ended"


def test_the_page_is_small():
    assert sum(path.stat().st_size for path in STATIC.iterdir()) <= 200_000
    assert not re.search(r"https?://(?!www\.w3\.org)", "".join(p.read_text() for p in STATIC.iterdir()))
