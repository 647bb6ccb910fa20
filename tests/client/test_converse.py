"""A whole conversation over a real socket; Trio's clock runs fast, so nothing here waits for long."""

import dataclasses
import itertools

import numpy as np
import pytest
import trio
from support.client.arithmetic_agent import DELAY_FRAMES, GREETING, Agent, answers_to, listening, raw, serving
from trio.testing import MockClock
from trio_websocket import serve_websocket

from pipeline.client.session import Audience, ConversationError, NotTakenError, converse
from pipeline.client.source import Captured, now_ns
from pipeline.protocol import outgoing
from pipeline.protocol.events import AudioReceived, HeartbeatReceived, MetadataReceived
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
)
from pipeline.protocol.packets import PacketType

SPEECH = np.random.default_rng(1).uniform(-1, 1, 12_000).astype(np.float32)  # 0.5 s: 6.25 frames
FRAMES = 7


@pytest.fixture
def fast_clock():
    """Trio's time at ten times the speed of everything else's."""
    return MockClock(rate=10)


class Recorder(Audience):
    """Keeps what it is given."""

    def __init__(self):
        self.spoken, self.written, self.notices = [], [], []

    def agent_spoke(self, pcm):
        self.spoken.append(pcm.copy())

    def agent_wrote(self, text, *, final):
        self.written.append((text, final))

    def noticed(self, sentence):
        self.notices.append(sentence)

    @property
    def pcm(self):
        return np.concatenate(self.spoken)


async def failing(kind, speech=SPEECH, error=ConversationError, *, told=False):
    """Talk to an agent that spoils it; gives the error and the agent, once it was `told` of the close."""
    async with serving(kind) as served:
        with pytest.raises(error) as failed:
            await converse(served.url, speech)
        if told:
            await served.agent.over.wait()
    assert type(failed.value) is error
    return failed.value, served.agent


async def test_every_frame_is_answered_in_order(fast_clock):
    """Frames out are frames in less the model's delay, sample for sample, and the last words are heard."""
    audience = Recorder()
    async with serving() as served:
        report = await converse(served.url, SPEECH, audience=audience, prebuffer_ms=60_000)
    assert (report.frames_in, report.frames_out) == (FRAMES, FRAMES - DELAY_FRAMES)
    assert np.array_equal(audience.pcm, answers_to(SPEECH))
    assert report.in_order
    assert report.underruns == 0
    latency = report.latency_ms
    assert 0 < latency.p50 <= latency.p95 <= latency.p99 <= latency.max
    words = [f"w{k}" for k in range(FRAMES)]
    assert report.text == " ".join(words)
    partials = [(" ".join(words[: k + 1]), False) for k in range(FRAMES)]
    assert audience.written == [*partials, (report.text, True)]
    assert report.close == 1000
    assert report.model == GREETING.model
    assert not report.errors
    assert not report.dropped


async def test_what_is_sent_is_the_speech_each_frame_80_ms_after_the_former(fast_clock):
    """The server hears the speech, padded with silence, captured in steps of exactly 80 ms, then `bye`."""
    async with serving() as served:
        await converse(served.url, SPEECH)
    heard = np.concatenate(served.agent.heard)
    assert np.array_equal(heard[: len(SPEECH)], SPEECH)
    assert not heard[len(SPEECH) :].any()
    stamps = [event.timestamp_ms for event in served.agent.events if isinstance(event, AudioReceived)]
    assert [b - a for a, b in itertools.pairwise(stamps)] == [80.0] * (FRAMES - 1)
    assert MetadataReceived(Bye()) in served.agent.events
    assert served.agent.conversation.unacked == ()


async def test_sampling_takes_effect_from_the_first_frame(fast_clock):
    """`configure` is the first thing the server hears, before any audio."""
    configure = Configure(temperature=0.0, text_temperature=0.0, seed=7)
    async with serving() as served:
        await converse(served.url, SPEECH, configure=configure)
    assert served.agent.events[0] == MetadataReceived(configure)
    assert isinstance(served.agent.events[1], AudioReceived)


