"""A light client that checks its frames: each is answered once, in order, or reported as dropped.

All clients send the same frames, encoded once, so that a client costs little more than its
socket: sixteen of them share two cores with the server and would otherwise measure themselves.
"""

import math
import socket
import ssl
import struct
import time
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Final

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

from pipeline.audio.framing import payload_of
from pipeline.audio.noise import noise_frames
from pipeline.audio.pacing import FRAME_NS, MS_NS, Playout
from pipeline.protocol import outgoing
from pipeline.protocol.conversation import Conversation, capture_ms
from pipeline.protocol.events import Acked, AudioReceived, Ignored, MetadataReceived
from pipeline.protocol.metadata import (
    Bye,
    Configure,
    ConnectionEstablished,
    Draining,
    Dropped,
    ErrorNotice,
    Queued,
    Ready,
    Resumed,
    Stats,
    Vad,
)
from pipeline.protocol.outgoing import OutgoingPacket
from pipeline.protocol.packets import MESSAGE_BYTES, Packet, PacketType, Priority, encode
from pipeline.protocol.unacked import ReceivedIds
from pipeline.units import FRAME_MS, FRAME_SAMPLES

CONNECT_S: Final = 10.0
ANSWER_S: Final = 5.0  # for the next expected frame, once all were sent
CLOSE_S: Final = 10.0  # from our bye to the server's close: its `drain_s`, and a margin
PREBUFFER_MS: Final = FRAME_MS
_FRAME_BYTES: Final = 4 * FRAME_SAMPLES
_FRAMES: Final = 125  # 10 s, then from the beginning


class ViolationError(Exception):
    """The server violated a guarantee; the message says which."""


@cache
def speech() -> tuple[bytes, ...]:
    """The payloads of ten seconds of noise, always the same."""
    return tuple(payload_of(frame) for frame in noise_frames(_FRAMES))


@dataclass(slots=True)
class ClientCounts:
    """What one client, or all of them together, sent and received.

    `gaps` are the underruns of a playout with a buffer of 80 ms: frames too late, and frames that
    never arrived. `underruns` are those that the server reported. `answers` holds (received at,
    latency in ms) one after the other; `lags_ms` how late the client itself sent its frames.
    """

    sessions: int = 0
    frames_in: int = 0
    frames_out: int = 0
    gaps: int = 0
    underruns: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    answers: "array[float]" = field(default_factory=lambda: array("d"))
    lags_ms: "array[float]" = field(default_factory=lambda: array("d"))

    def add(self, other: "ClientCounts") -> None:
        """Add the counts of another."""
        self.sessions += other.sessions
        self.frames_in += other.frames_in
        self.frames_out += other.frames_out
        self.gaps += other.gaps
        self.underruns += other.underruns
        self.dropped.update(other.dropped)
        self.answers.extend(other.answers)
        self.lags_ms.extend(other.lags_ms)


class SessionState:
    """What a client keeps of one session across its connections."""

    def __init__(self) -> None:
        self.counts = ClientCounts(sessions=1)
        self.received_ids = ReceivedIds()
        self.epoch_ns = time.time_ns() - _now_ns()
        self.unanswered: dict[float, tuple[int, int]] = {}  # timestamp → (index, sent_ns), in the order sent
        self.playout = Playout(PREBUFFER_MS)


