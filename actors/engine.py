"""The line: three model actors and a delivery between four channels, and the sessions along it.

    connection ─▶ user_frames ─▶ encoder ─▶ user_codes ─▶ stepper ─▶ agent_codes ─▶ decoder
        ▲                                                                             │
        └─ outbox ◀── session ◀── delivery ◀────────────────────── agent_frames ◀─────┘

Data flows one way; a lane's opening and closing travel with it. The first two channels leak a
lane's oldest frames, because what a user said long ago is worth less than what they say now.
Behind the stepper nothing leaks before the outbox: those frames carry text.

What belongs here: joining the actors, and their life from loading to draining. What does not:
how any of them works.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from secrets import randbits
from types import MappingProxyType
from typing import Any, Final

import structlog
import trio

from actors.connection import Connection, Ending
from actors.decoder import Decoder, DecoderStage
from actors.egress import wall_clock_ms
from actors.encoder import Encoder, EncoderStage
from actors.health import Health, LineStatistics
from actors.registry import Reception, Seat
from actors.runtime.channel import Channel, Leak
from actors.runtime.pinned_thread import PinnedThread, Runner
from actors.runtime.stage import Stage, Worker
from actors.runtime.tracing import Tracer
from actors.sessions.admission import Admission
from actors.sessions.dispatcher import Delivery
from actors.sessions.recorder import Recorder
from actors.sessions.session import CONFIGURES_WAITING, Latencies, Session
from actors.sessions.transport import Transport
from actors.stepper import Stepper, StepperStage
from pipeline.config import Settings
from pipeline.errors import BrokenInvariantError, LanesOpenError, StalledError
from pipeline.protocol import outgoing
from pipeline.protocol.close_reason import Farewell
from pipeline.protocol.metadata import (
    PROTOCOL,
    ConnectionEstablished,
    ErrorNotice,
    LimitsInfo,
    Metadata,
    ModelInfo,
    Resumed,
)
from pipeline.protocol.outgoing import Outgoing
from pipeline.units import BURST_FRAMES, FRAME_SAMPLES, SAMPLE_RATE_HZ
from pipeline.values import AgentCodes, AgentFrame, ModelCard, UserCodes, UserFrame

# Of one lane: its credit of frames, changes of sampling, its opening and its closing.
LANE_ITEMS: Final = BURST_FRAMES + CONFIGURES_WAITING + 2
# Behind the stepper: one frame being worked on, one waiting.
ANSWERED_FRAMES: Final = 2

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Loaders:
    """How each stage is made; called once, on the thread that the stage will live on."""

    encoder: Callable[[], EncoderStage]
    stepper: Callable[[], StepperStage]
    decoder: Callable[[], DecoderStage]


class Line:
    """The server behind its transports.

    Args:
        settings: the knobs.
        loaders: what makes the stages, for `lanes` lanes.
        card: what clients are told of the model.
        lanes: sessions served at once.
        recommended: the checkpoint's own `lm_gen_config`.
        digest: says which weights these are, for recordings; may take its time, on a thread.
        runner: makes the place where a stage's calls run, from its name.
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
        digest: Callable[[], str] = str,
    ) -> None:
        self.ready = trio.Event()
        self.card = card
        self._settings = settings
        self._recommended = recommended
        self._max_lag_s = settings.limits.max_lag_ms / 1000
        self._connections: set[Connection] = set()
        self._left = trio.lowlevel.ParkingLot()  # those who wait for connections to end
        self._latencies = Latencies()
        self._tracer = Tracer(settings.log.trace_every)
        self._profiling = False
        self.stalled = False  # a model thread does not come back, and the process is about to end
        capacity = lanes * LANE_ITEMS
        self._user_frames = Channel[UserFrame](
            "user_frames",
            capacity,
            lane_frames=BURST_FRAMES,
            leak=Leak.OLDEST,
            max_lag_s=self._max_lag_s,
            on_leak=lambda frame: self._delivery.note_leak("encoder", frame),
        )
        user_codes = Channel[UserCodes](
            "user_codes",
            capacity,
            lane_frames=BURST_FRAMES,
            leak=Leak.OLDEST,
            max_lag_s=self._max_lag_s,
            on_leak=lambda frame: self._delivery.note_leak("stepper", frame),
        )
        agent_codes = Channel[AgentCodes]("agent_codes", capacity, lane_frames=ANSWERED_FRAMES)
        agent_frames = Channel[AgentFrame]("agent_frames", capacity, lane_frames=ANSWERED_FRAMES)
        stall_s = settings.stall_s
        self._encoder = Stage("encoder", self._user_frames, user_codes, stall_s=stall_s)
        self._stepper = Stage("stepper", user_codes, agent_codes, stall_s=stall_s)
        self._decoder = Stage("decoder", agent_codes, agent_frames, stall_s=stall_s)
        self._loaders = loaders
        self._runner = runner
        self.admission = Admission(self._user_frames, lanes=lanes, queue=settings.lanes.queue)
        folder = settings.replay.folder
        self._recorder = None if folder is None else Recorder(Path(folder), card.name, digest)
        self._delivery = Delivery(agent_frames, self.admission)
        self._reception = Reception(
            self.admission,
            grace_s=settings.limits.resume_grace_ms / 1000,
            on_end=self._note_end,
            replica=settings.server.replica,
        )
        self._health = Health(
            admission=self.admission,
            delivery=self._delivery,
            stages={"encode": self._encoder, "step": self._stepper, "decode": self._decoder},
            queues=[c.statistics for c in (self._user_frames, user_codes, agent_codes, agent_frames)],
            connections=self._connections,
            reception=self._reception,
            latencies=self._latencies,
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Load the models and serve; ends by itself once drained. Started before anything is loaded.

        Cancelled while a model loads, it does not wait for that. Whichever way it ends, no session
        is admitted any more, and those there are end with it.

        Raises (in an exception group):
            BrokenInvariantError: an actor failed, stalled or ended by itself.
            Exception: whatever a loader raises.
        """
        load, runner = self._loaders, self._runner
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
                    start(self._actor, "reception", self._reception.run)
                    if self._recorder is not None:
                        start(self._actor, "recorder", self._recorder.run)
                    start(self._open)
                    task_status.started()
                    await self._actor("delivery", self._delivery.run)
                    nursery.cancel_scope.cancel()
        finally:
            self.admission.drain()
            self._user_frames.close()
            for connection in self._connections:
                connection.lose(Ending(Farewell.INTERNAL_ERROR, "line_ended"))
            self._reception.dismiss(Ending(Farewell.INTERNAL_ERROR, "line_ended"))

    def admit(self, resume: str | None = None, *, may_wait: bool = True) -> Seat:
        """A seat for one connection, at once: in the session that waits for this token, or in a new one.

        A new one may have to wait for its lane, unless it may not.

        Raises:
            RefusedError: there is no room.
        """
        return self._reception.seat(resume, may_wait=may_wait)

    async def converse(self, transport: Transport, seat: Seat) -> None:
        """Carry a session, from greeting to closed transport; one line in the log says how a session went.

        Raises:
            BrokenInvariantError: nothing after it can be trusted.
        """
        session = self._new_session(seat) if seat.guest is None else seat.guest.session
        if seat.guest is not None and not session.is_open:  # it ended while its client was on the way
            await transport.close(Farewell.TRY_AGAIN_LATER)
            return
        connection = Connection(transport, session, self._delivery, self._settings, self._reception.left)
        opening = self._opening(seat, session, connection)
        self._connections.add(connection)
        if self.admission.closed_for is not None:
            connection.drain()
        try:
            await connection.run(opening)
        finally:
            self._connections.discard(connection)
            self._left.unpark_all()
            self._health.note_connection(connection)

    async def drain(self) -> None:
        """Admit nobody, let every session finish its utterance, then let `run` end.

        Takes at most `drain_s`, and one write's deadline for those who do not listen.
        """
        self.admission.drain()
        self._reception.dismiss(Ending(Farewell.GOING_AWAY, "drained"))
        for connection in self._connections:
            connection.drain()
        with trio.move_on_after(self._settings.drain_s):
            await self._all_left()
        for connection in self._connections:
            connection.lose(Ending(Farewell.GOING_AWAY, "drained"))
        await self._all_left()
        self._user_frames.close()

    async def fail(self, error: BrokenInvariantError) -> None:
        """Tell everybody of what was found outside the line, as if an actor had failed; then raise it."""
        await self._give_up(error)

    def health(self) -> dict[str, Any]:
        """What `/health` shows of the line."""
        return self._health.snapshot()

    def statistics(self) -> LineStatistics:
        """What `/metrics` shows of the line."""
        return self._health.statistics()

    async def profile_lm(self, *, steps: int, warmup: int) -> list[float]:
        """Seconds of each of `steps` steps of the language model, after `warmup` that are not counted.

        They run on the stepper's own thread and its scratch row, one call each, so that whoever
        opens a lane meanwhile waits for one of them at most, and ends this.

        Raises:
            RefusedError: the models are not ready, or the server drains.
            LanesOpenError: a lane is open, or was opened meanwhile; or another profile is running.
        """
        if self._profiling:
            raise LanesOpenError("another profile is being measured")
        self._profiling = True
        try:
            taken_s = []
            for step in range(warmup + steps):
                self.admission.check_open()
                if self.admission.statistics().lanes_open:
                    raise LanesOpenError("a lane is open; a profile would measure its session, and delay it")
                taken_s.append(await self._stepper.aside(partial(_rehearse, anew=step == 0)))
            return taken_s[warmup:]
        finally:
            self._profiling = False

    async def _open(self) -> None:
        for stage in (self._encoder, self._stepper, self._decoder):
            await stage.ready.wait()
        self.admission.open()
        self.ready.set()

    async def _actor(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """An actor ends only when the line is being closed; the first that ends by itself is to blame."""
        try:
            await run()
        except BrokenInvariantError as error:
            await self._give_up(error)
            raise
        except Exception as error:
            if not self.ready.is_set():
                raise  # a loader's, which has an exit code of its own
            broken = BrokenInvariantError(f"the {name} failed: {error}")
            await self._give_up(broken)
            raise broken from error
        if self.admission.closed_for != "draining":
            self.admission.drain()
            raise BrokenInvariantError(f"the {name} ended while the line was open")

    async def _give_up(self, error: BrokenInvariantError) -> None:
        """Nothing can be trusted any more: say so to all, for no longer than one write may take."""
        self.stalled = self.stalled or isinstance(error, StalledError)
        self.admission.drain()
        log.critical("line_broken", problem=str(error))
        self._user_frames.close()  # nothing will come out any more that was put in now
        for connection in self._connections:
            connection.lose(Ending(Farewell.INTERNAL_ERROR, "line_ended"))
        # Where the stages are sound they end meanwhile, and that must not hide what is to be raised.
        with trio.move_on_after(self._settings.limits.send_timeout_s, shield=True):
            await self._all_left()

    async def _all_left(self) -> None:
        while self._connections:
            await self._left.park()

    def _new_session(self, seat: Seat) -> Session:
        return Session(
            seat.ticket,
            self._user_frames,
            self._settings.sampling_for(self._recommended, seed=randbits(32)),
            self._latencies,
            tracer=self._tracer,
            max_lag_s=self._max_lag_s,
            recorder=self._recorder,
        )

    def _opening(self, seat: Seat, session: Session, connection: Connection) -> list[Outgoing]:
        """What a connection says first; from here on it carries the session."""
        seat.taken = True
        token = self._reception.carry(session, connection)
        again = session.attach(connection.outbox)
        session.announce()
        told: list[Metadata] = [self._greeting(session.id, token)]
        if seat.stale:
            told.append(ErrorNotice("not_resumed", "that session is over; this is a new one"))
        if seat.guest is not None and token is not None:
            ids = tuple(said.id for said in again if said.id is not None)
            told.append(Resumed(session.id, token, ids, session.kept.next_id))
        return [*map(outgoing.metadata, told), *again]

    def _note_end(self, connection: Connection, ending: Ending) -> None:
        self._health.note_end(connection.session, ending)
        _log_end(connection, ending)

    def _greeting(self, session_id: str, token: str | None) -> ConnectionEstablished:
        limits, heartbeat = self._settings.limits, self._settings.heartbeat
        return ConnectionEstablished(
            protocol=PROTOCOL,
            session_id=session_id,
            resume_token=token,
            server_time=wall_clock_ms(),
            sample_rate=SAMPLE_RATE_HZ,
            frame_samples=FRAME_SAMPLES,
            model=ModelInfo(**asdict(self.card)),
            limits=LimitsInfo(
                message_bytes=limits.message_bytes,
                burst_frames=BURST_FRAMES,
                max_lag_ms=limits.max_lag_ms,
                heartbeat_every_ms=round(heartbeat.every_s * 1000),
                heartbeat_timeout_ms=round(heartbeat.timeout_s * 1000),
            ),
        )


def _rehearse(worker: Worker[UserCodes, AgentCodes], *, anew: bool) -> float:
    assert isinstance(worker, Stepper)
    return worker.rehearse(anew=anew)


def _log_end(connection: Connection, ending: Ending) -> None:
    """The one line that a session leaves."""
    session = connection.session
    added = session.added.statistics()
    tell = log.error if ending.farewell is Farewell.INTERNAL_ERROR else log.info
    tell(
        "session",
        session=session.id,
        peer=connection.peer,
        reason=ending.reason,
        farewell=ending.farewell.name.lower(),
        **asdict(session.tally()),
        added_p50_ms=round(added.p50_ms, 3),
        added_p99_ms=round(added.p99_ms, 3),
        duration_s=round(trio.current_time() - session.began_s, 3),
    )
