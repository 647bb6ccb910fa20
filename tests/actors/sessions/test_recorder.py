"""A recording is written by the end of its session; a bad disk costs the recording and nothing else."""

import errno
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import trio
from support.actors.fakes import DELAY, Client, MemoryTransport, make_engine, serve_client, speech

from actors.sessions.recorder import CLOSING_S, WAITING_ITEMS, Recorder
from actors.sessions.recording_switch import BEGUN_MAX, RecordingSwitch
from pipeline.audio.recordings import read_replay
from pipeline.config import Replay
from pipeline.errors import ConfigError
from pipeline.protocol import outgoing
from pipeline.protocol.close_reason import CloseReason
from pipeline.protocol.metadata import Configure, ErrorNotice, RecordingNotice
from pipeline.values import Persona, SamplingParams

(FRAME,) = speech(3, 1)


async def write_all(recorder: Recorder) -> None:
    """Let it run, and end at once: what waits is still written."""
    with trio.CancelScope() as scope:
        scope.cancel()
        await recorder.run()


def last_line(folder: Path) -> dict[str, object]:
    return json.loads((folder / "session.jsonl").read_text().splitlines()[-1])


async def test_a_disk_that_cannot_keep_up_costs_only_the_recording(tmp_path):
    """The session posts without waiting; the recording is marked incomplete."""
    recorder = Recorder(Replay(folder=str(tmp_path)), "small", str)
    recording = recorder.begin("s", sampling={})
    for _ in range(WAITING_ITEMS + 10):
        recording.add_audio(FRAME)
    recording.end("closed", WAITING_ITEMS + 10)
    await write_all(recorder)
    last = last_line(tmp_path / "s")
    assert last == {"type": "ended", "reason": "closed", "frames": WAITING_ITEMS + 10, "complete": False}


async def test_a_recorder_that_is_cancelled_writes_what_it_has(tmp_path):
    """The process ends: all audio so far is written, and the recording is marked incomplete."""
    recorder = Recorder(Replay(folder=str(tmp_path)), "small", lambda: "d1")
    recording = recorder.begin("s", sampling={"seed": 4})
    recording.add_audio(FRAME)
    await write_all(recorder)
    recorded = read_replay(tmp_path / "s")
    assert np.array_equal(recorded.frames, [FRAME])
    assert (recorded.digest, recorded.sampling.seed, recorded.complete) == ("d1", 4, False)


async def test_a_folder_that_cannot_be_written_costs_only_the_recording(tmp_path):
    """Items after the failure are dropped; another session's recording is complete."""
    (tmp_path / "taken").write_text("")
    recorder = Recorder(Replay(folder=str(tmp_path)), "small", str)
    bad, good = recorder.begin("taken", sampling={}), recorder.begin("free", sampling={})
    for recording in (bad, good):
        recording.add_audio(FRAME)
        recording.end("closed", 1)
    await write_all(recorder)
    assert read_replay(tmp_path / "free").complete
    with pytest.raises(ConfigError):
        read_replay(tmp_path / "taken")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device here is always full")
async def test_a_disk_that_is_full_when_a_recording_is_closed_costs_only_the_recording(tmp_path):
    """The last bytes may not fit when the file is closed: nothing is raised."""

    def fill() -> str:
        for _, lines in recorder._open.values():  # the device that is always full takes the file's place
            os.dup2(full, lines.fileno())
        return "d1"

    full = os.open("/dev/full", os.O_WRONLY)
    recorder = Recorder(Replay(folder=str(tmp_path)), "small", fill)
    recorder.begin("s", sampling={})
    try:
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            os.write(full, b"x")
        await write_all(recorder)
    finally:
        os.close(full)
    assert (tmp_path / "s/session.jsonl").read_bytes() == b""


async def test_a_disk_that_does_not_answer_is_waited_for_until_a_deadline(tmp_path, autojump_clock):
    """Cancelled, the recorder waits `CLOSING_S` for it and no longer, even with items left."""
    gate, began_s = threading.Event(), trio.current_time()
    recorder = Recorder(Replay(folder=str(tmp_path)), "small", lambda: str(gate.wait()))
    recording = recorder.begin("s", sampling={})
    try:
        with trio.move_on_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(recorder.run)
                await trio.sleep(1)
                recording.add_audio(FRAME)
        assert trio.current_time() - began_s == pytest.approx(5 + CLOSING_S)
    finally:
        gate.set()


async def test_neither_a_session_nor_a_drain_waits_for_a_disk(tmp_path, autojump_clock):
    """With a disk that never answers, a session is served to its end, its lane is freed, the engine ends."""
    gate = threading.Event()
    engine = make_engine(replay={"folder": str(tmp_path)}, digest=lambda: str(gate.wait()), drain_s=3)
    client = Client(MemoryTransport(buffer=1000))
    try:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                await nursery.start(engine.run)
                await engine.ready.wait()
                nursery.start_soon(serve_client, engine, client)
                nursery.start_soon(client.listen)
                await client.send(outgoing.metadata(Configure(replay=True)))
                await client.ready()
                await client.stream(speech(1, 10))
                await client.bye()
                await trio.sleep(0.1)
                assert engine.health()["lanes"]["open"] == 0
                began_s = trio.current_time()
                await engine.drain()
        assert trio.current_time() - began_s <= CLOSING_S
    finally:
        gate.set()
    assert len(client.audio) == 10 - DELAY
    assert client.transport.close_reason is CloseReason.NORMAL


