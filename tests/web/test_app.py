"""Responses over HTTP and access to them, with a whole engine over real sockets."""

import base64
import hashlib
import re
import sys
import threading
from pathlib import Path

import h11
import pytest
import structlog
import trio
from support.limits import no_more_files
from support.web.small_engine import CARD, SETTINGS, WEIGHTS, packet_client, small_server, speech
from support.web.sockets import close_code, connect, fetch, read_response, read_to_end, serving, websocket

from actors.capacity import Capacity
from pipeline.config import Lanes, Server, Settings
from pipeline.errors import BrokenInvariantError, ConfigError, PortInUseError
from pipeline.install.program_name import interpreter
from web.app import create_app
from web.security.rate_limit import RateLimiter
from web.server.serve import serve

PAGES = ("/", "/packet-voice", "/whisperx")
OWN_PYTHON = str(Path(".venv/bin/python").absolute())
HEALTH_KEYS = {"status", "uptimeS", "readiness", "clients", "lanes", "metrics", "backend", "model"}
STAGE_KEYS = {"count", "avgMs", "lastMs", "p50", "p95", "p99"}
METRIC_KEYS = {"encode", "step", "decode", "overBudget", "budgetMs", "queues", "underruns", "tokenRate"}


async def test_health_shows_the_whole_server():
    """/health counts the frames that were processed, and names the backend and the model."""
    async with small_server() as served, packet_client(served) as client:
        await client.exchange(speech(5))
        answer = await fetch(served, "/health")
    health = answer.json
    assert answer.status == 200
    assert health.keys() >= HEALTH_KEYS
    assert (health["status"], health["readiness"]) == ("ready", {"lm": True, "mimi": True})
    assert (health["clients"], health["lanes"]["open"], health["lanes"]["max"]) == (1, 1, 4)
    assert health["backend"] == {"device": "abacus", "kernels": "off"}
    greeting = {"about": CARD.about, "suggestions": list(CARD.suggestions)}
    assert health["model"] == {"name": "small", "trained": False, "voices": None, **greeting}
    (established,) = client.metadata["connection_established"]
    assert (established.model.about, established.model.suggestions) == (CARD.about, CARD.suggestions)
    assert health["metrics"].keys() >= METRIC_KEYS
    for stage, count in (("encode", 5), ("step", 5), ("decode", 4)):
        assert health["metrics"][stage].keys() >= STAGE_KEYS
        assert health["metrics"][stage]["count"] == count


async def test_health_shows_the_limit_and_what_was_measured():
    """With the sessions that run, wait and were put back; a number set by hand was not measured."""
    async with small_server(admit="auto") as served:
        health = (await fetch(served, "/health")).json
        assert health["capacity"].keys() == {"sessions", "ticksMs", "advice"}
        assert set(health["capacity"]["ticksMs"]) <= {"1", "2", "4"}
        assert health["lanes"]["limit"] == max(1, health["capacity"]["sessions"])
    async with small_server(lanes=3, admit=2) as served:
        with served.engine.admit(), served.engine.admit(), served.engine.admit():
            served.engine.admission.set_limit(1)
            health = (await fetch(served, "/health")).json
    assert health["capacity"] == {"sessions": 2, "ticksMs": {}, "advice": None}
    assert health["lanes"] == {
        "max": 3, "open": 2, "queued": 2, "limit": 1, "running": 1, "putBack": 1, "putBackTotal": 1,
        "room": 0, "queueRoom": 7,
    }  # fmt: skip


async def test_a_client_is_told_of_a_machine_that_is_too_slow():
    """In its first packet, with what would help; the landing page says it too."""
    async with small_server() as served:
        served.engine.capacity = Capacity(4, {1: 300.0})
        async with packet_client(served) as client:
            (established,) = client.metadata["connection_established"]
            page = (await fetch(served, "/")).body.decode()
    assert established.capacity.sessions == 0
    assert "80 ms of audio take 300 ms" in established.capacity.advice
    assert "80 ms of audio take 300 ms" in page
    assert "1 of 4, 0 queued" in page


