"""Sessions with personas in the whole engine, with a real model: each says what it says alone."""

from pathlib import Path

import numpy as np
import pytest
import trio
from structlog.testing import capture_logs
from support.actors.fakes import Client, MemoryTransport, serve_client
from support.personas import write_persona_folder

from actors.engine import Engine, Loaders
from actors.sessions.prompting import ThreadedPersonas
from pipeline.audio.framing import payload_of
from pipeline.audio.recordings import read_replay
from pipeline.cli import offline
from pipeline.config import Config
from pipeline.errors import ConfigError
from pipeline.models.checkpoint.resolve import open_config
from pipeline.models.checkpoint.voice_store import VoiceStore
from pipeline.protocol import outgoing
from pipeline.protocol.metadata import (
    Configure,
    ConnectionEstablished,
    ErrorNotice,
    Queued,
    Ready,
    Resumed,
)
from pipeline.stages.model_stages import ModelStages, open_stages
from pipeline.stages.prompts import PromptCache
from pipeline.stages.stepper import StepperStage
from pipeline.values import Persona, Voice

SPEECH = np.random.default_rng(3).uniform(-0.3, 0.3, (5, 24, 1920)).astype(np.float32)
PERSONAS = (
    Persona("NATF0", "be kind"),
    Persona(None, "a wise teacher"),
    Persona(),
    Persona("NATF0", None),
    Persona("anna", "be kind"),
)


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory):
    """The user's folders are temporary ones."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("XDG_DATA_HOME", "XDG_CACHE_HOME"):
            patch.setenv(variable, str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_persona_folder(
        tmp_path_factory.mktemp("persona"), settings={"limits": {"max_lag_ms": 60_000}}
    )


def config_of(folder: Path, *overrides: str) -> Config:
    return open_config(folder, overrides, check=open_stages)


def alone(folder: Path, index: int) -> list[int]:
    stages = open_stages(config_of(folder, "lanes.max=1"))
    sampling = config_of(folder).settings.sampling_for({}, seed=index)
    prompt = stages.personas.build(PERSONAS[index])
    return offline.run_frames(stages, SPEECH[index], sampling, prompt).text_tokens


class Watched(StepperStage):
    """Keeps the tokens of each session by its seed."""

    tokens: dict[int, list[int]]
    made: "Watched"

    def configure(self, lane, sampling):
        super().configure(lane, sampling)
        self.seeds = {**getattr(self, "seeds", {}), lane: sampling.seed}
        self.tokens[sampling.seed] = []

    def step(self, lanes, codes):
        steps = super().step(lanes, codes)
        for lane, step in zip(lanes, steps, strict=True):
            self.tokens[self.seeds[lane]].append(step.token)
        return steps


def engine_of(stages: ModelStages, config: Config) -> tuple[Engine, dict[int, list[int]]]:
    tokens: dict[int, list[int]] = {}

    def load_stepper() -> StepperStage:
        stage = stages.load_stepper()
        stage.__class__ = Watched
        stage.tokens = tokens
        Watched.made = stage
        return stage

    engine = Engine(
        config.settings,
        Loaders(stages.load_encoder, load_stepper, stages.load_decoder),
        stages.card,
        lanes=stages.lanes,
        digest=stages.digest,
        personas=ThreadedPersonas(stages.personas.build),
    )
    return engine, tokens


def readies(client: Client) -> list[Ready]:
    return [m for m in client.metadata if isinstance(m, Ready)]


async def connect(engine: Engine, nursery: trio.Nursery, token: str | None = None) -> Client:
    client = Client(MemoryTransport(buffer=1000))
    nursery.start_soon(serve_client, engine, client, token)
    nursery.start_soon(client.listen)
    return client


async def join(engine: Engine, nursery: trio.Nursery, index: int) -> Client:
    """A session that has its persona."""
    client, persona = await connect(engine, nursery), PERSONAS[index]
    await client.ready()
    asked = Configure(seed=index, voice=persona.voice, role=persona.role)
    await client.send(outgoing.metadata(asked))
    due = Ready(persona.voice, persona.role)
    await client.until(lambda c: readies(c)[-1] == due)
    return client


async def say(client: Client, index: int, tokens: dict[int, list[int]], begin: int, end: int) -> None:
    """Frames `begin` to `end` of the session's speech, at the pace of the model."""
    for count in range(begin, end):
        await client.send(outgoing.audio(payload_of(SPEECH[index][count]), 0.0))
        while len(tokens.get(index, ())) <= count:  # noqa: ASYNC110 - the model runs on another thread
            await trio.sleep(0.002)


async def converse(engine: Engine, index: int, tokens: dict[int, list[int]]) -> None:
    """One session from beginning to end."""
    async with trio.open_nursery() as nursery:
        client = await join(engine, nursery, index)
        await say(client, index, tokens, 0, len(SPEECH[index]))
        await client.bye()


async def until_free(engine: Engine) -> None:
    while engine.admission.statistics().lanes_open:  # noqa: ASYNC110 - there is no event for it
        await trio.sleep(0.002)


async def test_personas_side_by_side_say_what_each_says_alone(folder):
    """With one that joins without a persona, and a second one in a lane that had another."""
    config = config_of(folder, "lanes.max=3", "lanes.admit=3", "limits.resume_grace_ms=0")
    engine, tokens = engine_of(open_stages(config), config)

    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        await engine.ready.wait()
        async with trio.open_nursery() as talking:
            talking.start_soon(converse, engine, 0, tokens)
            await trio.sleep(0.1)
            talking.start_soon(converse, engine, 1, tokens)
            await trio.sleep(0.1)
            talking.start_soon(converse, engine, 2, tokens)
        await converse(engine, 3, tokens)
        await engine.drain()
    assert tokens == {index: await trio.to_thread.run_sync(alone, folder, index) for index in range(4)}


