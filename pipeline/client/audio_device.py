"""Live audio: the default microphone and loudspeaker, through the optional `sounddevice`.

The device calls back in its own thread, at its own sample rate. The buffers in both directions are
bounded: what is not consumed in time is dropped, oldest first, and counted.
"""

import contextlib
import shlex
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import trio

from pipeline.audio.framing import Framer
from pipeline.audio.pacing import FRAME_NS, MS_NS
from pipeline.audio.resampling import StreamResampler
from pipeline.client.session import PREBUFFER_MS
from pipeline.client.source import AudioSource, CapturedFrame, now_ns
from pipeline.errors import StartupError
from pipeline.units import SAMPLE_RATE_HZ
from pipeline.values import Pcm

PIECES_MAX: Final = 100  # captured and not yet sent: about 2 s, devices deliver some 20 ms at once
# There is no package index with this project, so that extras of it cannot be named.
INSTALL_SOUNDDEVICE: Final = shlex.join((sys.executable, "-m", "pip", "install", "sounddevice"))
SILENT_FRAMES: Final = 25  # 2 s
BUFFER_MS: Final = 2000  # received and not yet played


class AudioDeviceError(StartupError):
    """There is no usable microphone or loudspeaker."""

    exit_code = 2


class Microphone:
    """Makes frames of what the device captures; a frame's capture time is that of its last sample."""

    def __init__(self, rate_hz: int, on_notice: Callable[[str], None] | None = None) -> None:
        self.dropped_pieces = 0
        self._on_notice = on_notice
        self._zero_frames = 0
        self._resampler = StreamResampler(rate_hz, SAMPLE_RATE_HZ)
        self._framer = Framer()
        self._pieces: deque[tuple[Pcm, int]] = deque(maxlen=PIECES_MAX)
        self._token = trio.lowlevel.current_trio_token()
        self._wakeup, self._wakeups = trio.open_memory_channel[None](1)
        self._last_ns = 0

    def push(self, samples: Pcm, captured_ns: int) -> None:
        """Append `samples [S]`, the last captured at `captured_ns`; called in the device's thread."""
        self.dropped_pieces += len(self._pieces) == PIECES_MAX
        self._pieces.append((samples.copy(), captured_ns))
        self._token.run_sync_soon(self._notify, idempotent=True)

    async def frames(self) -> AudioSource:
        """Frames as they become complete, from now on."""
        self._pieces.clear()  # captured before anything consumed it: too late to send
        while True:
            await self._wakeups.receive()
            while self._pieces:
                for captured in self._frames(*self._pieces.popleft()):
                    yield captured

    def _notify(self) -> None:
        with contextlib.suppress(trio.WouldBlock):  # a wakeup is pending already
            self._wakeup.send_nowait(None)

    def _frames(self, samples: Pcm, captured_ns: int) -> Iterator[CapturedFrame]:
        frames = self._framer.push(self._resampler.push(samples))
        last_ns = captured_ns - self._framer.pending_samples * 1_000_000_000 // SAMPLE_RATE_HZ
        for index, pcm in enumerate(frames):
            at_ns = last_ns - FRAME_NS * (len(frames) - 1 - index)
            # A device may deliver late and then twice at once: time must not go back.
            self._last_ns = max(at_ns, self._last_ns + MS_NS)
            self._watch_silence(pcm)
            yield CapturedFrame(pcm, self._last_ns)

    def _watch_silence(self, pcm: Pcm) -> None:
        """Notice once when there is no sound at all, which no microphone delivers on its own."""
        self._zero_frames = 0 if pcm.any() else self._zero_frames + 1
        if self._zero_frames == SILENT_FRAMES and self._on_notice is not None:
            self._on_notice(
                "the microphone delivers only silence: it is muted, or this program may not use it"
            )


class Loudspeaker:
    """Plays samples in order, once there are more than the prebuffer; after a gap it buffers again."""

    def __init__(self, rate_hz: int, prebuffer_ms: int = PREBUFFER_MS) -> None:
        self.gaps = 0
        self.dropped_samples = 0
        self._resampler = StreamResampler(SAMPLE_RATE_HZ, rate_hz)
        self._prebuffer_samples = rate_hz * prebuffer_ms // 1000
        self._buffer_samples_max = rate_hz * BUFFER_MS // 1000
        self._lock = threading.Lock()  # held for as long as some samples take to copy
        self._pieces: deque[Pcm] = deque()
        self._buffered_samples = 0
        self._playing = False

    def play(self, pcm: Pcm) -> None:
        """Append `pcm [S]` at 24 kHz to the playback buffer."""
        piece = self._resampler.push(pcm)
        with self._lock:
            self._pieces.append(piece)
            self._buffered_samples += len(piece)
            while self._buffered_samples > self._buffer_samples_max:
                dropped = len(self._pieces.popleft())
                self._buffered_samples -= dropped
                self.dropped_samples += dropped

    def fill(self, out: Pcm) -> None:
        """Fill `out [S]` with the next samples; called in the device's thread."""
        filled = 0
        with self._lock:
            self._playing = self._playing or self._buffered_samples > self._prebuffer_samples
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
            self._buffered_samples -= filled
        out[filled:] = 0


@dataclass(frozen=True, slots=True)
class AudioDevice:
    """The default microphone and loudspeaker, running."""

    microphone: Microphone
    loudspeaker: Loudspeaker

    def losses(self) -> str:
        """Gaps and dropped samples, in one line."""
        return (
            f"loudspeaker: {self.loudspeaker.gaps} gaps, {self.loudspeaker.dropped_samples} samples dropped; "
            f"microphone: {self.microphone.dropped_pieces} pieces dropped"
        )


@contextmanager
def open_audio_device(on_notice: Callable[[str], None] | None = None) -> Iterator[AudioDevice]:
    """Start the default microphone and loudspeaker; they stop at the end of the block.

    on_notice: gets a sentence for the user when the microphone is silent.

    Raises:
        AudioDeviceError: `sounddevice` is not installed, or there is no device.
    """
    try:
        import sounddevice  # noqa: PLC0415 - optional, and importing it opens PortAudio
    except ImportError:
        raise AudioDeviceError(f"--mic needs sounddevice: run {INSTALL_SOUNDDEVICE}") from None
    except OSError as error:  # the package is installed, the system library is not
        raise AudioDeviceError(
            f"--mic needs PortAudio ({error}); Debian: apt-get install libportaudio2"
        ) from None
    try:
        in_hz, out_hz = (
            round(sounddevice.query_devices(kind=kind)["default_samplerate"]) for kind in ("input", "output")
        )
        microphone, loudspeaker = Microphone(in_hz, on_notice), Loudspeaker(out_hz)
        to_trio_ns = now_ns() - time.perf_counter_ns()  # Trio's clock cannot be read in another thread

        def capture(samples: Pcm, *_: object) -> None:
            microphone.push(samples[:, 0], time.perf_counter_ns() + to_trio_ns)

        def fill(out: Pcm, *_: object) -> None:
            loudspeaker.fill(out[:, 0])

        shape = {"channels": 1, "dtype": "float32", "latency": "low"}
        with (
            sounddevice.InputStream(samplerate=in_hz, callback=capture, **shape),
            sounddevice.OutputStream(samplerate=out_hz, callback=fill, **shape),
        ):
            yield AudioDevice(microphone, loudspeaker)
    except sounddevice.PortAudioError as error:
        raise AudioDeviceError(f"no usable microphone or loudspeaker ({error})") from None
