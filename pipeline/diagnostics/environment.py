"""Checks of the environment of a server: port, disk space, and access to the microphone in a browser.

Each check returns a `Finding`: a sentence, a verdict, and the exit code that the server itself would end
with.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import psutil
import trio

from pipeline.config import Server
from pipeline.errors import ConfigError, StartupError
from pipeline.install import paths
from web.security.listen import ListenConfig
from web.server.serve import bind

Verdict = Literal["ok", "warning", "problem"]
GB: Final = 1e9
# Moshi 7B in 4 bits, the smallest usual download, and in 16 bits.
_SMALL_DOWNLOAD_GB, _LARGE_DOWNLOAD_GB = 6, 18


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. `exit_code`: 0 if a server would start in spite of it."""

    about: str
    verdict: Verdict
    sentence: str
    exit_code: int = 0


def check_port(server: Server, listen: ListenConfig) -> Finding:
    """Check that the server can listen on its address, by trying it."""

    async def try_bind() -> int:
        async with await bind(server, listen) as listener:
            port: int = listener.socket.getsockname()[1]
            return port

    try:
        port = trio.run(try_bind)
    except StartupError as error:
        return Finding("port", "problem", str(error), error.exit_code)
    return Finding("port", "ok", f"{server.host}:{port} is free")


def check_disk() -> list[Finding]:
    """Check the free space for downloaded checkpoints and for generated weights."""
    findings = []
    folders = {}
    for about, find in (("downloads", _downloads_folder), ("generated weights", paths.cache_folder)):
        try:
            folders[about] = find()
        except (ConfigError, ImportError, ValueError, OSError) as error:  # of the environment's settings
            findings.append(Finding(about, "warning", f"there is no folder for them ({error})"))
    for about, folder in folders.items():
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        free_gb = psutil.disk_usage(str(existing)).free / GB
        sentence = f"{free_gb:.0f} GB free for {folder}"
        if about == "downloads" and free_gb < _SMALL_DOWNLOAD_GB:
            sentence += f"; no published Moshi model fits (about {_SMALL_DOWNLOAD_GB} GB in 4 bits)"
            findings.append(Finding(about, "warning", sentence))
        elif about == "downloads" and free_gb < _LARGE_DOWNLOAD_GB:
            sentence += f"; Moshi in 16 bits, about {_LARGE_DOWNLOAD_GB} GB, does not fit"
            findings.append(Finding(about, "warning", sentence))
        elif free_gb < 1:
            findings.append(
                Finding(
                    about, "warning", sentence + "; loading the embedded model takes 0.1 GB for a short time"
                )
            )
        else:
            findings.append(Finding(about, "ok", sentence))
    return findings


def _downloads_folder() -> Path:
    from pipeline.hub import cache_folder  # noqa: PLC0415 - importing the client reads the environment

    return cache_folder()


def check_browser(server: Server, listen: ListenConfig) -> Finding:
    """The address to open, and whether the browser will allow access to the microphone.

    Source: W3C Secure Contexts §3.1 (loopback addresses and localhost are trustworthy), Media
    Capture and Streams §10.2 (the microphone only in such a context).
    """
    name = server.host.strip("[]")
    host = f"[{name}]" if ":" in name else name
    if listen.credentials is not None:
        host = next(iter(listen.credentials.hosts.external(listen.address)), host)
    page = f"{listen.scheme}://{host}:{server.port}/packet-voice"
    if listen.tls is not None:
        return Finding(
            "browser", "ok", f"open {page}; the microphone works if the browser trusts the certificate"
        )
    return Finding(
        "browser",
        "ok",
        f"open {page} on this machine: browsers allow the microphone on loopback addresses "
        "and https pages only. From another machine, use --lan (docs/how-to/phone.md) "
        f"or a tunnel: ssh -L {server.port}:127.0.0.1:{server.port} HOST",
    )
