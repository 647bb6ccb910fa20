"""Holds one conversation with a server, in real time, and always ends it with a `Report`.

    connect ─▶ connection_established ─▶ (queued …) ─▶ ready
    ─▶ configure ─▶ a frame each 80 ms (─▶ queued … ─▶ ready) ─▶ the last answers arrive ─▶ bye ─▶ close
                        ├─ lost ─▶ reconnect, with the token ─▶ resumed ─╯
                        ╰─ draining ─▶ reconnect, without ─▶ ready, in a new session

One task sends audio as long as the conversation lasts; two more belong to each connection: one
receives, one checks for silence. Audio captured while there is no connection, or while the session
was put back into the queue, is not sent, because it would arrive too late. Each write is shielded
until it is complete or `SEND_S` is over, because after half a WebSocket frame nothing more can be
sent, not even a close.

A connection is lost however that is noticed: it was reset, nothing comes from the server any more, or a
write does not finish. Each time the client comes back with its token.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing
from functools import partial
from itertools import chain, repeat
from typing import Final, NamedTuple

import numpy as np
import trio
from msgspec import structs
from trio_websocket import ConnectionClosed, WebSocketConnection
from wsproto.frame_protocol import CloseReason as CloseCode

from actors.runtime import awake_clock
from actors.runtime.awake_clock import awake_time
from pipeline.audio.framing import AudioRefusedError, frames_of, payload_of
from pipeline.audio.pacing import MS_NS
from pipeline.client.connect import (
    NO_TOKEN,
    RETRY_AFTER_MAX_S,
    ClientCredentials,
    UnreachableError,
    open_websocket,
    single_errors,
)
from pipeline.client.report import LatencyTracker, Report
from pipeline.client.source import AudioSource, now_ns, paced
from pipeline.errors import PeerError
from pipeline.protocol import outgoing
from pipeline.protocol.conversation import Conversation, capture_ms
from pipeline.protocol.events import AudioReceived, MetadataReceived, Refused, TextReceived
from pipeline.protocol.faults import RemoteProtocolError
from pipeline.protocol.metadata import (
    Bye,
    Configure,
    ConnectionEstablished,
    Draining,
    Dropped,
    ErrorNotice,
    Metadata,
    Queued,
    Ready,
    Resumed,
    Stats,
)
from pipeline.protocol.outgoing import OutgoingPacket
from pipeline.protocol.unacked import ReceivedIds
from pipeline.units import FRAME_MS
from pipeline.values import Pcm

PREBUFFER_MS: Final = FRAME_MS
SEND_S: Final = 5.0  # for one write
ANSWER_S: Final = 5.0  # for the next expected frame, once all were sent
PROMPT_REFUSED: Final = "prompt_refused"
CLOSE_S: Final = 2.0  # for the last packets after bye, and for the close handshake
HEARTBEAT_EVERY_S: Final = 5.0
HEARTBEAT_TIMEOUT_S: Final = 15.0
RECONNECT_S: Final = 10.0  # how long to try to restore a lost connection
_BACK_OFF_S: Final = (0.1, 0.2, 0.4, 0.8, 1.6)  # before each attempt; the last one from then on

# After these a session can be resumed; any other close is deliberate.
_RESUMABLE: Final = (None, CloseCode.ABNORMAL_CLOSURE, CloseCode.TRY_AGAIN_LATER)
_CLEAN: Final = (
    CloseCode.NORMAL_CLOSURE,
    CloseCode.GOING_AWAY,
    CloseCode.NO_STATUS_RCVD,
)


class ConversationError(PeerError):
    """The conversation failed; the message is one sentence, and `report` covers it so far."""

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report


class ServerUnavailableError(ConversationError):
    """The server is down, full or not ready yet: trying again in `retry_after_s` may help."""

    def __init__(self, message: str, report: Report, retry_after_s: float) -> None:
        super().__init__(message, report)
        self.retry_after_s = retry_after_s


class EventHandler:
    """Callbacks for what is received, called at once and in order; the defaults do nothing."""

    def on_audio(self, pcm: Pcm) -> None:
        """80 ms of the agent's audio, `pcm [1920]`."""

    def on_text(self, text: str, *, final: bool) -> None:
        """The agent's utterance so far, or finished."""

    def on_notice(self, message: str) -> None:
        """A change of state or an error, as a message for a person."""


