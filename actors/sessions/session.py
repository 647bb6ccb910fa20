"""One client's conversation, whatever connection carries it.

A session has a lane, numbers the frames that go in, sends what comes out, knows how its tokens
are sampled and counts all of it. It never waits (except for its lane): every other method is a
plain function, called by ingress, the dispatcher, egress and health, each from its own task.

Neighbours: `connection` carries its packets; `client_output`, `playout_lag`, `counters`,
`latency` and `recording_switch` are its parts. What does not belong here: packet numbers, heartbeats
and the transport, which end with a connection.
"""

import contextlib
import dataclasses
import math
import secrets
from collections.abc import Iterable
from typing import Final

import trio
from msgspec import structs

from actors.runtime.awake_clock import awake_time
from actors.runtime.channel import Channel
from actors.runtime.tracing import Tracer
from actors.sessions.admission import LaneLease
from actors.sessions.client_output import ClientOutput
from actors.sessions.counters import SessionCounters
from actors.sessions.dispatcher import Dispatcher
from actors.sessions.latency import Latencies, LatencyRecorder, nanoseconds
from actors.sessions.persona_choice import PersonaChoice
from actors.sessions.playout_lag import PlayoutLag
from actors.sessions.prompting import Prompter
from actors.sessions.recorder import Recorder
from actors.sessions.recording_switch import RecordingSwitch
from actors.sessions.send_queue import SendQueue
from pipeline.audio.framing import AudioRefusedError, frames_of, payload_of
from pipeline.audio.pacing import DeadlineClock, SenderPace
from pipeline.errors import LaneFailedError, PromptError, SessionError
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
from pipeline.protocol.outgoing import OutgoingPacket
from pipeline.protocol.unacked import UnackedPackets
from pipeline.values import (
    AgentFrame,
    FrameHeader,
    LaneConfigured,
    LanePrompted,
    Persona,
    SamplingParams,
    Text,
    TextPartial,
    UserFrame,
)

NO_PERSONA: Final = Persona()
CONFIGURES_WAITING: Final = 8  # changes of sampling that one lane may have in the first channel


