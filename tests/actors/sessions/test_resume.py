"""A resumed session has the same lane and state; nothing that was kept is lost or sent twice."""

import functools

import numpy as np
import pytest
import trio
from structlog.testing import capture_logs
from support.actors.fakes import (
    DELAY,
    Client,
    MemoryTransport,
    expected,
    make_engine,
    serve_client,
    slow_inline,
    speech,
)

from actors.engine import Engine
from actors.sessions.transport import TransportClosedError
from pipeline.audio.framing import payload_of
from pipeline.errors import SessionRefusedError
from pipeline.protocol import outgoing
from pipeline.protocol.close_reason import CloseReason
from pipeline.protocol.conversation import Conversation
from pipeline.protocol.events import AudioReceived
from pipeline.protocol.metadata import Bye, ConnectionEstablished, Dropped, Ready, Resumed
from pipeline.protocol.unacked import ReceivedIds


async def resumable(nursery: trio.Nursery, grace_ms: int = 10_000, **options) -> Engine:
    limits = {"resume_grace_ms": grace_ms, **options.pop("limits", {})}
    engine = make_engine(limits=limits, **options)
    await nursery.start(engine.run)
    await engine.ready.wait()
    return engine


class Returning(Client):
    """A client that resumes: it knows the ids that it received on earlier connections."""

    def follow(self, before: Client | None) -> "Returning":
        self.ids = before.ids if isinstance(before, Returning) else ReceivedIds()
        self.conversation = Conversation(
            "client",
            heartbeat_every_s=5,
            heartbeat_timeout_s=1e9,
            now_s=trio.current_time(),
            received_ids=self.ids,
        )
        return self

    async def resumed(self) -> Resumed:
        await self.until(lambda c: any(isinstance(m, Resumed) for m in c.metadata))
        return next(m for m in self.metadata if isinstance(m, Resumed))


def token_of(client: Client) -> str:
    greeting = next(m for m in client.metadata if isinstance(m, ConnectionEstablished))
    assert greeting.resume_token is not None
    return greeting.resume_token


async def begin(
    engine: Engine, nursery: trio.Nursery, resume: str | None = None, before=None, transport=None
):
    client = Returning(transport or MemoryTransport(buffer=1000)).follow(before)
    nursery.start_soon(serve_client, engine, client, resume)
    nursery.start_soon(client.listen)
    await client.until(lambda c: any(isinstance(m, Ready | Resumed) for m in c.metadata))
    return client


@pytest.mark.parametrize("cut_after", [1, 5, 6, 9])
async def test_a_resumed_session_continues_where_its_connection_broke(autojump_clock, nursery, cut_after):
    """Wherever it broke: audio and text are those of a session without a break."""
    engine = await resumable(nursery)
    frames = speech(3, 14)
    async with trio.open_nursery() as inner:
        first = await begin(engine, inner)
        await first.stream(frames[:cut_after])
        first.transport.vanish()
        await trio.sleep(3)
        assert engine.health()["lanes"]["open"] == engine.health()["waiting"] == 1
        second = await begin(engine, inner, token_of(first), first)
        await second.stream(frames[cut_after:])
        await second.until(lambda c: len(first.audio) + len(c.audio) == len(frames) - DELAY)
        await second.bye()
    due = expected(frames, 0)
    assert all(map(np.array_equal, [*first.frames, *second.frames], due))
    assert [*first.finals, *second.finals] == ["1 2 3 4", "5 6 7 8", "9 10 11 12", "13 14"]
    health = engine.health()
    assert (health["endings"], health["resumed"], health["waiting"]) == ({"bye": 1}, 1, 0)
    await trio.sleep(0.1)
    assert engine.health()["lanes"]["open"] == 0


class OneWay(MemoryTransport):
    """The client receives everything; once `blocked`, nothing that it sends arrives any more."""

    blocked = False

    async def receive(self) -> bytes | str:
        message = await super().receive()
        while self.blocked:
            message = await super().receive()
        return message


async def test_an_unacked_packet_is_sent_again_with_its_id(autojump_clock, nursery):
    """It had arrived, and its ACK was lost: the client ignores it the second time."""
    engine = await resumable(nursery)
    frames = speech(4, 9)
    async with trio.open_nursery() as inner:
        transport = OneWay(buffer=1000)
        first = await begin(engine, inner, transport=transport)
        await first.stream(frames[:7])
        transport.blocked = True  # the final of frame 8 will arrive, and its ACK will not
        (connection,) = engine._connections
        connection.session.receive_audio(_audio(frames[7]), trio.current_time())
        await first.until(lambda c: len(c.finals) == 2)
        await trio.sleep(0.1)
        transport.vanish()
        await trio.sleep(0.1)
        second = await begin(engine, inner, token_of(first), first)
        reported = await second.resumed()
        assert (reported.unacked, reported.next_id) == ((1,), 2)
        await second.stream(frames[8:])
        await second.bye()
    assert first.finals == ["1 2 3 4", "5 6 7 8"]
    assert second.finals == ["9"]
    assert second.conversation.statistics().ignored["again"] == 1