async def test_the_server_is_live_before_it_is_ready():
    """While models load everything but sessions is served; then the server is ready."""
    loaded = threading.Event()
    async with small_server(before=loaded.wait, weights=lambda: None) as served:
        try:
            assert (await fetch(served, "/health/live")).status == 200
            assert (await fetch(served, "/health")).json["status"] == "not_ready"
            unready = await fetch(served, "/health/ready")
            assert (unready.status, unready.json["readiness"]) == (503, {"lm": False, "mimi": False})
            weights = await fetch(served, "/weights")
            assert (weights.status, weights.error) == (503, "not_ready")
            assert (await fetch(served, "/health")).json["model"] is None
            assert b"Loading" in (await fetch(served, "/")).body
        finally:
            loaded.set()
        await served.engine.ready.wait()
        ready = await fetch(served, "/health/ready")
        assert (ready.status, ready.json["status"]) == (200, "ready")


@pytest.mark.parametrize("path", ["/", "/ws"])
async def test_a_session_is_refused_while_models_load(path):
    """Without an Origin the upgrade gets 503; a page is upgraded, sent the error, and closed with 1013."""
    loaded = threading.Event()
    async with small_server(before=loaded.wait) as served:
        try:
            answer = await upgrade(served, path)
            assert (answer.status, answer.error) == (503, "not_ready")
            assert int(answer.headers["retry-after"]) * 1000 >= answer.json["error"]["retryAfterMs"] > 0
            async with packet_client(served, path, headers=[("Origin", origin(served))], ready=False) as page:
                assert (await page.receive_metadata("error")).code == "not_ready"
                assert await page.close_code() == 1013
        finally:
            loaded.set()


async def test_a_full_server_queues_then_refuses():
    """The second session is queued, the third refused both ways; a freed lane advances the queue."""
    settings = Settings(server=Server(port=0), lanes=Lanes(queue=1), limits=SETTINGS.limits)
    async with (
        small_server(settings, lanes=1) as served,
        packet_client(served) as first,
        packet_client(served, ready=False) as second,
    ):
        assert (await second.receive_metadata("queued")).position == 1
        answer = await upgrade(served, "/ws")
        assert (answer.status, answer.error) == (503, "full")
        assert int(answer.headers["retry-after"]) > 0
        async with packet_client(served, headers=[("Origin", origin(served))], ready=False) as page:
            refusal = await page.receive_metadata("error")
            assert (refusal.code, refusal.retry_after_ms > 0) == ("full", True)
            assert await page.close_code() == 1013
        await first.connection.aclose()
        await second.receive_metadata("ready")
        assert len(await second.exchange(speech(3))) == 2


async def test_a_client_that_will_not_wait_is_refused():
    """With `Prefer: wait=0` a full server responds with 503, also to a page."""
    settings = Settings(server=Server(port=0), lanes=Lanes(queue=1), limits=SETTINGS.limits)
    async with small_server(settings, lanes=1) as served:
        impatient = [("Prefer", "respond-async, wait=0"), ("Origin", origin(served))]
        async with packet_client(served, headers=impatient) as _:
            answer = await upgrade(served, "/ws", headers=impatient)
            assert (answer.status, answer.error) == (503, "full")
            assert served.engine.health()["lanes"]["queued"] == 0
            async with packet_client(served, headers=[("Prefer", "wait=05")], ready=False) as patient:
                assert (await patient.receive_metadata("queued")).position == 1


async def test_weights_are_shown_as_loaded():
    """/weights is the loader's report as JSON."""
    async with small_server() as served:
        answer = await fetch(served, "/weights")
    assert (answer.status, answer.json) == (200, WEIGHTS)


