"""Faulty clients, over real sockets: each has one fault, and checks that the server responds as specified.

A fault returns once the server has responded to it, and raises `ViolationError` where the response is
not the specified one. Other sessions must not be affected.
"""

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

import trio
from trio_websocket import ConnectionClosed, ConnectionRejected

from pipeline.loadtest.client import LoadClient, ViolationError, connect_client, open_socket, speech
from pipeline.loadtest.fuzzing import Fuzzer, Outcome, expected_outcome
from pipeline.protocol import outgoing
from pipeline.protocol.metadata import Configure
from pipeline.protocol.packets import Packet, PacketType, Priority, encode
from pipeline.units import FRAME_MS

HEARTBEAT_TIMEOUT_S: Final = 15.0
MARGIN_S: Final = 10.0  # on top of a specified time, for a busy machine
NO_READ_S: Final = 90.0  # to fill two socket buffers at 100 kB/s, plus the deadline of a write
RETRY_S: Final = 0.2
BATCH_PACKETS: Final = 12
FULL: Final = 503

FaultyClient = Callable[[int, random.Random], Awaitable[None]]


async def leave_without_bye(port: int, rng: random.Random) -> None:
    """Connect, and leave soon, before or after ready, without a bye."""
    async with connect_client(port) as client:
        await client.send_audio(rng.randrange(40))


async def jitter(port: int, rng: random.Random) -> None:
    """Send every frame 0 to 300 ms late. Each is answered or reported as dropped."""
    async with connect_client(port) as client:
        if client.ready.is_set():
            await client.send_audio(rng.randrange(60, 200), delay_s=lambda: rng.uniform(0, 0.3))
            await client.finish()


async def pause(port: int, rng: random.Random) -> None:
    """Pause for seconds, then send frames all at once. The session continues."""
    async with connect_client(port) as client:
        if client.ready.is_set():
            for _ in range(3):
                await client.send_audio(rng.randrange(10, 50))
                await trio.sleep(rng.uniform(0.5, 4))
                for _ in range(rng.randrange(1, 30)):
                    await client.send_frame()
            await client.finish()


async def reconfigure(port: int, rng: random.Random) -> None:
    """Change the sampling parameters with every frame, within bounds. Every frame is answered."""
    async with connect_client(port, configure=Configure(seed=1)) as client:
        if client.ready.is_set():
            for _ in range(rng.randrange(20, 80)):
                change = Configure(temperature=rng.uniform(0, 2), top_k=rng.randrange(50))
                await client.send(outgoing.metadata(change))
                await client.send_audio(1)
            await client.finish()


async def reset(port: int, rng: random.Random) -> None:
    """Reset the connection in the middle of a frame (RST), and mostly reconnect: the session is resumed."""
    async with connect_client(port) as client:
        if not client.ready.is_set():
            return
        await client.send_audio(rng.randrange(5, 60))
        await client.send_partial_frame()
        client.reset_connection()
        token = client.established.resume_token if client.established else None
    if token is None or rng.random() < 0.3:
        return
    await trio.sleep(rng.uniform(0, 2))
    async with connect_client(port, f"/ws?resume={token}", state=client.state) as again:
        _expect(again.resumed, f"a session whose connection was reset was not resumed ({again.errors})")
        await again.send_audio(rng.randrange(5, 40))
        await again.close()


async def stall_mid_frame(port: int, rng: random.Random) -> None:
    """Stop sending in the middle of a frame, without closing. The server closes."""
    async with connect_client(port) as client:
        if not client.ready.is_set():
            return
        await client.send_audio(rng.randrange(30))
        await client.send_partial_frame()
        with trio.move_on_after(HEARTBEAT_TIMEOUT_S + MARGIN_S) as wait:
            await client.closed.wait()
        _expect(not wait.cancelled_caught, "a client that stopped in the middle of a frame was not closed")


async def idle(port: int, rng: random.Random) -> None:  # noqa: ARG001 - the signature of every fault
    """Send nothing at all. The server sends the error `silent`, and closes with 1013."""
    async with connect_client(port) as client:
        if not client.ready.is_set():
            return
        client.is_muted = True
        with trio.move_on_after(HEARTBEAT_TIMEOUT_S + MARGIN_S):
            await client.closed.wait()
        _expect(client.close_code == 1013, f"a silent client was closed with {client.close_code}, not 1013")
        _expect("silent" in client.errors, "a silent client got no error `silent`")


