"""Conversations that go wrong in one way each, and how the server has to answer: over real sockets.

A rogue returns when its one misdeed is done and answered, and raises `WrongAnswerError` where
the answer is not what the protocol promises. None of them may be felt by anybody else.
"""

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

import trio
from trio_websocket import ConnectionClosed, ConnectionRejected

from pipeline.loadtest.client import Talker, WrongAnswerError, dialled, speech, talking
from pipeline.loadtest.fuzzing import Fuzzer, Verdict, judge
from pipeline.protocol import outgoing
from pipeline.protocol.metadata import Configure
from pipeline.protocol.packets import Packet, PacketType, Priority, encode
from pipeline.units import FRAME_MS

HEARTBEAT_TIMEOUT_S: Final = 15.0
PATIENCE_S: Final = 10.0  # beyond what a law allows, for a busy machine
NOT_READING_S: Final = 90.0  # socket buffers of two ends, filled at 100 kB a second, and a write's deadline
ASK_AGAIN_S: Final = 0.2
BATCH_PACKETS: Final = 12
FULL: Final = 503

Rogue = Callable[[int, random.Random], Awaitable[None]]


async def visit(port: int, dice: random.Random) -> None:
    """Join, and leave again at once: before ready, after ready, in the middle of a word; without a bye."""
    async with talking(port) as talker:
        await talker.speak(dice.randrange(40))


async def shake(port: int, dice: random.Random) -> None:
    """Say every frame 0 to 300 ms late. All are answered, or known to be dropped."""
    async with talking(port) as talker:
        if talker.ready.is_set():
            await talker.speak(dice.randrange(60, 200), late_s=lambda: dice.uniform(0, 0.3))
            await talker.part()


async def pause(port: int, dice: random.Random) -> None:
    """Fall silent for seconds, then say all that was missed at once. The session goes on."""
    async with talking(port) as talker:
        if talker.ready.is_set():
            for _ in range(3):
                await talker.speak(dice.randrange(10, 50))
                await trio.sleep(dice.uniform(0.5, 4))
                for _ in range(dice.randrange(1, 30)):
                    await talker.say_frame()
            await talker.part()


async def retune(port: int, dice: random.Random) -> None:
    """Change the sampling with every frame, within bounds. Everything is answered."""
    async with talking(port, configure=Configure(seed=1)) as talker:
        if talker.ready.is_set():
            for _ in range(dice.randrange(20, 80)):
                change = Configure(temperature=dice.uniform(0, 2), top_k=dice.randrange(50))
                await talker.say(outgoing.metadata(change))
                await talker.speak(1)
            await talker.part()


async def cut(port: int, dice: random.Random) -> None:
    """Break the network in the middle of a frame (RST), and mostly come back: the session goes on."""
    async with talking(port) as talker:
        if not talker.ready.is_set():
            return
        await talker.speak(dice.randrange(5, 60))
        await talker.fall_silent()
        talker.break_off()
        token = talker.established.resume_token if talker.established else None
    if token is None or dice.random() < 0.3:
        return
    await trio.sleep(dice.uniform(0, 2))
    async with talking(port, f"/ws?resume={token}", memory=talker.memory) as again:
        _expect(again.resumed, f"a session that was cut off was not resumed ({again.errors})")
        await again.speak(dice.randrange(5, 40))
        await again.part_at_once()


async def vanish(port: int, dice: random.Random) -> None:
    """Fall silent for good in the middle of a frame, without closing. The server closes."""
    async with talking(port) as talker:
        if not talker.ready.is_set():
            return
        await talker.speak(dice.randrange(30))
        await talker.fall_silent()
        with trio.move_on_after(HEARTBEAT_TIMEOUT_S + PATIENCE_S) as wait:
            await talker.closed.wait()
        _expect(not wait.cancelled_caught, "a client that vanished in the middle of a frame was kept")