async def test_the_landing_page_runs_and_loads_nothing():
    """One document that its own policy allows: one script of this server, inline styles by hash only."""
    async with small_server() as served:
        answer = await fetch(served, "/")
    policy = answer.headers["content-security-policy"]
    assert answer.headers["content-type"].startswith("text/html")
    styles = answer.body.split(b"<style>")[1].split(b"</style>")[0]
    assert b"Ready" in answer.body
    assert b"Untrained" in answer.body
    assert f"ws://{served.host}/ws".encode() in answer.body
    assert answer.body.count(b"<script") == 1
    assert b'<script type="module" src="./static/' in answer.body
    assert b" style=" not in answer.body
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert f"'sha256-{base64.b64encode(hashlib.sha256(styles).digest()).decode()}'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize("path", ["/", "/health", "/nothing/here"])
async def test_every_response_is_closed_to_other_sites(path):
    """No response, errors included, may be framed, sniffed, embedded or cached."""
    async with small_server() as served:
        headers = (await fetch(served, path)).headers
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["cross-origin-embedder-policy"] == "require-corp"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "server" not in headers
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing/here", 404, "not_found"),
        ("POST", "/health", 405, "method_not_allowed"),
        ("DELETE", "/", 405, "method_not_allowed"),
        ("GET", "/ws", 426, "upgrade_required"),
        ("GET", "/health/", 404, "not_found"),
        ("GET", "/%2e%2e/etc/passwd", 404, "not_found"),
    ],
)
async def test_errors_are_json(method, path, status, code):
    """Every error response is JSON with a code."""
    async with small_server() as served:
        answer = await fetch(served, path, method=method)
    assert (answer.status, answer.error) == (status, code)
    assert ("allow" in answer.headers) is (status == 405)


@pytest.mark.parametrize(
    ("path", "host", "words"),
    [
        ("/nothing/here", None, "Page not found"),
        ("/ws", None, "This is not a page"),
        ("/packet-voice", "evil.example", "This host name is not accepted"),
    ],
)
async def test_a_browser_gets_a_page_instead_of_json(path, host, words):
    """With the same status and code, a link to the start page, and a policy that allows it."""
    async with small_server() as served:
        shown = {"headers": [("Accept", "text/html"), ("Sec-Fetch-Dest", "document")]}
        page = await fetch(served, path, **shown, **({} if host is None else {"host": host}))
        plain = await fetch(served, path, **({} if host is None else {"host": host}))
    assert page.status == plain.status
    assert page.headers["content-type"].startswith("text/html")
    assert words.encode() in page.body
    assert plain.error.encode() in page.body
    assert page.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("started", "by_make", "command", "folder"),
    [
        (
            [".venv/bin/python", "-m", "pipeline.run"],
            False,
            ".venv/bin/python -m pipeline talk",
            "the project",
        ),
        (
            [".venv/bin/python", ".venv/bin/packet-voice"],
            False,
            ".venv/bin/packet-voice talk",
            "the folder in",
        ),
        (["python", "-m", "pipeline.run"], True, ".venv/bin/packet-voice talk", "the project"),
        (["python", "/usr/bin/packet-voice", "run"], False, "packet-voice talk", "any folder"),
    ],
)
async def test_the_command_of_the_start_page_is_how_this_server_was_started(
    monkeypatch, started, by_make, command, folder
):
    """With the folder in which it works."""
    monkeypatch.setattr("sys.orig_argv", started)
    monkeypatch.setenv("PACKET_VOICE_STARTED_BY", "make" if by_make else "")
    async with small_server() as served:
        page = (await fetch(served, "/")).body.decode()
    assert f'id="command">{command} --url' in page
    assert f"in {folder}" in page