async def test_a_bug_in_the_recorder_is_raised(tmp_path):
    """An error that is not the disk's is raised, and every file is closed."""

    def digest() -> str:
        raise LookupError("no such tensor")

    recorder = Recorder(Replay(folder=str(tmp_path)), "small", digest)
    recorder.begin("s", sampling={})
    with pytest.RaisesGroup(LookupError, flatten_subgroups=True):
        await write_all(recorder)


async def test_what_was_recorded_is_on_disk_at_once(tmp_path):
    """A process that is killed leaves everything but the last moment."""
    recorder = Recorder(Replay(folder=str(tmp_path)), "small", str)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(recorder.run)
            recording = recorder.begin("s", sampling={})
            recording.add_audio(FRAME)
            audio, lines = tmp_path / "s/audio.f32", tmp_path / "s/session.jsonl"
            while not (
                audio.exists() and audio.stat().st_size == FRAME.nbytes and "began" in lines.read_text()
            ):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()


async def test_a_recording_ends_at_its_largest_size(tmp_path):
    """Its beginning can be replayed, and the session learns why."""
    settings = Replay(folder=str(tmp_path), recording_bytes=4 * FRAME.nbytes)
    recorder, problems = Recorder(settings, "small", str), []
    recording = recorder.begin("s", problems.append, sampling={})
    for _ in range(10):
        recording.add_audio(FRAME)
    recording.end("closed", 10)
    await write_all(recorder)
    assert len(problems) == 1
    assert "replay.recording_bytes" in problems[0]
    recorded = read_replay(tmp_path / "s")
    assert (len(recorded.frames), recorded.complete) == (3, False)


async def test_there_are_no_more_recordings_than_allowed(tmp_path):
    """A further one is refused with the key to change; those that exist stay."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    recorder, problems = Recorder(Replay(folder=str(tmp_path), recordings=2), "small", str), []
    recorder.begin("s", problems.append, sampling={}).end("closed", 0)
    await write_all(recorder)
    assert [("replay.recordings" in problem) for problem in problems] == [True]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


async def test_a_session_learns_at_once_that_the_disk_refuses(tmp_path):
    """It gets the reason while it goes on, and the page no longer shows a recording."""
    (tmp_path / "file").write_text("")
    engine = make_engine(replay={"folder": str(tmp_path / "file")})
    client = Client(MemoryTransport(buffer=1000))
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            await engine.ready.wait()
            nursery.start_soon(serve_client, engine, client)
            nursery.start_soon(client.listen)
            await client.send(outgoing.metadata(Configure(replay=True)))
            await client.ready()
            while RecordingNotice(on=False) not in client.metadata:
                await trio.lowlevel.checkpoint()
            await client.stream(speech(1, 10))
            await client.bye()
            await engine.drain()
    (notice,) = [value for value in client.metadata if isinstance(value, ErrorNotice)]
    assert notice.code == "not_recorded"
    assert os.strerror(errno.ENOTDIR) in notice.message or os.strerror(errno.EEXIST) in notice.message
    assert len(client.audio) == 10 - DELAY


async def test_a_recording_may_be_taken_back_and_begun_again(tmp_path):
    """Before anything was said nothing of it stays, and the last one is whole; but not again and again."""
    engine = make_engine(replay={"folder": str(tmp_path)})
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        await engine.ready.wait()
        client = Client(MemoryTransport())
        nursery.start_soon(serve_client, engine, client)
        nursery.start_soon(client.listen)
        await client.ready()
        for on in (True, False) * (BEGUN_MAX - 1) + (True,):
            await client.send(outgoing.metadata(Configure(replay=on)))
        await client.stream(speech(1, 3), every_s=0)
        await client.bye()
        nursery.cancel_scope.cancel()
    (session,) = tmp_path.iterdir()
    assert "not_recorded" not in client.errors
    assert read_replay(session).complete
    assert len(read_replay(session).frames) == 3


async def test_a_client_cannot_begin_recordings_without_end(tmp_path):
    """Each costs the disk that all recordings share, and can cost a line in the log."""
    recorder, notices = Recorder(Replay(folder=str(tmp_path)), "small", str), []
    switch = RecordingSwitch(recorder, "s", notices.append)
    for _ in range(BEGUN_MAX + 10):
        switch.turn_on(SamplingParams(), 0, Persona(), None)
        switch.turn_off("asked", 0)
    await write_all(recorder)
    assert sum(isinstance(each, ErrorNotice) for each in notices) == 10
    assert not list(tmp_path.iterdir())
