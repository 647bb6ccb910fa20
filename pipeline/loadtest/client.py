"""One light client, and an account of every frame it sent: answered once, in order, or known to be dropped.

Speech is cut and spelled once for everybody, so that a client costs what its socket costs: with
sixteen of them beside the server on two cores, they would otherwise measure themselves.
"""

import math
import socket
import struct
import time
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Final

import numpy as np
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

from pipeline.audio.framing import payload_of
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
    Ready,
    Resumed,
    Stats,
    Vad,
    spell,
)
from pipeline.protocol.outgoing import Outgoing
from pipeline.protocol.packets import MESSAGE_BYTES, Packet, PacketType, Priority, encode
from pipeline.protocol.unacked import Heard
from pipeline.units import FRAME_MS, FRAME_SAMPLES

CONNECT_S: Final = 10.0
ANSWER_S: Final = 5.0  # for the next frame that is owed, once all were sent
FAREWELL_S: Final = 10.0  # from our bye to the server's close: its `drain_s`, and some more
PREBUFFER_MS: Final = FRAME_MS
_FRAME_BYTES: Final = 4 * FRAME_SAMPLES
_DIFFERENT_FRAMES: Final = 125  # 10 s, then over again


class WrongAnswerError(Exception):
    """The server broke a law of the protocol; the message says which."""


@cache
def speech() -> tuple[bytes, ...]:
    """The payloads of ten seconds of noise, always the same."""
    generator = np.random.Generator(np.random.PCG64(1))
    noise = (0.1 * generator.standard_normal((_DIFFERENT_FRAMES, FRAME_SAMPLES))).astype(np.float32)
    return tuple(payload_of(frame) for frame in noise)


@dataclass(slots=True)
class Account:
    """What one listener, or all of them together, got for what they said.

    `gaps` are what they heard: frames later than 80 ms after the first one's place, and frames
    that never came. `underruns` are those the server owned up to. `answers` holds (received at,
    latency in ms) one after the other; `lags_ms` how late our own frames left, which is our fault.
    """

    sessions: int = 0
    frames_in: int = 0
    frames_out: int = 0
    gaps: int = 0
    underruns: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    answers: "array[float]" = field(default_factory=lambda: array("d"))
    lags_ms: "array[float]" = field(default_factory=lambda: array("d"))

    def add(self, other: "Account") -> None:
        """Sum, field by field."""
        self.sessions += other.sessions
        self.frames_in += other.frames_in
        self.frames_out += other.frames_out
        self.gaps += other.gaps
        self.underruns += other.underruns
        self.dropped.update(other.dropped)
        self.answers.extend(other.answers)
        self.lags_ms.extend(other.lags_ms)


class Memory:
    """What a client keeps of one session over all of its connections."""

    def __init__(self) -> None:
        self.account = Account(sessions=1)
        self.heard = Heard()
        self.epoch_ns = time.time_ns() - _now_ns()
        self.unanswered: dict[float, tuple[int, int]] = {}  # timestamp → (index, sent), in the order sent
        self.playout = Playout(PREBUFFER_MS)


