"""A replayed session gives the recorded session's tokens, also with dropped frames."""

import time
from pathlib import Path

import numpy as np
import pytest
import trio
from support.checkpoints import write_folder

from actors.engine import Engine, Loaders
from actors.sessions.transport import TransportClosedError
from pipeline.audio.framing import payload_of
from pipeline.audio.recordings import read_replay
from pipeline.cli import offline
from pipeline.config import read_config
from pipeline.errors import ConfigError
from pipeline.protocol import outgoing
from pipeline.protocol.close_reason import CloseReason
from pipeline.protocol.conversation import Conversation
from pipeline.protocol.metadata import Bye, Configure, ErrorNotice, Ready, RecordingNotice
from pipeline.stages.model_stages import ModelStages, open_stages
from pipeline.stages.stepper import StepperStage

SPEECH = np.random.default_rng(3).uniform(-0.3, 0.3, (60, 1920)).astype(np.float32)


class Peer:
    """A client on memory channels that keeps the metadata it receives."""

    peer = "memory"

    def __init__(self) -> None:
        self.to_server, self.at_server = trio.open_memory_channel[bytes](1000)
        self.to_client, self.at_client = trio.open_memory_channel[bytes](1000)
        self.metadata: list[object] = []
        self.conversation = Conversation(
            "client", heartbeat_every_s=5, heartbeat_timeout_s=1e9, now_s=trio.current_time()
        )

    async def receive(self) -> bytes:
        try:
            return await self.at_server.receive()
        except trio.EndOfChannel:
            raise TransportClosedError from None

    async def send(self, message: bytes) -> None:
        await self.to_client.send(message)

    async def close(self, close_reason: CloseReason) -> None:
        self.to_client.close()
        await trio.lowlevel.checkpoint()

    async def send_packet(self, packet: outgoing.OutgoingPacket) -> None:
        await self.to_server.send(self.conversation.encode_next(packet, timestamp_ms=0.0))

    async def until_ready(self) -> None:
        while not any(isinstance(value, Ready) for value in self.metadata):
            await self.receive_packet()

    async def receive_packet(self) -> None:
        message = await self.at_client.receive()
        event, replies = self.conversation.receive(message, now_s=trio.current_time())
        self.metadata.append(getattr(event, "value", None))
        for reply in replies:
            await self.send_packet(reply)

    async def receive_all(self) -> None:
        try:
            while True:
                await self.receive_packet()
        except trio.EndOfChannel:
            pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("small"))


def stages_of(folder: Path, bundles: Path | None) -> ModelStages:
    sets = ["lanes.max=2", "limits.resume_grace_ms=0"]
    return open_stages(read_config(folder, sets + ([f"replay.folder={bundles}"] if bundles else [])))


async def talk(folder: Path, bundles: Path | None) -> tuple[list[int], Peer]:
    """Bursts beyond the credit, with a change of sampling between them; returns the sampled tokens."""
    config = read_config(
        folder,
        [
            "lanes.max=2",
            "lanes.admit=2",
            *([f"replay.folder={bundles}"] if bundles else []),
            "limits.max_lag_ms=60000",
        ],
    )
    stages = open_stages(config)
    drawn: list[int] = []

    class Watched(StepperStage):
        def step(self, lanes, codes):
            time.sleep(0.005)  # a model slower than the one that encodes for it
            steps = super().step(lanes, codes)
            drawn.extend(step.token for step in steps)
            return steps

    def load_stepper() -> StepperStage:
        stage = stages.load_stepper()
        stage.__class__ = Watched
        return stage

    engine = Engine(
        config.settings,
        Loaders(stages.load_encoder, load_stepper, stages.load_decoder),
        stages.card,
        lanes=2,
        digest=stages.digest,
    )
    client = Peer()
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        await engine.ready.wait()

        async def serve() -> None:
            with engine.admit() as reservation:
                await engine.serve(client, reservation)

        nursery.start_soon(serve)
        await client.until_ready()
        await client.send_packet(outgoing.metadata(Configure(seed=77, replay=True)))
        for first in range(0, 60, 6):
            if first == 30:
                await client.send_packet(
                    outgoing.metadata(Configure(temperature=2.0, repetition_penalty=1.5))
                )
            await client.send_packet(outgoing.audio(payload_of(SPEECH[first : first + 6].ravel()), 0.0))
            if first % 12:
                await trio.sleep(0.01)
        await client.send_packet(outgoing.metadata(Bye()))
        await client.receive_all()
        await engine.drain()
    return drawn, client


async def test_a_replay_gives_the_tokens_of_the_session(folder, tmp_path):
    """With dropped frames and a change of sampling."""
    drawn, client = await talk(folder, tmp_path / "bundles")
    (bundle,) = (tmp_path / "bundles").iterdir()
    recorded = read_replay(bundle)
    assert recorded.complete
    assert len(recorded.frames) == 60
    assert 0 < len(recorded.stopped) == 60 - len(drawn)
    assert set(recorded.stopped.values()) == {"encoder"}  # which waits for the stepper
    assert np.array_equal(recorded.frames, SPEECH)
    assert offline.run_recording(stages_of(folder, None), recorded).text_tokens == drawn
    assert [value.on for value in client.metadata if isinstance(value, RecordingNotice)] == [True, False]


async def test_nothing_is_recorded_without_a_folder(folder, tmp_path):
    """The client gets an error, and nothing is written."""
    _, client = await talk(folder, None)
    assert [value.code for value in client.metadata if isinstance(value, ErrorNotice)] == ["not_recorded"]
    assert not any(isinstance(value, RecordingNotice) for value in client.metadata)


async def test_the_command_replays_and_refuses_other_weights(folder, tmp_path, capsys):
    """The trace has the session's tokens; a checkpoint of another seed is refused."""
    drawn, _ = await talk(folder, tmp_path / "bundles")
    (bundle,) = (tmp_path / "bundles").iterdir()
    out, trace = str(tmp_path / "out.wav"), tmp_path / "t.npz"
    arguments = ["--replay", str(bundle), "--trace", str(trace), "--config"]
    assert await trio.to_thread.run_sync(offline.main, [*arguments, str(folder), out]) == 0
    assert np.load(trace)["text_tokens"].tolist() == drawn
    (tmp_path / "other").mkdir()
    other = write_folder(tmp_path / "other", seed=2)
    with pytest.raises(ConfigError, match="other weights"):
        offline.main([*arguments, str(other), out])
