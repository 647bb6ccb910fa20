"""Measures a conversation at the client's end: what was sent, what was received, and when.

No waiting and no clock: the caller passes instants as nanoseconds of a clock of its choice.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.audio.pacing import MS_NS, Playout
from pipeline.percentiles import percentiles
from pipeline.protocol.metadata import ModelInfo
from pipeline.units import FRAME_MS


@dataclass(frozen=True, slots=True)
class LatencyMs:
    """From the capture of a frame's last sample to the receipt of the frame that its step released.

    None where no frame was answered.
    """

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None

    @classmethod
    def of(cls, latencies_ns: list[int]) -> "LatencyMs":
        """Percentiles and maximum, to a microsecond."""
        if not latencies_ns:
            return cls()
        return cls(*(round(ns / MS_NS, 3) for ns in percentiles(latencies_ns, 50, 95, 99, 100)))


@dataclass(frozen=True, slots=True)
class Report:
    """One conversation in numbers.

    `underruns` are the gaps in playback that starts `prebuffer_ms` after the first frame: frames too
    late for their playout time, and frames that never arrived. `in_order`: the frames received over
    a connection echo those sent one after the other, none twice and none skipped. `dropped` and
    `errors` count what the server reported, by name, `resumed` how often the session was resumed,
    `renewed` how often a new session replaced one that could not be resumed, `put_back` how often the
    server was busy and the session had to wait in the queue again. `close` is the
    WebSocket close code, None where there never was a connection.
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
    put_back: int = 0

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
            "put_back": self.put_back,
            "model": model
            and {"name": model.name, "trained": model.trained, "modelDelayMs": model.model_delay_ms},
        }


class LatencyTracker:
    """Matches each frame received with the frame sent that has the echoed timestamp."""

    def __init__(self, prebuffer_ms: int) -> None:
        self.frames_in = 0
        self.frames_out = 0
        self.in_order = True
        self.resumed = 0
        self.renewed = 0
        self.put_back = 0
        self._not_expected = 0
        self.dropped: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.model: ModelInfo | None = None
        self._prebuffer_ms = prebuffer_ms
        self._playout = Playout(prebuffer_ms)
        self._unanswered: dict[float, tuple[int, int]] = {}  # timestamp → (index, captured_ns), as sent
        self._last_index: int | None = None
        self._latencies_ns: list[int] = []
        self._finals: list[str] = []
        self._partial = ""

    @property
    def frames_expected(self) -> int:
        """Frames still to come: one for each frame sent, less the model's delay and those dropped."""
        lost = self.dropped["audio"] + self.dropped["agent_audio"] + self._not_expected
        return max(0, self.frames_in - self._delay_frames - lost - self.frames_out)

    @property
    def _delay_frames(self) -> int:
        return self.model.model_delay_ms // FRAME_MS if self.model else 0

    def record_disconnect(self) -> None:
        """The connection broke: frames in flight are lost, and the order starts anew."""
        self._not_expected += self.frames_expected
        self._restart()

    def record_continued(self) -> None:
        """A session that was put back runs again: what was not sent meanwhile is no gap in playback."""
        self._restart()

    def _restart(self) -> None:
        self._last_index = None
        self._playout.pause()

    def record_new_session(self) -> None:
        """A new session replaced one that was lost: its model, too, begins with its delay."""
        self.renewed += 1
        self._not_expected += self._delay_frames

    def record_sent(self, timestamp_ms: float, captured_ns: int) -> None:
        """A frame is sent; its timestamp is unique."""
        self._unanswered[timestamp_ms] = (self.frames_in, captured_ns)
        self.frames_in += 1

    def record_received(self, timestamp_ms: float, received_ns: int) -> None:
        """A frame was received. One that echoes no unanswered frame is counted, and is out of order."""
        self.frames_out += 1
        entry = self._unanswered.get(timestamp_ms)
        if entry is None:
            self.in_order = False
            return
        index, captured_ns = entry
        # Answers come in order, so frames skipped here are never answered.
        while (stamp := next(iter(self._unanswered))) != timestamp_ms:
            del self._unanswered[stamp]
        del self._unanswered[timestamp_ms]
        if self._last_index is not None and index != self._last_index + 1:
            self.in_order = False
        self._last_index = index
        self._latencies_ns.append(received_ns - captured_ns)
        self._playout.record_arrival(index, received_ns)

    def record_text(self, text: str, *, final: bool) -> None:
        """Text was received: the whole utterance so far, or the finished one."""
        if final:
            self._finals.append(text)
        self._partial = "" if final else text

    def report(self, close: int | None, close_reason: str) -> Report:
        """The report of a conversation that closed so; an unfinished utterance is included."""
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
            put_back=self.put_back,
        )