@pytest.mark.parametrize(
    ("words", "by_make", "run", "invite"),
    [
        (
            [
                ".venv/bin/python",
                "-m",
                "pipeline.run",
                "--config",
                "configs/tiny",
                "--set",
                "server.port=7998",
            ],
            False,
            ".venv/bin/python -m pipeline.run --config configs/tiny --set server.port=7998 --lan",
            ".venv/bin/python -m pipeline invite --config configs/tiny --set server.port=7998 --lan",
        ),
        (
            ["python", "-m", "pipeline.run", "--config", "configs/tiny", "--set", "server.port=7998"],
            True,
            "make run ARGS=&#39;--lan --set server.port=7998&#39;",
            ".venv/bin/packet-voice invite --config configs/tiny --set server.port=7998 --lan",
        ),
        (
            ["python", "/usr/bin/packet-voice", "run", "--set=server.token=correct-horse-battery"],
            False,
            "packet-voice run --lan",
            "packet-voice invite --lan",
        ),
    ],
)
async def test_a_visitor_on_the_servers_computer_reads_how_a_phone_connects(
    monkeypatch, words, by_make, run, invite
):
    """With the commands of this server, on the start page and in the help; they contain no token."""
    monkeypatch.setattr("sys.orig_argv", words)
    monkeypatch.setattr("sys.argv", words[2:] if words[1] == "-m" else words[1:])
    monkeypatch.setenv("PACKET_VOICE_STARTED_BY", "make" if by_make else "")
    async with small_server() as served:
        start, voice = [(await fetch(served, path)).body.decode() for path in ("/", "/packet-voice")]
    for page in (start, voice):
        assert f">{run}</code>" in page.replace("&#x27;", "&#39;")
        assert f">{invite}</code>" in page
        assert "battery" not in page
    assert "this computer and no further" in start


async def test_the_pages_without_a_token_name_the_command_that_shows_the_link(monkeypatch):
    """With this server's settings to who sits at it; to others without them, and without an absolute path."""
    monkeypatch.setattr("sys.orig_argv", ["/home/somebody/python", "-m", "pipeline.run"])
    monkeypatch.setattr("sys.executable", OWN_PYTHON)
    monkeypatch.setattr("sys.argv", ["run", "--config", "/home/somebody/model", "--set", "server.port=7998"])
    token = "correct-horse-battery"
    settings = Settings(server=Server(port=0, token=token, allowed_hosts=("voice.example", "localhost")))
    own = ".venv/bin/python -m pipeline invite --config /home/somebody/model --set server.port=7998 --lan"
    shown = {"localhost": own, "voice.example": ".venv/bin/python -m pipeline invite --lan"}
    async with small_server(settings) as served:
        for host, command in shown.items():
            pages = [(await fetch(served, path, host=host)).body.decode() for path in PAGES]
            for page in pages:
                assert f'<meta name="invite" content="{command}">' in page
                assert token not in page
            refused = await fetch(served, "/health", host=host, headers=[("Accept", "text/html")])
            assert refused.status == 401
            assert f"“{command}”" in refused.body.decode()


@pytest.mark.parametrize(
    ("typed", "executable", "prefix", "shown"),
    [
        ("../env/bin/python", "/env/bin/python", "/env", "../env/bin/python"),  # as it was typed
        ("python", "CWD/.venv/bin/python", "/env", ".venv/bin/python"),  # of an activated environment
        ("python", "/env/bin/python", "/env", "/env/bin/python"),  # which is elsewhere
        ("python", "/usr/bin/python3", sys.base_prefix, "python"),  # the system's
    ],
)
def test_a_command_names_the_python_that_runs_the_server(monkeypatch, typed, executable, prefix, shown):
    """And not one that happens to be first on the PATH of another terminal."""
    monkeypatch.setattr("sys.orig_argv", [typed, "-m", "pipeline.run"])
    monkeypatch.setattr("sys.executable", executable.replace("CWD", str(Path.cwd())))
    monkeypatch.setattr("sys.prefix", prefix)
    assert interpreter() == shown
    assert not Path(interpreter(is_public=True)).is_absolute()


async def test_a_visitor_at_another_address_reads_nothing_about_the_servers_paths(monkeypatch):
    """And “this computer” is not the one that he sits at."""
    monkeypatch.setattr("sys.argv", ["run", "--config", "/home/somebody/model"])
    settings = Settings(server=Server(port=0, allowed_hosts=("voice.example",)))
    async with small_server(settings) as served:
        pages = [
            (await fetch(served, path, host="voice.example")).body.decode() for path in ("/", "/packet-voice")
        ]
    assert not any("somebody" in page for page in pages)
    assert "the computer that runs the server and no further" in pages[0]


async def test_a_refusal_page_says_when_to_try_again():
    """If the server knows: after too many wrong tokens."""
    settings = Settings(server=Server(port=0, token="correct-horse-battery-staple"))
    shown = [("Accept", "text/html"), ("Sec-Fetch-Dest", "document")]
    async with small_server(settings) as served:
        for _ in range(50):
            answer = await fetch(served, "/health", headers=[*shown, ("Authorization", "Bearer wrong")])
    assert answer.status == 429
    assert re.search(rb"Try again in \d+ s\.", answer.body)