async def no_read(port: int, rng: random.Random) -> None:  # noqa: ARG001
    """Send audio and never read. The server closes the connection."""
    async with open_socket(port, receive_buffer_bytes=4096, queued_messages=1) as (ws, _):
        message = encode(Packet(PacketType.AUDIO_CHUNK, Priority.CRITICAL, 0, 0.0, speech()[0]))
        with trio.move_on_after(NO_READ_S) as wait, suppress(ConnectionClosed):
            while True:
                await ws.send_message(message)
                await trio.sleep(FRAME_MS / 1000)
        _expect(not wait.cancelled_caught, f"a client that never reads was served for {NO_READ_S:.0f} s")


async def random_packets(port: int, rng: random.Random) -> None:
    """Random packets, each with the specified response, until one ends the connection."""
    await fuzz_socket(port, Fuzzer(rng.randrange(2**32)), packets=200)


FAULTS: Final[Mapping[str, FaultyClient]] = {
    fault.__name__: fault
    for fault in (
        leave_without_bye,
        jitter,
        pause,
        reconfigure,
        reset,
        stall_mid_frame,
        idle,
        no_read,
        random_packets,
    )
}


async def fuzz_socket(port: int, fuzzer: Fuzzer, packets: int) -> Counter[str]:
    """Send `packets` random messages over as many connections as it takes; counts of their effects.

    Raises:
        ViolationError: a response differs from the specified one.
    """
    outcomes: Counter[str] = Counter()
    while (left := packets - outcomes.total()) > 0:
        try:
            async with connect_client(port, check_answers=False) as client:
                if client.ready.is_set():
                    await _fuzz_connection(client, fuzzer, left, outcomes)
        except* ConnectionRejected as refusals:
            if any(refusal.status_code != FULL for refusal in flatten_errors(refusals)):
                raise
            await trio.sleep(RETRY_S)
    return outcomes


async def _fuzz_connection(client: LoadClient, fuzzer: Fuzzer, packets: int, outcomes: Counter[str]) -> None:
    """Send batches, each followed by a round trip, until a packet ends the connection."""
    sent = 0
    while sent < packets:
        errors, acked, batch = len(client.errors), client.unmatched_acks, list[Outcome]()
        while len(batch) < min(BATCH_PACKETS, packets - sent) and not (batch and batch[-1].ends):
            message = fuzzer.message()
            batch.append(expected_outcome(message))
            await client.send_raw(message)
        sent += len(batch)
        outcomes.update(outcome.effect for outcome in batch)
        with trio.move_on_after(MARGIN_S) as wait:
            await (client.closed.wait() if batch[-1].ends else client.round_trip())
        _expect(not wait.cancelled_caught, f"no response to {batch[-1]} within {MARGIN_S:.0f} s")
        if batch[-1].ends:
            code = batch[-1].close_code
            _expect(
                client.close_code == code, f"the response to {batch[-1]} was a close with {client.close_code}"
            )
        else:
            _expect(not client.closed.is_set(), f"closed with {client.close_code} after {batch}")
        if batch[-1].name == "too_big":
            return  # detected by the WebSocket reader: replies that are queued are not sent any more
        expected = Counter(outcome.name for outcome in batch if outcome.effect in ("refused", "fatal"))
        actual = Counter(client.errors[errors:])
        _expect(actual == expected, f"expected the errors {dict(expected)}, got {dict(actual)}")
        acks = sum(outcome.ack is not None for outcome in batch)
        _expect(
            client.unmatched_acks - acked == acks,
            f"{client.unmatched_acks - acked} packets were ACKed, not {acks}",
        )
        if batch[-1].ends:
            return


def flatten_errors(error: BaseException) -> Iterator[Any]:
    """The errors in nested exception groups."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from flatten_errors(inner)
    else:
        yield error


def _expect(condition: object, problem: str) -> None:
    if not condition:
        raise ViolationError(problem)