class Talker:
    """One conversation, on one connection; `listen` runs beside whatever is done with it."""

    def __init__(
        self,
        ws: WebSocketConnection,
        stream: trio.SocketStream,
        *,
        honest: bool = True,
        memory: Memory | None = None,
    ) -> None:
        """`honest` False: what is said is not accounted for. `memory`: of the session taken up again."""
        self.memory = Memory() if memory is None else memory
        self.account = self.memory.account
        self.stream = stream
        self.acks = 0
        self.is_mute = False  # says nothing of itself, neither ACKs nor heartbeats
        self.ready = trio.Event()
        self.closed = trio.Event()
        self.close_code: int | None = None
        self.established: ConnectionEstablished | None = None
        self.resumed: Resumed | None = None
        self.draining = False
        self.passed_over = 0  # frames without an answer, before one that has its own
        self.errors: list[str] = []
        self._ws = ws
        self._honest = honest
        self._fell_silent = False
        self._marks = 0
        self._turn = trio.Lock()
        self._conversation = Conversation(
            "client",
            heartbeat_every_s=5.0,
            heartbeat_timeout_s=15.0,
            now_s=trio.current_time(),
            heard=self.memory.heard,
        )
        self._progress = trio.Event()

    async def say(self, said: Outgoing) -> None:
        """Write one packet; whoever is gone already hears nothing."""
        timestamp_ms = (_now_ns() + self.memory.epoch_ns) / MS_NS
        await self.write(self._conversation.number(said, timestamp_ms=timestamp_ms))

    async def write(self, message: bytes | str) -> None:
        """Write one message as it is."""
        async with self._turn:
            if not self._fell_silent:
                with suppress(ConnectionClosed):  # the listener learns it too
                    await self._ws.send_message(message)

    async def fall_silent(self) -> None:
        """Write the beginning of a frame (RFC 6455 §5.2), masked with zeros, and nothing after it."""
        packet = encode(Packet(PacketType.AUDIO_CHUNK, Priority.CRITICAL, 0, 0.0, speech()[0]))
        async with self._turn:
            self._fell_silent = True
            await self.stream.send_all(
                struct.pack("!BBH4x", 0x82, 0x80 | 126, len(packet)) + packet[: len(packet) // 2]
            )

    def break_off(self) -> None:
        """Close at once by a TCP reset, as a network does that breaks."""
        self.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.stream.socket.close()

    async def mark(self, said: Outgoing | None = None) -> None:
        """Say a packet that wants an ACK; wait until it has been heard, or the connection has closed."""
        mark = Outgoing("vad", PacketType.METADATA, Priority.HIGH, spell(Vad(speaking=False)), wants_ack=True)
        passed = self._marks
        await self.say(said or mark)
        while self._marks == passed and not self.closed.is_set():
            await first_of(self._progress.wait, self.closed.wait)

    async def listen(self) -> None:
        """Take what comes until the connection has closed.

        Raises:
            WrongAnswerError: an answer to nothing, or to something answered before.
            RemoteProtocolError: the server broke the protocol.
        """
        try:
            while True:
                message = await self._ws.get_message()
                event, replies = self._conversation.receive(message, now_s=trio.current_time())
                match event:
                    case AudioReceived(timestamp_ms=timestamp_ms, payload=payload):
                        self._take_audio(len(payload), timestamp_ms)
                    case MetadataReceived(value):
                        self._take_metadata(value)
                    case Ignored("unknown_ack"):
                        self.acks += 1  # of what was written as it is
                    case Acked():
                        self._marks += 1
                        self._advance()
                for reply in () if self.is_mute else replies:
                    await self.say(reply)
        except ConnectionClosed as closed:
            self.close_code = None if closed.reason is None else closed.reason.code
        finally:
            self.closed.set()

    async def speak(
        self,
        frames: float = math.inf,
        *,
        late_s: Callable[[], float] = lambda: 0.0,
        stop: trio.Event | None = None,
    ) -> None:
        """Say a frame each 80 ms, each `late_s()` after its time but none before the one ahead of it."""
        began_ns, index, stop = _now_ns(), 0, trio.Event() if stop is None else stop
        while index < frames and not self.closed.is_set() and not stop.is_set():
            due_ns = began_ns + FRAME_NS * (index + 1)
            await trio.sleep_until(due_ns / 1e9 + late_s())
            await self.say_frame(due_ns)
            index += 1

    async def say_frame(self, captured_ns: int | None = None) -> None:
        """One frame, captured then, or now."""
        now_ns = _now_ns()
        captured_ns = now_ns if captured_ns is None else captured_ns
        timestamp_ms = (captured_ns + self.memory.epoch_ns) / MS_NS
        index = self.account.frames_in
        self.memory.unanswered[timestamp_ms] = (index, captured_ns)
        self.account.frames_in += 1
        self.account.lags_ms.append((now_ns - captured_ns) / MS_NS)
        await self.say(outgoing.audio(speech()[index % _DIFFERENT_FRAMES], timestamp_ms))

    async def part(self) -> None:
        """Hear what is owed, say bye, and wait for the close.

        Raises:
            WrongAnswerError: frames were neither answered nor dropped, or the close is not 1000.
        """
        waited_in_vain = False
        while self._owed() > 0 and not waited_in_vain and not self.closed.is_set():
            with trio.move_on_after(ANSWER_S) as wait:
                await self._progress.wait()
            waited_in_vain = wait.cancelled_caught
        await self.part_at_once()
        self.settle()

    async def part_at_once(self) -> None:
        """Say bye, and wait for the close.

        Raises:
            WrongAnswerError: the close is not 1000, or does not come.
        """
        await self.say(outgoing.metadata(Bye()))
        with trio.move_on_after(FAREWELL_S):
            await self.closed.wait()
        if not self.closed.is_set():
            raise WrongAnswerError(f"the server did not close within {FAREWELL_S:.0f} s of a bye")
        if self.close_code != 1000:
            told = ", ".join(self.errors) or ("draining" if self.draining else "nothing")
            raise WrongAnswerError(
                f"a conversation that went well was closed with {self.close_code} ({told})"
            )
        self.settle()

    def settle(self) -> None:
        """Every frame is accounted for.

        Raises:
            WrongAnswerError: frames were neither answered nor known to be dropped, or both.
        """
        told = sum(self.account.dropped.values())
        if self.passed_over > told or (self.account.frames_in > self._delay() and self._owed() != 0):
            raise WrongAnswerError(
                f"of {self.account.frames_in} frames {self.account.frames_out} were answered and "
                f"{dict(self.account.dropped)} told to be dropped: {self._owed()} are unaccounted for"
            )

    def _delay(self) -> int:
        assert self.established is not None
        return self.established.model.model_delay_ms // FRAME_MS

    def _owed(self) -> int:
        account = self.account
        dropped = sum(account.dropped.values())
        return max(0, account.frames_in - self._delay()) - dropped - account.frames_out

    def _take_audio(self, size_bytes: int, timestamp_ms: float) -> None:
        if not self._honest:
            return
        now_ns, count = _now_ns(), size_bytes // _FRAME_BYTES
        for place in range(count):
            entry = self.memory.unanswered.get(stamp := capture_ms(timestamp_ms, place, count))
            if entry is None:
                raise WrongAnswerError("an answer echoes no frame that is unanswered")
            index, sent_ns = entry
            while (first := next(iter(self.memory.unanswered))) != stamp:
                passed, _ = self.memory.unanswered.pop(first)  # answers come in order
                self.passed_over += passed >= self._delay()
            del self.memory.unanswered[stamp]
            self.account.frames_out += 1
            self.account.answers.extend((now_ns / 1e9, (now_ns - sent_ns) / MS_NS))
            self.memory.playout.heard(index, now_ns)
        self.account.gaps = self.memory.playout.underruns
        self._advance()

    def _advance(self) -> None:
        self._progress.set()
        self._progress = trio.Event()

    def _take_metadata(self, value: object) -> None:
        match value:
            case ConnectionEstablished():
                self.established = value
            case Resumed():
                self.resumed = value
                self.ready.set()
            case Ready():
                self.ready.set()
            case Stats(underruns=underruns):
                self.account.underruns = underruns
            case ErrorNotice(code):
                self.errors.append(code)
            case Dropped(what, count):
                self.account.dropped[what] += count
                self._advance()
            case Draining():
                self.draining = True


@asynccontextmanager
async def dialled(
    port: int, path: str = "/ws", *, receive_buffer_bytes: int | None = None, queued_messages: int = 64
) -> AsyncIterator[tuple[WebSocketConnection, trio.SocketStream]]:
    """A WebSocket and the socket under it, which is closed at the end, however that comes.

    Raises:
        ConnectionRejected: the server refused the upgrade.
        OSError: nobody listens.
    """
    sock = trio.socket.socket()
    if receive_buffer_bytes is not None:
        sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, receive_buffer_bytes)
    await sock.connect(("127.0.0.1", port))
    async with trio.SocketStream(sock) as stream, trio.open_nursery() as nursery:
        with trio.fail_after(CONNECT_S):
            ws = await wrap_client_stream(
                nursery,
                stream,
                f"127.0.0.1:{port}",
                path,
                max_message_size=MESSAGE_BYTES,
                message_queue_size=queued_messages,
            )
        yield ws, stream
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def talking(
    port: int,
    path: str = "/ws",
    *,
    configure: Configure | None = None,
    honest: bool = True,
    memory: Memory | None = None,
) -> AsyncIterator[Talker]:
    """A talker that listens; from `ready` on, unless the server closed before."""
    async with dialled(port, path) as (ws, stream), trio.open_nursery() as nursery:
        talker = Talker(ws, stream, honest=honest, memory=memory)
        nursery.start_soon(talker.listen)
        await first_of(talker.ready.wait, talker.closed.wait)
        if configure is not None:
            await talker.say(outgoing.metadata(configure))
        yield talker
        nursery.cancel_scope.cancel()


async def first_of(*waits: Callable[[], Awaitable[object]]) -> None:
    """Wait until one of several has come."""
    async with trio.open_nursery() as nursery:

        async def wait(for_it: Callable[[], Awaitable[object]]) -> None:
            await for_it()
            nursery.cancel_scope.cancel()

        for each in waits:
            nursery.start_soon(wait, each)


def _now_ns() -> int:
    return round(trio.current_time() * 1e9)
