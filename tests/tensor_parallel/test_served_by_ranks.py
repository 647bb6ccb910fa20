"""A server over two ranks: it answers as one process does; if a rank ends or hangs, all end with a reason.

Every limit on time is far above what is waited for; which of them holds is not asserted.
"""

import json
import math
import shutil
import signal
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path

import psutil
import pytest
import trio
from support.checkpoints import write_folder
from support.tensor_parallel.ranks_rig import ROOT, SHARED, Rank, free_ports, ranks
from trio_websocket import ConnectionClosed, WebSocketConnection

from pipeline.audio.sound_file import read_speech
from pipeline.cli.bench_tensor_parallel import free_ports_from
from pipeline.client.connect import open_websocket
from pipeline.client.report import Report
from pipeline.client.session import converse
from pipeline.loadtest.server_process import start_server
from pipeline.protocol.metadata import Configure
from pipeline.protocol.packets import Packet, PacketType, Priority, decode, encode

SILENCE = Packet(PacketType.AUDIO_CHUNK, Priority.CRITICAL, 0, 0.0, bytes(4 * 1920))
# Ranks that share a core may be slow, which must not fail the test.
SETTINGS = ("lanes.max=1", "stall_s=4", "drain_s=1", "limits.max_lag_ms=60000", "limits.send_timeout_s=1")
GREEDY = Configure(temperature=0.0, text_temperature=0.0)
REASONS = (
    "another rank has ended",
    "the ranks did not finish a step together",
    "another rank has not responded",
    "another rank has not finished a step",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("shared"), lm=SHARED)


def arguments(folder: Path, port: int) -> list[str]:
    sets = [part for each in (*SETTINGS, f"server.port={port}") for part in ("--set", each)]
    return ["-m", "pipeline.run", "--config", str(folder), *sets]


def wait_ready(port: int, alive: Callable[[], bool]) -> None:
    ends_s = time.monotonic() + 180
    while time.monotonic() < ends_s:
        assert alive(), "it ended before it was ready"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=60):
                return
        except urllib.error.HTTPError as error:
            error.close()  # not ready yet
        except OSError:
            pass  # not listening yet
        time.sleep(0.05)
    raise AssertionError("not ready in a minute")


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, list[Rank]]]:
    """Two ranks that serve: the socket's address, and the processes."""
    port = free_ports(1)[0]
    with ranks(*arguments(folder, port)) as both:
        wait_ready(port, lambda: all(rank.process.poll() is None for rank in both))
        yield f"ws://127.0.0.1:{port}/ws", both


def talked(url: str) -> Report:
    speech = read_speech(ROOT / "tests/data/speech.wav")[: 1920 * 6]
    return trio.run(partial(converse, url, speech, configure=GREEDY))


def session_until_closed(url: str, meanwhile: Callable[[], None]) -> tuple[int | None, list[str]]:
    """A session that runs until the server ends it: the close code, and the types of metadata it got.

    `meanwhile` is called when a first frame has been answered.
    """
    received: list[str] = []

    async def send(socket: WebSocketConnection) -> None:
        with suppress(ConnectionClosed):
            while True:
                await socket.send_message(encode(SILENCE))
                await trio.sleep(0.3)

    async def main() -> int | None:
        answered = False
        with trio.fail_after(60):
            async with open_websocket(url) as socket, trio.open_nursery() as nursery:
                nursery.start_soon(send, socket)
                try:
                    while True:
                        packet = decode(await socket.get_message())
                        if packet.type == PacketType.METADATA:
                            received.append(json.loads(packet.payload)["type"])
                        elif packet.type == PacketType.TEXT_PARTIAL and not answered:
                            answered = True
                            meanwhile()
                except ConnectionClosed as closed:
                    code = closed.reason.code if closed.reason else None
                nursery.cancel_scope.cancel()
        return code

    return trio.run(main), received


