"""Whatever goes wrong is said in words, and the page comes back from it by itself where it can."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Playwright, expect
from support.browser.acts import expect_phase, open_panel, start, stop, until_played
from support.browser.servers import Server, serving
from support.browser.visitors import Visit, launch, visiting

NO_WORKLET = "delete globalThis.AudioWorkletNode;"


@pytest.fixture
def own_server() -> Iterator[Server]:
    with serving("lanes.max=1", "lanes.queue=1") as started:
        yield started


def test_a_server_that_was_killed_is_found_again(browser: Browser, own_server: Server) -> None:
    """The page says that the connection is lost, comes back, and says that the conversation is a new one."""
    with visiting(browser, own_server.origin) as visit:
        page = visit()
        open_panel(page, "status")
        start(page)
        until_played(page, 10)
        own_server.kill()
        expect(page.locator("#saying")).to_contain_text(
            "The connection was lost. Trying again in", timeout=20_000
        )
        own_server.start()
        expect_phase(page, "live")
        expect(page.locator("#lines .divider")).to_contain_text("A new conversation began")
        stop(page)


def test_after_silence_the_conversation_is_taken_up_again(browser: Browser) -> None:
    """A server that falls silent and comes back within its grace time: same session, nothing said twice."""
    with (
        serving("heartbeat.every_s=0.5", "heartbeat.timeout_s=2") as server,
        visiting(browser, server.origin) as visit,
    ):
        page = visit()
        open_panel(page, "status")
        start(page)
        until_played(page, 10)
        server.freeze()
        expect(page.locator("#saying")).to_contain_text("The connection was lost.", timeout=20_000)
        server.thaw()
        expect_phase(page, "live")
        expect(page.locator("#lines .divider")).to_have_count(0)
        stop(page)


def test_one_waits_one_is_turned_away_and_both_are_served(browser: Browser, own_server: Server) -> None:
    """One place, one in the queue: the second is told its position, the third when to try again."""
    with visiting(browser, own_server.origin) as visit:
        first, second, third = visit(), visit(), visit()
        start(first)
        second.bring_to_front()
        second.locator("#talk").click()
        expect(second.locator("#saying")).to_contain_text("You are next.")
        third.bring_to_front()
        third.locator("#talk").click()
        expect(third.locator("#saying")).to_have_text(
            re.compile(r"Every place is taken and the queue is full\. Trying again in \d+ s\.")
        )
        stop(third)
        first.bring_to_front()
        stop(first)
        expect_phase(second, "live")
        second.bring_to_front()
        stop(second)


def test_a_server_that_shuts_down_says_so(browser: Browser) -> None:
    with serving() as server, visiting(browser, server.origin) as visit:
        page = visit()
        start(page)
        server.stop()
        expect(page.locator("#saying")).to_contain_text("The server shut down. Trying again in")
        expect(page.locator("#server-label")).to_have_text("Unreachable", timeout=20_000)
        stop(page)


def test_a_microphone_that_is_denied_is_named(playwright: Playwright, server: Server) -> None:
    browser = launch(playwright, "--deny-permission-prompts")
    with visiting(browser, server.origin) as visit:
        page = visit()
        page.locator("#talk").click()
        expect(page.locator(".notice.bad")).to_contain_text("The microphone is blocked")
        expect_phase(page, "idle")
    browser.close()


def test_an_insecure_page_says_what_to_do(playwright: Playwright) -> None:
    """A name that is not this computer's, over plain HTTP: browsers offer no microphone there."""
    browser = launch(playwright, "--host-resolver-rules=MAP voice.test 127.0.0.1")
    with serving('server.allowed_hosts=["127.0.0.1", "voice.test"]') as server:
        origin = f"http://voice.test:{server.port}"
        with visiting(browser, origin) as visit:
            page = visit()
            expect(page.locator(".notice.bad")).to_contain_text("The microphone needs a secure page")
            expect(page.locator(".notice.bad")).to_contain_text(
                f"http://localhost:{server.port}/packet-voice"
            )
            page.locator("#talk").click()
            expect_phase(page, "idle")
    browser.close()


def test_a_token_is_shown_once_and_leaves_the_address(browser: Browser) -> None:
    with (
        serving("server.token=correct-horse-battery-staple") as server,
        visiting(browser, server.origin, forgiven=("401",)) as visit,
    ):
        page = visit()
        expect(page.locator(".notice.bad")).to_contain_text("This server wants its token")
        page = visit("/packet-voice#token=correct-horse-battery-staple")
        expect(page.locator("#server-label")).to_have_text("Ready")
        assert "token" not in page.url
        start(page)
        stop(page)


def test_a_browser_without_worklets_is_told(browser: Browser, server: Server) -> None:
    with visiting(browser, server.origin, script=NO_WORKLET) as visit:
        page = visit()
        page.locator("#talk").click()
        expect(page.locator(".notice.bad")).to_contain_text("This browser cannot play live sound")
        expect_phase(page, "idle")


def test_while_models_load_the_page_says_so(browser: Browser, server: Server, visit: Visit) -> None:
    """What /health says of a server that is not ready is shown, and goes when it is."""
    page = visit("/health/live")
    loading = {**server.health(), "status": "not_ready", "model": None}
    page.route("**/health", lambda route: route.fulfill(json=loading))
    page.goto(server.origin + "/packet-voice")
    expect(page.locator("#notices")).to_contain_text("The models are loading")
    page.unroute("**/health")
    expect(page.locator("#server-label")).to_have_text("Ready")
    expect(page.locator("#notices")).not_to_contain_text("The models are loading")
    expect(page.locator("#notices")).to_contain_text("This model is untrained")