class LoadClient:
    """One conversation on one connection; `receive` runs in a task of its own."""

    def __init__(
        self,
        ws: WebSocketConnection,
        stream: trio.SocketStream,
        *,
        check_answers: bool = True,
        state: SessionState | None = None,
    ) -> None:
        """`check_answers` False: answers are not matched with frames. `state`: of the session to resume."""
        self.state = SessionState() if state is None else state
        self.counts = self.state.counts
        self.stream = stream
        self.unmatched_acks = 0  # of packets sent by `send_raw`
        self.is_muted = False  # sends no replies, neither ACKs nor heartbeats
        self.ready = trio.Event()
        self.queued = trio.Event()  # it has a place in the queue
        self.is_running = False  # audio is processed; False while waiting, or put back
        self.put_back_total = 0
        self.closed = trio.Event()
        self.close_code: int | None = None
        self.established: ConnectionEstablished | None = None
        self.resumed: Resumed | None = None
        self.draining = False
        self.frames_skipped = 0  # frames without an answer, before one that has an answer
        self.errors: list[str] = []
        self._ws = ws
        self._check_answers = check_answers
        self._is_cut_off = False
        self._round_trips = 0
        self._send_lock = trio.Lock()
        self._conversation = Conversation(
            "client",
            heartbeat_every_s=5.0,
            heartbeat_timeout_s=15.0,
            now_s=trio.current_time(),
            received_ids=self.state.received_ids,
        )
        self._progress = trio.Event()

    async def send(self, packet: OutgoingPacket) -> None:
        """Send one packet; does nothing where the connection is closed."""
        timestamp_ms = (_now_ns() + self.state.epoch_ns) / MS_NS
        await self.send_raw(self._conversation.encode_next(packet, timestamp_ms=timestamp_ms))

    async def send_raw(self, message: bytes | str) -> None:
        """Send one message unchanged, valid or not."""
        async with self._send_lock:
            if not self._is_cut_off:
                with suppress(ConnectionClosed):  # `receive` records it
                    await self._ws.send_message(message)

    async def send_partial_frame(self) -> None:
        """Send half a WebSocket frame (RFC 6455 §5.2), masked with zeros, and nothing after it."""
        packet = encode(Packet(PacketType.AUDIO_CHUNK, Priority.CRITICAL, 0, 0.0, speech()[0]))
        async with self._send_lock:
            self._is_cut_off = True
            await self.stream.send_all(
                struct.pack("!BBH4x", 0x82, 0x80 | 126, len(packet)) + packet[: len(packet) // 2]
            )

    def reset_connection(self) -> None:
        """Close at once by a TCP reset, as when a network breaks."""
        self.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.stream.socket.close()

    async def round_trip(self, packet: OutgoingPacket | None = None) -> None:
        """Send a packet that wants an ACK; wait until it is ACKed, or the connection has closed."""
        before = self._round_trips
        await self.send(packet or replace(outgoing.metadata(Vad(speaking=False)), wants_ack=True))
        while self._round_trips == before and not self.closed.is_set():
            await wait_any(self._progress.wait, self.closed.wait)

    async def receive(self) -> None:
        """Handle messages until the connection has closed.

        Raises:
            ViolationError: an answer to no frame, or to one answered before.
            RemoteProtocolError: the server broke the protocol.
        """
        try:
            while True:
                message = await self._ws.get_message()
                event, replies = self._conversation.receive(message, now_s=trio.current_time())
                match event:
                    case AudioReceived(timestamp_ms=timestamp_ms, payload=payload):
                        self._handle_audio(len(payload), timestamp_ms)
                    case MetadataReceived(value):
                        self._handle_metadata(value)
                    case Ignored("unknown_ack"):
                        self.unmatched_acks += 1
                    case Acked():
                        self._round_trips += 1
                        self._advance()
                for reply in () if self.is_muted else replies:
                    await self.send(reply)
        except ConnectionClosed as closed:
            self.close_code = None if closed.reason is None else closed.reason.code
        finally:
            self.closed.set()

    async def send_audio(
        self,
        frames: float = math.inf,
        *,
        delay_s: Callable[[], float] = lambda: 0.0,
        stop: trio.Event | None = None,
    ) -> None:
        """Send a frame each 80 ms, `delay_s()` after it is due; the order is kept.

        What is due while the session was put back is not sent.
        """
        began_ns, index, stop = _now_ns(), 0, trio.Event() if stop is None else stop
        while index < frames and not self.closed.is_set() and not stop.is_set():
            due_ns = began_ns + FRAME_NS * (index + 1)
            await trio.sleep_until(due_ns / 1e9 + delay_s())
            if self.is_running:
                await self.send_frame(due_ns)
            index += 1

    async def send_frame(self, captured_ns: int | None = None) -> None:
        """Send one frame, captured at `captured_ns`, by default now."""
        now_ns = _now_ns()
        captured_ns = now_ns if captured_ns is None else captured_ns
        timestamp_ms = (captured_ns + self.state.epoch_ns) / MS_NS
        index = self.counts.frames_in
        self.state.unanswered[timestamp_ms] = (index, captured_ns)
        self.counts.frames_in += 1
        self.counts.lags_ms.append((now_ns - captured_ns) / MS_NS)
        await self.send(outgoing.audio(speech()[index % _FRAMES], timestamp_ms))

    async def finish(self) -> None:
        """Wait for all answers, send bye, and wait for the close.

        Raises:
            ViolationError: frames were neither answered nor dropped, or the close is not 1000.
        """
        timed_out = False
        while self._frames_expected() > 0 and not timed_out and not self.closed.is_set():
            with trio.move_on_after(ANSWER_S) as wait:
                await self._progress.wait()
            timed_out = wait.cancelled_caught
        await self.close()

    async def close(self) -> None:
        """Send bye, and wait for the close.

        Raises:
            ViolationError: the server does not close, or not with 1000.
        """
        await self.send(outgoing.metadata(Bye()))
        with trio.move_on_after(CLOSE_S):
            await self.closed.wait()
        if not self.closed.is_set():
            raise ViolationError(f"the server did not close within {CLOSE_S:.0f} s of a bye")
        if self.close_code != 1000:
            cause = ", ".join(self.errors) or ("draining" if self.draining else "no error")
            raise ViolationError(f"a normal conversation was closed with {self.close_code} ({cause})")
        self.check_accounting()

    def check_accounting(self) -> None:
        """Check that each frame was answered or reported as dropped.

        Raises:
            ViolationError: a frame was neither, or both.
        """
        dropped = sum(self.counts.dropped.values())
        expected = self._frames_expected()
        if self.frames_skipped > dropped or (self.counts.frames_in > self._delay_frames() and expected):
            raise ViolationError(
                f"of {self.counts.frames_in} frames {self.counts.frames_out} were answered and "
                f"{dict(self.counts.dropped)} reported as dropped: {expected} are unaccounted for"
            )

    def _delay_frames(self) -> int:
        assert self.established is not None
        return self.established.model.model_delay_ms // FRAME_MS

    def _frames_expected(self) -> int:
        counts = self.counts
        return max(0, counts.frames_in - self._delay_frames()) - counts.dropped.total() - counts.frames_out

    def _handle_audio(self, size_bytes: int, timestamp_ms: float) -> None:
        if not self._check_answers:
            return
        now_ns, count = _now_ns(), size_bytes // _FRAME_BYTES
        for i in range(count):
            entry = self.state.unanswered.get(stamp := capture_ms(timestamp_ms, i, count))
            if entry is None:
                raise ViolationError("an answer echoes no unanswered frame")
            index, sent_ns = entry
            while (first := next(iter(self.state.unanswered))) != stamp:
                skipped, _ = self.state.unanswered.pop(first)  # answers come in order
                self.frames_skipped += skipped >= self._delay_frames()
            del self.state.unanswered[stamp]
            self.counts.frames_out += 1
            self.counts.answers.extend((now_ns / 1e9, (now_ns - sent_ns) / MS_NS))
            self.state.playout.record_arrival(index, now_ns)
        self.counts.gaps = self.state.playout.underruns
        self._advance()

    def _advance(self) -> None:
        self._progress.set()
        self._progress = trio.Event()

    def _start(self) -> None:
        if self.ready.is_set() and not self.is_running:
            self.state.playout.pause()
        self.is_running = True
        self.ready.set()
        self._advance()

    def _handle_metadata(self, value: object) -> None:
        match value:
            case ConnectionEstablished():
                self.established = value
            case Resumed():
                self.resumed = value
                self._start()
            case Ready():
                self._start()
            case Queued():
                self.queued.set()
                self.put_back_total += self.is_running
                self.is_running = False
            case Stats(underruns=underruns):
                self.counts.underruns = underruns
            case ErrorNotice(code):
                self.errors.append(code)
            case Dropped(what, count):
                self.counts.dropped[what] += count
                self._advance()
            case Draining():
                self.draining = True


@asynccontextmanager
async def open_socket(
    port: int,
    path: str = "/ws",
    *,
    receive_buffer_bytes: int | None = None,
    queued_messages: int = 64,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[tuple[WebSocketConnection, trio.SocketStream]]:
    """A WebSocket and the socket under it, which is closed at the end of the block in any case.

    tls: what the client trusts, where the server speaks TLS.

    Raises:
        ConnectionRejected: the server refused the upgrade.
        OSError: the connection was refused.
    """
    sock = trio.socket.socket()
    if receive_buffer_bytes is not None:
        sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, receive_buffer_bytes)
    await sock.connect(("127.0.0.1", port))
    async with trio.SocketStream(sock) as stream, trio.open_nursery() as nursery:
        with trio.fail_after(CONNECT_S):
            ws = await wrap_client_stream(
                nursery,
                stream if tls is None else await _handshaken(stream, tls),
                f"127.0.0.1:{port}",
                path,
                max_message_size=MESSAGE_BYTES,
                message_queue_size=queued_messages,
            )
        yield ws, stream
        nursery.cancel_scope.cancel()


async def _handshaken(stream: trio.SocketStream, tls: ssl.SSLContext) -> trio.SSLStream[trio.SocketStream]:
    encrypted = trio.SSLStream(stream, tls, server_hostname="127.0.0.1", https_compatible=True)
    await encrypted.do_handshake()
    return encrypted


@asynccontextmanager
async def connect_client(
    port: int,
    path: str = "/ws",
    *,
    configure: Configure | None = None,
    check_answers: bool = True,
    state: SessionState | None = None,
    or_queued: bool = False,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[LoadClient]:
    """A client that receives in the background; the block begins at `ready`, or when the server closed.

    `or_queued`: or when it gets a place in the queue. `tls`: as in `open_socket`.
    """
    async with open_socket(port, path, tls=tls) as (ws, stream), trio.open_nursery() as nursery:
        client = LoadClient(ws, stream, check_answers=check_answers, state=state)
        nursery.start_soon(client.receive)
        queued = (client.queued.wait,) if or_queued else ()
        await wait_any(client.ready.wait, client.closed.wait, *queued)
        if configure is not None:
            await client.send(outgoing.metadata(configure))
        yield client
        nursery.cancel_scope.cancel()


async def wait_any(*waits: Callable[[], Awaitable[object]]) -> None:
    """Wait until the first of several waits is over."""
    async with trio.open_nursery() as nursery:

        async def run(wait: Callable[[], Awaitable[object]]) -> None:
            await wait()
            nursery.cancel_scope.cancel()

        for wait in waits:
            nursery.start_soon(run, wait)


def _now_ns() -> int:
    return round(trio.current_time() * 1e9)
