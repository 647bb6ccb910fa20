"""User actions on the voice page, and the statistics it shows."""

import re

from playwright.sync_api import Page, expect

AT_WORK = re.compile(r"^(Listening|Answering)\. ")  # the status of a call, whoever speaks
PHASE_TIMEOUT_MS = 60_000  # no guarantee depends on it: it turns a hang into a failure


def expect_phase(page: Page, phase: str) -> None:
    expect(page.locator(f"#call[data-phase={phase}]")).to_be_visible(timeout=PHASE_TIMEOUT_MS)


def expect_call_loaded(page: Page) -> None:
    """Also what the page loads after its first screen, and what it fetches for later."""
    expect(page.locator("meta[name=later]")).to_have_count(0)


def start(page: Page) -> None:
    """Press the button and wait until the call is live."""
    page.locator("#talk").click()
    expect_phase(page, "live")


def stop(page: Page) -> None:
    page.locator("#talk").click()
    expect_phase(page, "idle")


def open_panel(page: Page, name: str) -> None:
    page.locator(f"#{name} > summary").click()


def stat(page: Page, name: str) -> str:
    return page.locator(f"#stat-{name}").inner_text()


def numbers(page: Page, name: str) -> list[float]:
    """The numbers in one statistic; empty while it shows a dash."""
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", stat(page, name))]


def until_played(page: Page, frames: int) -> None:
    """Wait until so many of the agent's frames were received."""
    page.wait_for_function(
        """(frames) => {
          const match = document.getElementById("stat-underruns").textContent.match(/in (\\d+) frames/);
          return match !== null && Number(match[1]) >= frames;
        }""",
        arg=frames,
        timeout=60_000,
    )
