"""Check whether a server is ready, for container health checks and scripts.

    packet-voice health
    packet-voice health --url https://127.0.0.1:8788

Exit codes: 0 ready; 1 not ready or not reachable; 2 usage error.
"""

import argparse
import ipaddress
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException, HTTPResponse
from typing import Final

from pipeline.cli.arguments import CommandParser
from pipeline.install.program_name import program
from pipeline.system.inputs import parse_json

URL: Final = "http://127.0.0.1:8788"
NOT_READY: Final = 1
_TIMEOUT_S: Final = 4.0
_LIVE_BYTES: Final = 4096
_REASON_MAX: Final = 200


def _url(text: str) -> str:
    parts = urllib.parse.urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise argparse.ArgumentTypeError(f"{text!r} is not a URL such as {URL}")
    return f"{parts.scheme}://{parts.netloc}"


def _ssl_context(url: str) -> ssl.SSLContext:
    """Verify certificates, except on a loopback address: the request carries no secret."""
    context = ssl.create_default_context()
    host = urllib.parse.urlsplit(url).hostname or ""
    try:
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = host == "localhost"
    if is_loopback:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _get(url: str) -> HTTPResponse:
    no_proxy = urllib.request.ProxyHandler({})  # the environment's HTTP proxy does not lead to this server
    opener = urllib.request.build_opener(no_proxy, urllib.request.HTTPSHandler(context=_ssl_context(url)))
    response: HTTPResponse = opener.open(url, timeout=_TIMEOUT_S)
    return response


def is_server(host: str, port: int) -> bool:
    """Whether the program that listens there is a server of this project, with or without TLS."""
    host = f"[{host}]" if ":" in host else host
    for scheme in ("http", "https"):
        try:
            with _get(f"{scheme}://{host}:{port}/health/live") as response:
                if parse_json(response.read(_LIVE_BYTES)).get("status") in ("live", "stalled"):
                    return True
        except urllib.error.HTTPError as response:
            response.close()
        except (OSError, HTTPException, ValueError, AttributeError):
            continue
    return False


def check_ready(url: str) -> tuple[bool, str]:
    """Whether the server at `url` is ready, and a sentence to print."""
    try:
        with _get(f"{url}/health/ready"):
            return True, f"{url} is ready"
    except urllib.error.HTTPError as response:
        return False, f"{url} is not ready (status {response.code})"
    except (OSError, HTTPException, ValueError) as error:  # of a redirection to no address
        reason = str(getattr(error, "reason", error))
        if not reason.isprintable() or len(reason) > _REASON_MAX:  # it holds what another program sent
            reason = "the program there does not speak HTTP"
        return False, f"cannot reach {url} ({reason})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = CommandParser(
        prog=program("health"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", type=_url, default=URL, help=f"address of the server (default {URL})")
    options = parser.parse_args(arguments)
    ready, sentence = check_ready(options.url)
    print(sentence)
    return 0 if ready else NOT_READY