async def stare(port: int, dice: random.Random) -> None:  # noqa: ARG001 - a rogue like the others
    """Say nothing at all, for ever. The server says `silent`, and closes with 1013."""
    async with talking(port) as talker:
        if not talker.ready.is_set():
            return
        talker.is_mute = True
        with trio.move_on_after(HEARTBEAT_TIMEOUT_S + PATIENCE_S):
            await talker.closed.wait()
        _expect(talker.close_code == 1013, f"a silent client was closed with {talker.close_code}, not 1013")
        _expect("silent" in talker.errors, "a silent client was not told so")


async def stuff(port: int, dice: random.Random) -> None:  # noqa: ARG001
    """Talk and never read. The server cuts the connection off."""
    async with dialled(port, receive_buffer_bytes=4096, queued_messages=1) as (ws, _):
        message = encode(Packet(PacketType.AUDIO_CHUNK, Priority.CRITICAL, 0, 0.0, speech()[0]))
        with trio.move_on_after(NOT_READING_S) as wait, suppress(ConnectionClosed):
            while True:
                await ws.send_message(message)
                await trio.sleep(FRAME_MS / 1000)
        _expect(not wait.cancelled_caught, f"a client that never reads was served for {NOT_READING_S:.0f} s")


async def babble(port: int, dice: random.Random) -> None:
    """Packets nobody should send, each answered per the table, until one ends the connection."""
    await fuzz_socket(port, Fuzzer(dice.randrange(2**32)), packets=200)


ROGUES: Final[Mapping[str, Rogue]] = {
    rogue.__name__: rogue for rogue in (visit, shake, pause, retune, cut, vanish, stare, stuff, babble)
}


async def fuzz_socket(port: int, fuzzer: Fuzzer, packets: int) -> Counter[str]:
    """Say `packets` messages over as many connections as it takes; what became of them, by effect.

    Raises:
        WrongAnswerError: an answer differs from the table's.
    """
    outcomes: Counter[str] = Counter()
    while (left := packets - outcomes.total()) > 0:
        try:
            async with talking(port, honest=False) as talker:
                if talker.ready.is_set():
                    await _fuzz_connection(talker, fuzzer, left, outcomes)
        except* ConnectionRejected as refusals:
            if any(refusal.status_code != FULL for refusal in leaves(refusals)):
                raise
            await trio.sleep(ASK_AGAIN_S)
    return outcomes


async def _fuzz_connection(talker: Talker, fuzzer: Fuzzer, packets: int, outcomes: Counter[str]) -> None:
    """Batch by batch, a mark after each, by which all is answered; until a packet ends the connection."""
    said = 0
    while said < packets:
        told, acked, batch = len(talker.errors), talker.acks, list[Verdict]()
        while len(batch) < min(BATCH_PACKETS, packets - said) and not (batch and batch[-1].ends):
            message = fuzzer.message()
            batch.append(judge(message))
            await talker.write(message)
        said += len(batch)
        outcomes.update(verdict.effect for verdict in batch)
        with trio.move_on_after(PATIENCE_S) as wait:
            await (talker.closed.wait() if batch[-1].ends else talker.mark())
        _expect(not wait.cancelled_caught, f"{batch[-1]} was not answered within {PATIENCE_S:.0f} s")
        if batch[-1].ends:
            code = batch[-1].close_code
            _expect(
                talker.close_code == code, f"{batch[-1]} was answered by a close with {talker.close_code}"
            )
        else:
            _expect(not talker.closed.is_set(), f"closed with {talker.close_code} after {batch}")
        if batch[-1].name == "too_big":
            return  # found where WebSockets are read: nothing that waits is written any more
        wanted = Counter(verdict.name for verdict in batch if verdict.effect in ("refused", "fatal"))
        got = Counter(talker.errors[told:])
        _expect(got == wanted, f"the table says {dict(wanted)}, the server said {dict(got)}")
        acks = sum(verdict.ack is not None for verdict in batch)
        _expect(talker.acks - acked == acks, f"{talker.acks - acked} packets were acknowledged, not {acks}")
        if batch[-1].ends:
            return


def leaves(error: BaseException) -> Iterator[Any]:
    """The errors in a group of groups."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


def _expect(condition: object, problem: str) -> None:
    if not condition:
        raise WrongAnswerError(problem)