@pytest.mark.parametrize("path", ["/packet-voice", "/whisperx"])
async def test_a_trailing_slash_leads_to_the_page(path):
    """Relative, so that it also holds under a path prefix."""
    async with small_server() as served:
        answer = await fetch(served, f"{path}/")
    assert (answer.status, answer.headers["location"]) == (308, f"..{path}")


@pytest.mark.parametrize(
    ("name", "kind"), [("manifest.webmanifest", "application/manifest+json"), ("touch-icon.png", "image/png")]
)
async def test_the_pages_can_be_put_on_a_home_screen(name, kind):
    """The manifest and the icon that the page names are there."""
    async with small_server() as served:
        page = (await fetch(served, "/packet-voice")).body.decode()
        (link,) = re.findall(rf'href="\.(/static/\w+/{name})"', page)
        answer = await fetch(served, link)
    assert (answer.status, answer.headers["content-type"]) == (200, kind)
    assert '<meta name="description"' in page


async def test_a_websocket_elsewhere_is_not_found():
    """An upgrade of another path is refused with JSON."""
    async with small_server() as served:
        answer = await upgrade(served, "/nothing")
    assert (answer.status, answer.error) == (404, "not_found")


FOREIGN = [
    pytest.param({"host": "evil.example"}, 421, "host_refused", id="host"),
    pytest.param({"headers": [("Origin", "http://evil.example")]}, 403, "origin_refused", id="origin"),
    pytest.param({"headers": [("Origin", "null")]}, 403, "origin_refused", id="null"),
    pytest.param({"headers": [("Origin", "http://127.0.0.1:1")]}, 403, "origin_refused", id="port"),
    pytest.param({"headers": [("Sec-Fetch-Site", "cross-site")]}, 403, "cross_site_refused", id="site"),
]


@pytest.mark.parametrize(("how", "status", "code"), FOREIGN)
@pytest.mark.parametrize("path", ["/", "/health", "/weights", "/nothing"])
async def test_pages_of_other_origins_get_no_response(path, how, status, code):
    """Their requests are refused on every path."""
    async with small_server() as served:
        answer = await fetch(served, path, **how)
    assert (answer.status, answer.error) == (status, code)


@pytest.mark.parametrize(("how", "status", "code"), FOREIGN)
@pytest.mark.parametrize("path", ["/", "/ws"])
async def test_pages_of_other_origins_get_no_session(path, how, status, code):
    """Their upgrade is refused and takes no lane."""
    async with small_server() as served:
        answer = await upgrade(served, path, **how)
        assert (answer.status, answer.error) == (status, code)
        assert (await fetch(served, "/health")).json["lanes"]["open"] == 0


@pytest.mark.parametrize("path", ["/", "/ws"])
async def test_an_own_page_gets_a_session(path):
    """With the server's own Origin a session is served like any other."""
    async with (
        small_server() as served,
        packet_client(served, path, headers=[("Origin", origin(served))]) as page,
    ):
        assert len(await page.exchange(speech(3))) == 2


async def test_a_failing_request_is_logged_once_and_reveals_nothing():
    """The client gets a bare 500; the log has the exception, once."""
    async with small_server() as served:
        served.engine.health = broken(ZeroDivisionError("secret"))
        with structlog.testing.capture_logs() as logs:
            answer = await fetch(served, "/health")
    assert (answer.status, answer.error) == (500, "internal_error")
    assert b"secret" not in answer.body
    assert [(entry["event"], entry["path"]) for entry in logs] == [("request_failed", "/health")]


