"""The voice page with the keyboard alone: every control is reached in order, seen when it is, and works."""

import re
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from support.browser.actions import expect_phase
from support.browser.chromium import Visit, visiting
from support.browser.servers import Server

MAX_TABS = 80
# Of the element with the focus: its id, or what it says; and whether the focus can be seen.
FOCUSED = """() => {
  const one = document.activeElement;
  if (one === document.body) return null;
  const { outlineStyle, outlineWidth } = getComputedStyle(one);
  const box = one.getBoundingClientRect();
  return {
    name: one.id || one.getAttribute("aria-label") || one.textContent.trim(),
    isVisible: outlineStyle !== "none" && parseFloat(outlineWidth) > 0 && box.width > 0,
  };
}"""
REACH = """() => [...document.querySelectorAll("a, button, summary, select, input, textarea, ol[tabindex]")]
  .filter((one) => one.checkVisibility({ visibilityProperty: true }) && !one.disabled)
  .map((one) => one.id || one.getAttribute("aria-label") || one.textContent.trim())"""


def focused(page: Page) -> dict[str, Any] | None:
    return page.evaluate(FOCUSED)


def tab_to(page: Page, name: str) -> None:
    for _ in range(MAX_TABS):
        page.keyboard.press("Tab")
        one = focused(page)
        if one is not None and one["name"] == name:
            assert one["isVisible"], name
            return
    pytest.fail(f"{name} was not reached")


def test_every_control_is_reached_and_seen(visit: Visit) -> None:
    """All panels open, before a call."""
    page = visit()
    expect(page.locator(".notice")).to_be_visible()
    for panel in ("stats", "diagnostics", "history"):
        page.locator(f"#{panel} > summary").click()
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    names = page.evaluate(REACH)
    reached = []
    for _ in range(MAX_TABS):
        page.keyboard.press("Tab")
        one = focused(page)
        if one is None:  # the browser's own controls
            continue
        if one["name"] in reached:
            break
        assert one["isVisible"], one["name"]
        reached.append(one["name"])
    assert sorted(set(names) - set(reached)) == []


def test_a_conversation_from_start_to_saved_transcript(visit: Visit) -> None:
    """Start, mute, unmute, stop, save; the focus is never lost."""
    page = visit()
    expect(page.locator("#server-label")).to_have_text("Ready")
    tab_to(page, "talk")
    page.keyboard.press("Enter")
    expect_phase(page, "live")
    tab_to(page, "mute")
    page.keyboard.press("Enter")
    expect(page.locator("#call-status")).to_contain_text("You are muted.")
    page.keyboard.press("m")
    page.wait_for_function("() => document.querySelector('#lines .agent p')?.textContent.length > 5")
    page.keyboard.press("Shift+Tab")
    assert focused(page)["name"] == "talk"  # type: ignore[index]
    page.keyboard.press("Enter")
    expect_phase(page, "idle")
    assert focused(page)["name"] == "talk"  # type: ignore[index]
    tab_to(page, "save-lines-txt")
    with page.expect_download():
        page.keyboard.press("Enter")


def test_notices_are_read_and_closed(visit: Visit) -> None:
    """Help opens at the notice's topic and gives the focus back; closing the notice does not lose it."""
    page = visit()
    expect(page.locator(".notice[data-key=untrained]")).to_be_visible()
    tab_to(page, "Help: Untrained model")
    page.keyboard.press("Enter")
    expect(page.locator("#help-model")).to_be_focused()
    page.keyboard.press("Escape")
    assert focused(page)["name"] == "Help: Untrained model"  # type: ignore[index]
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator(".notice")).to_have_count(0)
    expect(page.locator("#talk")).to_be_focused()


def test_settings_are_changed_and_left_by_keyboard(visit: Visit) -> None:
    page = visit()
    tab_to(page, "open-settings")
    page.keyboard.press("Enter")
    for _ in range(MAX_TABS):
        if page.evaluate("document.activeElement.name") == "talkMode":
            break
        page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    expect(page.locator("select[name=talkMode]")).to_have_value("push")
    page.keyboard.press("Escape")
    expect(page.locator("#open-settings")).to_be_focused()
    expect(page.locator("#hold")).to_be_visible()


def test_the_keyboard_reference_is_one_key_away(visit: Visit) -> None:
    """It lists every shortcut; without shortcuts, keys do nothing."""
    page = visit()
    page.keyboard.press("?")
    expect(page.locator("#help-keys")).to_be_focused()
    for key in ("Space", "M", "Esc", "?"):
        expect(page.locator("#help-keys kbd").get_by_text(key, exact=True)).to_be_visible()
    page.keyboard.press("Escape")
    page.locator("#open-settings").click()
    expect(page.locator("#settings")).to_be_visible()
    page.locator("input[name=shortcuts]").uncheck()
    page.locator("#close-settings").click()
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("?")
    page.keyboard.press("Space")
    expect(page.locator("#help")).to_be_hidden()
    expect_phase(page, "idle")


def test_a_recording_is_made_and_discarded_by_keyboard(browser: Browser, server: Server) -> None:
    """The focus returns to the button that records."""
    with visiting(browser, server.origin) as visit:
        page = visit()
        page.keyboard.press("Space")
        expect_phase(page, "live")
        tab_to(page, "record")
        page.keyboard.press("Enter")
        page.wait_for_function("() => document.getElementById('record-time').textContent > '0:00'")
        page.keyboard.press("Enter")
        expect(page.locator("#recording-summary")).to_have_text(re.compile(r"^\d+:\d\d recorded"))
        page.on("dialog", lambda dialog: dialog.accept())
        tab_to(page, "discard")
        page.keyboard.press("Enter")
        expect(page.locator("#record")).to_be_focused()
