"""Sessions with personas in the whole engine, with a real model: each says what it says alone."""

from pathlib import Path

import numpy as np
import pytest
import trio
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
from pipeline.protocol.metadata import Configure, ConnectionEstablished, Ready
from pipeline.stages.model_stages import ModelStages, open_stages
from pipeline.stages.stepper import StepperStage
from pipeline.values import Persona, Voice

SPEECH = np.random.default_rng(3).uniform(-0.3, 0.3, (4, 24, 1920)).astype(np.float32)
PERSONAS = (Persona("NATF0", "be kind"), Persona(None, "a wise teacher"), Persona(), Persona("NATF0", None))


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


async def converse(engine: Engine, index: int, tokens: dict[int, list[int]]) -> None:
    """One session, at the pace of the model."""
    client = Client(MemoryTransport(buffer=1000))
    persona = PERSONAS[index]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_client, engine, client)
        nursery.start_soon(client.listen)
        await client.ready()
        asked = Configure(seed=index, voice=persona.voice, role=persona.role)
        await client.send(outgoing.metadata(asked))
        due = Ready(persona.voice, persona.role)
        await client.until(lambda c: [m for m in c.metadata if isinstance(m, Ready)][-1] == due)
        for count, frame in enumerate(SPEECH[index], 1):
            await client.send(outgoing.audio(payload_of(frame), 0.0))
            while len(tokens.get(index, ())) < count:  # noqa: ASYNC110 - the model runs on another thread
                await trio.sleep(0.002)
        await client.bye()


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