async def test_a_server_that_may_open_no_more_files_goes_on():
    """Metrics and health are there, a session is answered; what needs a file is refused in one line."""

    async def get(stream, path):
        await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: {served.host}\r\n\r\n".encode())
        return await read_response(opened(path), stream)

    def opened(path):
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method="GET", target=path, headers=[("Host", served.host)]))
        client.send(h11.EndOfMessage())
        return client

    spoken = speech(3)
    async with small_server() as served, packet_client(served) as session:
        served.engine.health = lambda: Path("/dev/null").read_bytes()
        async with await connect(served) as stream:
            assert (await get(stream, "/health/live")).status == 200  # it has been accepted
            with no_more_files(), structlog.testing.capture_logs() as logs:
                metrics = await get(stream, "/metrics")
                refused = [await get(stream, "/health") for _ in range(3)]
                answers = await session.exchange(spoken)
    assert metrics.status == 200
    assert b"packet_voice_tasks" in metrics.body
    assert {(each.status, each.error) for each in refused} == {(503, "shortage")}
    assert len(answers) == 2
    (entry,) = logs
    assert (entry["event"], entry["reason"]) == ("request_failed", "shortage")
    assert "ulimit -n" in entry["problem"]


async def test_a_failing_session_is_closed_as_an_internal_error():
    """A session that fails outside its own supervision is closed with 1011."""
    async with small_server() as served:
        served.engine.serve = failing(ZeroDivisionError("secret"))
        with structlog.testing.capture_logs() as logs:
            async with websocket(served) as client:
                assert await close_code(client) == 1011
    assert [entry["event"] for entry in logs] == ["request_failed"]


async def test_a_broken_invariant_ends_the_server():
    """It is not answered like a failed request: the process must exit."""
    with pytest.RaisesGroup(BrokenInvariantError, flatten_subgroups=True):
        async with small_server() as served:
            served.engine.serve = failing(BrokenInvariantError("two sessions share a lane"))
            async with websocket(served) as client:
                assert await close_code(client) == 1011
            await served.ended.wait()


async def test_a_port_in_use_is_reported():
    """PortInUseError names host and port."""
    async with small_server() as served:
        settings = Settings(server=Server(port=served.port))
        with pytest.raises(PortInUseError) as error:
            await serve(
                served.app,
                settings,
                shutdown=trio.Event(),
                drain=trio.lowlevel.checkpoint,
                limiter=RateLimiter(settings.limits),
            )
    assert (error.value.host, error.value.port) == ("127.0.0.1", served.port)


def test_listening_for_other_machines_is_refused():
    """Without TLS and a token the app is not created."""
    with pytest.raises(ConfigError, match="TLS and a token"):
        create_app(None, Settings(server=Server(host="0.0.0.0")), backend={}, weights=dict, limiter=None)


async def test_ipv6_loopback_is_served():
    """[::1] works like 127.0.0.1, in Host and Origin too."""
    settings = Settings(server=Server(host="::1", port=0))
    async with small_server() as other, serving(other.app, settings) as served:
        assert served.address.url == f"http://[::1]:{served.port}"
        async with await trio.open_tcp_stream("::1", served.port) as stream:
            await stream.send_all(
                b"GET /health/live HTTP/1.1\r\nHost: [::1]:%d\r\nOrigin: http://[::1]:%d\r\n"
                b"Connection: close\r\n\r\n" % (served.port, served.port)
            )
            assert (await read_to_end(stream)).startswith(b"HTTP/1.1 200")


async def test_shutdown_lets_a_session_finish():
    """As on SIGTERM: the session gets `draining`, finishes its utterance, and is closed with 1001."""
    async with small_server() as served, packet_client(served) as client:
        await client.exchange(speech(3))
        served.shutdown.set()
        await client.receive_metadata("draining")
        assert await client.close_code() == 1001
        assert client.texts[-1].final


def origin(served):
    return f"http://{served.host}"


async def upgrade(served, path, *, host=None, headers=()):
    """Ask for a WebSocket and give the answer that refused it."""
    handshake = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", "MDEyMzQ1Njc4OWFiY2RlZg=="),
        ("Sec-WebSocket-Version", "13"),
    ]
    return await fetch(served, path, host=host, headers=[*handshake, *headers])


def broken(error):
    def fail(*_):
        raise error

    return fail


def failing(error):
    async def fail(*_):
        await trio.lowlevel.checkpoint()
        raise error

    return fail