class Session:
    """One conversation.

    Attributes:
        id: its public name, also in the log.
        lease: its lane, or its place in the queue.
        finished: set once the lane is closed and everything from it has been sent.
        wakeup: set when there is no reason to wait for a connection any more.
        latency: measures its frames.
    """

    def __init__(
        self,
        lease: LaneLease,
        user_frames: Channel[UserFrame],
        sampling: SamplingParams,
        latencies: Latencies,
        *,
        tracer: Tracer,
        max_lag_s: float,
        recorder: Recorder | None,
        persona: Persona = NO_PERSONA,
    ) -> None:
        self.id = secrets.token_hex(8)
        self.began_s = trio.current_time()
        self.lease = lease
        self.finished = trio.Event()
        self.wakeup = trio.Event()
        self._opened = trio.Event()
        self.latency = LatencyRecorder(self.id, latencies, tracer)
        self._user_frames = user_frames
        self._sampling = sampling
        self._choice = PersonaChoice(persona)
        self._tracer = tracer
        self._playout_lag = PlayoutLag(max_lag_s)
        self._output = ClientOutput(self._playout_lag, on_failure=self._wake)
        self._recording = RecordingSwitch(recorder, self.id, self.send_metadata)
        self._counters = SessionCounters()
        self._deadline_clock = DeadlineClock()
        self._pace = SenderPace()
        lease.is_ahead = lambda: self._pace.is_ahead(nanoseconds(trio.current_time()))
        self._last_audio_s = awake_time()
        self._next_index = 0  # of the frame that the dispatcher delivers next
        self._reported_over_scale = False
        self._reported_underruns = 0  # by the client
        self._reported_frames = self._reported_audio = 0  # dropped, as far as the client knows

    # Connections

    @property
    def is_open(self) -> bool:
        """Whether it has an open lane and has not failed."""
        return self.lease.is_open and self._output.failure is None

    @property
    def unacked(self) -> UnackedPackets:
        """The packets that want an ACK and have none yet."""
        return self._output.unacked

    def attach(self, queue: SendQueue) -> tuple[OutgoingPacket, ...]:
        """Send through this queue from now on; return the packets to send again ahead of it."""
        self._last_audio_s = awake_time()
        return self._output.attach(queue)

    def detach(self) -> None:
        """No connection carries the session any more; packets that want an ACK are kept."""
        self._output.detach()

    # Admission

    async def wait_admitted(self) -> None:
        """Wait until the session may run, and inform the client of each place in the queue."""
        while not self.lease.running:
            self.send_metadata(Queued(self.lease.position))
            await self.lease.wait_changed()

    def open(self, dispatcher: Dispatcher) -> None:
        """Open the lane: from now on answers are delivered, and audio is accepted.

        With a voice or a role, audio is accepted once `begin_personas` has let the lane begin with it.

        Raises:
            trio.ClosedResourceError: the engine has ended.
        """
        self._last_audio_s = awake_time()
        dispatcher.attach(self.lease.open_lane(self._sampling), self)
        self._opened.set()
        if not self._choice.pending:
            self._send_ready()

    async def begin_personas(self, prompter: Prompter) -> None:
        """Let the lane begin with each voice and role that is asked for, until cancelled.

        Raises:
            Exception: the model failed on the prompt; this session cannot go on.
        """
        await self._opened.wait()
        while True:
            persona = await self._choice.wait_asked()
            lane = self.lease.lane
            assert lane is not None
            try:
                prompt = self._choice.prompt  # what the lane had is not built again: its voice may be removed
                if persona != self._choice.persona:
                    prompt = await prompter.build(persona)
                if prompt is not None:
                    await prompter.prepare(lane, prompt, is_open=lambda: self.lease.is_open)
            except PromptError as error:
                self._choice.refuse(persona)
                self.send_metadata(ErrorNotice("prompt_refused", str(error)))
                continue
            if not self.lease.is_open:
                return
            if self._choice.accept(persona, prompt):
                with contextlib.suppress(trio.ClosedResourceError):  # the engine has ended
                    self._user_frames.put_nowait(LanePrompted(lane, prompt))
                self._recording.record_prompted(persona, prompt)
                if self.lease.running:  # put back meanwhile, the client is informed when it runs again
                    self._send_ready()

    async def wait_put_back(self) -> None:
        """Wait until the session has to make room; its audio is not processed from then on."""
        while self.lease.running:
            await self.lease.wait_changed()

    def continue_after_wait(self) -> None:
        """The session runs again, with its state as it was; what was sent meanwhile counts as dropped."""
        self._last_audio_s = awake_time()
        self._deadline_clock = DeadlineClock()
        self.latency.reset_deadlines()
        self._report_dropped()
        if not self._choice.pending:
            self._send_ready()

    def close_input(self) -> None:
        """Accept no more audio; `finished` follows once all that was accepted is answered."""
        if not self.lease.is_open:
            self.finished.set()
        self.lease.close()

    @property
    def last_audio_s(self) -> float:
        """When audio came last or could have come first (`awake_time`); while it does not run, now."""
        runs = self.lease.is_open and self.lease.running
        return self._last_audio_s if runs else awake_time()

    # From the client

    @property
    def awaits_persona(self) -> bool:
        """Whether the lane does not yet begin with what was asked for: audio that comes now is lost."""
        return self._choice.pending

    def receive_audio(self, audio: AudioReceived, received_s: float) -> None:
        """Pass a packet's frames to the encoder; a malformed packet is refused, and the client informed."""
        try:
            frames = frames_of(audio.payload, self._report_over_scale)
        except AudioRefusedError as refusal:
            self.refuse_audio(str(refusal))
            return
        if not self.lease.is_open:
            return  # it was on its way when the input was closed
        if not self.lease.running:
            self._counters.frames_put_back += len(frames)
            return
        if self._choice.pending:
            self._counters.frames_early += len(frames)
            return
        self._last_audio_s = awake_time()
        lane = self.lease.lane
        assert lane is not None
        for place, pcm in enumerate(frames):
            self._pace.record(nanoseconds(received_s))
            index = self._counters.frames_in
            header = FrameHeader(
                lane,
                index,
                capture_ms(audio.timestamp_ms, place, len(frames)),
                received_s,
                due_s=self._due_s(index, received_s),
                spans=self._tracer.begin(index),
            )
            with contextlib.suppress(trio.ClosedResourceError):  # the engine has ended; so will this session
                self._counters.frames_in += 1
                self._recording.record_audio(pcm)
                self._user_frames.put_nowait(UserFrame(header, pcm))

    def _report_over_scale(self, peak: float) -> None:
        """Once: everything is cut off at full scale, which leaves little of speech in another unit."""
        if self._reported_over_scale:
            return
        self._reported_over_scale = True
        why = (
            f"the audio reaches {peak:.4g} where 1 is full scale, and is cut off there; "
            "divide the samples by their full scale (32768 for 16-bit integers)"
        )
        self.send_metadata(ErrorNotice("audio_over_scale", why))

    def refuse_audio(self, why: str) -> None:
        """Audio of the client is unusable; the session goes on."""
        self._counters.audio_refused += 1
        self.send_metadata(ErrorNotice("audio_refused", why))

    def update_client_stats(self, stats: ClientStats) -> None:
        """The client reports how its playback is doing."""
        if stats.underruns is not None:
            grown = stats.underruns - self._reported_underruns
            self._counters.client_underruns += (
                stats.underruns if grown < 0 else grown
            )  # a new page starts at 0
            self._reported_underruns = stats.underruns
        if stats.last_played_frame is not None:
            self._playout_lag.update(stats.last_played_frame)

    def configure(self, change: Configure) -> None:
        """Change how tokens are sampled from the next frame on; what the client omits stays as it is."""
        named = {k: v for k, v in structs.asdict(change).items() if v is not None}
        if {"voice", "role"} & named.keys():
            self._ask_persona(change)
            named = {k: v for k, v in named.items() if k not in ("voice", "role")}
            if not named:
                return
        if named.pop("replay", None) is not None:
            if change.replay:
                choice = self._choice
                self._recording.turn_on(
                    self._sampling, self._counters.frames_in, choice.persona, choice.prompt
                )
            else:
                self._recording.turn_off("asked", self._counters.frames_in)
        sampling = dataclasses.replace(self._sampling, **named)
        lane = self.lease.lane
        if self.lease.is_open and lane is not None:
            if self._user_frames.waiting_events(lane) > CONFIGURES_WAITING:
                notice = ErrorNotice("busy", "too many changes of configuration are waiting for the model")
                self.send_metadata(notice)
                return
            with contextlib.suppress(trio.ClosedResourceError):
                self._user_frames.put_nowait(LaneConfigured(lane, sampling))
        self._sampling = sampling
        if named:
            self._recording.record_configured(self._counters.frames_in, sampling)

    def _ask_persona(self, change: Configure) -> None:
        if self._counters.frames_in:
            notice = "a voice and a role can be chosen until the first audio only"
        elif (lane := self.lease.lane) is not None and self._user_frames.waiting_events(
            lane
        ) > CONFIGURES_WAITING:
            notice = "too many changes of configuration are waiting for the model"
        else:
            self._choice.ask(change)
            return
        self.send_metadata(ErrorNotice("prompt_refused", notice))

    def _send_ready(self) -> None:
        self.send_metadata(Ready(self._choice.persona.voice, self._choice.persona.role))

    def announce_recording(self) -> None:
        """Remind a client that has resumed the session that it is being recorded, if it is."""
        self._recording.announce()

    # From the dispatcher

    def deliver(self, frame: AgentFrame) -> None:
        """Send what one step released. A gap in the frames' indices means that frames were dropped."""
        self._counters.frames_dropped += frame.index - self._next_index
        self._next_index = frame.index + 1
        try:
            self._counters.decodes_skipped += frame.skipped
            if frame.pcm is not None:
                packet = outgoing.audio(payload_of(frame.pcm), frame.header.captured_ms)
                self._output.put(packet, frame)
            self._send_text(frame.text)
        except SessionError as error:
            self._output.fail(error)

    def lane_closed(self, text: Iterable[Text]) -> None:
        """Send the last text. No frame is missing any more: what leaks is never a lane's newest frame."""
        try:
            self._send_text(text)
        except SessionError as error:
            self._output.fail(error)
        self._report_dropped()
        self._recording.turn_off("closed", self._counters.frames_in)
        self.finished.set()

    def frame_dropped(self, index: int, before: str) -> None:
        """A frame of this session was dropped before a stage."""
        self._recording.record_dropped(index, before)

    def lane_failed(self, stage: str) -> None:
        """A model failed on this session; its state of the session is invalid."""
        self._output.fail(LaneFailedError(f"the {stage} failed on this session"))

    # To the client

    def send_metadata(self, notice: ServerMetadata) -> None:
        """Send a METADATA packet."""
        self._output.put(outgoing.metadata(notice))

    def record_sent(self, frame: AgentFrame) -> None:
        """Egress has written this frame just now."""
        self._counters.frames_out += 1
        self._playout_lag.record_sent()
        self._counters.underruns += self.latency.record_sent(frame)

    def report(self, stats: Stats) -> None:
        """Send the server's statistics to the client, each second, with the session's own filled in here."""
        if not self._output.is_connected:
            return
        self._report_dropped()
        counters = self.counters()
        self.send_metadata(
            structs.replace(
                stats,
                frames_in=counters.frames_in,
                frames_out=counters.frames_out,
                frames_dropped=counters.frames_dropped,
                underruns=counters.underruns,
                added_ms=round(self.latency.overhead.statistics().p50_ms, 3),
                low_left_out=counters.low_dropped,
                partials_left_out=counters.partials_dropped,
                decodes_skipped=counters.decodes_skipped,
                audio_left_out=counters.audio_dropped,
            )
        )

    def counters(self) -> SessionCounters:
        """The counters now."""
        return dataclasses.replace(
            self._counters,
            # After each gap something that was sent is played: more cannot be, whatever a client reports.
            client_underruns=min(self._counters.client_underruns, self._counters.frames_out),
            audio_dropped=self._output.dropped("audio"),
            partials_dropped=self._output.dropped("partial"),
            low_dropped=self._output.dropped("low"),
        )

    def _wake(self) -> None:
        self.wakeup.set()  # the registry replaces the event

    def _due_s(self, index: int, received_s: float) -> float:
        """Until when the answer to this frame is worth decoding; never, if the client lags."""
        due_ns = self._deadline_clock.due_ns(index, nanoseconds(received_s))
        return -math.inf if self._playout_lag.take_skip() else due_ns / 1e9

    def _send_text(self, texts: Iterable[Text]) -> None:
        for text in texts:
            packet = outgoing.text_partial if isinstance(text, TextPartial) else outgoing.text_final
            self._output.put(packet(text.text))

    def _report_dropped(self) -> None:
        """Send one notice for all that was dropped since the last one."""
        frames = self._counters.frames_dropped + self._counters.frames_put_back
        audio = self._output.dropped("audio") + self._counters.decodes_skipped
        if frames > self._reported_frames:
            self.send_metadata(Dropped("audio", frames - self._reported_frames))
        if audio > self._reported_audio:
            self.send_metadata(Dropped("agent_audio", audio - self._reported_audio))
        self._reported_frames, self._reported_audio = frames, audio