def _audio(frame: np.ndarray):
    return AudioReceived(0, 1.0, bytes(payload_of(frame)))


async def test_final_text_without_a_connection_is_kept_and_audio_is_dropped(autojump_clock, nursery):
    """Frames on their way when it broke are answered: the text is kept, the audio reported as dropped."""
    engine = await resumable(nursery, runner=functools.partial(slow_inline, batch_s=0.02))
    frames = speech(5, 8)
    async with trio.open_nursery() as inner:
        first = await begin(engine, inner)
        await first.send(outgoing.audio(payload_of(np.concatenate(frames)), 1000.0))
        await trio.sleep(0.01)
        first.transport.vanish()
        await trio.sleep(2)
        assert not first.finals
        second = await begin(engine, inner, token_of(first), first)
        await second.until(lambda c: any(isinstance(m, Dropped) for m in c.metadata))
        await second.bye()
    assert second.finals == ["1 2 3 4", "5 6 7 8"]
    assert not second.audio
    (dropped,) = [m for m in second.metadata if isinstance(m, Dropped)]
    assert dropped == Dropped("agent_audio", 8 - DELAY)


async def test_packets_that_waited_for_a_blocked_write_are_kept(autojump_clock, nursery):
    """The client had stopped reading: the finals in the queue are sent on the next connection."""
    engine = await resumable(nursery)
    async with trio.open_nursery() as inner:
        first = await begin(engine, inner, transport=MemoryTransport(buffer=0, send_timeout_s=1e9))
        first.pause_s = 2.0
        await first.stream(speech(5, 9))
        received = list(first.finals)
        first.transport.vanish()
        await trio.sleep(0.1)
        second = await begin(engine, inner, token_of(first), first)
        await second.bye()
    assert len(received) < 2
    assert [*first.finals, *second.finals] == ["1 2 3 4", "5 6 7 8", "9"]


async def test_a_token_is_valid_once(autojump_clock, nursery):
    """A second connection with it gets a new session and `not_resumed`; the first continues."""
    engine = await resumable(nursery)
    async with trio.open_nursery() as inner:
        first = await begin(engine, inner)
        first.transport.vanish()
        await trio.sleep(1)
        second = await begin(engine, inner, token_of(first), first)
        again = await begin(engine, inner, token_of(first))
        assert again.errors == ["not_resumed"]
        assert not second.over
        assert engine.health()["lanes"]["open"] == 2
        reported = await second.resumed()
        assert reported.resume_token == token_of(second) != token_of(first)
        await second.bye()
        await again.bye()


async def test_a_valid_token_supersedes_a_live_connection(autojump_clock, nursery):
    """The old connection is closed with REPLACED, and the session continues over the new one."""
    engine = await resumable(nursery)
    frames = speech(6, 10)
    async with trio.open_nursery() as inner:
        first = await begin(engine, inner)
        await first.stream(frames[:5])
        second = await begin(engine, inner, token_of(first), first)
        await first.until(lambda c: c.over)
        assert first.transport.close_reason is CloseReason.REPLACED
        await second.stream(frames[5:])
        await second.until(lambda c: len(first.audio) + len(c.audio) == len(frames) - DELAY)
        await second.bye()
    assert all(map(np.array_equal, [*first.frames, *second.frames], expected(frames, 0)))
    assert engine.health()["endings"] == {"bye": 1}


async def test_after_the_grace_time_the_lane_is_free_and_the_token_invalid(autojump_clock, nursery):
    """Exactly `resume_grace_ms` after the loss; the log event has the reason for the loss."""
    engine = await resumable(nursery, grace_ms=4000)
    async with trio.open_nursery() as inner:
        first = await begin(engine, inner)
        with capture_logs() as logs:
            first.transport.vanish()
            await trio.sleep(3.99)
            assert engine.health()["lanes"]["open"] == 1
            assert not [entry for entry in logs if entry["event"] == "session"]
            await trio.sleep(0.1)
        assert engine.health()["lanes"]["open"] == engine.health()["waiting"] == 0
        assert [e["reason"] for e in logs if e["event"] == "session"] == ["peer_closed"]
        late = await begin(engine, inner, token_of(first))
        assert late.errors == ["not_resumed"]
        await late.bye()


class Closing(MemoryTransport):
    """A peer that closes on purpose."""

    async def receive(self) -> bytes | str:
        try:
            return await super().receive()
        except TransportClosedError:
            raise TransportClosedError(deliberate=True) from None


