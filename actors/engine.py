"""The engine: three model actors and a dispatcher, four channels between them, and the sessions they serve.

    connection ─▶ user_frames ─▶ encoder ─▶ user_codes ─▶ stepper ─▶ agent_codes ─▶ decoder
        ▲                                                                             │
        └─ send queue ◀── session ◀── dispatcher ◀───────────── agent_frames ◀────────┘

Data flows one way; a lane's opening and closing travel with it. The first two channels drop a
lane's oldest frames, because recent speech matters more than old. Behind the stepper nothing is
dropped before the send queue: those frames carry text.

What belongs here: joining the actors, and their life from loading to draining. What does not:
how any of them works.
"""

import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from functools import partial
from secrets import randbits
from types import MappingProxyType
from typing import Any, Final

import structlog
import trio

from actors.capacity import Capacity, CapacityControl, measure_capacity
from actors.connection import CloseInfo, Connection
from actors.decoder import Decoder, DecoderStage
from actors.encoder import Encoder, EncoderStage
from actors.health import EngineStatistics, Health
from actors.registry import Reservation, SessionRegistry
from actors.runtime import awake_clock
from actors.runtime.awake_clock import awake_time
from actors.runtime.channel import Channel, Leak
from actors.runtime.pinned_thread import PinnedThread, Runner
from actors.runtime.stage import Stage, Worker
from actors.runtime.tracing import Tracer
from actors.sessions.admission import Admission
from actors.sessions.concurrency_limit import ConcurrencyLimit
from actors.sessions.dispatcher import Dispatcher
from actors.sessions.latency import Latencies
from actors.sessions.opening import greeting, opening_packets
from actors.sessions.prompting import CALIBRATION, NoPersonas, PersonaSource, Prompter
from actors.sessions.recorder import Recorder
from actors.sessions.session import CONFIGURES_WAITING, Session
from actors.sessions.transport import Transport
from actors.stepper import Stepper, StepperStage
from pipeline.config import Settings
from pipeline.errors import (
    BrokenInvariantError,
    ConfigError,
    PromptError,
    SessionsActiveError,
    ThreadStalledError,
)
from pipeline.protocol.close_reason import CloseReason
from pipeline.protocol.dialect import ConnectionParameters, Dialect
from pipeline.protocol.outgoing import OutgoingPacket
from pipeline.protocol.packet_dialect import PacketDialect
from pipeline.protocol.unacked import UnackedPackets
from pipeline.units import BURST_FRAMES, FRAME_MS
from pipeline.values import AgentCodes, AgentFrame, ModelCard, Persona, UserCodes, UserFrame

# Of one lane: its credit of frames, changes of sampling and prompts, its opening and its closing.
LANE_ITEMS: Final = BURST_FRAMES + CONFIGURES_WAITING + 4
LOGGED_ABSENCE_S: Final = 5.0  # a machine that is merely overloaded has shorter ones
# Behind the stepper: one frame being worked on, one waiting.
ANSWERED_FRAMES: Final = 2
WARMUP_LANE: Final = 0
NO_PERSONAS: Final = NoPersonas()

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Loaders:
    """Make the stages; each is called once, on the thread on which the stage is used."""

    encoder: Callable[[], EncoderStage]
    stepper: Callable[[], StepperStage]
    decoder: Callable[[], DecoderStage]