async def bye(engine: Engine, client: Client) -> None:
    await client.bye()


async def vanish(engine: Engine, client: Client) -> None:
    client.transport.vanish()


async def put_back(engine: Engine, client: Client) -> None:
    engine.admission.set_limit(0)
    await client.until(lambda c: any(isinstance(m, Queued) for m in c.metadata))
    client.transport.vanish()
    engine.admission.set_limit(1)


async def crash(engine: Engine, client: Client) -> None:
    """A defect of the server's own, in the task that writes to this client."""
    (connection,) = engine._connections
    connection._transport.send = None
    await client.send(outgoing.metadata(Configure(voice="none")))


@pytest.mark.parametrize("after", [0, 9])
@pytest.mark.parametrize("end", [bye, vanish, put_back, crash])
async def test_a_persona_is_gone_with_its_session(folder, end, after):
    """However the session ends, before or after its first frame: the next one in the lane has none."""
    config = config_of(folder, "lanes.max=1", "lanes.admit=1", "limits.resume_grace_ms=0")
    engine, tokens = engine_of(open_stages(config), config)
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        await engine.ready.wait()
        with capture_logs():
            client = await join(engine, nursery, 0)
            await say(client, 0, tokens, 0, after)
            await end(engine, client)
            await until_free(engine)
        await converse(engine, 2, tokens)
        await converse(engine, 3, tokens)
        await engine.drain()
    for index in (2, 3):
        assert tokens[index] == await trio.to_thread.run_sync(alone, folder, index)


async def test_a_session_keeps_its_persona_whatever_happens(folder):
    """Its connection is lost and resumed, it is put back, its snapshot is dropped, its voice is removed."""
    store = VoiceStore(None)
    store.add("anna", Voice(codes=np.random.default_rng(4).integers(0, 2048, (9, 8)).astype(np.int32)))
    due = await trio.to_thread.run_sync(alone, folder, 4)
    config = config_of(folder, "lanes.max=2", "lanes.admit=2")
    engine, tokens = engine_of(open_stages(config), config)
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        await engine.ready.wait()
        client = await join(engine, nursery, 4)
        store.remove("anna")
        (token,) = (m.resume_token for m in client.metadata if isinstance(m, ConnectionEstablished))
        client.transport.vanish()  # before its first frame
        client = await connect(engine, nursery, token)
        await client.until(lambda c: any(isinstance(m, Resumed) for m in c.metadata))
        await say(client, 4, tokens, 0, 8)
        Watched.made._prompts = PromptCache(0)
        other = await join(engine, nursery, 1)
        await say(other, 1, tokens, 0, 12)
        (token,) = (m.resume_token for m in client.metadata if isinstance(m, Resumed))
        client.transport.vanish()
        client = await connect(engine, nursery, token)
        await client.until(lambda c: any(isinstance(m, Resumed) for m in c.metadata))
        await say(client, 4, tokens, 8, 16)
        engine.admission.set_limit(0)
        await client.until(lambda c: any(isinstance(m, Queued) for m in c.metadata))
        engine.admission.set_limit(2)
        await client.until(lambda c: readies(c) == [Ready("anna", "be kind")])
        await say(client, 4, tokens, 16, 24)
        await say(other, 1, tokens, 12, 24)
        await client.bye()
        await other.bye()
        late = await connect(engine, nursery)
        await late.ready()
        await late.send(outgoing.metadata(Configure(voice="anna")))
        await late.until(lambda c: len(readies(c)) == 2)
        (refusal,) = (m.message for m in late.metadata if isinstance(m, ErrorNotice))
        assert refusal == "anna: there is no such voice; there are NATF0"
        await late.bye()
        await engine.drain()
    assert tokens[4] == due
    assert tokens[1] == await trio.to_thread.run_sync(alone, folder, 1)


async def test_a_replay_begins_as_the_session_did(folder, tmp_path):
    """With its voice and its role; another voice under the same name is refused."""
    VoiceStore(None).add("anna", Voice(codes=np.full((9, 8), 7, np.int32)))
    config = config_of(
        folder, "lanes.max=1", "lanes.admit=1", f"replay.folder={tmp_path}", "prompt.voice=anna"
    )
    stages = open_stages(config)
    engine, tokens = engine_of(stages, config)
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        await engine.ready.wait()
        client = Client(MemoryTransport(buffer=1000))
        nursery.start_soon(serve_client, engine, client)
        nursery.start_soon(client.listen)
        await client.ready()
        (greeting,) = (m for m in client.metadata if isinstance(m, ConnectionEstablished))
        assert greeting.model.voices == ("anna", "NATF0")
        await client.send(outgoing.metadata(Configure(replay=True, seed=5)))
        for frame in SPEECH[0][:8]:
            await client.send(outgoing.audio(payload_of(frame), 0.0))
        await client.bye()
        await engine.drain()
    (bundle,) = tmp_path.iterdir()
    recorded = read_replay(bundle)
    assert recorded.persona == Persona("anna", None)
    command = ["--config", str(folder), "--replay", str(bundle), "--trace", str(tmp_path / "t.npz")]
    assert await trio.to_thread.run_sync(offline.main, [*command, str(tmp_path / "out.wav")]) == 0
    with np.load(tmp_path / "t.npz") as trace:
        assert trace["text_tokens"].tolist() == tokens[5]
    VoiceStore(None).add("anna", Voice(codes=np.full((9, 8), 8, np.int32)))
    with pytest.raises(ConfigError, match="the voice anna is not the recorded one"):
        offline.main([*command, str(tmp_path / "out.wav")])
