"""Complete conversations over a real socket; Trio's clock runs fast, so that waits are short."""

import itertools
import struct

import numpy as np
import pytest
import trio
from msgspec.structs import replace
from support.client.arithmetic_agent import (
    DELAY_FRAMES,
    GREETING,
    Agent,
    answers_to,
    raw,
    serving,
    tcp_server,
)
from trio.testing import MockClock
from trio_websocket import serve_websocket

from pipeline.client.session import ConversationError, EventHandler, ServerUnavailableError, converse
from pipeline.client.source import CapturedFrame, now_ns
from pipeline.protocol import outgoing
from pipeline.protocol.events import Acked, AudioReceived, HeartbeatReceived, MetadataReceived
from pipeline.protocol.metadata import (
    Bye,
    CapacityInfo,
    Configure,
    ConnectionEstablished,
    Draining,
    Dropped,
    ErrorNotice,
    Queued,
    Ready,
    Resumed,
    Stats,
)
from pipeline.protocol.packets import PacketType

SPEECH = np.random.default_rng(1).uniform(-1, 1, 12_000).astype(np.float32)  # 0.5 s: 6.25 frames
FRAMES = 7


@pytest.fixture
def fast_clock():
    """Time passes while everything waits for it, and only then: a busy machine makes nobody late."""
    return MockClock(autojump_threshold=0.01)


class Recorder(EventHandler):
    """Records its calls."""

    def __init__(self):
        self.audio, self.text, self.notices = [], [], []

    def on_audio(self, pcm):
        self.audio.append(pcm.copy())

    def on_text(self, text, *, final):
        self.text.append((text, final))

    def on_notice(self, message):
        self.notices.append(message)

    @property
    def pcm(self):
        return np.concatenate(self.audio)


async def failing(kind, speech=SPEECH, error=ConversationError, *, wait_for_close=False):
    """Talk to an agent that makes the conversation fail; the error and the agent."""
    async with serving(kind) as served:
        with pytest.raises(error) as failed:
            await converse(served.url, speech)
        if wait_for_close:
            await served.agent.over.wait()
    assert type(failed.value) is error
    return failed.value, served.agent


async def test_every_frame_is_answered_in_order(fast_clock):
    """Frames out are frames in less the model's delay, sample for sample, and the final text arrives."""
    handler = Recorder()
    async with serving() as served:
        report = await converse(served.url, SPEECH, handler=handler, prebuffer_ms=60_000)
    assert (report.frames_in, report.frames_out) == (FRAMES, FRAMES - DELAY_FRAMES)
    assert np.array_equal(handler.pcm, answers_to(SPEECH))
    assert report.in_order
    assert report.underruns == 0
    latency = report.latency_ms
    assert 0 <= latency.p50 <= latency.p95 <= latency.p99 <= latency.max
    words = [f"w{k}" for k in range(FRAMES)]
    assert report.text == " ".join(words)
    partials = [(" ".join(words[: k + 1]), False) for k in range(FRAMES)]
    assert handler.text == [*partials, (report.text, True)]
    assert report.close == 1000
    assert report.model == GREETING.model
    assert not report.errors
    assert not report.dropped


async def test_the_speech_is_sent_as_a_frame_each_80_ms(fast_clock):
    """The server receives the speech, padded with silence, in steps of exactly 80 ms, then `bye`."""
    async with serving() as served:
        await converse(served.url, SPEECH)
    received = np.concatenate(served.agent.frames)
    assert np.array_equal(received[: len(SPEECH)], SPEECH)
    assert not received[len(SPEECH) :].any()
    stamps = [event.timestamp_ms for event in served.agent.events if isinstance(event, AudioReceived)]
    assert [b - a for a, b in itertools.pairwise(stamps)] == [80.0] * (FRAMES - 1)
    assert MetadataReceived(Bye()) in served.agent.events
    assert served.agent.conversation.unacked == ()


async def test_sampling_takes_effect_from_the_first_frame(fast_clock):
    """`configure` is the first packet that the server receives, before any audio."""
    configure = Configure(temperature=0.0, text_temperature=0.0, seed=7)
    async with serving() as served:
        await converse(served.url, SPEECH, configure=configure)
    assert served.agent.events[0] == MetadataReceived(configure)
    assert isinstance(served.agent.events[1], AudioReceived)


