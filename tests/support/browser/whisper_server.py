"""A hub on loopback with all offered models, and a server that proxies it.

The models are those of `tiny_whisper`, under the names and revisions of the public ones, so that pages
load them the same way as real ones.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import soundfile

from support import local_hub
from support.browser import tiny_whisper
from support.browser.servers import ROOT, Server, serving
from support.local_hub import Hub

TABLE = re.compile(r'name: "([a-z.]+)", multilingual: (true|false), revision: "([0-9a-f]{40}|main)"')
SPOKEN = (0, 1, 2, 5, 6)  # the loud half seconds
SPOKEN_TEXT = "alpha bravo charlie echo foxtrot"


@dataclass
class WhisperServer:
    """The server, the hub behind it, and the folder in which the server keeps the hub's files."""

    hub: Hub
    server: Server
    hubs: ExitStack
    folder: Path

    @property
    def requests(self) -> int:
        """The number of requests that reached the hub."""
        return len(self.hub.requests)

    def end_hub(self) -> None:
        """Stop the hub: its port is closed from now on."""
        self.hubs.close()


def repository(name: str) -> str:
    return f"onnx-community/whisper-{name}_timestamped"


def offered() -> dict[str, tuple[bool, str]]:
    """The offered models by name: whether multilingual, and the revision."""
    table = (ROOT / "web/static/asr/model/model-list.js").read_text(encoding="utf-8")
    return {name: (multi == "true", revision) for name, multi, revision in TABLE.findall(table)}


@contextmanager
def serving_whisper(
    folder: Path, *overrides: str, real: Mapping[str, dict[str, bytes]] | None = None
) -> Iterator[WhisperServer]:
    """A hub with every offered model, and a server that caches its files in `folder`.

    `real` are the files of models, by name, that are not tiny ones.
    """
    with ExitStack() as hubs:
        hub = hubs.enter_context(local_hub.serve())
        for name, (multilingual, revision) in offered().items():
            files = (real or {}).get(name) or tiny_whisper.files(multilingual=multilingual, quantized=True)
            hub.commits[repository(name)] = {"0" * 40 if revision == "main" else revision: files}
        environment = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "", "HF_HUB_OFFLINE": ""}
        sets = (f'proxy.folder="{folder}"', "proxy.absent_s=0", *overrides)
        with serving(*sets, environment=environment) as server:
            yield WhisperServer(hub, server, hubs, folder)


def spoken_file(folder: Path, *loud: int) -> Path:
    """A WAV file with these half seconds loud."""
    path = folder / "spoken.wav"
    soundfile.write(path, tiny_whisper.sound(*(loud or SPOKEN), seconds=4), 16_000)
    return path
