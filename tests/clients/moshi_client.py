"""`moshi.client` of Kyutai's package `moshi`, with a question in place of the sound card.

    python tests/clients/moshi_client.py [HOST:PORT]

The package itself needs PyTorch, its client does not: the package is found, and not run.
"""

import asyncio
import importlib.util
import sys
import threading
import time
import types
from collections.abc import Callable

import numpy as np
import soundfile
from question import FRAME_SAMPLES, QUESTION, RATE_HZ, report, server

FRAME_S = FRAME_SAMPLES / RATE_HZ
SILENCE_FRAMES = 15
text: list[str] = []
sound: list[np.ndarray] = []
over = threading.Event()


class SoundCard:
    """A stream of `sounddevice`: its callback is called for each frame, in real time."""

    def __init__(self, callback: Callable[..., None], **_: object) -> None:
        self._callback = callback
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        over.set()

    def _run(self) -> None:
        began_s = time.monotonic()
        for index, frame in enumerate(self.frames()):
            if over.wait(max(0.0, began_s + index * FRAME_S - time.monotonic())):
                return
            self._callback(frame, FRAME_SAMPLES, None, None)
            self.after(frame)
        over.set()

    def after(self, frame: np.ndarray) -> None:
        """The callback has returned."""


class InputStream(SoundCard):
    """The question, and a little silence."""

    def frames(self) -> list[np.ndarray]:
        pcm, rate_hz = soundfile.read(QUESTION, dtype="float32")
        assert rate_hz == RATE_HZ
        whole = pcm[: len(pcm) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES, 1)
        return [*whole, *np.zeros((SILENCE_FRAMES, FRAME_SAMPLES, 1), np.float32)]


class OutputStream(SoundCard):
    """What is played is kept."""

    def frames(self) -> list[np.ndarray]:
        return [np.zeros((FRAME_SAMPLES, 1), np.float32) for _ in range(10_000)]

    def after(self, frame: np.ndarray) -> None:
        sound.append(frame[:, 0].copy())


class Printer:
    """What the client would show in a terminal."""

    def print_token(self, token: str) -> None:
        text.append(token)

    def log(self, level: str, message: str) -> None:
        print(f"{level}: {message}")

    def print_header(self) -> None: ...
    def print_lag(self) -> None: ...
    def print_pending(self) -> None: ...


def load() -> types.ModuleType:
    """`moshi.client`, unchanged, with the sound card above."""
    package = types.ModuleType("moshi")
    package.__path__ = importlib.util.find_spec("moshi").submodule_search_locations
    sys.modules["moshi"] = package
    card = types.ModuleType("sounddevice")
    card.InputStream, card.OutputStream = InputStream, OutputStream
    sys.modules["sounddevice"] = card
    return importlib.import_module("moshi.client")


async def main() -> None:
    client = load()
    host, port = server().split(":")
    talking = asyncio.create_task(
        client.run(Printer(), types.SimpleNamespace(url=None, https=False, host=host, port=port))
    )
    await asyncio.to_thread(over.wait)
    talking.cancel()
    played = np.concatenate(sound) if sound else np.empty(0, np.float32)
    report("".join(text), np.rint(played * 32_767).astype("<i2").tobytes())


asyncio.run(asyncio.wait_for(main(), 60))