async def test_no_audio_is_sent_while_queued(fast_clock):
    """Audio starts at `ready`, without a burst to make up for the wait."""

    class Busy(Agent):
        async def greet(self):
            await self.send(outgoing.metadata(self.greeting))
            for position in (2, 1):
                await self.send(outgoing.metadata(Queued(position)))
                await trio.sleep(1)
            self.ready_ms = trio.current_time() * 1000
            await self.send(outgoing.metadata(Ready()))

        async def answer(self, index, timestamp_ms):
            if index == 0:
                self.first_ms = trio.current_time() * 1000
            await super().answer(index, timestamp_ms)

    handler = Recorder()
    async with serving(Busy) as served:
        report = await converse(served.url, SPEECH, handler=handler)
    assert report.frames_in == FRAMES
    assert not served.agent.conversation.statistics().refused
    assert served.agent.first_ms - served.agent.ready_ms >= 80
    assert handler.notices[1:] == ["queued, position 2", "queued, position 1", "ready"]


class Slow(Agent):
    greeting = replace(GREETING, capacity=CapacityInfo(0, "Use a smaller model."))


async def test_a_person_is_told_of_a_machine_that_is_too_slow(fast_clock):
    """With the server's own advice, before the conversation begins."""
    handler = Recorder()
    async with serving(Slow) as served:
        await converse(served.url, SPEECH, handler=handler)
    assert handler.notices[1:] == ["Use a smaller model.", "ready"]


class Busy(Agent):
    """Puts its session back at frame 4, and lets it run again after half a second."""

    async def answer(self, index, timestamp_ms):
        await super().answer(index, timestamp_ms)
        if index == 3:
            for position in (2, 1):
                await self.send(outgoing.metadata(Queued(position)))
            await self.send(outgoing.text_final("a"))
            event = None
            while not isinstance(event, Acked):  # what was sent before the client knew is not processed
                message = await self.ws.get_message()
                event, _ = self.conversation.receive(message, now_s=trio.current_time())
                if isinstance(event, AudioReceived):
                    await self.send(outgoing.metadata(Dropped("audio", 1)))
            await trio.sleep(0.5)
            await self.send(outgoing.metadata(Ready()))


async def test_a_conversation_that_is_put_back_pauses_and_goes_on(fast_clock):
    """Nothing is sent meanwhile, the person is told, and every frame that was sent is accounted for."""
    recorder = Recorder()
    speech = np.tile(SPEECH, 4)
    async with serving(Busy) as served:
        report = await converse(served.url, speech, handler=recorder, configure=Configure(seed=1))
    assert (report.put_back, report.close) == (1, 1000)
    assert report.frames_out == report.frames_in - DELAY_FRAMES - report.dropped.get("audio", 0)
    assert report.frames_in < len(speech) / 1920 - 3
    assert recorder.notices[1:] == [
        "ready",
        "the server is busy and the conversation is paused: queued, position 2",
        "the server is busy and the conversation is paused: queued, position 1",
        "the conversation continues",
    ]
    configured = [e for e in served.agent.events if isinstance(e, MetadataReceived)]
    assert sum(isinstance(event.value, Configure) for event in configured) == 1


async def test_heartbeats_are_answered_and_sent(fast_clock):
    """A server's heartbeat is answered, and a silent server receives ours."""

    class Heartbeats(Agent):
        async def greet(self):
            await self.send(self.conversation.heartbeat(now_s=trio.current_time()))
            await self.send(outgoing.metadata(self.greeting))
            await trio.sleep(11)
            await self.send(outgoing.metadata(Ready()))

    async with serving(Heartbeats) as served:
        await converse(served.url, SPEECH)
    beats = sum(isinstance(event, HeartbeatReceived) for event in served.agent.events)
    assert beats >= 3


def answering(order):
    """An agent that answers frame k with the timestamp of frame `order[k]`, or not at all where None."""

    class Disorderly(Agent):
        async def answer(self, index, timestamp_ms):
            if order[index] is not None:
                echo_ms = timestamp_ms + 80 * (order[index] - index)
                await self.send(outgoing.audio(bytes(4 * 1920), echo_ms))

    return Disorderly


@pytest.mark.parametrize(
    ("order", "in_order", "frames_out"),
    [
        ([None, None, 2, 3, 4, 5, 6], True, 5),
        ([None, None, 2, 3, 3, 5, 6], False, 5),
        ([None, None, 2, 4, 3, 5, 6], False, 5),
        ([None, 1, 2, 3.5, 4, 5, 6], False, 6),
    ],
)
async def test_an_echo_out_of_order_is_reported(fast_clock, order, in_order, frames_out):
    """An echo that is repeated, swapped, or of no frame that was sent is out of order."""
    async with serving(answering(order)) as served:
        report = await converse(served.url, SPEECH)
    assert report.in_order is in_order
    assert report.frames_out == frames_out


