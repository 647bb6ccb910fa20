"""Stages that do arithmetic instead of models, and a client on a transport in memory.

The stages have state per lane as models do (what comes out depends on every frame since the lane
was opened, and on nothing else), refuse lanes that are not open, and are exact. `expected`
computes a session's audio from scratch.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import numpy as np
import trio

from actors.engine import Engine, Loaders
from actors.runtime.awake_clock import awake_time
from actors.sessions.prompting import PersonaSource
from actors.sessions.transport import SlowPeerError, TransportClosedError
from pipeline.audio.framing import frames_of, payload_of
from pipeline.config import Settings, parse_settings
from pipeline.errors import PromptError
from pipeline.protocol import outgoing
from pipeline.protocol.close_reason import CloseReason
from pipeline.protocol.conversation import Conversation
from pipeline.protocol.events import AudioReceived, Event, MetadataReceived, TextReceived
from pipeline.protocol.metadata import Bye, Configure, ErrorNotice, Metadata, Ready
from pipeline.protocol.outgoing import OutgoingPacket
from pipeline.values import ModelCard, Persona, Prompt, SamplingParams, Text, TextFinal, TextPartial

CARD = ModelCard(name="sums", shape="sums", trained=False, model_delay_ms=160, text="ids")
DELAY = 2
CODEBOOKS = 4


class Memory:
    """Per lane a running sum of its input, from `open` to `close`."""

    def __init__(self) -> None:
        self.sums: dict[int, int] = {}
        self.widths: list[int] = []

    def open(self, lane: int, sampling: SamplingParams) -> None:
        assert lane not in self.sums, "opened twice"
        self.sums[lane] = 0

    def close(self, lane: int) -> tuple[Text, ...]:
        del self.sums[lane]
        return ()

    def add(self, lane: int, value: int) -> int:
        self.sums[lane] = (self.sums[lane] * 31 + value) % 65_521
        return self.sums[lane]


class SumEncoder(Memory):
    def encode(self, lanes: Sequence[int], pcm: np.ndarray) -> np.ndarray:
        self.widths.append(len(lanes))
        sums = [self.add(lane, int(np.rint(row.sum() * 1000))) for lane, row in zip(lanes, pcm, strict=True)]
        return np.array([[h + k for k in range(CODEBOOKS)] for h in sums], np.int32)


@dataclass
class SumStep:
    token: int
    text: tuple[Text, ...]
    codes: np.ndarray | None


class SumStepper(Memory):
    """Its text is the step numbers, an utterance is four steps, and codes begin after DELAY steps."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: dict[int, int] = {}
        self.words: dict[int, list[str]] = {}
        self.prompted: dict[int, int] = {}
        self.slices: list[tuple[int, str, int]] = []
        self.advanced: dict[str, int] = {}
        self.overwritten: set[int] = set()  # lanes in which a prompt was computed that they do not begin with

    def open(self, lane: int, sampling: SamplingParams) -> None:
        super().open(lane, sampling)
        self.overwritten.discard(lane)
        self.prompted[lane] = 0
        self.configure(lane, sampling)
        self.steps[lane] = 0
        self.words[lane] = []

    def configure(self, lane: int, sampling: SamplingParams) -> None:
        self.sums[lane] = sampling.seed

    def advance_prompt(self, lane: int, prompt: Prompt, positions: int) -> bool:
        self.slices.append((lane, prompt.key, positions))
        if self.advanced.get(prompt.key, 0) < len(prompt.role):
            self.overwritten.add(lane)
        self.advanced[prompt.key] = self.advanced.get(prompt.key, 0) + positions
        return self.advanced[prompt.key] >= len(prompt.role)

    def begin(self, lane: int, prompt: Prompt | None) -> None:
        assert not self.steps[lane], "begun late"
        self.overwritten.discard(lane)
        prompted = 0 if prompt is None else sum(prompt.role)
        self.sums[lane] += prompted - self.prompted[lane]
        self.prompted[lane] = prompted

    def close(self, lane: int) -> tuple[Text, ...]:
        super().close(lane)
        rest = self.words.pop(lane)
        return (TextFinal(" ".join(rest)),) if rest else ()

    def step(self, lanes: Sequence[int], codes: np.ndarray) -> Sequence[SumStep]:
        self.widths.append(len(lanes))
        return [self._step(lane, row) for lane, row in zip(lanes, codes, strict=True)]

    def _step(self, lane: int, row: np.ndarray) -> SumStep:
        assert lane not in self.overwritten, "a step on what is left of a prompt"
        token = self.add(lane, int(row.sum()))
        self.steps[lane] += 1
        words = self.words[lane]
        words.append(str(self.steps[lane]))
        text: tuple[Text, ...] = (TextPartial(" ".join(words)),)
        if len(words) == 4:
            text += (TextFinal(" ".join(words)),)
            words.clear()
        codes = np.full(CODEBOOKS, token, np.int32) if self.steps[lane] > DELAY else None
        return SumStep(token, text, codes)


