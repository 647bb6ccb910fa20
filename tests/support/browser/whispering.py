"""A hub on loopback that has the offered models, and a server that passes them on; nothing else is asked.

The models are the tiny ones of `tiny_whisper`, under the names and revisions of the public ones, so
that the page's way to them is the one its users go.
"""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import soundfile

from support import local_hub
from support.browser import tiny_whisper
from support.browser.servers import ROOT, Server, serving
from support.local_hub import Hub

TABLE = re.compile(r'name: "([a-z.]+)", multilingual: (true|false), revision: "([0-9a-f]{40}|main)"')
SPOKEN = (0, 1, 2, 5, 6)  # half seconds that are loud
SAID = "alpha bravo charlie echo foxtrot"


@dataclass
class Whispering:
    """The server's address is `server.origin`; what the hub was asked is in `hub`."""

    hub: Hub
    server: Server
    hubs: ExitStack

    @property
    def asked(self) -> int:
        """How many requests reached the hub."""
        return len(self.hub.requests)

    def end_hub(self) -> None:
        """From now on nobody listens where it was."""
        self.hubs.close()


def repository(name: str) -> str:
    return f"onnx-community/whisper-{name}_timestamped"


def offered() -> dict[str, tuple[bool, str]]:
    """What the page offers: by name, whether it is multilingual, and its revision."""
    table = (ROOT / "web/static/asr/model/models.js").read_text(encoding="utf-8")
    return {name: (multi == "true", revision) for name, multi, revision in TABLE.findall(table)}


@contextmanager
def whispering(folder: Path, *overrides: str) -> Iterator[Whispering]:
    """A hub with every offered model, and a server before it that keeps its files in `folder`."""
    with ExitStack() as hubs:
        hub = hubs.enter_context(local_hub.serve())
        for name, (multilingual, revision) in offered().items():
            files = tiny_whisper.files(multilingual=multilingual, quantized=True)
            hub.commits[repository(name)] = {"0" * 40 if revision == "main" else revision: files}
        environment = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "", "HF_HUB_OFFLINE": ""}
        sets = (f'proxy.folder="{folder}"', "proxy.absent_s=0", *overrides)
        with serving(*sets, environment=environment) as server:
            yield Whispering(hub, server, hubs)


def spoken_file(folder: Path, *loud: int) -> Path:
    """A WAV file that says the words of these half seconds."""
    path = folder / "spoken.wav"
    soundfile.write(path, tiny_whisper.sound(*(loud or SPOKEN), seconds=4), 16_000)
    return path
