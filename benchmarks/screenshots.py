"""Pictures of the page of `diamond-gym play`, for docs/play.md: `python -m benchmarks.screenshots`.

Needs the extra `play`, playwright and Chromium. It starts a server of its own, plays Breakout and Pong in the browser,
and writes PNG files into docs/play.
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from benchmarks.play import serving

FOLDER = Path(__file__).parents[1] / "docs" / "play"
SCREEN = {"viewport": {"width": 1440, "height": 900}}
TABLET = {"viewport": {"width": 768, "height": 1024}}
PHONE = {"viewport": {"width": 375, "height": 812}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}


def main() -> None:
    """Takes all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=FOLDER)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    with serving("--seed", "7") as server, sync_playwright() as playwright:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for picture in (picker, playing, closer, branches, rewinding, phone):
            picture(Shots(browser, server.address, out))
        browser.close()


class Shots:
    """Opens pages and writes what they show.

    Args:
        browser: Playwright's.
        address: Of the server.
        out: The folder of the pictures.
    """

    def __init__(self, browser: Any, address: str, out: Path) -> None:
        self._browser, self._address, self._out = browser, address, out

    def open(self, world: str | None = None, **options: Any) -> Any:
        """A page, in a world if one is named."""
        page = self._browser.new_context(**options).new_page()
        page.set_default_timeout(120_000)
        page.goto(self._address + (f"&world={world}" if world else ""))
        if world:
            page.wait_for_selector("#dream[data-step]")
        return page

    def take(self, page: Any, name: str, **options: Any) -> None:
        """Writes a picture, and closes the page."""
        page.evaluate("scrollTo(0, 0)")
        page.screenshot(path=self._out / f"{name}.png", **options)
        page.context.close()


def until(page: Any, steps: int) -> None:
    """Waits until the dream has gone on for some steps."""
    last = int(page.get_attribute("#dream", "data-step")) + steps
    while int(page.get_attribute("#dream", "data-step")) < last:
        page.wait_for_timeout(50)


def picker(shots: Shots) -> None:
    page = shots.open(**SCREEN)
    page.wait_for_selector(".world img")
    page.wait_for_load_state("networkidle")
    shots.take(page, "picker")


def playing(shots: Shots) -> None:
    page = shots.open("Breakout", **SCREEN)
    page.click("#control [data-value=agent]")
    until(page, 36)
    page.keyboard.down("ArrowRight")
    until(page, 4)
    shots.take(page, "playing")


def closer(shots: Shots) -> None:
    page = shots.open("Pong", **SCREEN)
    page.click("#control [data-value=agent]")
    page.click("#real-switch")
    page.wait_for_selector("#real[data-step]")
    page.click("#denoise-switch")
    until(page, 40)
    page.click("#pause")  # the spread is worked out while nothing else is
    page.wait_for_selector("[data-tile=spread]:not(.stale)")
    shots.take(page, "closer", full_page=True)


def branches(shots: Shots) -> None:
    page = shots.open("Pong", **SCREEN)
    page.click("#control [data-value=agent]")
    until(page, 30)
    page.click("#branch-actions")
    page.wait_for_selector("#branches[open]")
    while "Choose one" not in page.text_content("#branches-text"):
        page.wait_for_timeout(100)
    shots.take(page, "branches")


def rewinding(shots: Shots) -> None:
    page = shots.open("Breakout", **TABLET)
    page.click("#control [data-value=agent]")
    until(page, 100)
    strip = page.locator("#timeline").bounding_box()
    page.mouse.click(strip["x"] + strip["width"] * 0.6, strip["y"] + strip["height"] / 2)
    page.wait_for_selector("#resume-last", state="visible")
    page.mouse.move(2, 2)
    shots.take(page, "rewinding")


def phone(shots: Shots) -> None:
    page = shots.open("Breakout", **PHONE)
    page.click("#control [data-value=agent]")
    until(page, 40)
    shots.take(page, "phone")


if __name__ == "__main__":
    main()
