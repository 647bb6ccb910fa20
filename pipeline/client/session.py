"""Hold one conversation with a server, in real time, and always end it with a `Report`.

    connect ─▶ connection_established ─▶ (queued …) ─▶ ready
    ─▶ configure ─▶ a frame each 80 ms ─▶ what is still owed arrives ─▶ bye ─▶ close
                        ├─ lost ─▶ connect again, with the token ─▶ resumed ─╯
                        ╰─ draining ─▶ connect again, without ─▶ ready, of a new session

One task speaks as long as the conversation lasts; two more belong to each connection: one
listens, one watches for silence. What is captured while there is no connection is not said,
because it would come too late. Each write is shielded until it is through or `SEND_S` is over,
because half a WebSocket frame would leave a stream in which nothing can follow, not even a goodbye.
"""

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, aclosing
from functools import partial
from itertools import chain, repeat
from typing import Final, NamedTuple

import numpy as np
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection
from wsproto.frame_protocol import CloseReason

from pipeline.audio.framing import AudioRefusedError, frames_of, payload_of
from pipeline.audio.pacing import MS_NS
from pipeline.client.connect import ANYBODY, Trust, UnreachableError, connected, single_errors
from pipeline.client.report import Ledger, Report
from pipeline.client.source import Speech, now_ns, paced
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
)
from pipeline.protocol.outgoing import Outgoing
from pipeline.protocol.unacked import Heard
from pipeline.units import FRAME_MS
from pipeline.values import Pcm

PREBUFFER_MS: Final = FRAME_MS
SEND_S: Final = 5.0  # for one write
ANSWER_S: Final = 5.0  # for the next frame that is owed, once all were sent
FAREWELL_S: Final = 2.0  # for the last words after bye, and for the close handshake
HEARTBEAT_EVERY_S: Final = 5.0
HEARTBEAT_TIMEOUT_S: Final = 15.0
RETURN_S: Final = 10.0  # for which a lost connection is tried again
_BACK_OFF_S: Final = (0.1, 0.2, 0.4, 0.8, 1.6)  # before each try; the last one from then on

# Lost, told to come again, or replaced by nobody: anything else was meant.
_LOST: Final = (None, CloseReason.ABNORMAL_CLOSURE, CloseReason.TRY_AGAIN_LATER)
_PARTED_WELL: Final = (
    CloseReason.NORMAL_CLOSURE,
    CloseReason.GOING_AWAY,
    CloseReason.NO_STATUS_RCVD,
)


class ConversationError(PeerError):
    """The conversation failed; the message is one sentence, and `report` what there was of it."""

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report


class NotTakenError(ConversationError):
    """The server is not there, is full or is not ready yet: asking again in `retry_after_s` may help."""

    def __init__(self, message: str, report: Report, retry_after_s: float) -> None:
        super().__init__(message, report)
        self.retry_after_s = retry_after_s


class Audience:
    """What is done with what comes back. Called at once, in order; by itself it does nothing."""

    def agent_spoke(self, pcm: Pcm) -> None:
        """80 ms of the agent, `pcm [1920]`."""

    def agent_wrote(self, text: str, *, final: bool) -> None:
        """The agent's utterance so far, or closed."""

    def noticed(self, sentence: str) -> None:
        """Something a person at the terminal would want to know."""


