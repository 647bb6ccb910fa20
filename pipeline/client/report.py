"""Measure a conversation from the client's end: what was sent, what came back, and when.

No waiting and no clock: instants come in as nanoseconds of whichever clock the caller keeps.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.audio.pacing import MS_NS, Playout
from pipeline.protocol.metadata import ModelInfo
from pipeline.units import FRAME_MS


@dataclass(frozen=True, slots=True)
class LatencyMs:
    """From the capture of a frame's last sample to the receipt of the frame that its step released.

    None where nothing was answered.
    """

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None

    @classmethod
    def of(cls, latencies_ns: list[int]) -> "LatencyMs":
        """Percentiles, to a microsecond."""
        if not latencies_ns:
            return cls()
        marks = np.percentile(np.array(latencies_ns), (50, 95, 99, 100)) / MS_NS
        return cls(*(round(float(mark), 3) for mark in marks))


@dataclass(frozen=True, slots=True)
class Report:
    """One conversation in numbers.

    `underruns` are the gaps a listener hears who starts `prebuffer_ms` after the first frame:
    frames too late for their playout time, and frames that never came. `in_order` says that
    what came over a connection echoes the frames sent one after the other, none twice and none skipped.
    `dropped` and `errors` count what the server said of itself, by name, `resumed` how often the session
    was taken up again, `renewed` how often a new one took the place of one that could not be. `close` is
    the WebSocket close code, None where there never was a connection.
    """

    frames_in: int
    frames_out: int
    latency_ms: LatencyMs
    underruns: int
    text: str
    close: int | None
    close_reason: str
    in_order: bool
    prebuffer_ms: int
    dropped: Mapping[str, int]
    errors: Mapping[str, int]
    model: ModelInfo | None
    resumed: int = 0
    renewed: int = 0

    def as_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        latency, model = self.latency_ms, self.model
        return {
            "frames_in": self.frames_in,
            "frames_out": self.frames_out,
            "latency_ms": {"p50": latency.p50, "p95": latency.p95, "p99": latency.p99, "max": latency.max},
            "underruns": self.underruns,
            "text": self.text,
            "close": self.close,
            "close_reason": self.close_reason,
            "in_order": self.in_order,
            "prebuffer_ms": self.prebuffer_ms,
            "dropped": dict(self.dropped),
            "errors": dict(self.errors),
            "resumed": self.resumed,
            "renewed": self.renewed,
            "model": model
            and {"name": model.name, "trained": model.trained, "modelDelayMs": model.model_delay_ms},
        }


class Ledger:
    """Every frame sent is entered once, every frame received finds its entry by the echoed timestamp."""

    def __init__(self, prebuffer_ms: int) -> None:
        self.frames_in = 0
        self.frames_out = 0
        self.in_order = True
        self.resumed = 0
        self.renewed = 0
        self._waived = 0
        self.dropped: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.model: ModelInfo | None = None
        self._prebuffer_ms = prebuffer_ms
        self._playout = Playout(prebuffer_ms)
        self._open: dict[float, tuple[int, int]] = {}  # echo → (index, captured_ns), in the order sent
        self._last_index: int | None = None
        self._latencies_ns: list[int] = []
        self._finals: list[str] = []
        self._partial = ""

    @property
    def frames_owed(self) -> int:
        """Frames still to come: one for each frame sent, less the model's delay and what was dropped."""
        lost = self.dropped["audio"] + self.dropped["agent_audio"] + self._waived
        return max(0, self.frames_in - self._delay_frames - lost - self.frames_out)

    @property
    def _delay_frames(self) -> int:
        return self.model.model_delay_ms // FRAME_MS if self.model else 0

    def interrupted(self) -> None:
        """The connection broke: what was on its way will not come, and what comes next is the first again."""
        self._waived += self.frames_owed
        self._last_index = None

    def began_anew(self) -> None:
        """A new session took the place of one that was lost: its model, too, begins with its delay."""
        self.renewed += 1
        self._waived += self._delay_frames

    def sent(self, timestamp_ms: float, captured_ns: int) -> None:
        """A frame goes out; its timestamp is unlike any before."""
        self._open[timestamp_ms] = (self.frames_in, captured_ns)
        self.frames_in += 1

    def answered(self, timestamp_ms: float, received_ns: int) -> None:
        """A frame came back. One that echoes nothing that is open is counted, and is out of order."""
        self.frames_out += 1
        entry = self._open.get(timestamp_ms)
        if entry is None:
            self.in_order = False
            return
        index, captured_ns = entry
        # Answers come in order, so what was passed over is never answered.
        while (stamp := next(iter(self._open))) != timestamp_ms:
            del self._open[stamp]
        del self._open[timestamp_ms]
        if self._last_index is not None and index != self._last_index + 1:
            self.in_order = False
        self._last_index = index
        self._latencies_ns.append(received_ns - captured_ns)
        self._playout.heard(index, received_ns)

    def told(self, text: str, *, final: bool) -> None:
        """Text came: the whole utterance so far, or closed."""
        if final:
            self._finals.append(text)
        self._partial = "" if final else text

    def report(self, close: int | None, close_reason: str) -> Report:
        """The conversation so far, closed like this. An utterance left open counts as it stands."""
        utterances = [*self._finals, self._partial] if self._partial else self._finals
        return Report(
            frames_in=self.frames_in,
            frames_out=self.frames_out,
            latency_ms=LatencyMs.of(self._latencies_ns),
            underruns=self._playout.underruns,
            text="\n".join(utterances),
            close=close,
            close_reason=close_reason,
            in_order=self.in_order,
            prebuffer_ms=self._prebuffer_ms,
            dropped=dict(self.dropped),
            errors=dict(self.errors),
            model=self.model,
            resumed=self.resumed,
            renewed=self.renewed,
        )