class Engine:
    """Serves sessions, whatever transports carry them.

    Args:
        settings: the configuration.
        loaders: make the stages, for `lanes` lanes.
        card: what clients learn about the model.
        lanes: sessions served at once.
        recommended: the checkpoint's own `lm_gen_config`.
        runner: makes what runs the calls of the stage with this name.
        model_threads: threads that the runners share.
        digest: identifies the weights, for recordings; may block, on a thread.
        personas: makes prompts from the voices and roles that sessions ask for.

    Attributes:
        ready: set once the models are loaded.
        capacity: the sessions that the machine can serve in time, as measured; None until then.
        stalled: a model thread does not return from a call, and the process is about to end.
    """

    def __init__(
        self,
        settings: Settings,
        loaders: Loaders,
        card: ModelCard,
        *,
        lanes: int,
        recommended: Mapping[str, Any] = MappingProxyType({}),
        runner: Callable[[str], AbstractContextManager[Runner]] = PinnedThread,
        model_threads: int = 3,
        digest: Callable[[], str] = str,
        personas: PersonaSource = NO_PERSONAS,
    ) -> None:
        self.ready = trio.Event()
        self.card = card
        self._settings = settings
        self._recommended = recommended
        self._max_lag_s = settings.limits.max_lag_ms / 1000
        self._connections: set[Connection] = set()
        self._connection_ended = trio.lowlevel.ParkingLot()
        self._latencies = Latencies()
        self._tracer = Tracer(settings.log.trace_every)
        self._profiling = False
        self.stalled = False
        self.capacity: Capacity | None = None
        capacity = lanes * LANE_ITEMS
        self._user_frames = Channel[UserFrame](
            "user_frames",
            capacity,
            lane_frames=BURST_FRAMES,
            leak=Leak.OLDEST,
            max_lag_s=self._max_lag_s,
            on_leak=lambda frame: self._dispatcher.report_leak("encoder", frame),
        )
        user_codes = Channel[UserCodes](
            "user_codes",
            capacity,
            lane_frames=BURST_FRAMES,
            leak=Leak.OLDEST,
            max_lag_s=self._max_lag_s,
            on_leak=lambda frame: self._dispatcher.report_leak("stepper", frame),
        )
        agent_codes = Channel[AgentCodes]("agent_codes", capacity, lane_frames=ANSWERED_FRAMES)
        agent_frames = Channel[AgentFrame]("agent_frames", capacity, lane_frames=ANSWERED_FRAMES)
        stall_s = settings.stall_s
        self._encoder = Stage("encoder", self._user_frames, user_codes, stall_s=stall_s)
        self._stepper = Stage("stepper", user_codes, agent_codes, stall_s=stall_s)
        self._decoder = Stage("decoder", agent_codes, agent_frames, stall_s=stall_s)
        self._loaders = loaders
        self._prompter = Prompter(self._stepper, personas)
        self._persona = Persona(settings.prompt.voice, settings.prompt.role)
        self._runner = runner
        self._model_threads = model_threads
        self.admission = Admission(self._user_frames, lanes=lanes, queue=settings.lanes.queue)
        self._recorder = (
            None if settings.replay.folder is None else Recorder(settings.replay, card.name, digest)
        )
        self._dispatcher = Dispatcher(agent_frames, self.admission)
        self._registry = SessionRegistry(
            self.admission,
            grace_s=settings.limits.resume_grace_ms / 1000,
            on_end=self._record_end,
            replica=settings.server.replica,
        )
        self._health = Health(
            admission=self.admission,
            dispatcher=self._dispatcher,
            stages={"encode": self._encoder, "step": self._stepper, "decode": self._decoder},
            queues=[c.statistics for c in (self._user_frames, user_codes, agent_codes, agent_frames)],
            connections=self._connections,
            registry=self._registry,
            latencies=self._latencies,
            capacity=lambda: self.capacity,
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Load the models, then serve until drained; called before anything is loaded.

        Cancelled while a model loads, it does not wait for that. However it ends, no session is
        admitted any more, and those that are open end with it.

        Raises (in an exception group):
            BrokenInvariantError: an actor failed, stalled or ended by itself.
            Exception: whatever a loader raises.
        """
        load, runner = self._loaders, self._runner
        awake_clock.install().on_absence = _log_absence
        try:
            with runner("encoder") as encoder, runner("stepper") as stepper, runner("decoder") as decoder:
                async with trio.open_nursery() as nursery:
                    start = nursery.start_soon
                    start(
                        self._actor,
                        "encoder",
                        lambda: self._encoder.run(encoder, lambda: Encoder(load.encoder())),
                    )
                    start(
                        self._actor,
                        "stepper",
                        lambda: self._stepper.run(stepper, lambda: Stepper(load.stepper())),
                    )
                    start(
                        self._actor,
                        "decoder",
                        lambda: self._decoder.run(decoder, lambda: Decoder(load.decoder())),
                    )
                    start(self._actor, "health", self._health.run)
                    start(self._actor, "registry", self._registry.run)
                    if self._recorder is not None:
                        start(self._actor, "recorder", self._recorder.run)
                    start(self._actor, "capacity", self._control_capacity)
                    task_status.started()
                    await self._actor("dispatcher", self._dispatcher.run)
                    nursery.cancel_scope.cancel()
        finally:
            self.admission.drain()
            self._user_frames.close()
            for connection in self._connections:
                connection.abort(CloseInfo(CloseReason.INTERNAL_ERROR, "engine_ended"))
            self._registry.end_waiting(CloseInfo(CloseReason.INTERNAL_ERROR, "engine_ended"))

    def admit(self, resume: str | None = None, *, may_wait: bool = True) -> Reservation:
        """Reserve a session for one connection, at once: the one to resume with this token, or a new one.

        A new one may have to wait for its lane; with `may_wait=False` it is refused instead.

        Raises:
            SessionRefusedError: there is no room.
        """
        return self._registry.reserve(resume, may_wait=may_wait)

    async def serve(
        self,
        transport: Transport,
        reservation: Reservation,
        speak: Callable[[ConnectionParameters], Dialect] = PacketDialect,
    ) -> None:
        """Carry a session from greeting to closed transport; a session that is over leaves one log event.

        `speak` makes the dialect of the connection.

        Raises:
            BrokenInvariantError: nothing after it can be trusted.
        """
        session = reservation.resumed or self._new_session(reservation)
        if reservation.resumed is not None and not session.is_open:  # it ended in the meantime
            await transport.close(CloseReason.TRY_AGAIN_LATER)
            return
        connection = Connection(
            transport,
            session,
            self._dispatcher,
            self._settings,
            self._registry.connection_closed,
            dialect=speak(self.connection_parameters(session.unacked)),
            prompter=self._prompter,
        )
        opening = self._opening(reservation, session, connection)
        self._connections.add(connection)
        if self.admission.closed_for is not None:
            connection.drain()
        try:
            await connection.run(opening)
        finally:
            self._connections.discard(connection)
            self._connection_ended.unpark_all()
            self._health.record_connection(connection)

    def connection_parameters(self, unacked: UnackedPackets | None = None) -> ConnectionParameters:
        """What the dialect of a connection that begins now needs."""
        return ConnectionParameters(
            heartbeat_every_s=self._settings.heartbeat.every_s,
            heartbeat_timeout_s=self._settings.heartbeat.timeout_s,
            lifetime_s=self._settings.limits.live_session_s,
            now_s=awake_time(),
            wall_clock_s=time.time(),
            unacked=unacked or UnackedPackets(),
            voices=self.card.voices,
        )

    def hang_up(self, session_id: str, dialect: str) -> bool:
        """Close a session of this dialect gracefully; False where there is none."""
        for connection in self._connections:
            if connection.session.id == session_id and connection.dialect.name == dialect:
                connection.hang_up()
                return True
        return False

    async def drain(self) -> None:
        """Refuse new sessions, let the open ones finish their utterances, then let `run` end.

        Takes at most `drain_s`, plus the deadline of one write for clients that do not read.
        """
        self.admission.drain()
        self._registry.end_waiting(CloseInfo(CloseReason.GOING_AWAY, "drained"))
        for connection in self._connections:
            connection.drain()
        with awake_clock.move_on_after(self._settings.drain_s):
            await self._wait_connections_ended()
        for connection in self._connections:
            connection.abort(CloseInfo(CloseReason.GOING_AWAY, "drained"))
        await self._wait_connections_ended()
        self._user_frames.close()

    async def fail(self, error: BrokenInvariantError) -> None:
        """End every session because of an error outside the engine, as if an actor had failed."""
        await self._shut_down(error)

    def health(self) -> dict[str, Any]:
        """What `/health` shows of the engine."""
        return self._health.snapshot()

    def statistics(self) -> EngineStatistics:
        """What `/metrics` shows of the engine."""
        return self._health.statistics()

    async def profile_lm(self, *, steps: int, warmup: int) -> list[float]:
        """Seconds of each of `steps` steps of the language model, after `warmup` that are not counted.

        They run on the stepper's thread and its scratch row, one call each, so that a session that
        opens a lane meanwhile waits for at most one of them, and ends the profile.

        Raises:
            SessionRefusedError: the models are not ready, or the server drains.
            SessionsActiveError: a lane is open, or was opened meanwhile; or another profile is running.
        """
        if self._profiling:
            raise SessionsActiveError("another profile is being measured")
        self._profiling = True
        try:
            taken_s = []
            for step in range(warmup + steps):
                self.admission.check_open()
                if self.admission.statistics().lanes_open:
                    raise SessionsActiveError(
                        "a lane is open; a profile would measure its session, and delay it"
                    )
                taken_s.append(await self._stepper.call_between_batches(partial(_warmup, reset=step == 0)))
            return taken_s[warmup:]
        finally:
            self._profiling = False

    async def _control_capacity(self) -> None:
        """Once the models are loaded: measure how many sessions can be served in time, and admit them."""
        stages = (self._encoder, self._stepper, self._decoder)
        for stage in stages:
            await stage.ready.wait()
        lanes, admit = self.admission.statistics().lanes_max, self._settings.lanes.admit
        if admit == "auto":
            delay = self.card.model_delay_ms // FRAME_MS
            self.capacity = await measure_capacity(*stages, lanes=lanes, delay=delay)
            self.capacity.log()
            limit = ConcurrencyLimit(self.capacity.sessions, lanes)
        else:
            self.capacity = Capacity(min(admit, lanes))
            limit = ConcurrencyLimit(self.capacity.sessions, self.capacity.sessions)
        await self._warm_up_prompt()
        self.admission.set_limit(limit.limit)
        self.admission.open()
        self.ready.set()
        if admit != "auto":
            await trio.sleep_forever()
        control = CapacityControl(
            self.admission,
            self._dispatcher,
            self._busy_s,
            limit,
            threads=self._model_threads,
            on_late_alone=self._note_late_alone,
        )
        await control.run()

    def _note_late_alone(self, late_alone: bool | None) -> None:  # noqa: FBT001 - one of three states
        assert self.capacity is not None
        before = self.capacity.advice
        self.capacity = replace(self.capacity, late_alone=late_alone)
        if (advice := self.capacity.advice) == before:
            return
        if advice is None:
            log.info("in_time_again")
        else:
            log.warning("too_slow", problem=advice)

    async def _warm_up_prompt(self) -> None:
        """Compute the default prompt, so that no session waits for it; no lane is open yet.

        Where there is none, another one: then the durations of slices are known before anybody talks.
        """
        try:
            prompt = await self._prompter.build(self._persona)
            if prompt is not None:
                await self._prompter.prepare(WARMUP_LANE, prompt, is_open=lambda: True)
        except PromptError as error:
            raise ConfigError("pipeline.prompt", str(error)) from None
        if prompt is None and self.card.voices is not None:
            with contextlib.suppress(PromptError):  # it is too long for a model of so short a context
                await self._prompter.prepare(WARMUP_LANE, CALIBRATION, is_open=lambda: True)

    def _busy_s(self) -> tuple[float, float, float]:
        return self._encoder.busy_s, self._stepper.busy_s, self._decoder.busy_s

    async def _actor(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Run an actor, which may end only while the engine drains; report the first that ends by itself."""
        try:
            await run()
        except BrokenInvariantError as error:
            await self._shut_down(error)
            raise
        except Exception as error:
            if not self.ready.is_set():
                raise  # a loader's, which has an exit code of its own
            broken = BrokenInvariantError(f"the {name} failed: {error}")
            await self._shut_down(broken)
            raise broken from error
        if self.admission.closed_for != "draining":
            self.admission.drain()
            raise BrokenInvariantError(f"the {name} ended while the engine was running")

    async def _shut_down(self, error: BrokenInvariantError) -> None:
        """Nothing can be trusted any more: end every session, within the time that one write may take."""
        self.stalled = self.stalled or isinstance(error, ThreadStalledError)
        self.admission.drain()
        log.critical("engine_failed", problem=str(error))
        self._user_frames.close()  # what is put in now would not come out any more
        for connection in self._connections:
            connection.abort(CloseInfo(CloseReason.INTERNAL_ERROR, "engine_ended"))
        # Stages that did not fail end meanwhile, and that must not hide the error that is to be raised.
        with awake_clock.move_on_after(self._settings.limits.send_timeout_s, shield=True):
            await self._wait_connections_ended()

    async def _wait_connections_ended(self) -> None:
        while self._connections:
            await self._connection_ended.park()

    def _new_session(self, reservation: Reservation) -> Session:
        return Session(
            reservation.lease,
            self._user_frames,
            self._settings.sampling_for(self._recommended, seed=randbits(32)),
            self._latencies,
            tracer=self._tracer,
            max_lag_s=self._max_lag_s,
            recorder=self._recorder,
            persona=self._persona,
        )

    def _opening(
        self, reservation: Reservation, session: Session, connection: Connection
    ) -> list[OutgoingPacket]:
        """The first packets of a connection; from here on it carries the session."""
        token = reservation.use(session, connection)
        unacked = session.attach(connection.queue)
        session.announce_recording()
        return opening_packets(
            greeting(self._settings, self.card, session.id, token, self.capacity),
            unacked,
            next_id=session.unacked.next_id,
            resumed=reservation.resumed is not None,
            token_rejected=reservation.token_rejected,
        )

    def _record_end(self, connection: Connection, info: CloseInfo) -> None:
        self._health.record_session(connection, info)
        _log_end(connection, info)


def _log_absence(absent_s: float) -> None:
    if absent_s >= LOGGED_ABSENCE_S:
        log.warning("process_was_suspended", seconds=round(absent_s, 1))


def _warmup(worker: Worker[UserCodes, AgentCodes], *, reset: bool) -> float:
    assert isinstance(worker, Stepper)
    return worker.warmup(reset=reset)


def _log_end(connection: Connection, info: CloseInfo) -> None:
    """Log the one event that a session leaves."""
    session = connection.session
    overhead = session.latency.overhead.statistics()
    write = log.error if info.close_reason is CloseReason.INTERNAL_ERROR else log.info
    write(
        "session",
        session=session.id,
        peer=connection.peer,
        dialect=connection.dialect.name,
        reason=info.cause,
        close_reason=info.close_reason.name.lower(),
        **asdict(session.counters()),
        added_p50_ms=round(overhead.p50_ms, 3),
        added_p99_ms=round(overhead.p99_ms, 3),
        duration_s=round(trio.current_time() - session.began_s, 3),
    )
