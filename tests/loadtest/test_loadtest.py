"""The loadtest command on a small checkpoint: it succeeds on a correct server, and detects violations."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from pipeline.cli.loadtest import _with_former_keys, main, serving
from pipeline.errors import ConfigError
from pipeline.loadtest.client import ViolationError, connect_client
from pipeline.loadtest.fuzzing import Fuzzer
from pipeline.loadtest.misbehaving import FAULTS, fuzz_socket
from pipeline.loadtest.monitor import ServerMonitor
from pipeline.loadtest.server_process import ServerEndedError, ServerStartError, start_server

ROOT = Path(__file__).parents[2]
SETTINGS = ("lanes.admit=16", "limits.resume_grace_ms=100", "heartbeat.every_s=0.3")


@pytest.fixture(scope="module")
def server(checkpoint):
    with start_server(checkpoint, SETTINGS) as running:
        yield running


def loadtest(checkpoint, *arguments):
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


def test_a_server_that_ends_is_a_sentence_of_its_own(checkpoint):
    """With its exit code and the last thing it said; what it logged before is not repeated."""
    with (
        pytest.raises(ServerStartError) as failed,
        start_server(checkpoint, ["replay.folder=/dev/null/x", "lanes.max=0"]),
    ):
        pass
    assert str(failed.value).startswith("the server ended with exit code 2: pipeline.lanes.max")


@pytest.mark.parametrize("setting", ["host=::1", "tls=auto", "token=0123456789abcdef"])
def test_a_server_that_its_clients_could_not_talk_to_is_not_started(checkpoint, setting):
    """The error says which setting to leave out, instead of after a minute that the server is not ready."""
    key = f"server.{setting.partition('=')[0]}"
    with pytest.raises(ConfigError, match=f"add --set {key}="):
        main(["--config", str(checkpoint), "--set", f"server.{setting}"])


def test_a_server_that_refuses_its_clients_address_is_not_started(checkpoint):
    """It would answer each of them with 403."""
    with pytest.raises(ConfigError, match="allowed_hosts: a load test connects"):
        main(["--config", str(checkpoint), "--set", 'server.allowed_hosts=["localhost"]'])


def measure_one_that_is_killed(checkpoint):
    with serving(checkpoint, SETTINGS) as running:
        monitor = ServerMonitor(running, grace_s=0.0)
        trio.run(monitor.take_baseline)
        os.kill(running.pid, signal.SIGKILL)
        trio.run(monitor.run, 0)


def test_a_server_that_ends_in_the_middle_is_a_sentence(checkpoint):
    """Whatever the clients and the monitor make of it."""
    with pytest.raises(ServerEndedError, match="ended with exit code -9 under the load: "):
        measure_one_that_is_killed(checkpoint)


@pytest.mark.parametrize("setting", ["limits.message_bytes=17", "heartbeat.timeout_s=0.001"])
def test_a_server_that_nobody_can_talk_to_is_a_sentence(checkpoint, setting):
    """There is nothing to measure, and that is no error of the load test's own."""
    done = loadtest(checkpoint, "--sessions", "2", "--minutes", "0.03", "--set", setting)
    assert done.returncode == 1, done.stderr
    assert "the load test had to stop: a normal conversation" in done.stderr
    assert "internal error" not in done.stderr


def test_a_load_is_reported(checkpoint):
    """Sessions connect, talk and leave without violations, and the report is one JSON object."""
    done = loadtest(checkpoint, "--sessions", "2", "--misbehaving", "0", "--minutes", "0.03")
    assert done.returncode == 0, done.stdout + done.stderr
    load = json.loads(done.stdout.splitlines()[-1])["load"]
    assert load["violations"] == []
    assert load["clients"]["frames_out"] > 0
    assert load["server"]["rss_mib"]["end"] > 0


def test_ticks_and_steps_are_reported(checkpoint):
    """Without a server, the stages alone have the same kind of report."""
    done = loadtest(checkpoint, "--ticks", "20", "--steps", "20")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert set(result["ticks"]["p50_ms"]) == {"one_lane", "8_lanes", "8_calls"}
    assert len(result["steps"]["tenths"]) == 10


async def test_fuzzed_packets_have_the_expected_outcomes_over_a_socket(server):
    """Every packet gets the specified response, and the server releases everything."""
    monitor = ServerMonitor(server, grace_s=0.1)
    await monitor.take_baseline()
    assert (await fuzz_socket(server.port, Fuzzer(2), 150)).total() == 150
    assert await monitor.violations() == []


@pytest.mark.parametrize("name", ["leave_without_bye", "reconfigure"])
async def test_a_fault_gets_its_response(server, name):
    """The server responds to a faulty client as specified."""
    await FAULTS[name](server.port, random.Random(1))


async def test_unreleased_resources_are_violations(server):
    """A lane, a client, a socket and tasks that are not released are each reported by name."""
    monitor = ServerMonitor(server, grace_s=0.0, release_s=0.3)
    await monitor.take_baseline()
    async with connect_client(server.port):
        unreleased = await monitor.violations()
    assert {"lanes", "clients", "sockets", "tasks"} <= {sentence.partition(":")[0] for sentence in unreleased}


async def test_an_unanswered_frame_is_a_violation(server):
    """A frame that was neither answered nor reported as dropped is detected."""
    async with connect_client(server.port) as client:
        await client.send_audio(3)
        await client.round_trip()
        client.counts.frames_in += 10
        with pytest.raises(ViolationError, match="unaccounted"):
            client.check_accounting()
        client.counts.frames_in -= 10
        await client.finish()


def test_former_keys_are_kept_in_the_json():
    """Programs that read `--json` find each renamed value under its former key too."""
    renamed = _with_former_keys({"load": {"violations": [], "steps": [{"normal": 1}]}})
    assert renamed["crowd"] == renamed["load"]
    assert renamed["load"]["laws"] == []
    assert renamed["load"]["steps"] == [{"normal": 1, "polite": 1}]