async def test_nothing_is_said_while_queued(fast_clock):
    """Audio waits for `ready`, and its clock starts there: no burst makes up for the wait."""

    class Busy(Agent):
        async def greet(self):
            await self.say(outgoing.metadata(self.greeting))
            for position in (2, 1):
                await self.say(outgoing.metadata(Queued(position)))
                await trio.sleep(1)
            self.ready_ms = trio.current_time() * 1000
            await self.say(outgoing.metadata(Ready()))

        async def answer(self, index, timestamp_ms):
            if index == 0:
                self.first_ms = trio.current_time() * 1000
            await super().answer(index, timestamp_ms)

    audience = Recorder()
    async with serving(Busy) as served:
        report = await converse(served.url, SPEECH, audience=audience)
    assert report.frames_in == FRAMES
    assert not served.agent.conversation.statistics().refused
    assert served.agent.first_ms - served.agent.ready_ms >= 80
    assert audience.notices[1:] == ["queued, position 2", "queued, position 1", "ready"]


async def test_heartbeats_are_answered_and_sent(fast_clock):
    """A server's heartbeat has an answer, and a silent server hears ours."""

    class Heartbeats(Agent):
        async def greet(self):
            await self.say(self.conversation.heartbeat(now_s=trio.current_time()))
            await self.say(outgoing.metadata(self.greeting))
            await trio.sleep(11)
            await self.say(outgoing.metadata(Ready()))

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
                await self.say(outgoing.audio(bytes(4 * 1920), echo_ms))

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
async def test_an_echo_out_of_order_is_noticed(fast_clock, order, in_order, frames_out):
    """Each frame echoes the frame after the former's; twice, swapped or of no frame sent is out of order."""
    async with serving(answering(order)) as served:
        report = await converse(served.url, SPEECH)
    assert report.in_order is in_order
    assert report.frames_out == frames_out


async def test_dropped_frames_are_not_waited_for(fast_clock):
    """What the server says it dropped is not owed any more, is counted, and is heard as a gap."""

    class Dropping(Agent):
        async def answer(self, index, timestamp_ms):
            if index == 4:
                await self.say(outgoing.metadata(Dropped("audio", 1)))
            else:
                await super().answer(index, timestamp_ms)

    async with serving(Dropping) as served:
        report = await converse(served.url, SPEECH, prebuffer_ms=60_000)
    assert report.frames_out == FRAMES - DELAY_FRAMES - 1
    assert report.dropped == {"audio": 1}
    assert report.underruns == 1
    assert not report.in_order


async def test_frames_that_never_come_are_a_failure(fast_clock):
    """A server that owes answers is given its time, and then the conversation has failed."""
    error, agent = await failing(answering([None] * 5 + [5, 6]))
    assert str(error) == "3 frames were not answered within 5 s"
    assert error.report.frames_out == 2
    assert MetadataReceived(Bye()) in agent.events


async def test_a_server_that_closes_midway_is_one_sentence(fast_clock):
    """The close code, what the server said of it and how far it came are told, with the report so far."""

    class Failing(Agent):
        async def answer(self, index, timestamp_ms):
            await super().answer(index, timestamp_ms)
            if index == 3:
                await self.say(outgoing.metadata(ErrorNotice("internal", "the decoder broke")))
                await self.ws.aclose(1011, "internal error")

    error, _ = await failing(Failing)
    assert str(error).startswith("the server closed the conversation (1011: the decoder broke) after ")
    assert (error.report.close, error.report.close_reason) == (1011, "internal error")
    assert error.report.frames_out == 2
    assert error.report.errors == {"internal": 1}
    assert error.report.text == "w0 w1 w2 w3"


async def test_a_connection_that_breaks_is_one_sentence(fast_clock):
    """A server that vanishes without a word is a failure, close code 1006."""

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
async def test_a_server_that_breaks_the_protocol_is_told_so(fast_clock, message):
    """Nonsense ends the conversation with 1002, as one sentence that blames the server."""

    class Nonsense(Agent):
        async def answer(self, *_):
            await self.ws.send_message(message)

    error, agent = await failing(Nonsense, told=True)
    assert str(error).startswith("the server broke the protocol: ")
    assert error.report.close == 1002
    assert agent.closed == 1002


