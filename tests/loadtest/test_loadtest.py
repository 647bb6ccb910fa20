"""The soak command on a small checkpoint: it ends well where nothing is wrong, and sees what is left."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.loadtest.client import WrongAnswerError, talking
from pipeline.loadtest.fuzzing import Fuzzer
from pipeline.loadtest.misbehaving import ROGUES, fuzz_socket
from pipeline.loadtest.monitor import Watch
from pipeline.loadtest.server_process import boot

ROOT = Path(__file__).parents[2]
SETTINGS = ("limits.resume_grace_ms=100", "heartbeat.every_s=0.3")


@pytest.fixture(scope="module")
def server(checkpoint):
    with boot(checkpoint, SETTINGS) as booted:
        yield booted


def soak(checkpoint, *arguments):
    command = [
        sys.executable,
        "-m",
        "pipeline",
        "loadtest",
        "--config",
        str(checkpoint),
        "--json",
        *arguments,
    ]
    sets = [part for setting in SETTINGS for part in ("--set", setting)]
    return subprocess.run(
        [*command, *sets], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_crowd_is_reported(checkpoint):
    """Sessions come, talk and go; no law is broken, and the figures are one JSON object."""
    done = soak(checkpoint, "--sessions", "2", "--misbehaving", "0", "--minutes", "0.03")
    assert done.returncode == 0, done.stdout + done.stderr
    crowd = json.loads(done.stdout.splitlines()[-1])["crowd"]
    assert crowd["laws"] == []
    assert crowd["heard"]["frames_out"] > 0
    assert crowd["server"]["rss_mib"]["end"] > 0


def test_ticks_and_steps_are_reported(checkpoint):
    """The stages alone: no server, the same report."""
    done = soak(checkpoint, "--ticks", "20", "--steps", "20")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert set(result["ticks"]["p50_ms"]) == {"one_lane", "8_lanes", "8_calls"}
    assert len(result["steps"]["tenths"]) == 10


async def test_fuzzed_packets_are_answered_over_a_socket(server):
    """Every packet gets the table's answer, and the server is as it was before."""
    watch = Watch(server, grace_s=0.1)
    await watch.begin()
    assert (await fuzz_socket(server.port, Fuzzer(2), 150)).total() == 150
    assert await watch.end() == []


@pytest.mark.parametrize("name", ["visit", "retune"])
async def test_a_rogue_gets_its_answer(server, name):
    """What a rogue does is answered as the protocol has it."""
    await ROGUES[name](server.port, random.Random(1))


async def test_what_is_left_behind_is_seen(server):
    """A lane, a client, a socket and tasks that do not come back are broken laws, each by its name."""
    watch = Watch(server, grace_s=0.0, settle_s=0.3)
    await watch.begin()
    async with talking(server.port):
        left = await watch.end()
    assert {"lanes", "clients", "sockets", "tasks"} <= {sentence.partition(":")[0] for sentence in left}


async def test_an_unanswered_frame_is_seen(server):
    """A frame that was neither answered nor told to be dropped is a broken law."""
    async with talking(server.port) as talker:
        await talker.speak(3)
        await talker.mark()
        talker.account.frames_in += 10
        with pytest.raises(WrongAnswerError, match="unaccounted"):
            talker.settle()
        talker.account.frames_in -= 10
        await talker.part()