async def test_dropped_frames_are_not_waited_for(fast_clock):
    """Frames that the server reports as dropped are not expected, are counted, and are an underrun."""

    class Dropping(Agent):
        async def answer(self, index, timestamp_ms):
            if index == 4:
                await self.send(outgoing.metadata(Dropped("audio", 1)))
            else:
                await super().answer(index, timestamp_ms)

    async with serving(Dropping) as served:
        report = await converse(served.url, SPEECH, prebuffer_ms=60_000)
    assert report.frames_out == FRAMES - DELAY_FRAMES - 1
    assert report.dropped == {"audio": 1}
    assert report.underruns == 1
    assert not report.in_order


async def test_frames_that_never_come_are_a_failure(fast_clock):
    """After a time without the expected answers, the conversation has failed."""
    error, agent = await failing(answering([None] * 5 + [5, 6]))
    assert str(error) == "3 frames were not answered within 5 s"
    assert error.report.frames_out == 2
    assert MetadataReceived(Bye()) in agent.events


async def test_a_server_that_closes_midway_is_one_sentence(fast_clock):
    """The message has the close code and the server's error; the report covers the conversation so far."""

    class Failing(Agent):
        async def answer(self, index, timestamp_ms):
            await super().answer(index, timestamp_ms)
            if index == 3:
                await self.send(outgoing.metadata(ErrorNotice("internal", "the decoder failed")))
                await self.ws.aclose(1011, "internal error")

    error, _ = await failing(Failing)
    assert str(error).startswith("the server closed the conversation (1011: the decoder failed) after ")
    assert (error.report.close, error.report.close_reason) == (1011, "internal error")
    assert error.report.frames_out == 2
    assert error.report.errors == {"internal": 1}
    assert error.report.text == "w0 w1 w2 w3"


async def test_a_connection_that_breaks_is_one_sentence(fast_clock):
    """A connection that ends without a close is a failure, close code 1006."""

    class Vanishing(Agent):
        async def answer(self, *_):
            await trio.aclose_forcefully(self.ws._stream)
            await trio.sleep_forever()

    error, _ = await failing(Vanishing)
    assert error.report.close == 1006
    assert error.report.frames_in >= 1


@pytest.mark.parametrize(
    "message",
    [
        "text",
        b"",
        b"\x10",
        raw(PacketType.TEXT_PARTIAL, b"\xff"),
        raw(PacketType.METADATA, b"[]"),
        raw(PacketType.AUDIO_CHUNK, bytes(4)),
        raw(PacketType.AUDIO_CHUNK, b"\xff" * 4 * 1920),
    ],
)
async def test_a_server_that_breaks_the_protocol_is_closed_with_1002(fast_clock, message):
    """An invalid message ends the conversation, and the error names the server as the cause."""

    class Nonsense(Agent):
        async def answer(self, *_):
            await self.ws.send_message(message)

    error, agent = await failing(Nonsense, wait_for_close=True)
    assert str(error).startswith("the server broke the protocol: ")
    assert error.report.close == 1002
    assert agent.closed == 1002


async def test_a_silent_server_is_a_failure(fast_clock):
    """Nothing for 15 s, not even heartbeats, is a loss, and without a session nothing can be resumed."""

    class Silent(Agent):
        async def run(self):
            await trio.sleep_forever()

    error, _ = await failing(Silent)
    assert str(error).startswith("the connection was lost (the server stopped responding")


async def test_a_server_that_does_not_read_is_a_failure(fast_clock):
    """A write that is not complete in 5 s is a loss; without a token it ends the conversation."""

    class NotReading(Agent):
        async def run(self):
            await self.greet()
            self.ws._reader_running = False
            await trio.sleep_forever()

    async def torrent():
        for k in range(5000):
            yield CapturedFrame(np.zeros(1920, np.float32), now_ns() + k * 80_000_000)

    error, _ = await failing(NotReading, torrent())
    assert str(error).startswith("the connection was lost (the server did not read for 5 s)")