async def converse(
    url: str,
    speech: Pcm | AudioSource,
    *,
    handler: EventHandler | None = None,
    configure: Configure | None = None,
    stop: trio.Event | None = None,
    prebuffer_ms: int = PREBUFFER_MS,
    credentials: ClientCredentials = NO_TOKEN,
) -> Report:
    """Send `speech` — samples at 24 kHz, or a live source — and receive the answers to all its frames.

    `configure` is sent before the first frame. Once `stop` is set nothing more is sent or waited
    for, and the conversation ends as it would at the end of the speech. If the connection is lost,
    the client reconnects for up to `RECONNECT_S` and resumes the session. If the server shuts down,
    it reconnects likewise, and a server that takes its place begins a new session.

    Raises:
        ServerUnavailableError: the server cannot be reached, or is full at the moment.
        ConversationError: the conversation failed in any other way.
        ValueError: `url` is not the address of a WebSocket.
    """
    source = paced(speech) if isinstance(speech, np.ndarray) else speech
    client = _Client(
        partial(open_websocket, credentials=credentials),
        url,
        handler=EventHandler() if handler is None else handler,
        tracker=LatencyTracker(prebuffer_ms),
        configure=configure,
        stop=trio.Event() if stop is None else stop,
    )
    try:
        async with aclosing(source):
            await client.run(source)
    except UnreachableError as error:
        if error.retry_after_s is None:
            raise ConversationError(str(error), client.report()) from None
        raise ServerUnavailableError(str(error), client.report(), error.retry_after_s) from None
    return client.outcome()


class _Connection(NamedTuple):
    """One WebSocket, and our end of its protocol; `life` is cancelled when it is lost."""

    ws: WebSocketConnection
    conversation: Conversation
    life: trio.CancelScope


