"""What a person does with the page, and what they read on it."""

import re

from playwright.sync_api import Page, expect

STAGE_TIMEOUT_MS = 20_000


def expect_phase(page: Page, phase: str) -> None:
    expect(page.locator(f"#stage[data-phase={phase}]")).to_be_visible(timeout=STAGE_TIMEOUT_MS)


def start(page: Page) -> None:
    """Press the button, and wait until the server listens."""
    page.locator("#talk").click()
    expect_phase(page, "live")


def stop(page: Page) -> None:
    page.locator("#talk").click()
    expect_phase(page, "idle")


def open_panel(page: Page, name: str) -> None:
    page.locator(f"#{name} > summary").click()


def figure(page: Page, name: str) -> str:
    return page.locator(f"#fig-{name}").inner_text()


def numbers(page: Page, name: str) -> list[float]:
    """The numbers of one figure of the status panel; empty while it shows a dash."""
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", figure(page, name))]


def until_played(page: Page, frames: int) -> None:
    """Wait until so many of the agent's frames have come."""
    page.wait_for_function(
        """(frames) => {
          const told = document.getElementById("fig-underruns").textContent.match(/in (\\d+) frames/);
          return told !== null && Number(told[1]) >= frames;
        }""",
        arg=frames,
        timeout=60_000,
    )
