"""`python -m pipeline health`: whether a server is ready, for a container's health check and for scripts.

    python -m pipeline health
    python -m pipeline health --url https://127.0.0.1:8788

Exit codes: 0 it is ready; 1 it is not, or nobody listens; 2 usage.
"""

import argparse
import ipaddress
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from typing import Final

from pipeline.cli.program_name import program

URL: Final = "http://127.0.0.1:8788"
NOT_READY: Final = 1
_TIMEOUT_S: Final = 4.0


def _url(text: str) -> str:
    parts = urllib.parse.urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise argparse.ArgumentTypeError(f"{text!r} is not an address such as {URL}")
    return f"{parts.scheme}://{parts.netloc}"


def _trust(url: str) -> ssl.SSLContext:
    """Of this machine's own address any certificate will do: it is asked for a status and told nothing."""
    context = ssl.create_default_context()
    host = urllib.parse.urlsplit(url).hostname or ""
    try:
        is_here = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_here = host == "localhost"
    if is_here:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def ask(url: str) -> tuple[bool, str]:
    """Whether the server at `url` is ready, and a sentence about it."""
    direct = urllib.request.ProxyHandler({})  # a proxy of the environment's is not the way to this server
    opener = urllib.request.build_opener(direct, urllib.request.HTTPSHandler(context=_trust(url)))
    try:
        with opener.open(f"{url}/health/ready", timeout=_TIMEOUT_S):
            return True, f"{url} is ready"
    except urllib.error.HTTPError as answer:
        return False, f"{url} is not ready (status {answer.code})"
    except (OSError, HTTPException) as error:
        return False, f"{url} does not answer ({getattr(error, 'reason', error)})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    parser = argparse.ArgumentParser(prog=program("health"), description="Say whether a server is ready.")
    parser.add_argument("--url", type=_url, default=URL, help=f"where it listens (default {URL})")
    options = parser.parse_args(arguments)
    ready, sentence = ask(options.url)
    print(sentence)
    return 0 if ready else NOT_READY
