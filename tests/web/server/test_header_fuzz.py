"""Headers of any bytes, over real sockets: each gets a response or an end, never an internal error."""

import random

import pytest
import structlog
from support.web.small_engine import SETTINGS, small_server
from support.web.sockets import connect, read_to_end

from pipeline.config import Server, Settings

TOKEN = "correct-horse-battery-staple"
HEADERS = [
    b"Connection",
    b"Upgrade",
    b"Sec-WebSocket-Key",
    b"Sec-WebSocket-Version",
    b"Sec-WebSocket-Protocol",
    b"Sec-WebSocket-Extensions",
    b"Host",
    b"Origin",
    b"Cookie",
    b"Authorization",
    b"Prefer",
    b"Sec-Fetch-Site",
    b"Sec-Fetch-Mode",
    b"X-Forwarded-For",
    b"Forwarded",
    b"Accept-Encoding",
    b"Range",
    b"If-None-Match",
    b"If-Modified-Since",
    b"Content-Type",
    b"Content-Length",
    b"Transfer-Encoding",
    b"Expect",
]
VALUES = [
    b"",
    b"\xff\xfe",
    b"a\x00b",
    b"\xc3\xa9",
    b",,,",
    b'"',
    b"=;=",
    b"-1",
    b"9" * 400,
    b"Bearer \xff",
    b"\x7f",
]
TARGETS = [
    b"/ws",
    b"/",
    b"/health?x=%ff%00",
    b"/%ff%fe",
    b"/ws?resume=%00%ff",
    b"/api/hf/%ff",
    b"/static/%00/x",
    b"*",
    b"?x",
    b"http://[/",
    b"//[",
    b"a:80",
]


def request(rng, host):
    """A handshake, or a request, with some headers replaced by nonsense."""
    headers = {b"Host": host, b"Connection": b"close"}
    if rng.random() < 0.6:
        headers |= {
            b"Upgrade": b"websocket",
            b"Connection": b"Upgrade",
            b"Sec-WebSocket-Key": b"MDEyMzQ1Njc4OWFiY2RlZg==",
            b"Sec-WebSocket-Version": b"13",
        }
    for name in rng.sample(HEADERS, rng.randrange(1, 4)):
        headers[name] = rng.choice([*VALUES, rng.randbytes(rng.randrange(20)).replace(b"\n", b"")])
    method = rng.choice([b"GET", b"GET", b"GET", b"POST", b"HEAD", b"X\xff"])
    lines = [method + b" " + rng.choice(TARGETS) + b" HTTP/1." + rng.choice([b"1", b"1", b"0"])]
    lines += [name + b": " + value for name, value in headers.items()]
    return b"\r\n".join(lines) + b"\r\n\r\n"


@pytest.mark.parametrize(
    "server", [{}, {"token": TOKEN, "trusted_proxies": ("127.0.0.1",)}], ids=["open", "locked"]
)
async def test_headers_of_any_bytes_are_no_internal_error(server):
    """No line of the log is an error; the server goes on."""
    rng = random.Random(19)
    async with small_server(Settings(server=Server(port=0, **server), limits=SETTINGS.limits)) as served:
        with structlog.testing.capture_logs() as logs:
            for _ in range(300):
                sent = request(rng, served.host.encode())
                async with await connect(served) as stream:
                    await stream.send_all(sent)
                    await stream.send_eof()
                    await read_to_end(stream)
                failures = [entry for entry in logs if entry["log_level"] in ("error", "critical")]
                assert not failures, (sent, failures)