class _Client:
    """One conversation, over one connection after another."""

    _nursery: trio.Nursery

    def __init__(
        self,
        connect: Callable[[str], AbstractAsyncContextManager[WebSocketConnection]],
        url: str,
        *,
        handler: EventHandler,
        tracker: LatencyTracker,
        configure: Configure | None,
        stop: trio.Event,
    ) -> None:
        self._connect = connect
        self._url = url
        self._handler = handler
        self._tracker = tracker
        self._configure = configure
        self._stop = stop
        # Wall time is read once: timestamps must not jump if the clock is set meanwhile.
        self._epoch_ns = time.time_ns() - now_ns()
        self._connection: _Connection | None = None
        self._may_send_audio = False
        self._is_put_back = False  # the session ran before, and waits in the queue again
        self._session_id: str | None = None
        self._token: str | None = None
        self._is_draining = False  # the server is shutting down, and the session ends with it
        self._received_ids = ReceivedIds()
        self._ready = trio.Event()
        self._lost_s = 0.0
        self._delays_s: Iterator[float] = iter(())
        self._restored = trio.Event()  # set while the session has a connection; replaced when it is lost
        self._configured = False  # in this session
        self._sent_frames = 0  # in this session, as far as the server could have counted them
        self._arrived_frames = 0  # by the server's last count in this session
        self._counted_s = -math.inf  # when that came
        self._progress = trio.Event()  # replaced at each frame received
        self._sending = trio.CancelScope()
        self._stopped = False
        self._bye_sent = False
        self._failure: str | None = None
        self._last_error: ErrorNotice | None = None
        self._close: tuple[int | None, str] = (None, "")

    def report(self) -> Report:
        """The conversation so far."""
        return self._tracker.report(*self._close)

    def outcome(self) -> Report:
        """The report of a conversation that succeeded.

        Raises:
            ConversationError: it failed.
        """
        code, reason = self._close
        detail = self._last_error.message if self._last_error else reason
        closed = f"the server closed the conversation ({code}{': ' + detail if detail else ''})"
        if code is None and reason:
            closed = f"the connection was lost ({reason})"
        if self._failure is not None:
            raise ConversationError(self._failure, self.report())
        if not self._bye_sent and not self._ready.is_set():
            if code == CloseCode.TRY_AGAIN_LATER:
                retry_ms = self._last_error.retry_after_ms if self._last_error else None
                raise ServerUnavailableError(
                    closed, self.report(), min((retry_ms or 1000) / 1000, RETRY_AFTER_MAX_S)
                )
            raise ConversationError(f"{closed} before it began", self.report())
        if not self._bye_sent:
            raise ConversationError(f"{closed} after {self._tracker.frames_in} frames", self.report())
        if code not in _CLEAN:
            raise ConversationError(closed, self.report())
        if self._tracker.frames_expected and not self._stopped:
            problem = f"{self._tracker.frames_expected} frames were not answered within {ANSWER_S:.0f} s"
            raise ConversationError(problem + (f" ({detail})" if detail else ""), self.report())
        return self.report()

    async def run(self, source: AudioSource) -> None:
        """Send and receive until either end has closed, or the connection is lost for good.

        Raises:
            UnreachableError: there was never a connection.
        """
        with single_errors():
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._send_audio, source)
                self._nursery.start_soon(self._wait_for_stop)
                await self._keep_connected()
                self._nursery.cancel_scope.cancel()

    # Connections

    async def _keep_connected(self) -> None:
        await self._run_connection(self._url)
        while self._may_reconnect():
            cause = "the server has shut down" if self._is_draining else "connection lost"
            self._handler.on_notice(f"{cause}; reconnecting")
            if not await self._reconnect():
                return

    def _may_reconnect(self) -> bool:
        goes_on = self._failure is None and not self._bye_sent and not self._stopped
        is_lost = self._token is not None and self._close[0] in _RESUMABLE
        return goes_on and self._ready.is_set() and (is_lost or self._is_draining)

    async def _reconnect(self) -> bool:
        """Open a new connection and run it to its end; whether one could be opened."""
        if self._restored.is_set():
            self._restored = trio.Event()
            self._lost_s = awake_time()
            self._sent_frames = self._arrived_frames
            self._delays_s = chain(_BACK_OFF_S, repeat(_BACK_OFF_S[-1]))
        self._tracker.record_disconnect()
        resume = "" if self._token is None else f"{'&' if '?' in self._url else '?'}resume={self._token}"
        end_s = self._lost_s + RECONNECT_S
        problem = ""
        while awake_time() < end_s:
            await trio.sleep(next(self._delays_s))
            try:
                await self._run_connection(self._url + resume)
            except UnreachableError as error:
                problem = f": {error}"
            else:
                return True
        self._failure = (
            f"the connection was lost and could not be restored within {RECONNECT_S:.0f} s{problem}"
        )
        return False

    async def _run_connection(self, url: str) -> None:
        """Open a connection and receive until it ends."""
        async with self._connect(url) as ws:
            conversation = Conversation(
                "client",
                heartbeat_every_s=HEARTBEAT_EVERY_S,
                heartbeat_timeout_s=HEARTBEAT_TIMEOUT_S,
                now_s=awake_time(),
                received_ids=self._received_ids,
            )
            connection = self._connection = _Connection(ws, conversation, trio.CancelScope())
            try:
                with single_errors(), connection.life:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._monitor_liveness, connection)
                        await self._receive(connection)
                        nursery.cancel_scope.cancel()
            finally:
                self._connection, self._may_send_audio, self._is_put_back = None, False, False
                # A close on a connection that is lost, if it did arrive, would end the session.
                if not connection.life.cancel_called:
                    await self._close_websocket(ws)

    async def _close_websocket(self, ws: WebSocketConnection) -> None:
        """Close the socket in any case, after the close handshake if the peer completes it in time."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_S):
            await ws.aclose(self._close[0] or CloseCode.NORMAL_CLOSURE)
        if self._close[0] is None and ws.closed is not None:
            self._close = (ws.closed.code, ws.closed.reason or "")

    # Sending

    async def _send_audio(self, source: AudioSource) -> None:
        with self._sending:
            await self._ready.wait()
            async for captured in source:
                await trio.lowlevel.checkpoint_if_cancelled()  # a frame that is recorded is also sent
                if self._connection is None or not self._may_send_audio:
                    continue
                timestamp_ms = (captured.at_ns + self._epoch_ns) / MS_NS
                self._tracker.record_sent(timestamp_ms, captured.at_ns)
                await self._send(self._connection, outgoing.audio(payload_of(captured.pcm), timestamp_ms))
                self._sent_frames += 1
            await self._wait_for_answers()
            await self._restored.wait()  # a bye ends the session, so it needs a connection that carries it
        if self._connection is not None and await self._send(self._connection, outgoing.metadata(Bye())):
            self._bye_sent = True
            await trio.sleep(CLOSE_S)  # the server closes once it has sent its last packets
        self._nursery.cancel_scope.cancel()  # it did not: we close

    async def _wait_for_answers(self) -> None:
        timed_out = False
        while self._tracker.frames_expected and not timed_out:
            with awake_clock.move_on_after(ANSWER_S) as wait:
                await self._progress.wait()
            timed_out = wait.cancelled_caught
            connection = self._connection
            if timed_out and (
                connection is None or self._lose_if_silent(connection) or self._lose_if_deaf(connection)
            ):
                timed_out = False  # what was on its way is lost, but the session goes on

    async def _wait_for_stop(self) -> None:
        await self._stop.wait()
        self._stopped = True
        self._sending.cancel()

    async def _send(self, connection: _Connection, packet: OutgoingPacket) -> bool:
        """Send a packet; whether it could be. Where not, `_receive` finds out the cause too."""
        await trio.lowlevel.checkpoint_if_cancelled()
        # No checkpoint from here until it is in the connection's queue, so that seqs stay in order.
        timestamp_ms = (now_ns() + self._epoch_ns) / MS_NS
        message = connection.conversation.encode_next(packet, timestamp_ms=timestamp_ms)
        with awake_clock.move_on_after(SEND_S, shield=True) as write:
            try:
                await connection.ws.send_message(message)
            except ConnectionClosed:
                return False
        if write.cancelled_caught:
            self._lose(connection, f"the server did not read for {SEND_S:.0f} s")
        return not write.cancelled_caught

    async def _monitor_liveness(self, connection: _Connection) -> None:
        try:
            while True:
                await trio.sleep(max(0.0, connection.conversation.next_deadline_s() - awake_time()))
                connection.conversation.check_alive(awake_time())
                if connection.conversation.heartbeat_due(awake_time()):
                    await self._send(connection, connection.conversation.heartbeat(now_s=awake_time()))
        except RemoteProtocolError as fault:
            self._lose(connection, f"the server stopped responding: {fault}")

    # Receiving

    async def _receive(self, connection: _Connection) -> None:
        self._close, self._is_draining = (None, ""), False
        try:
            while True:
                message = await connection.ws.get_message()
                event, replies = connection.conversation.receive(message, now_s=awake_time())
                self._handle(event)
                for reply in replies:
                    await self._send(connection, reply)
                if isinstance(event, MetadataReceived) and isinstance(event.value, Ready | Resumed):
                    await self._start_audio(connection, event.value)
        except ConnectionClosed as closed:
            if closed.reason is not None:
                self._close = (closed.reason.code, closed.reason.reason or "")
        except (RemoteProtocolError, AudioRefusedError) as fault:
            self._close = (CloseCode.PROTOCOL_ERROR, "")
            self._fail(f"the server broke the protocol: {fault}")

    async def _start_audio(self, connection: _Connection, start: Ready | Resumed) -> None:
        """Allow audio to be sent; in a new session, send the sampling parameters before it.

        With a voice or a role, audio waits for the `ready` that has them.
        """
        if self._is_put_back:
            self._tracker.record_continued()
        elif isinstance(start, Ready) and self._configure is not None:
            has_persona = self._has_persona(start)
            if not self._configured:
                # What the session has already is not asked for: it would be computed anew.
                omitted = {"voice": None, "role": None} if has_persona else {}
                change = structs.replace(self._configure, **omitted)
                self._configured = await self._send(connection, outgoing.metadata(change))
            if not has_persona:
                return
        self._may_send_audio, self._is_put_back = True, False
        self._ready.set()
        self._restored.set()

    def _asks_persona(self) -> bool:
        asked = self._configure
        return asked is not None and bool(asked.voice or asked.role)

    def _has_persona(self, ready: Ready) -> bool:
        """Whether the session begins with the voice and the role that were asked for, if any were."""
        asked = self._configure
        if asked is None:
            return True
        pairs = ((asked.voice, ready.voice), (asked.role, ready.role))
        return all(wanted is None or (wanted or None) == found for wanted, found in pairs)

    def _handle(self, event: object) -> None:
        match event:
            case AudioReceived(timestamp_ms=timestamp_ms, payload=payload):
                self._handle_audio(frames_of(payload), timestamp_ms)
            case TextReceived(text=text, final=final):
                self._tracker.record_text(text, final=final)
                self._handler.on_text(text, final=final)
            case MetadataReceived(value):
                self._handle_metadata(value)
            case Refused(code, message):
                self._tracker.errors[f"refused_{code}"] += 1
                self._handler.on_notice(f"refused a packet of the server: {message}")

    def _handle_audio(self, frames: Pcm, timestamp_ms: float) -> None:
        received_ns = now_ns()
        for index, pcm in enumerate(frames):
            self._tracker.record_received(capture_ms(timestamp_ms, index, len(frames)), received_ns)
            self._handler.on_audio(pcm)
        self._progress.set()
        self._progress = trio.Event()

    def _handle_greeting(self, greeting: ConnectionEstablished) -> None:
        self._token = greeting.resume_token
        if self._session_id not in (None, greeting.session_id):
            self._received_ids.reset()
            self._tracker.record_new_session()
            self._handler.on_notice("started a new session: the previous one has ended")
        if greeting.session_id != self._session_id:
            self._configured = False
            self._sent_frames = self._arrived_frames = 0
        self._session_id, model = greeting.session_id, greeting.model
        self._tracker.model = model
        if model.voices is None and self._asks_persona():
            self._fail(f"{model.name} takes neither a voice nor a role")
        trained = "" if model.trained else ", random weights: expect noise"
        self._handler.on_notice(f"connected to {model.name} ({model.shape}{trained})")
        if greeting.capacity is not None and greeting.capacity.advice is not None:
            self._handler.on_notice(greeting.capacity.advice)

    def _handle_metadata(self, value: Metadata) -> None:
        match value:
            case ConnectionEstablished():
                self._handle_greeting(value)
            case Queued(position):
                if self._may_send_audio:
                    self._tracker.put_back += 1
                    self._may_send_audio, self._is_put_back = False, True
                paused = "the server is busy and the conversation is paused: " if self._is_put_back else ""
                self._handler.on_notice(f"{paused}queued, position {position}")
            case Stats(frames_in=frames_in):
                self._arrived_frames, self._counted_s = frames_in, awake_time()
            case Ready(voice, role):
                continued = "the conversation continues"
                self._handler.on_notice(continued if self._is_put_back else _ready_notice(voice, role))
            case Resumed(resume_token=resume_token):
                self._token = resume_token
                self._tracker.resumed += 1
                self._handler.on_notice("session resumed")
            case ErrorNotice():
                self._handle_error(value)
            case Dropped(what, count):
                self._tracker.dropped[what] += count
            case Draining():
                self._token, self._is_draining = None, True  # no other server knows the session
                self._handler.on_notice("the server is shutting down")

    def _lose(self, connection: _Connection, why: str) -> None:
        """The connection is lost, although it was neither closed nor reset."""
        if not connection.life.cancel_called:
            self._handler.on_notice(why)
            self._close = (None, why)
            connection.life.cancel()

    def _lose_if_silent(self, connection: _Connection) -> bool:
        """Whether nothing at all has come from the server for `ANSWER_S`: then the connection is lost."""
        silence_s = connection.conversation.silence_s(awake_time())
        if silence_s >= ANSWER_S:
            self._lose(connection, f"the server stopped responding: nothing received for {silence_s:.1f} s")
        return silence_s >= ANSWER_S

    def _lose_if_deaf(self, connection: _Connection) -> bool:
        """Whether what was sent did not arrive, as the server's own count shows: the connection is lost."""
        missing = self._sent_frames - self._arrived_frames
        is_deaf = missing > 0 and awake_time() - self._counted_s < ANSWER_S
        if is_deaf:
            self._lose(connection, f"{missing} frames did not reach the server")
        return is_deaf

    def _handle_error(self, error: ErrorNotice) -> None:
        self._tracker.errors[error.code] += 1
        self._last_error = error
        if error.code == PROMPT_REFUSED and not self._may_send_audio:
            self._fail(f"the server refused the voice or the role: {error.message}")
        self._handler.on_notice(f"{error.code}: {error.message}")

    def _fail(self, message: str) -> None:
        self._failure = message
        self._nursery.cancel_scope.cancel()


def _ready_notice(voice: str | None, role: str | None) -> str:
    voiced = "" if voice is None else f", voice {voice}"
    return f"ready{voiced}" + ("" if role is None else f", role: {role}")