async def test_a_refused_upgrade_has_a_reason_and_a_retry_time(fast_clock):
    """HTTP 503 instead of a WebSocket: the server's message, and its Retry-After."""

    async def refuse(request):
        headers = [(b"Retry-After", b"3"), (b"Content-Type", b"application/json")]
        await request.reject(
            503,
            extra_headers=headers,
            body=b'{"error":{"code":"full","message":"all lanes are taken"}}',
        )

    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_websocket, refuse, "127.0.0.1", 0, None)
        with pytest.raises(ServerUnavailableError) as refused:
            await converse(f"ws://127.0.0.1:{server.port}/ws", SPEECH)
        nursery.cancel_scope.cancel()
    assert str(refused.value) == ("the server refused: all lanes are taken (HTTP 503); try again in 3 s")
    assert refused.value.retry_after_s == 3
    assert refused.value.report.close is None


async def test_a_refusal_after_the_upgrade_has_a_reason_and_a_retry_time(fast_clock):
    """`error` and close 1013 before `ready`: the same refusal, as browsers receive it."""

    class Full(Agent):
        async def greet(self):
            error = ErrorNotice("full", "all lanes are taken", retry_after_ms=2500)
            await self.send(outgoing.metadata(error))
            await self.ws.aclose(1013)

    error, _ = await failing(Full, error=ServerUnavailableError)
    assert str(error) == "the server closed the conversation (1013: all lanes are taken)"
    assert error.retry_after_s == 2.5


async def test_a_refused_connection_is_one_sentence(fast_clock):
    """The message is "connection refused", and trying again may help."""
    async with tcp_server(trio.aclose_forcefully) as port:
        pass
    for host in ("127.0.0.1", "localhost"):
        with pytest.raises(ServerUnavailableError, match="connection refused"):
            await converse(f"ws://{host}:{port}/ws", SPEECH)


async def reset(stream):
    """Close a connection so that the peer gets a reset."""
    stream.socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, struct.pack("ii", 1, 0))
    await trio.aclose_forcefully(stream)


@pytest.mark.parametrize("heard", ["nothing", "the request"])
@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 10"])
@pytest.mark.parametrize("close", [trio.aclose_forcefully, reset])
async def test_a_connection_that_is_closed_at_once_is_one_sentence(heard, answer, close):
    """As by a server that is just being restarted: it is noticed then, and trying again may help."""

    async def closing(stream):
        if heard == "the request":
            await stream.receive_some()
        await stream.send_all(answer)
        await close(stream)

    async with tcp_server(closing) as port:
        with pytest.raises(ServerUnavailableError, match="closed the connection at once") as failed:
            await converse(f"ws://127.0.0.1:{port}/ws", SPEECH)
    assert failed.value.retry_after_s > 0


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "is not a WebSocket (HTTP 200)"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "is not a WebSocket (HTTP 404)"),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", "behind it does not (HTTP 502)"),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", "for example (HTTP 403)"),
        (b"", "did not open a WebSocket within 10 s"),
    ],
)
async def test_what_is_not_a_server_of_ours_is_one_sentence(fast_clock, answer, sentence):
    """Another program at the address, or one that never responds, is reported as such."""

    async def other(stream):
        await stream.receive_some()
        await stream.send_all(answer)
        await trio.sleep_forever()

    async with tcp_server(other) as port:
        with pytest.raises(ConversationError) as failed:
            await converse(f"ws://127.0.0.1:{port}/ws", SPEECH)
    assert str(failed.value).endswith(sentence)
    assert type(failed.value) is ConversationError


@pytest.mark.parametrize("when", ["queued", "speaking"])
async def test_stopping_sends_bye(fast_clock, when):
    """Once `stop` is set the client sends `bye` at once, queued or sending audio, and that is no failure."""
    stop = trio.Event()

    class Waiting(Agent):
        async def greet(self):
            await self.send(outgoing.metadata(self.greeting))
            if when == "queued":
                stop.set()
            else:
                await self.send(outgoing.metadata(Ready()))

        async def answer(self, index, _):
            if index == 3:
                stop.set()

    async with serving(Waiting) as served:
        report = await converse(served.url, np.zeros(24_000 * 60, np.float32), stop=stop)
    assert MetadataReceived(Bye()) in served.agent.events
    assert report.frames_in == len(served.agent.frames) < 100
    assert report.close == 1000


async def test_an_exception_of_the_handler_reaches_the_caller(fast_clock):
    """It is raised unchanged, and the connection is closed."""

    class DiskFullError(Exception):
        pass

    class Full(EventHandler):
        def on_audio(self, _):
            raise DiskFullError

    async with serving() as served:
        with pytest.raises(DiskFullError):
            await converse(served.url, SPEECH, handler=Full())
        await served.agent.over.wait()
    assert served.agent.closed == 1000