def test_two_ranks_answer_as_one_process(folder: Path) -> None:
    """Started by `mlx.launch`, as by a user; SIGTERM to rank 0 ends all of it with 0."""
    with start_server(folder, SETTINGS) as one:
        alone = talked(one.socket_url)
    port, first = free_ports(1)[0], free_ports_from(2)
    launcher = [str(Path(sys.executable).with_name("mlx.launch")), "-n", "2", "-p", str(first), "--"]
    with subprocess.Popen(
        [*launcher, sys.executable, *arguments(folder, port)],
        cwd=ROOT,
        stdin=subprocess.PIPE,  # it reads all the time, and what has ended all the faster
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as launched:
        processes = {}
        try:
            wait_ready(port, lambda: launched.poll() is None)
            children = psutil.Process(launched.pid).children(recursive=True)
            processes = {child.environ()["MLX_RANK"]: child for child in children}
            together = talked(f"ws://127.0.0.1:{port}/ws")
            processes["0"].terminate()
            assert launched.wait(30) == 0
            assert not any(process.is_running() for process in processes.values())
        finally:
            launched.terminate()
            for process in processes.values():
                with suppress(psutil.NoSuchProcess):
                    process.kill()
    assert together.text == alone.text
    assert alone.text
    assert together.frames_in == alone.frames_in


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_rank_that_ends_or_hangs_ends_the_service_and_notifies_the_session(
    folder: Path, number: int
) -> None:
    """Rank 0 exits with 70 and logs the reason; the session is closed with 1011."""
    with serving(folder) as (url, (first, second)):
        code, received = session_until_closed(url, lambda: second.process.send_signal(number))
        assert first.ended() == 70
        assert "invariant_broken" in first.output()
        assert any(sentence in first.output() for sentence in REASONS)
    assert code == 1011
    assert received[-1] == "error"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_without_rank_0_the_others_end(folder: Path, number: int) -> None:
    """With 70, and the reason."""
    with serving(folder) as (_, (first, second)):
        first.process.send_signal(number)
        assert second.ended() == 70
        assert "rank 0 has not responded" in second.output() or "another rank has ended" in second.output()


def test_a_lost_rank_is_detected_without_a_session(folder: Path) -> None:
    """Rank 0 exits with 70 and the reason."""
    with serving(folder) as (_, (first, second)):
        second.process.send_signal(signal.SIGSTOP)
        assert first.ended() == 70
        assert any(sentence in first.output() for sentence in REASONS)


def test_a_signal_to_any_rank_drains_all(folder: Path) -> None:
    """The session gets `draining`, and every process exits with 0."""
    with serving(folder) as (url, (first, second)):
        code, received = session_until_closed(url, second.process.terminate)
        assert (first.ended(), second.ended()) == (0, 0)
    assert code == 1001
    assert "draining" in received


def test_an_interrupt_ends_all_with_130(folder: Path) -> None:
    """As a terminal sends it, to every process at once."""
    with serving(folder) as (_, both):
        for rank in both:
            rank.process.send_signal(signal.SIGINT)
        assert [rank.ended() for rank in both] == [130, 130]


def test_ranks_with_different_configurations_do_not_serve(folder: Path) -> None:
    """Each reports it and exits with 2."""
    own = [["--set", "lanes.max=1"], ["--set", "lanes.max=2"]]
    with ranks(*arguments(folder, free_ports(1)[0]), each=own) as both:
        assert [rank.ended() for rank in both] == [2, 2]
        assert all("was started with another configuration" in rank.output() for rank in both)


def test_a_shard_that_cannot_be_loaded_ends_all(folder: Path, tmp_path: Path) -> None:
    """With 3: the rank itself reports the reason, and rank 0 which rank it is."""
    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    path = damaged / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + struct.pack("<f", math.nan))  # the headers are the same
    command = arguments(folder, free_ports(1)[0])
    with ranks(*command, each=[[], ["--config", str(damaged)]]) as (first, second):
        assert (first.ended(), second.ended()) == (3, 3)
        assert "rank 1" in first.output().splitlines()[-1]
        assert "NaN" in second.output().splitlines()[-1]


def test_a_rank_without_others_does_not_wait_forever(folder: Path, tmp_path: Path) -> None:
    """MLX would; the log has the time limit beforehand."""
    hostfile = tmp_path / "hosts.json"
    hostfile.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in free_ports(2)]))
    command = [*arguments(folder, free_ports(1)[0]), "--set", "ranks.join_s=1"]
    with closing(Rank(0, command, hostfile, {})) as rank:
        assert rank.ended() == -signal.SIGALRM
        assert json.loads(rank.output().splitlines()[-1])["or_killed_after_s"] == 1
