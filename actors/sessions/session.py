"""A session is one client's conversation, whatever connection carries it.

It knows its lane, what goes in (numbering frames), what comes out (an outbox that never
blocks), how its tokens are drawn, and the counters of it all. It waits for nothing: every
method is a plain function, called by ingress, by the line's delivery, by egress and by
health, each from its own task.

Neighbours: `connection` carries packets to and from it. What does not belong here: packets'
numbers, heartbeats, the transport, which end with a connection.
"""

import contextlib
import dataclasses
import math
import secrets
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import trio

from actors.runtime.channel import Channel
from actors.runtime.histogram import Timing
from actors.runtime.tracing import Tracer
from actors.sessions.admission import Ticket
from actors.sessions.dispatcher import Delivery
from actors.sessions.recorder import Recorder, Recording
from actors.sessions.send_queue import LeakedWhat, Outbox
from pipeline.audio.framing import AudioRefusedError, frames_of, payload_of
from pipeline.audio.pacing import DeadlineClock
from pipeline.errors import LaneFailedError, SessionError
from pipeline.protocol import outgoing
from pipeline.protocol.conversation import capture_ms
from pipeline.protocol.events import AudioReceived
from pipeline.protocol.metadata import (
    ClientStats,
    Configure,
    Dropped,
    ErrorNotice,
    Queued,
    Ready,
    RecordingNotice,
    ServerMetadata,
    Stats,
)
from pipeline.protocol.outgoing import Outgoing
from pipeline.protocol.packets import PacketType
from pipeline.protocol.unacked import Kept
from pipeline.units import FRAME_MS
from pipeline.values import AgentFrame, LaneConfigured, Sampling, Text, TextPartial, UserFrame

CONFIGURES_WAITING: Final = 8  # changes of sampling one lane may have in the line's first channel


@dataclass(slots=True)
class Tally:
    """What a session, or all of them, came to. Frames count 80 ms each.

    `frames_in` were accepted; of those `frames_dropped` were left out before the model, and
    `frames_out` answers were written. `audio_left_out` answers, `partials_left_out` and
    `low_left_out` packets were left out by the outbox, and `decodes_skipped` answers never
    decoded. `audio_refused` counts packets. `client_underruns` are what clients told.
    """

    frames_in: int = 0
    frames_dropped: int = 0
    frames_out: int = 0
    audio_refused: int = 0
    underruns: int = 0
    audio_left_out: int = 0
    partials_left_out: int = 0
    low_left_out: int = 0
    decodes_skipped: int = 0
    client_underruns: int = 0

    def add(self, other: "Tally") -> None:
        """Sum, field by field."""
        for count in dataclasses.fields(self):
            setattr(self, count.name, getattr(self, count.name) + getattr(other, count.name))


@dataclass(frozen=True, slots=True)
class Latencies:
    """What every answered frame of every session took, and what of it the server added to the models."""

    total: Timing = field(default_factory=Timing)
    added: Timing = field(default_factory=Timing)


