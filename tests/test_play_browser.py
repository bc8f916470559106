"""The page of `diamond-gym play` in a browser, played in one tab: it shows what the server dreams."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("play_page")

from play_page import (
    FIRE,
    LEFT,
    NOOP,
    RIGHT,
    breakout,
    browsers,
    is_settled,
    pixels,
    stand_still,
    step,
    step_of,
    wait,
)

pytestmark = pytest.mark.browser


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
