"""The page of `diamond-gym play` in a browser: on phones, in several tabs, and when the connection is lost."""

import json
import re
from typing import Any

import numpy as np
import pytest

pytest.importorskip("play_page")

from engines import LARGE, SMALL, golden_engine
from play_page import browsers, environment, page_of, pixels, serve, stand_still, step, step_of, wait

from diamond_gym.play.server import STATIC
from diamond_gym.registry import save_model

pytestmark = pytest.mark.browser


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
    with serve(max_sessions=1) as house:
        first, second = new_page(), new_page()
        first.goto(f"{page_of(house)}&world=Breakout")
        first.wait_for_selector("#dream[data-step]")
        second.goto(f"{page_of(house)}&world=Breakout")
        second.wait_for_selector("body[data-state=busy]")
        assert "1 player at a time" in second.text_content("#veil-text")
        first.close()
        wait(second, lambda: sum(player.channel.attached for player in [*house.server.players.values()]) == 1)
        second.click("#veil-button")
        second.wait_for_selector("#dream[data-step]")


@browsers
def test_a_server_that_ends_says_so(new_page):
    with serve() as house:
        page = new_page()
        page.goto(f"{page_of(house)}&world=Breakout")
        page.wait_for_selector("#dream[data-step]")
        house.stop()
        page.wait_for_selector("body[data-state=closed]")
        assert page.text_content("#veil-title") == "The server has ended"


def test_the_page_is_small():
    assert sum(path.stat().st_size for path in STATIC.iterdir()) <= 200_000
    assert not re.search(r"https?://(?!www\.w3\.org)", "".join(p.read_text() for p in STATIC.iterdir()))
