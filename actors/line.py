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
from secrets import randbits
from types import MappingProxyType
from typing import Any, Final

import structlog
import trio

from actors.admission import Admission, Ticket
from actors.channel import Channel, Leak
from actors.connection import Connection, Ending
from actors.decoder import Decoder, DecoderStage
from actors.delivery import Delivery
from actors.egress import wall_clock_ms
from actors.encoder import Encoder, EncoderStage
from actors.health import Health
from actors.pinned import PinnedThread, Runner
from actors.session import CONFIGURES_WAITING, Session
from actors.stage import Stage
from actors.stepper import Stepper, StepperStage
from actors.timing import Timing
from actors.transport import Transport
from pipeline.config import Settings
from pipeline.errors import BrokenInvariantError
from pipeline.protocol.farewell import Farewell
from pipeline.protocol.metadata import PROTOCOL, ConnectionEstablished, LimitsInfo, ModelInfo
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
    ) -> None:
        self.ready = trio.Event()
        self._settings = settings
        self._card = card
        self._recommended = recommended
        self._max_lag_s = settings.limits.max_lag_ms / 1000
        self._connections: set[Connection] = set()
        self._left = trio.lowlevel.ParkingLot()  # those who wait for connections to end
        self._added = Timing()
        capacity = lanes * LANE_ITEMS
        self._user_frames = Channel[UserFrame](
            "user_frames", capacity, lane_frames=BURST_FRAMES, leak=Leak.OLDEST, max_lag_s=self._max_lag_s
        )
        user_codes = Channel[UserCodes](
            "user_codes", capacity, lane_frames=BURST_FRAMES, leak=Leak.OLDEST, max_lag_s=self._max_lag_s
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
        self._delivery = Delivery(agent_frames, self.admission)
        self._health = Health(
            admission=self.admission,
            delivery=self._delivery,
            stages={"encode": self._encoder, "step": self._stepper, "decode": self._decoder},
            queues=[c.statistics for c in (self._user_frames, user_codes, agent_codes, agent_frames)],
            connections=self._connections,
            added=self._added,
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Load the models and serve; ends by itself once drained. Started before anything is loaded.

        Cancelled while a model loads, it does not wait for that. Whichever way it ends, no session
        is admitted any more, and those there are end with it.

        Raises (in an exception group):
            BrokenInvariantError: a stage failed, stalled or ended by itself.
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
                    start(self._health.run)
                    start(self._open)
                    task_status.started()
                    await self._actor("delivery", self._delivery.run)
                    nursery.cancel_scope.cancel()
        finally:
            self.admission.drain()
            self._user_frames.close()
            for connection in self._connections:
                connection.lose(Ending(Farewell.INTERNAL_ERROR, "line_ended"))

    async def converse(self, transport: Transport, ticket: Ticket) -> None:
        """Hold one whole session, from greeting to closed transport; one line in the log says how it went.

        Raises:
            BrokenInvariantError: nothing after it can be trusted.
        """
        began_s = trio.current_time()
        session = Session(
            ticket,
            self._user_frames,
            self._settings.sampling_for(self._recommended, seed=randbits(32)),
            self._added,
            max_lag_s=self._max_lag_s,
        )
        connection = Connection(transport, session, self._delivery, self._settings)
        self._connections.add(connection)
        if self.admission.closed_for is not None:
            connection.drain()
        try:
            await connection.run(self._greeting(session.id))
        finally:
            self._connections.discard(connection)
            self._left.unpark_all()
            self._health.note_end(connection)
            _log_end(connection, trio.current_time() - began_s)

    async def drain(self) -> None:
        """Admit nobody, let every session finish its utterance, then let `run` end.

        Takes at most `drain_s`, and one write's deadline for those who do not listen.
        """
        self.admission.drain()
        for connection in self._connections:
            connection.drain()
        with trio.move_on_after(self._settings.drain_s):
            await self._all_left()
        for connection in self._connections:
            connection.lose(Ending(Farewell.GOING_AWAY, "drained"))
        await self._all_left()
        self._user_frames.close()

    def health(self) -> dict[str, Any]:
        """What `/health` shows of the line."""
        return self._health.snapshot()

    async def _open(self) -> None:
        for stage in (self._encoder, self._stepper, self._decoder):
            await stage.ready.wait()
        self.admission.open()
        self.ready.set()

    async def _actor(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """An actor ends only when the line is being closed; the first that ends by itself is to blame."""
        await run()
        if self.admission.closed_for != "draining":
            self.admission.drain()
            raise BrokenInvariantError(f"the {name} ended while the line was open")

    async def _all_left(self) -> None:
        while self._connections:
            await self._left.park()

    def _greeting(self, session_id: str) -> ConnectionEstablished:
        limits, heartbeat = self._settings.limits, self._settings.heartbeat
        return ConnectionEstablished(
            protocol=PROTOCOL,
            session_id=session_id,
            resume_token=None,
            server_time=wall_clock_ms(),
            sample_rate=SAMPLE_RATE_HZ,
            frame_samples=FRAME_SAMPLES,
            model=ModelInfo(**asdict(self._card)),
            limits=LimitsInfo(
                message_bytes=limits.message_bytes,
                burst_frames=BURST_FRAMES,
                max_lag_ms=limits.max_lag_ms,
                heartbeat_every_ms=round(heartbeat.every_s * 1000),
                heartbeat_timeout_ms=round(heartbeat.timeout_s * 1000),
            ),
        )


def _log_end(connection: Connection, duration_s: float) -> None:
    """The one line that a session leaves."""
    session, ending = connection.session, connection.ending
    assert ending is not None, "a connection that has run has ended"
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
        client_underruns=session.client_stats.underruns,
        duration_s=round(duration_s, 3),
    )