class Session:
    """One conversation. `finished` is set when its lane has come out of the line, with all it said."""

    def __init__(
        self,
        ticket: Ticket,
        inbox: Channel[UserFrame],
        sampling: Sampling,
        latencies: Latencies,
        *,
        tracer: Tracer,
        max_lag_s: float,
        recorder: Recorder | None,
    ) -> None:
        self.id = secrets.token_hex(8)
        self.began_s = trio.current_time()
        self.kept = Kept()
        self.finished = trio.Event()
        self.disturbed = trio.Event()  # set when what waits without a connection has waited enough
        self.added = Timing()
        self.client_stats = ClientStats()
        self._outbox: Outbox | None = None  # None while no connection carries the session
        self._left_out: Counter[LeakedWhat] = Counter()  # with the connections before, and between them
        self._failure: SessionError | None = None
        self._recorder = recorder
        self._recording: Recording | None = None
        self.ticket = ticket
        self._inbox = inbox
        self._sampling = sampling
        self._latencies = latencies
        self._tracer = tracer
        self._deadlines = DeadlineClock()
        self._arrivals = DeadlineClock()
        self._max_lag_frames = max_lag_s * 1000 / FRAME_MS
        self._spoke_s = self.began_s
        self._written = 0  # frames, over the present connection
        self._excess = 0  # frames that the client has and will play too late
        self._tally = Tally()
        self._next_index = 0  # of the frame due from the line
        self._told_frames = self._told_audio = 0

    # Connections

    @property
    def is_open(self) -> bool:
        """Whether it has a lane, hears, and may go on."""
        return self.ticket.is_open and self._failure is None

    def attach(self, outbox: Outbox) -> tuple[Outgoing, ...]:
        """Speak into this outbox from now on; give what was kept, to be said ahead of it."""
        self.detach()
        self._spoke_s = trio.current_time()
        again = self.kept.packets
        self._outbox = outbox
        self._written = self._excess = 0
        self.client_stats = dataclasses.replace(self.client_stats, last_played_frame=None)
        return again

    def detach(self) -> None:
        """There is nobody to speak to; what must not be lost is kept."""
        outbox, self._outbox = self._outbox, None
        if outbox is None:
            return
        for said in outbox.abandon():
            self._keep(said)
        self._left_out.update(outbox.statistics().left_out)

    def _post(self, said: Outgoing, frame: AgentFrame | None = None) -> None:
        if self._excess and said.type == PacketType.TEXT_PARTIAL:
            self._left_out["partial"] += 1
        elif self._excess and said.act == Stats.TYPE:
            self._left_out["low"] += 1
        elif self._outbox is not None:
            self._outbox.put(said, frame)
        elif said.wants_ack:
            self._keep(said)
        elif said.type == PacketType.AUDIO_CHUNK:
            self._left_out["audio"] += 1

    def _keep(self, said: Outgoing) -> None:
        try:
            self.kept.enter(said)
        except SessionError as error:
            self._fail(error)

    def _fail(self, error: SessionError) -> None:
        """The session cannot go on: its connection learns why, or there will be none."""
        self._failure = self._failure or error
        if self._outbox is not None:
            self._outbox.fail(error)
        self.disturbed.set()

    # Admission

    async def admitted(self) -> None:
        """Wait for a lane, telling the client each place in the queue."""
        while self.ticket.lane is None:
            self.tell(Queued(self.ticket.position))
            await self.ticket.moved()

    def open(self, delivery: Delivery) -> None:
        """Open the lane: from here on audio is heard, and answers are delivered.

        Raises:
            trio.ClosedResourceError: the line has ended.
        """
        self._spoke_s = trio.current_time()
        delivery.attach(self.ticket.open_lane(self._sampling), self)
        self.tell(Ready())

    def hang_up(self) -> None:
        """Hear nothing more; `finished` follows once all that was heard is answered."""
        if not self.ticket.is_open:
            self.finished.set()
        self.ticket.close()

    @property
    def spoke_s(self) -> float:
        """When audio came last, or could have come first; while there is no lane, now."""
        return self._spoke_s if self.ticket.is_open else trio.current_time()

    # From the client

    def hear(self, audio: AudioReceived, received_s: float) -> None:
        """Put a packet's frames into the line, or refuse the packet and tell the client."""
        try:
            frames = frames_of(audio.payload)
        except AudioRefusedError as refusal:
            self._tally.audio_refused += 1
            self.tell(ErrorNotice("audio_refused", str(refusal)))
            return
        if not self.ticket.is_open:
            return  # on its way when the session was hung up
        self._spoke_s = received_s
        lane = self.ticket.lane
        assert lane is not None
        for place, pcm in enumerate(frames):
            captured_ms = capture_ms(audio.timestamp_ms, place, len(frames))
            index = self._tally.frames_in
            spans = self._tracer.begin(index)
            due_s = self._due_s(index, received_s)
            frame = UserFrame(lane, index, captured_ms, received_s, 0.0, 0.0, pcm, spans=spans, due_s=due_s)
            with contextlib.suppress(trio.ClosedResourceError):  # the line has ended; so will this session
                self._tally.frames_in += 1
                if self._recording is not None:
                    self._recording.hear(pcm)
                self._inbox.put_nowait(frame)

    def _due_s(self, index: int, received_s: float) -> float:
        """Until when the answer to this frame is worth its sound; for one too many, it never is."""
        due_ns = self._arrivals.due_ns(index, _ns(received_s))
        if not self._excess:
            return due_ns / 1e9
        self._excess -= 1
        return -math.inf

    def note(self, stats: ClientStats) -> None:
        """The client says how it is doing. What it has and has not played beyond the bound is too much."""
        self.client_stats = stats
        if stats.last_played_frame is not None:
            unplayed = self._written - (stats.last_played_frame + 1)
            self._excess = max(0, math.ceil(unplayed - self._max_lag_frames))

    def configure(self, change: Configure) -> None:
        """Draw tokens differently from the next frame on; what the client leaves out stays as it is."""
        named = {k: v for k, v in dataclasses.asdict(change).items() if v is not None}
        if named.pop("replay", None) is not None:
            self._record(on=change.replay is True)
        sampling = dataclasses.replace(self._sampling, **named)
        lane = self.ticket.lane
        if self.ticket.is_open and lane is not None:
            if self._inbox.waiting_events(lane) > CONFIGURES_WAITING:
                self.tell(ErrorNotice("busy", "too many changes of configuration are waiting for the model"))
                return
            with contextlib.suppress(trio.ClosedResourceError):
                self._inbox.put_nowait(LaneConfigured(lane, sampling))
        self._sampling = sampling
        if self._recording is not None and named:
            told = dataclasses.asdict(sampling)
            self._recording.note("configured", frame=self._tally.frames_in, sampling=told)

    def announce(self) -> None:
        """Remind a client that has come back of what is on."""
        if self._recording is not None:
            self.tell(RecordingNotice(on=True, name=self._recording.name))

    def _record(self, *, on: bool) -> None:
        """What the models are given from the first frame on is written down, or is not any more."""
        if not on:
            self._stop_recording("asked")
        elif self._recorder is None:
            self.tell(ErrorNotice("not_recorded", "this server records nothing"))
        elif self._tally.frames_in:
            self.tell(ErrorNotice("not_recorded", "a recording has to begin before the first frame"))
        elif self._recording is None:
            told = dataclasses.asdict(self._sampling)
            self._recording = self._recorder.begin(self.id, sampling=told)
            self.announce()

    def _stop_recording(self, reason: str) -> None:
        if self._recording is not None:
            self._recording.end(reason, self._tally.frames_in)
            self._recording = None
            self.tell(RecordingNotice(on=False))

    # From the line

    def deliver(self, frame: AgentFrame) -> None:
        """Post what one step released. A gap in the frames' numbers is frames that were left out."""
        self._tally.frames_dropped += frame.index - self._next_index
        self._next_index = frame.index + 1
        try:
            self._tally.decodes_skipped += frame.skipped
            if frame.pcm is not None:
                self._post(outgoing.audio(payload_of(frame.pcm), frame.captured_ms), frame)
            self._say(frame.text)
        except SessionError as error:
            self._fail(error)

    def lane_closed(self, text: Iterable[Text]) -> None:
        """The last word from the line. No frame is due any more: what leaks is never a lane's newest."""
        try:
            self._say(text)
        except SessionError as error:
            self._fail(error)
        self._tell_dropped()
        self._stop_recording("closed")
        self.finished.set()

    def left_out(self, index: int, before: str) -> None:
        """A frame of this session was left out before a stage."""
        if self._recording is not None:
            self._recording.note("dropped", frame=index, before=before)

    def lane_failed(self, stage: str) -> None:
        """A model failed on this session, and does not know it any more."""
        self._fail(LaneFailedError(f"the {stage} failed on this session"))

    # To the client

    def tell(self, notice: ServerMetadata) -> None:
        """Post a METADATA packet."""
        self._post(outgoing.metadata(notice))

    def sent(self, frame: AgentFrame) -> None:
        """Egress has written this frame just now: judge it."""
        now_s = trio.current_time()
        self._tally.frames_out += 1
        self._written += 1
        added_s = max(0.0, now_s - frame.received_s - frame.model_s)  # two clocks, read one after the other
        for timing in (self.added, self._latencies.added):
            timing.add(added_s)
        self._latencies.total.add(now_s - frame.received_s)
        self._tracer.end(frame, self.id, now_s)
        if self._deadlines.judge(frame.index, _ns(frame.received_s), _ns(now_s)):
            self._tally.underruns += 1

    def report(self, stats: Stats) -> None:
        """Tell the client how things are, each second; the session's own counters are filled in here."""
        if self._outbox is None:
            return
        self._tell_dropped()
        tally = self.tally()
        self.tell(
            dataclasses.replace(
                stats,
                frames_in=tally.frames_in,
                frames_out=tally.frames_out,
                frames_dropped=tally.frames_dropped,
                underruns=tally.underruns,
                added_ms=round(self.added.statistics().p50_ms, 3),
                low_left_out=tally.low_left_out,
                partials_left_out=tally.partials_left_out,
                decodes_skipped=tally.decodes_skipped,
                audio_left_out=tally.audio_left_out,
            )
        )

    def tally(self) -> Tally:
        """The counters now."""
        return dataclasses.replace(
            self._tally,
            audio_left_out=self._left_out_of("audio"),
            partials_left_out=self._left_out_of("partial"),
            low_left_out=self._left_out_of("low"),
            client_underruns=self.client_stats.underruns or 0,
        )

    def _left_out_of(self, what: LeakedWhat) -> int:
        return self._left_out[what] + (self._outbox.left_out(what) if self._outbox is not None else 0)

    def _say(self, said: Iterable[Text]) -> None:
        for text in said:
            spell = outgoing.text_partial if isinstance(text, TextPartial) else outgoing.text_final
            self._post(spell(text.text))

    def _tell_dropped(self) -> None:
        """One notice for all that was left out since the last one."""
        frames = self._tally.frames_dropped
        audio = self._left_out_of("audio") + self._tally.decodes_skipped
        if frames > self._told_frames:
            self.tell(Dropped("audio", frames - self._told_frames))
        if audio > self._told_audio:
            self.tell(Dropped("agent_audio", audio - self._told_audio))
        self._told_frames, self._told_audio = frames, audio


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
