"""What a server needs around it: a free port, room on the disk, a page that gets the microphone.

Each answer is a `Finding`: a sentence, how bad it is, and the exit code that the server itself
would have ended with.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import platformdirs
import psutil
import trio
from huggingface_hub import constants

from pipeline.config import Server
from pipeline.errors import StartupError
from web.security.listen import Door
from web.server.serve import bind

Verdict = Literal["ok", "warning", "problem"]
GB: Final = 1e9
# Moshi 7B in 4 bits, the smallest that people download to talk to; and in 16.
_SMALL_DOWNLOAD_GB, _LARGE_DOWNLOAD_GB = 6, 18


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence about one thing. `exit_code`: 0 where a server would start in spite of it."""

    about: str
    verdict: Verdict
    sentence: str
    exit_code: int = 0


def look_at_port(server: Server, door: Door) -> Finding:
    """Whether the address can be listened on, tried as the server would."""

    async def listen() -> int:
        async with await bind(server, door) as listener:
            port: int = listener.socket.getsockname()[1]
            return port

    try:
        port = trio.run(listen)
    except StartupError as error:
        return Finding("port", "problem", str(error), error.exit_code)
    return Finding("port", "ok", f"{server.host}:{port} is free")


def look_at_disk() -> list[Finding]:
    """Room where checkpoints are kept, and where those made from a seed are."""
    places = {
        "downloads": Path(constants.HF_HUB_CACHE),
        "made weights": platformdirs.user_cache_path("packet-voice"),
    }
    findings = []
    for about, place in places.items():
        there = next(path for path in (place, *place.absolute().parents) if path.exists())
        free_gb = psutil.disk_usage(str(there)).free / GB
        sentence = f"{free_gb:.0f} GB free for {place}"
        if about == "downloads" and free_gb < _SMALL_DOWNLOAD_GB:
            sentence += f"; no published Moshi fits (about {_SMALL_DOWNLOAD_GB} GB in 4 bits)"
            findings.append(Finding(about, "warning", sentence))
        elif about == "downloads" and free_gb < _LARGE_DOWNLOAD_GB:
            sentence += f"; Moshi in 16 bits, about {_LARGE_DOWNLOAD_GB} GB, does not fit"
            findings.append(Finding(about, "warning", sentence))
        elif free_gb < 1:
            findings.append(
                Finding(about, "warning", sentence + "; the embedded model needs a moment's 0.1 GB")
            )
        else:
            findings.append(Finding(about, "ok", sentence))
    return findings


def look_at_browser(server: Server, door: Door) -> Finding:
    """What to type, and why the microphone will or will not be given.

    Source: W3C Secure Contexts §3.1 (loopback addresses and localhost are trustworthy), Media
    Capture and Streams §10.2 (the microphone only in such a context).
    """
    name = server.host.strip("[]")
    host = f"[{name}]" if ":" in name else name
    if door.credentials is not None:
        host = next(iter(door.credentials.reach.hosts_elsewhere(door.address)), host)
    page = f"{door.scheme}://{host}:{server.port}/packet-voice"
    if door.tls is not None:
        return Finding(
            "browser", "ok", f"open {page}; it is a secure context if the browser trusts the certificate"
        )
    return Finding(
        "browser",
        "ok",
        f"open {page} on this machine, in that spelling: browsers give the microphone to loopback "
        "addresses and to https pages only. From another machine: --lan (docs/phone.md), "
        f"or a tunnel, ssh -L {server.port}:127.0.0.1:{server.port} HOST",
    )
