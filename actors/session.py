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
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import trio

from actors.admission import Ticket
from actors.channel import Channel
from actors.delivery import Delivery
from actors.outbox import Outbox
from actors.timing import Timing
from pipeline.audio.framing import AudioRefusedError, frames_of, payload_of
from pipeline.audio.pacing import DeadlineClock
from pipeline.errors import SessionError
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
    ServerMetadata,
    Stats,
)
from pipeline.values import AgentFrame, LaneConfigured, Sampling, Text, TextPartial, UserFrame

CONFIGURES_WAITING: Final = 8  # changes of sampling one lane may have in the line's first channel


@dataclass(slots=True)
class Tally:
    """What a session, or all of them, came to. Frames count 80 ms each.

    `frames_in` were accepted; of those `frames_dropped` were left out before the model, and
    `frames_out` answers were written. `audio_left_out` answers, `partials_left_out` and
    `low_left_out` packets were left out by the outbox. `audio_refused` counts packets.
    """

    frames_in: int = 0
    frames_dropped: int = 0
    frames_out: int = 0
    audio_refused: int = 0
    underruns: int = 0
    audio_left_out: int = 0
    partials_left_out: int = 0
    low_left_out: int = 0

    def add(self, other: "Tally") -> None:
        """Sum, field by field."""
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


class Session:
    """One conversation. `finished` is set when its lane has come out of the line, with all it said."""

    def __init__(
        self,
        ticket: Ticket,
        inbox: Channel[UserFrame],
        sampling: Sampling,
        added: Timing,
        *,
        max_lag_s: float,
    ) -> None:
        self.id = secrets.token_hex(8)
        self.outbox = Outbox(max_lag_s=max_lag_s)
        self.finished = trio.Event()
        self.added = Timing()
        self.client_stats = ClientStats()
        self._ticket = ticket
        self._inbox = inbox
        self._sampling = sampling
        self._added_by_all = added
        self._deadlines = DeadlineClock()
        self._tally = Tally()
        self._next_index = 0  # of the frame due from the line
        self._told_frames = self._told_audio = 0

    # Admission

    async def admitted(self) -> None:
        """Wait for a lane, telling the client each place in the queue."""
        while self._ticket.lane is None:
            self.tell(Queued(self._ticket.position))
            await self._ticket.moved()

    def open(self, delivery: Delivery) -> None:
        """Open the lane: from here on audio is heard, and answers are delivered.

        Raises:
            trio.ClosedResourceError: the line has ended.
        """
        delivery.attach(self._ticket.open_lane(self._sampling), self)
        self.tell(Ready())

    def hang_up(self) -> None:
        """Hear nothing more; `finished` follows once all that was heard is answered."""
        if not self._ticket.is_open:
            self.finished.set()
        self._ticket.close()

    # From the client

    def hear(self, audio: AudioReceived, received_s: float) -> None:
        """Put a packet's frames into the line, or refuse the packet and tell the client."""
        try:
            frames = frames_of(audio.payload)
        except AudioRefusedError as refusal:
            self._tally.audio_refused += 1
            self.tell(ErrorNotice("audio_refused", str(refusal)))
            return
        if not self._ticket.is_open:
            return  # on its way when the session was hung up
        lane = self._ticket.lane
        assert lane is not None
        for place, pcm in enumerate(frames):
            captured_ms = capture_ms(audio.timestamp_ms, place, len(frames))
            frame = UserFrame(lane, self._tally.frames_in, captured_ms, received_s, 0.0, 0.0, pcm)
            with contextlib.suppress(trio.ClosedResourceError):  # the line has ended; so will this session
                self._inbox.put_nowait(frame)
                self._tally.frames_in += 1

    def configure(self, change: Configure) -> None:
        """Draw tokens differently from the next frame on; what the client leaves out stays as it is."""
        named = {k: v for k, v in dataclasses.asdict(change).items() if v is not None}
        sampling = dataclasses.replace(self._sampling, **named)
        lane = self._ticket.lane
        if self._ticket.is_open and lane is not None:
            if self._inbox.waiting_events(lane) > CONFIGURES_WAITING:
                self.tell(ErrorNotice("busy", "too many changes of configuration are waiting for the model"))
                return
            with contextlib.suppress(trio.ClosedResourceError):
                self._inbox.put_nowait(LaneConfigured(lane, sampling))
        self._sampling = sampling

    # From the line

    def deliver(self, frame: AgentFrame) -> None:
        """Post what one step released. A gap in the frames' numbers is frames that were left out."""
        self._tally.frames_dropped += frame.index - self._next_index
        self._next_index = frame.index + 1
        try:
            if frame.pcm is not None:
                self.outbox.put(outgoing.audio(payload_of(frame.pcm), frame.captured_ms), frame)
            self._say(frame.text)
        except SessionError as error:
            self.outbox.fail(error)

    def lane_closed(self, text: Iterable[Text]) -> None:
        """The last word from the line; frames that are due no longer come."""
        self._tally.frames_dropped += self._tally.frames_in - self._next_index
        self._next_index = self._tally.frames_in
        try:
            self._say(text)
        except SessionError as error:
            self.outbox.fail(error)
        self._tell_dropped()
        self.finished.set()

    # To the client

    def tell(self, notice: ServerMetadata) -> None:
        """Post a METADATA packet."""
        self.outbox.put(outgoing.metadata(notice))

    def sent(self, frame: AgentFrame) -> None:
        """Egress has written this frame just now: judge it."""
        now_s = trio.current_time()
        self._tally.frames_out += 1
        added_s = max(0.0, now_s - frame.received_s - frame.model_s)  # two clocks, read one after the other
        for timing in (self.added, self._added_by_all):
            timing.add(added_s)
        if self._deadlines.judge(frame.index, _ns(frame.received_s), _ns(now_s)):
            self._tally.underruns += 1

    def report(self, stats: Stats) -> None:
        """Tell the client how things are, each second; the session's own counters are filled in here."""
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
            )
        )

    def tally(self) -> Tally:
        """The counters now."""
        return dataclasses.replace(
            self._tally,
            audio_left_out=self.outbox.left_out("audio"),
            partials_left_out=self.outbox.left_out("partial"),
            low_left_out=self.outbox.left_out("low"),
        )

    def _say(self, said: Iterable[Text]) -> None:
        for text in said:
            spell = outgoing.text_partial if isinstance(text, TextPartial) else outgoing.text_final
            self.outbox.put(spell(text.text))

    def _tell_dropped(self) -> None:
        """One notice for all that was left out since the last one."""
        frames, audio = self._tally.frames_dropped, self.outbox.left_out("audio")
        if frames > self._told_frames:
            self.tell(Dropped("audio", frames - self._told_frames))
        if audio > self._told_audio:
            self.tell(Dropped("agent_audio", audio - self._told_audio))
        self._told_frames, self._told_audio = frames, audio


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