async def converse(
    url: str,
    speech: Pcm | Speech,
    *,
    audience: Audience | None = None,
    configure: Configure | None = None,
    stop: trio.Event | None = None,
    prebuffer_ms: int = PREBUFFER_MS,
    trust: Trust = ANYBODY,
) -> Report:
    """Say `speech` — samples at 24 kHz, or a live source — and hear the answer to its last frame.

    `configure` is sent before the first frame. Once `stop` is set nothing more is said or
    waited for, and the conversation ends as it would at the end of the speech. A connection that
    is lost is opened again for `RETURN_S`, and the session goes on where it broke. A server that
    shuts down is called again just so: if another stands in for it, a new session takes over.

    Raises:
        NotTakenError: the server cannot be reached, or has no room for now.
        ConversationError: it failed in any other way.
        ValueError: `url` is not one of a WebSocket.
    """
    source = paced(speech) if isinstance(speech, np.ndarray) else speech
    client = _Client(
        partial(connected, trust=trust),
        url,
        audience=Audience() if audience is None else audience,
        ledger=Ledger(prebuffer_ms),
        configure=configure,
        stop=trio.Event() if stop is None else stop,
    )
    try:
        async with aclosing(source):
            await client.run(source)
    except UnreachableError as error:
        if error.retry_after_s is None:
            raise ConversationError(str(error), client.report()) from None
        raise NotTakenError(str(error), client.report(), error.retry_after_s) from None
    return client.outcome()


class _Line(NamedTuple):
    """One connection, and its end of the protocol."""

    ws: WebSocketConnection
    conversation: Conversation


