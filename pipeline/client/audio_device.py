"""Live audio: the default microphone and loudspeaker, through the optional `sounddevice`.

The device calls from a thread of its own, at its own sample rate. Both ways the handover is
bounded: what the other side does not take in time is dropped, oldest first, and counted.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import trio

from pipeline.audio.framing import Framer
from pipeline.audio.pacing import FRAME_NS, MS_NS
from pipeline.audio.resampling import StreamResampler
from pipeline.client.session import PREBUFFER_MS
from pipeline.client.source import Captured, Speech, now_ns
from pipeline.errors import StartupError
from pipeline.units import SAMPLE_RATE_HZ
from pipeline.values import Pcm

PIECES: Final = 100  # from the microphone, not yet taken: about 2 s, devices deliver some 20 ms at once
HELD_MS: Final = 2000  # for the loudspeaker, not yet played


class SoundcardError(StartupError):
    """There is no usable microphone or loudspeaker."""

    exit_code = 2


class Microphone:
    """What the device hears becomes frames; a frame's capture time is that of its last sample."""

    def __init__(self, rate_hz: int) -> None:
        self.dropped_pieces = 0
        self._resampler = StreamResampler(rate_hz, SAMPLE_RATE_HZ)
        self._framer = Framer()
        self._pieces: deque[tuple[Pcm, int]] = deque(maxlen=PIECES)
        self._token = trio.lowlevel.current_trio_token()
        self._wake, self._woken = trio.open_memory_channel[None](1)
        self._last_ns = 0

    def hear(self, samples: Pcm, heard_ns: int) -> None:
        """Take `samples [S]`, the last of which sounded at `heard_ns`; called from the device's thread."""
        self.dropped_pieces += len(self._pieces) == PIECES
        self._pieces.append((samples.copy(), heard_ns))
        self._token.run_sync_soon(self._notify, idempotent=True)

    async def listen(self) -> Speech:
        """Frames as they become complete, from now on, for as long as they are asked for."""
        self._pieces.clear()  # what was said while there was nobody to listen
        while True:
            await self._woken.receive()
            while self._pieces:
                for captured in self._frames(*self._pieces.popleft()):
                    yield captured

    def _notify(self) -> None:
        with contextlib.suppress(trio.WouldBlock):  # it is awake already
            self._wake.send_nowait(None)

    def _frames(self, samples: Pcm, heard_ns: int) -> Iterator[Captured]:
        frames = self._framer.push(self._resampler.push(samples))
        last_ns = heard_ns - self._framer.pending_samples * 1_000_000_000 // SAMPLE_RATE_HZ
        for index, pcm in enumerate(frames):
            at_ns = last_ns - FRAME_NS * (len(frames) - 1 - index)
            # A device that delivers late and then twice at once must not turn time back.
            self._last_ns = max(at_ns, self._last_ns + MS_NS)
            yield Captured(pcm, self._last_ns)


class Loudspeaker:
    """Plays what it is given, in order, once more than a prebuffer is there; in a gap it fills up anew."""

    def __init__(self, rate_hz: int, prebuffer_ms: int = PREBUFFER_MS) -> None:
        self.gaps = 0
        self.dropped_samples = 0
        self._resampler = StreamResampler(SAMPLE_RATE_HZ, rate_hz)
        self._prebuffer_samples = rate_hz * prebuffer_ms // 1000
        self._held_samples_max = rate_hz * HELD_MS // 1000
        self._lock = threading.Lock()  # held for as long as some samples take to copy
        self._pieces: deque[Pcm] = deque()
        self._held_samples = 0
        self._playing = False

    def play(self, pcm: Pcm) -> None:
        """Take `pcm [S]` at 24 kHz, to be played after what is there already."""
        piece = self._resampler.push(pcm)
        with self._lock:
            self._pieces.append(piece)
            self._held_samples += len(piece)
            while self._held_samples > self._held_samples_max:
                dropped = len(self._pieces.popleft())
                self._held_samples -= dropped
                self.dropped_samples += dropped

    def fill(self, out: Pcm) -> None:
        """Write the next `out [S]` samples for the device; called from the device's thread."""
        filled = 0
        with self._lock:
            self._playing = self._playing or self._held_samples > self._prebuffer_samples
            while self._playing and filled < len(out):
                if not self._pieces:
                    self._playing = False
                    self.gaps += 1
                    break
                piece = self._pieces.popleft()
                part = piece[: len(out) - filled]
                if len(part) < len(piece):
                    self._pieces.appendleft(piece[len(part) :])
                out[filled : filled + len(part)] = part
                filled += len(part)
            self._held_samples -= filled
        out[filled:] = 0


@dataclass(frozen=True, slots=True)
class Soundcard:
    """Both directions, running."""

    microphone: Microphone
    loudspeaker: Loudspeaker

    def trouble(self) -> str:
        """What the devices lost, in one line."""
        return (
            f"loudspeaker: {self.loudspeaker.gaps} gaps, {self.loudspeaker.dropped_samples} samples dropped; "
            f"microphone: {self.microphone.dropped_pieces} pieces dropped"
        )


@contextmanager
def open_soundcard() -> Iterator[Soundcard]:
    """Start the default microphone and loudspeaker; they stop at the end of the block.

    Raises:
        SoundcardError: `sounddevice` is not installed, or there is no device.
    """
    try:
        import sounddevice  # noqa: PLC0415 - optional, and it looks for devices when imported
    except ImportError:
        raise SoundcardError("--mic needs sounddevice: pip install 'packet-voice[mic]'") from None
    except OSError as error:  # the package is there, the library under it is not
        raise SoundcardError(f"--mic needs PortAudio ({error})") from None
    try:
        in_hz, out_hz = (
            round(sounddevice.query_devices(kind=kind)["default_samplerate"]) for kind in ("input", "output")
        )
        microphone, loudspeaker = Microphone(in_hz), Loudspeaker(out_hz)
        to_trio_ns = now_ns() - time.perf_counter_ns()  # Trio's clock cannot be read in another thread

        def hear(samples: Pcm, *_: object) -> None:
            microphone.hear(samples[:, 0], time.perf_counter_ns() + to_trio_ns)

        def fill(out: Pcm, *_: object) -> None:
            loudspeaker.fill(out[:, 0])

        shape = {"channels": 1, "dtype": "float32", "latency": "low"}
        with (
            sounddevice.InputStream(samplerate=in_hz, callback=hear, **shape),
            sounddevice.OutputStream(samplerate=out_hz, callback=fill, **shape),
        ):
            yield Soundcard(microphone, loudspeaker)
    except sounddevice.PortAudioError as error:
        raise SoundcardError(f"no usable microphone or loudspeaker ({error})") from None