def test_the_greeting_of_the_test_server_is_valid():
    """The test server's first packet is a `connection_established`."""
    assert isinstance(GREETING, ConnectionEstablished)


class Breaking(Agent):
    """Closes its first connection after three frames, and resumes the session on the next."""

    def __init__(self, ws):
        super().__init__(ws)
        self.resumes = "resume=" in ws.path
        if self.resumes:  # its model is past its delay
            self.frames += [np.zeros(1920, np.float32)] * DELAY_FRAMES

    async def greet(self):
        token = "t2" if self.resumes else "t1"
        await self.send(outgoing.metadata(replace(GREETING, resume_token=token)))
        if self.resumes:
            await self.send(outgoing.metadata(Resumed(GREETING.session_id, token, (1,), 2)))
        else:
            await self.send(outgoing.metadata(Ready()))
            await self.send(outgoing.text_final("one"))
        await self.send(outgoing.text_final("two"))

    async def answer(self, index, timestamp_ms):
        if not self.resumes and index == 2:
            await self.ws.aclose(1013)
        await super().answer(index, timestamp_ms)


async def test_a_broken_connection_is_resumed_and_no_text_is_shown_twice(fast_clock):
    """The client reconnects once, with its token, and ignores text that is sent again."""
    handler = Recorder()
    async with serving(Breaking) as served:
        report = await converse(served.url, np.tile(SPEECH, 4), handler=handler)
    assert [agent.ws.path for agent in served.agents] == ["/ws", "/ws?resume=t1"]
    finals = [text for text, final in handler.text if final]
    assert finals[:2] == ["one", "two"]
    assert "two" not in finals[2:]
    assert (report.resumed, report.close) == (1, 1000)
    assert "session resumed" in handler.notices


class HalfOpen(Breaking):
    """Its first connection dies after three frames without being closed: nothing comes any more."""

    reads_on = True

    async def answer(self, index, timestamp_ms):
        if self.resumes:
            await super().answer(index, timestamp_ms)
        elif index == 2:
            self.ws._reader_running = self.reads_on
            await trio.sleep_forever()


class Deaf(HalfOpen):
    """The same in one direction: it receives nothing more, and goes on sending what it has counted."""

    async def answer(self, index, timestamp_ms):
        if self.resumes or index < 2:
            await super().answer(index, timestamp_ms)
            return
        counted = Stats(3, 1, 0, 0, 1, 1, 0)
        while True:
            await self.send(outgoing.metadata(counted))
            await trio.sleep(1)


class NothingMoves(HalfOpen):
    """The same, and what is written is not taken either."""

    reads_on = False


async def endless():
    for k in itertools.count():
        yield CapturedFrame(np.zeros(1920, np.float32), now_ns() + k)
        await trio.sleep(2)  # so slowly that no buffer fills up before the silence is noticed


async def torrent():
    for k in range(3000):
        yield CapturedFrame(np.zeros(1920, np.float32), now_ns() + k * 80_000_000)
    async for frame in endless():
        yield frame


@pytest.mark.parametrize(
    ("kind", "speech", "notice"),
    [
        pytest.param(HalfOpen, np.tile(SPEECH, 4), "stopped responding", id="no answers at the end"),
        pytest.param(HalfOpen, endless, "nothing received for", id="silence"),
        pytest.param(Deaf, np.tile(SPEECH, 4), "did not reach the server", id="nothing arrives there"),
        pytest.param(NothingMoves, torrent, "did not read", id="a write that does not finish"),
    ],
)
async def test_a_connection_that_dies_without_closing_is_resumed(fast_clock, kind, speech, notice):
    """However the loss is noticed, the client comes back with its token, and the conversation goes on."""
    stop = trio.Event()

    class Resumed(kind):
        async def answer(self, index, timestamp_ms):
            await super().answer(index, timestamp_ms)
            if index > 10 and callable(speech):
                stop.set()

    handler = Recorder()
    async with serving(Resumed) as served:
        source = speech() if callable(speech) else speech
        report = await converse(served.url, source, handler=handler, stop=stop)
    assert [agent.ws.path for agent in served.agents] == ["/ws", "/ws?resume=t1"]
    assert any(notice in each for each in handler.notices), handler.notices
    assert (report.resumed, report.close) == (1, 1000)


class Gone(Breaking):
    """Closes its first connection, and refuses to resume."""

    async def greet(self):
        if self.resumes:
            await self.ws.aclose(1013)
        await super().greet()