class _Client:
    """One conversation, over one connection after another."""

    _nursery: trio.Nursery

    def __init__(
        self,
        dial: Callable[[str], AbstractAsyncContextManager[WebSocketConnection]],
        url: str,
        *,
        audience: Audience,
        ledger: Ledger,
        configure: Configure | None,
        stop: trio.Event,
    ) -> None:
        self._dial = dial
        self._url = url
        self._audience = audience
        self._ledger = ledger
        self._configure = configure
        self._stop = stop
        # Wall time is read once: a clock set during the conversation would tear its timestamps.
        self._epoch_ns = time.time_ns() - now_ns()
        self._line: _Line | None = None
        self._is_heard = False  # whether audio may be said now
        self._session_id: str | None = None
        self._token: str | None = None
        self._is_sent_away = False  # the server shuts down, and its session with it
        self._heard = Heard()
        self._ready = trio.Event()
        self._progress = trio.Event()  # replaced at each frame received
        self._speaking = trio.CancelScope()
        self._stopped = False
        self._said_bye = False
        self._failure: str | None = None
        self._last_error: ErrorNotice | None = None
        self._close: tuple[int | None, str] = (None, "")

    def report(self) -> Report:
        """What there was of the conversation."""
        return self._ledger.report(*self._close)

    def outcome(self) -> Report:
        """The report of a conversation that went well; else the one sentence that says how it did not."""
        code, reason = self._close
        told = self._last_error.message if self._last_error else reason
        closed = f"the server closed the conversation ({code}{': ' + told if told else ''})"
        if self._failure is not None:
            raise ConversationError(self._failure, self.report())
        if not self._said_bye and not self._ready.is_set():
            if code == CloseReason.TRY_AGAIN_LATER:
                retry_ms = self._last_error.retry_after_ms if self._last_error else None
                raise NotTakenError(closed, self.report(), (retry_ms or 1000) / 1000)
            raise ConversationError(f"{closed} before it began", self.report())
        if not self._said_bye:
            raise ConversationError(f"{closed} after {self._ledger.frames_in} frames", self.report())
        if code not in _PARTED_WELL:
            raise ConversationError(closed, self.report())
        if self._ledger.frames_owed and not self._stopped:
            problem = f"{self._ledger.frames_owed} frames were not answered within {ANSWER_S:.0f} s"
            raise ConversationError(problem + (f" ({told})" if told else ""), self.report())
        return self.report()

    async def run(self, source: Speech) -> None:
        """Talk until either side has closed, or the connection is lost for good.

        Raises:
            UnreachableError: there was never a connection.
        """
        with single_errors():
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._speak, source)
                self._nursery.start_soon(self._stop_at)
                await self._stay_connected()
                self._nursery.cancel_scope.cancel()

    # Connections

    async def _stay_connected(self) -> None:
        await self._hold_connection(self._url)
        while self._may_return():
            trouble = "the server has shut down" if self._is_sent_away else "the connection is lost"
            self._audience.noticed(f"{trouble}; connecting again")
            if not await self._return():
                return

    def _may_return(self) -> bool:
        well = self._failure is None and not self._said_bye and not self._stopped
        is_lost = self._token is not None and self._close[0] in _LOST
        return well and self._ready.is_set() and (is_lost or self._is_sent_away)

    async def _return(self) -> bool:
        """Connect again, and hold that connection to its end; False where none came about."""
        self._ledger.interrupted()
        resume = "" if self._token is None else f"{'&' if '?' in self._url else '?'}resume={self._token}"
        tries = chain(_BACK_OFF_S, repeat(_BACK_OFF_S[-1]))
        end_s = trio.current_time() + RETURN_S
        problem = ""
        while trio.current_time() < end_s:
            await trio.sleep(next(tries))
            try:
                await self._hold_connection(self._url + resume)
            except UnreachableError as error:
                problem = f": {error}"
            else:
                return True
        self._failure = f"the connection was lost, and not to be had again in {RETURN_S:.0f} s{problem}"
        return False

    async def _hold_connection(self, url: str) -> None:
        """Listen to one connection until it ends."""
        async with self._dial(url) as ws:
            conversation = Conversation(
                "client",
                heartbeat_every_s=HEARTBEAT_EVERY_S,
                heartbeat_timeout_s=HEARTBEAT_TIMEOUT_S,
                now_s=trio.current_time(),
                heard=self._heard,
            )
            line = self._line = _Line(ws, conversation)
            try:
                with single_errors():
                    async with trio.open_nursery() as watching:
                        watching.start_soon(self._watch, line)
                        await self._listen(line)
                        watching.cancel_scope.cancel()
            finally:
                self._line, self._is_heard = None, False
                # Whatever happened, the socket is closed: with the peer's consent if it comes soon.
                with trio.CancelScope(shield=True, deadline=trio.current_time() + FAREWELL_S):
                    await ws.aclose(self._close[0] or CloseReason.NORMAL_CLOSURE)
                if self._close[0] is None and ws.closed is not None:
                    self._close = (ws.closed.code, ws.closed.reason or "")

    # Speaking

    async def _speak(self, source: Speech) -> None:
        with self._speaking:
            await self._ready.wait()
            async for captured in source:
                await trio.lowlevel.checkpoint_if_cancelled()  # what is entered is also sent
                if self._line is None or not self._is_heard:
                    continue
                timestamp_ms = (captured.at_ns + self._epoch_ns) / MS_NS
                self._ledger.sent(timestamp_ms, captured.at_ns)
                await self._say(self._line, outgoing.audio(payload_of(captured.pcm), timestamp_ms))
            await self._hear_what_is_owed()
        if self._line is not None and await self._say(self._line, outgoing.metadata(Bye())):
            self._said_bye = True
            await trio.sleep(FAREWELL_S)  # the server closes once its last words are said
        self._nursery.cancel_scope.cancel()  # it does not: we do

    async def _hear_what_is_owed(self) -> None:
        waited_in_vain = False
        while self._ledger.frames_owed and not waited_in_vain:
            with trio.move_on_after(ANSWER_S) as wait:
                await self._progress.wait()
            waited_in_vain = wait.cancelled_caught

    async def _stop_at(self) -> None:
        await self._stop.wait()
        self._stopped = True
        self._speaking.cancel()

    async def _say(self, line: _Line, said: Outgoing) -> bool:
        """Whether it could be said; where it could not, the listener learns it too, and why."""
        await trio.lowlevel.checkpoint_if_cancelled()
        # From here to its place in the connection's queue, nothing can overtake what is numbered.
        timestamp_ms = (now_ns() + self._epoch_ns) / MS_NS
        message = line.conversation.number(said, timestamp_ms=timestamp_ms)
        with trio.CancelScope(shield=True, deadline=trio.current_time() + SEND_S) as write:
            try:
                await line.ws.send_message(message)
            except ConnectionClosed:
                return False
        if write.cancelled_caught:
            self._fail(f"the server did not read for {SEND_S:.0f} s")
        return not write.cancelled_caught

    async def _watch(self, line: _Line) -> None:
        try:
            while True:
                await trio.sleep_until(line.conversation.next_deadline_s())
                line.conversation.check_alive(trio.current_time())
                if line.conversation.heartbeat_due(trio.current_time()):
                    await self._say(line, line.conversation.heartbeat(now_s=trio.current_time()))
        except RemoteProtocolError as fault:
            self._fail(f"the server fell silent: {fault}")

    # Listening

    async def _listen(self, line: _Line) -> None:
        self._close, self._is_sent_away = (None, ""), False
        try:
            while True:
                message = await line.ws.get_message()
                event, replies = line.conversation.receive(message, now_s=trio.current_time())
                self._take(event)
                for reply in replies:
                    await self._say(line, reply)
                if isinstance(event, MetadataReceived) and isinstance(event.value, Ready | Resumed):
                    await self._begin(line, event.value)
        except ConnectionClosed as closed:
            if closed.reason is not None:
                self._close = (closed.reason.code, closed.reason.reason or "")
        except (RemoteProtocolError, AudioRefusedError) as fault:
            self._close = (CloseReason.PROTOCOL_ERROR, "")
            self._fail(f"the server broke the protocol: {fault}")

    async def _begin(self, line: _Line, word: Ready | Resumed) -> None:
        """Audio may be said; ahead of a new session's first frame, how it shall be answered."""
        if isinstance(word, Ready) and self._configure is not None:
            await self._say(line, outgoing.metadata(self._configure))
        self._is_heard = True
        self._ready.set()

    def _take(self, event: object) -> None:
        match event:
            case AudioReceived(timestamp_ms=timestamp_ms, payload=payload):
                self._take_audio(frames_of(payload), timestamp_ms)
            case TextReceived(text=text, final=final):
                self._ledger.told(text, final=final)
                self._audience.agent_wrote(text, final=final)
            case MetadataReceived(value):
                self._take_metadata(value)
            case Refused(code, message):
                self._ledger.errors[f"refused_{code}"] += 1
                self._audience.noticed(f"a packet of the server was refused: {message}")

    def _take_audio(self, frames: Pcm, timestamp_ms: float) -> None:
        received_ns = now_ns()
        for index, pcm in enumerate(frames):
            self._ledger.answered(capture_ms(timestamp_ms, index, len(frames)), received_ns)
            self._audience.agent_spoke(pcm)
        self._progress.set()
        self._progress = trio.Event()

    def _take_metadata(self, value: Metadata) -> None:
        match value:
            case ConnectionEstablished(model=model, session_id=session_id, resume_token=resume_token):
                self._token = resume_token
                if self._session_id not in (None, session_id):
                    self._heard.forget()
                    self._ledger.began_anew()
                    self._audience.noticed("this is a new conversation: the one before is over")
                self._session_id = session_id
                self._ledger.model = model
                trained = "" if model.trained else ", untrained: expect noise, not words"
                self._audience.noticed(f"connected to {model.name} ({model.shape}{trained})")
            case Queued(position):
                self._audience.noticed(f"queued, position {position}")
            case Ready():
                self._audience.noticed("ready")
            case Resumed(resume_token=resume_token):
                self._token = resume_token
                self._ledger.resumed += 1
                self._audience.noticed("the session goes on")
            case ErrorNotice(code, message):
                self._ledger.errors[code] += 1
                self._last_error = value
                self._audience.noticed(f"{code}: {message}")
            case Dropped(what, count):
                self._ledger.dropped[what] += count
            case Draining():
                self._token, self._is_sent_away = None, True  # it will not be known anywhere else
                self._audience.noticed("the server is shutting down")

    def _fail(self, sentence: str) -> None:
        self._failure = sentence
        self._nursery.cancel_scope.cancel()