async def test_a_server_that_falls_silent_is_left(fast_clock):
    """Nothing for 15 s, not even heartbeats, is a failure."""

    class Silent(Agent):
        async def run(self):
            await trio.sleep_forever()

    error, _ = await failing(Silent)
    assert str(error).startswith("the server fell silent")


async def test_a_server_that_does_not_read_is_left(fast_clock):
    """A write that does not go through in 5 s is a failure, not a client that hangs."""

    class Deaf(Agent):
        async def run(self):
            await self.greet()
            self.ws._reader_running = False
            await trio.sleep_forever()

    async def torrent():
        for k in range(5000):
            yield Captured(np.zeros(1920, np.float32), now_ns() + k * 80_000_000)

    error, _ = await failing(Deaf, torrent())
    assert str(error) == "the server did not read for 5 s"


async def test_a_refused_upgrade_says_why_and_when_to_ask_again(fast_clock):
    """HTTP 503 in place of a WebSocket: the server's sentence, and its Retry-After."""

    async def refuse(request):
        headers = [(b"Retry-After", b"3"), (b"Content-Type", b"application/json")]
        await request.reject(
            503,
            extra_headers=headers,
            body=b'{"error":{"code":"full","message":"all lanes are taken"}}',
        )

    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_websocket, refuse, "127.0.0.1", 0, None)
        with pytest.raises(NotTakenError) as refused:
            await converse(f"ws://127.0.0.1:{server.port}/ws", SPEECH)
        nursery.cancel_scope.cancel()
    assert str(refused.value) == ("the server refused: all lanes are taken (HTTP 503); try again in 3 s")
    assert refused.value.retry_after_s == 3
    assert refused.value.report.close is None


async def test_a_refusal_after_the_upgrade_says_why_and_when_to_ask_again(fast_clock):
    """`error` and close 1013 before `ready`: the same refusal, spoken to browsers."""

    class Full(Agent):
        async def greet(self):
            error = ErrorNotice("full", "all lanes are taken", retry_after_ms=2500)
            await self.say(outgoing.metadata(error))
            await self.ws.aclose(1013)

    error, _ = await failing(Full, error=NotTakenError)
    assert str(error) == "the server closed the conversation (1013: all lanes are taken)"
    assert error.retry_after_s == 2.5


async def test_nobody_listening_is_one_sentence(fast_clock):
    """A refused connection is named as one, and may be asked again."""
    async with listening(trio.aclose_forcefully) as port:
        pass
    for host in ("127.0.0.1", "localhost"):
        with pytest.raises(NotTakenError, match="connection refused"):
            await converse(f"ws://{host}:{port}/ws", SPEECH)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "is not a WebSocket (HTTP 200)"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "is not a WebSocket (HTTP 404)"),
        (b"", "did not open a WebSocket within 10 s"),
    ],
)
async def test_what_is_not_a_server_of_ours_is_one_sentence(fast_clock, answer, sentence):
    """Another program at the address, or one that never answers, is named as such."""

    async def other(stream):
        await stream.receive_some()
        await stream.send_all(answer)
        await trio.sleep_forever()

    async with listening(other) as port:
        with pytest.raises(ConversationError) as failed:
            await converse(f"ws://127.0.0.1:{port}/ws", SPEECH)
    assert str(failed.value).endswith(sentence)
    assert type(failed.value) is ConversationError


@pytest.mark.parametrize("when", ["queued", "speaking"])
async def test_stopping_parts_politely(fast_clock, when):
    """Once `stop` is set the client says `bye` at once, queued or speaking, and that is no failure."""
    stop = trio.Event()

    class Waiting(Agent):
        async def greet(self):
            await self.say(outgoing.metadata(self.greeting))
            if when == "queued":
                stop.set()
            else:
                await self.say(outgoing.metadata(Ready()))

        async def answer(self, index, _):
            if index == 3:
                stop.set()

    async with serving(Waiting) as served:
        report = await converse(served.url, np.zeros(24_000 * 60, np.float32), stop=stop)
    assert MetadataReceived(Bye()) in served.agent.events
    assert report.frames_in == len(served.agent.heard) < 100
    assert report.close == 1000