class SumDecoder(Memory):
    def begin(self, lane: int, *, prompted: bool) -> None:
        self.sums[lane] = 0

    def decode(self, lanes: Sequence[int], codes: np.ndarray) -> np.ndarray:
        self.widths.append(len(lanes))
        sums = [self.add(lane, int(row.sum())) for lane, row in zip(lanes, codes, strict=True)]
        return np.repeat(np.array(sums, np.float32)[:, None] / 65_536, 1920, axis=1)


def expected(frames: Sequence[np.ndarray], seed: int) -> list[np.ndarray]:
    """The audio that a session alone gets for these frames."""
    encoder, stepper, decoder = SumEncoder(), SumStepper(), SumDecoder()
    for stage in (encoder, stepper, decoder):
        stage.open(0, SamplingParams(seed=seed))
    steps = [stepper.step([0], encoder.encode([0], frame[None]))[0] for frame in frames]
    return [decoder.decode([0], step.codes[None])[0] for step in steps if step.codes is not None]


def speech(seed: int, frames: int) -> list[np.ndarray]:
    """Distinct frames, none of them silent."""
    rng = np.random.default_rng(seed)
    return list(rng.uniform(-1, 1, (frames, 1920)).astype(np.float32))


class Inline:
    """A runner without threads, for the virtual clock: a call takes `batch_s` of virtual time."""

    batch_s = 0.0

    @asynccontextmanager
    async def acquire(self):
        yield self

    def expect(self, is_ready):
        pass

    async def run(self, call, *args, stall_s=0.0, abandon_on_cancel=False):
        await trio.lowlevel.checkpoint_if_cancelled()
        with trio.CancelScope(shield=True):
            await trio.sleep(self.batch_s)
        return call(*args)


@contextmanager
def inline(_name: str) -> Iterator[Inline]:
    yield Inline()


@contextmanager
def slow_inline(_name: str, batch_s: float) -> Iterator[Inline]:
    runner = Inline()
    runner.batch_s = batch_s
    yield runner


LOADERS = Loaders(SumEncoder, SumStepper, SumDecoder)


class SumPersonas:
    """The role "5 6 7" is a prompt of three positions; the voice "none" is the only one there is not."""

    async def build(self, persona: Persona) -> Prompt | None:
        if persona.voice == "none":
            raise PromptError("there is no voice none")
        if persona == Persona():
            return None
        return Prompt(f"{persona}", None, tuple(map(int, (persona.role or "").split())))


def make_engine(
    *,
    lanes: int = 4,
    admit: int | str | None = None,
    queue: int = 2,
    idle_s: float = 600,
    loaders: Loaders = LOADERS,
    runner=inline,
    digest: Callable[[], str] = str,
    personas: PersonaSource | None = None,
    **section,
) -> Engine:
    """An engine of sums. The seed, 0 unless configured, is where the stepper's running sum begins.

    A lost connection ends its session, unless `limits` has a grace time.
    """
    section["limits"] = {"resume_grace_ms": 0, **section.get("limits", {})}
    settings: Settings = parse_settings(
        {
            "lanes": {"queue": queue, "idle_s": idle_s, "admit": admit or lanes},
            "sampling": {"seed": 0},
            **section,
        }
    )
    return Engine(
        settings, loaders, CARD, lanes=lanes, runner=runner, digest=digest, personas=personas or SumPersonas()
    )