@pytest.mark.parametrize("way", ["bye", "closed", "fault", "queued"])
async def test_a_session_that_is_not_resumable_ends_at_once(autojump_clock, nursery, way):
    """After `bye`, a deliberate close, a protocol error, or the loss of a place in the queue."""
    engine = await resumable(nursery, lanes=1)
    async with trio.open_nursery() as inner:
        if way == "queued":
            holder = await begin(engine, inner)
            client = Returning(MemoryTransport()).follow(None)
            inner.start_soon(serve_client, engine, client)
            inner.start_soon(client.listen)
            await trio.sleep(0.1)
        else:
            client = await begin(engine, inner, transport=Closing())
        if way == "bye":
            await client.send(outgoing.metadata(Bye()))
        elif way == "fault":
            await client.transport.client_send(b"\x30")
        else:
            client.transport.vanish()
        await trio.sleep(0.5)
        assert engine.health()["waiting"] == engine.health()["lanes"]["queued"] == 0
        assert engine.health()["lanes"]["open"] == (1 if way == "queued" else 0)
        if way == "queued":
            await holder.bye()


async def test_a_silent_client_may_resume(autojump_clock, nursery):
    """As a laptop that slept: closed after the heartbeat timeout, and resumable."""
    engine = await resumable(nursery, heartbeat={"every_s": 5, "timeout_s": 15})
    async with trio.open_nursery() as inner:
        client = Returning(MemoryTransport(buffer=1000)).follow(None)
        inner.start_soon(serve_client, engine, client)
        async with trio.open_nursery() as listening:
            listening.start_soon(client.listen)
            await client.ready()
            listening.cancel_scope.cancel()
        await trio.sleep(16)
        assert client.transport.close_reason is CloseReason.TRY_AGAIN_LATER
        assert engine.health()["waiting"] == 1
        second = await begin(engine, inner, token_of(client), client)
        await second.bye()
    assert engine.health()["endings"] == {"bye": 1}


async def test_a_client_that_does_not_read_may_resume(autojump_clock, nursery):
    """A network that stands still looks like this: a write does not finish, and the session waits."""
    engine = await resumable(nursery)
    async with trio.open_nursery() as inner:
        client = Returning(MemoryTransport(buffer=12)).follow(None)
        inner.start_soon(serve_client, engine, client)
        async with trio.open_nursery() as listening:
            listening.start_soon(client.listen)
            await client.ready()
            listening.cancel_scope.cancel()
        await client.stream(speech(1, 20))
        await trio.sleep(5)
        assert client.transport.close_reason is CloseReason.TRY_AGAIN_LATER
        assert engine.health()["waiting"] == 1
        second = await begin(engine, inner, token_of(client), client)
        await second.bye()
    assert engine.health()["endings"] == {"bye": 1}


async def test_an_unused_reservation_does_not_hold_the_lane(autojump_clock, nursery):
    """If the upgrade fails, the session waits out its grace time, and then its lane is free."""
    engine = await resumable(nursery)
    async with trio.open_nursery() as inner:
        first = await begin(engine, inner)
        first.transport.vanish()
        await trio.sleep(1)
        with engine.admit(token_of(first)):
            pass
        assert engine.health()["lanes"]["open"] == 1
        await trio.sleep(10)
        assert engine.health()["lanes"]["open"] == 0
        second = await begin(engine, inner)
        second.transport.vanish()
        await trio.sleep(1)
        with engine.admit(token_of(second)):
            await trio.sleep(60)  # the grace passes while the upgrade is on its way
            assert engine.health()["lanes"]["open"] == 1
        await trio.sleep(0.1)
        assert engine.health()["lanes"]["open"] == 0


async def test_waiting_sessions_end_with_the_engine(autojump_clock, nursery):
    """A drain ends them at once, and their tokens are refused."""
    engine = await resumable(nursery)
    async with trio.open_nursery() as inner:
        first = await begin(engine, inner)
        first.transport.vanish()
        await trio.sleep(1)
        with trio.fail_after(1):
            await engine.drain()
        with pytest.raises(SessionRefusedError):
            engine.admit(token_of(first))
        await trio.sleep(0.1)
    assert engine.health()["endings"] == {"drained": 1}
    assert engine.health()["lanes"]["open"] == 0


async def test_a_replicas_tokens_begin_with_its_name(autojump_clock, nursery):
    """So that a load balancer can route them; without a replica name there is no prefix."""
    for settings, starts in (({"server": {"replica": "r-7"}}, "r-7."), ({}, "")):
        engine = await resumable(nursery, **settings)
        async with trio.open_nursery() as inner:
            token = token_of(await begin(engine, inner))
            assert token.startswith(starts)
            assert "." not in token.removeprefix(starts)
            inner.cancel_scope.cancel()