async def test_what_the_audience_raises_reaches_the_caller(fast_clock):
    """A full disk is the caller's to name: its exception comes out as it was raised, the socket closed."""

    class DiskFullError(Exception):
        pass

    class Full(Audience):
        def agent_spoke(self, _):
            raise DiskFullError

    async with serving() as served:
        with pytest.raises(DiskFullError):
            await converse(served.url, SPEECH, audience=Full())
        await served.agent.over.wait()
    assert served.agent.closed == 1000


def test_the_greeting_used_here_is_a_whole_one():
    """What this peer says first is what the vocabulary demands."""
    assert isinstance(GREETING, ConnectionEstablished)


class Breaking(Agent):
    """Gives up its first connection after three frames, and goes on with the session on the next."""

    def __init__(self, ws):
        super().__init__(ws)
        self.resumes = "resume=" in ws.path
        if self.resumes:  # its model is past its delay
            self.heard += [np.zeros(1920, np.float32)] * DELAY_FRAMES

    async def greet(self):
        token = "t2" if self.resumes else "t1"
        await self.say(outgoing.metadata(dataclasses.replace(GREETING, resume_token=token)))
        if self.resumes:
            await self.say(outgoing.metadata(Resumed(GREETING.session_id, token, (1,), 2)))
        else:
            await self.say(outgoing.metadata(Ready()))
            await self.say(outgoing.text_final("one"))
        await self.say(outgoing.text_final("two"))

    async def answer(self, index, timestamp_ms):
        if not self.resumes and index == 2:
            await self.ws.aclose(1013)
        await super().answer(index, timestamp_ms)


async def test_a_broken_connection_is_taken_up_again_and_nothing_is_shown_twice(fast_clock):
    """With the token it was given, once; what comes again, and was shown, is passed over."""
    audience = Recorder()
    async with serving(Breaking) as served:
        report = await converse(served.url, np.tile(SPEECH, 4), audience=audience)
    assert [agent.ws.path for agent in served.agents] == ["/ws", "/ws?resume=t1"]
    finals = [text for text, final in audience.written if final]
    assert finals[:2] == ["one", "two"]
    assert "two" not in finals[2:]
    assert (report.resumed, report.close) == (1, 1000)
    assert "the session goes on" in audience.notices


class Gone(Breaking):
    """Gives up, and takes nobody back."""

    async def greet(self):
        if self.resumes:
            await self.ws.aclose(1013)
        await super().greet()


async def test_a_connection_that_does_not_come_back_ends_the_conversation(fast_clock):
    """It was tried, and the error says how it ended."""
    async with serving(Gone) as served:
        with pytest.raises(ConversationError):
            await converse(served.url, np.tile(SPEECH, 4))
    assert 1 < len(served.agents) < 20


class ShuttingDown(Agent):
    """Shuts down after three frames; the next one is another server, which knows nothing of it."""

    served = 0

    async def greet(self):
        ShuttingDown.served += 1
        self.is_first = ShuttingDown.served == 1
        own = dataclasses.replace(GREETING, session_id=f"s{ShuttingDown.served}", resume_token="t")
        await self.say(outgoing.metadata(own))
        await self.say(outgoing.metadata(Ready()))

    async def answer(self, index, timestamp_ms):
        await super().answer(index, timestamp_ms)
        if self.is_first and index == 2:
            await self.say(outgoing.metadata(Draining()))
            await self.ws.aclose(1001)


async def test_a_server_that_shuts_down_is_replaced_by_another(fast_clock, monkeypatch):
    """Who is told to leave comes again without the token, and is told that the conversation is a new one."""
    monkeypatch.setattr(ShuttingDown, "served", 0)
    audience = Recorder()
    async with serving(ShuttingDown) as served:
        report = await converse(served.url, np.tile(SPEECH, 4), audience=audience)
    assert [agent.ws.path for agent in served.agents] == ["/ws", "/ws"]
    assert (report.renewed, report.resumed, report.close) == (1, 0, 1000)
    assert report.in_order
    assert "this is a new conversation: the one before is over" in audience.notices
    assert report.frames_out > 3


async def test_a_server_that_closes_unasked_ends_the_conversation(fast_clock):
    """1001 alone is no invitation."""

    class Leaving(Agent):
        async def answer(self, index, timestamp_ms):
            await self.ws.aclose(1001)

    error, _ = await failing(Leaving)
    assert "1001" in str(error)