@dataclass
class MemoryTransport:
    """A transport and the client's end of it. `buffer` messages fit on the way to the client."""

    buffer: int = 64
    send_timeout_s: float = 2.0
    peer: str = "memory"
    close_reason: CloseReason | None = None
    answers_pings: bool = True

    def __post_init__(self) -> None:
        self.received_s = awake_time()
        self.charged_s = 0.0
        self._to_server, self._at_server = trio.open_memory_channel[bytes | str](64)
        self._to_client, self._at_client = trio.open_memory_channel[bytes](self.buffer)

    async def receive(self) -> bytes | str:
        try:
            message = await self._at_server.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            raise TransportClosedError from None
        self.received_s = awake_time()
        return message

    def charge(self, processor_s: float) -> None:
        self.charged_s += processor_s

    async def ping(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.answers_pings:
            self.received_s = awake_time()

    async def send(self, message: bytes | str) -> None:
        with trio.move_on_after(self.send_timeout_s):
            try:
                return await self._to_client.send(message)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                raise TransportClosedError from None
        raise SlowPeerError

    async def close(self, close_reason: CloseReason) -> None:
        self.close_reason = close_reason
        self._to_client.close()
        self._at_server.close()
        await trio.lowlevel.checkpoint()

    # The client's end

    async def client_send(self, message: bytes | str) -> None:
        await self._to_server.send(message)

    async def client_receive(self) -> bytes:
        return await self._at_client.receive()

    def vanish(self) -> None:
        self._to_server.close()
        self._at_client.close()


@dataclass
class Client:
    """A client of the packet protocol; `events` has everything that it received."""

    transport: MemoryTransport = field(default_factory=MemoryTransport)
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.conversation = Conversation(
            "client", heartbeat_every_s=5, heartbeat_timeout_s=1e9, now_s=trio.current_time()
        )
        self._news = trio.Condition()
        self.over = False
        self.pause_s = 0.0  # between two messages it reads

    async def send(self, *packets: OutgoingPacket) -> None:
        for packet in packets:
            await self.transport.client_send(self.conversation.encode_next(packet, timestamp_ms=0.0))

    async def stream(self, frames: Sequence[np.ndarray], *, every_s: float = 0.08) -> None:
        for index, frame in enumerate(frames):
            await self.send(outgoing.audio(payload_of(frame), 1000.5 + 80 * index))
            await trio.sleep(every_s)

    async def listen(self) -> None:
        """Receive, and reply where a reply is due, until the server closes."""
        try:
            while True:
                message = await self.transport.client_receive()
                event, replies = self.conversation.receive(message, now_s=trio.current_time())
                await self.send(*replies)
                self.events.append(event)
                async with self._news:
                    self._news.notify_all()
                await trio.sleep(self.pause_s)
        except (trio.EndOfChannel, trio.ClosedResourceError, trio.BrokenResourceError):
            self.over = True
            async with self._news:
                self._news.notify_all()

    async def until(self, done: Callable[["Client"], bool]) -> None:
        with trio.fail_after(60):
            await self._until(done)

    async def _until(self, done: Callable[["Client"], bool]) -> None:
        async with self._news:
            while not done(self):
                assert not self.over, f"closed with {self.transport.close_reason}, received {self.metadata}"
                await self._news.wait()

    async def ready(self) -> None:
        await self.until(lambda self: any(isinstance(m, Ready) for m in self.metadata))

    async def bye(self) -> None:
        await self.send(outgoing.metadata(Bye()))
        await self.until(lambda self: self.over)

    @property
    def metadata(self) -> list[Metadata]:
        return [event.value for event in self.events if isinstance(event, MetadataReceived)]

    @property
    def errors(self) -> list[str]:
        return [notice.code for notice in self.metadata if isinstance(notice, ErrorNotice)]

    @property
    def audio(self) -> list[AudioReceived]:
        return [event for event in self.events if isinstance(event, AudioReceived)]

    @property
    def frames(self) -> list[np.ndarray]:
        return [frame for event in self.audio for frame in frames_of(event.payload)]

    @property
    def finals(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, TextReceived) and event.final]


async def serve_client(engine: Engine, client: Client, resume: str | None = None) -> None:
    """Admit a client and serve it, as the web does with a connection."""
    with engine.admit(resume) as reservation:
        await engine.serve(client.transport, reservation)


async def talk(engine: Engine, frames: Sequence[np.ndarray], *, seed: int, buffer: int = 64) -> Client:
    """One whole session, from admission to bye, in real time."""
    client = Client(MemoryTransport(buffer=buffer))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_client, engine, client)
        nursery.start_soon(client.listen)
        await client.send(outgoing.metadata(Configure(seed=seed)))
        await client.ready()
        await client.stream(frames)
        await client.until(lambda self: len(self.audio) >= len(frames) - DELAY)
        await client.bye()
    return client