async def test_a_connection_that_cannot_be_restored_ends_the_conversation(fast_clock):
    """The client tries several times, and then raises an error."""
    async with serving(Gone) as served:
        with pytest.raises(ConversationError):
            await converse(served.url, np.tile(SPEECH, 4))
    assert 1 < len(served.agents) < 20


class ShuttingDown(Agent):
    """Shuts down after three frames; the next agent is another server, which does not know the session."""

    served = 0

    async def greet(self):
        ShuttingDown.served += 1
        self.is_first = ShuttingDown.served == 1
        own = replace(GREETING, session_id=f"s{ShuttingDown.served}", resume_token="t")
        await self.send(outgoing.metadata(own))
        await self.send(outgoing.metadata(Ready()))

    async def answer(self, index, timestamp_ms):
        await super().answer(index, timestamp_ms)
        if self.is_first and index == 2:
            await self.send(outgoing.metadata(Draining()))
            await self.ws.aclose(1001)


async def test_after_a_shutdown_the_client_starts_a_new_session(fast_clock, monkeypatch):
    """The client reconnects without the token, and reports that the session is a new one."""
    monkeypatch.setattr(ShuttingDown, "served", 0)
    handler = Recorder()
    async with serving(ShuttingDown) as served:
        report = await converse(served.url, np.tile(SPEECH, 4), handler=handler)
    assert [agent.ws.path for agent in served.agents] == ["/ws", "/ws"]
    assert (report.renewed, report.resumed, report.close) == (1, 0, 1000)
    assert report.in_order
    assert "started a new session: the previous one has ended" in handler.notices
    assert report.frames_out > 3


async def test_an_unexpected_close_ends_the_conversation(fast_clock):
    """Close code 1001 without `draining` does not cause a reconnect."""

    class Leaving(Agent):
        async def answer(self, index, timestamp_ms):
            await self.ws.aclose(1001)

    error, _ = await failing(Leaving)
    assert "1001" in str(error)


class Persona(Agent):
    """A server with voices that begins anew with what `configure` asks for, and drops audio until then."""

    greeting = replace(GREETING, model=replace(GREETING.model, voices=("NATF0",)))

    def __init__(self, ws):
        super().__init__(ws)
        self.asked = []

    async def run(self):
        await self.greet()
        configured = False
        while not configured:
            event, _ = self.conversation.receive(await self.ws.get_message(), now_s=trio.current_time())
            match event:
                case AudioReceived():
                    raise AssertionError("audio before the session has its voice")
                case MetadataReceived(Configure() as change):
                    self.asked.append((change.voice, change.role))
                    configured = True
        await trio.sleep(1)
        await self.begin(change)
        self.greet = trio.lowlevel.checkpoint
        await super().run()

    async def begin(self, change):
        await self.send(outgoing.metadata(Ready(change.voice, change.role)))


async def test_audio_waits_until_the_session_has_its_voice(fast_clock):
    """No frame is lost that the server would have dropped."""
    async with serving(Persona) as served:
        report = await converse(served.url, SPEECH, configure=Configure(voice="NATF0", role="a teacher"))
    assert served.agent.asked == [("NATF0", "a teacher")]
    assert report.frames_in == report.frames_out + DELAY_FRAMES == FRAMES


async def test_what_the_session_has_already_is_not_asked_for(fast_clock):
    """Or it would be computed anew while audio is sent."""

    class Default(Agent):
        greeting = Persona.greeting

        async def greet(self):
            await self.send(outgoing.metadata(self.greeting))
            await self.send(outgoing.metadata(Ready("NATF0", None)))

    async with serving(Default) as served:
        await converse(served.url, SPEECH, configure=Configure(voice="NATF0", seed=3))
    changes = [event.value for event in served.agent.events if isinstance(event, MetadataReceived)]
    assert changes[0] == Configure(seed=3)


async def test_a_refused_voice_ends_the_conversation(fast_clock):
    """With the server's sentence; and so does a model that takes none."""

    class Refuses(Persona):
        async def begin(self, change):
            await self.send(outgoing.metadata(ErrorNotice("prompt_refused", "there is no voice X")))
            await self.send(outgoing.metadata(Ready()))

    async with serving(Refuses) as served:
        with pytest.raises(ConversationError, match="there is no voice X"):
            await converse(served.url, SPEECH, configure=Configure(voice="X"))
    async with serving() as served:
        with pytest.raises(ConversationError, match="arithmetic takes neither a voice nor a role"):
            await converse(served.url, SPEECH, configure=Configure(role="a teacher"))
