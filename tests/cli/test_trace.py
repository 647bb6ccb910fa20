"""The trace command reads the log of a real server, with all its other lines; so do the jq recipes."""

import json
import math
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cli.trace import PARTS, SUMS, read_log, summary, table
from pipeline.client.session import converse

ROOT = Path(__file__).parents[2]
FRAMES = 12
RECIPES = re.findall(r"```sh\n(jq .*?)\n```", (ROOT / "docs/how-to/operations.md").read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def log(checkpoint, tmp_path_factory):
    """`server.log` of a server that traced two short sessions, in a folder of its own."""
    path = tmp_path_factory.mktemp("traced") / "server.log"
    settings = ["server.port=0", "log.format=json", "log.trace_every=1"]
    command = [sys.executable, "-m", "pipeline.run", "--config", str(checkpoint)]
    command += [part for setting in settings for part in ("--set", setting)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        lines, url = [], ""
        for line in server.stderr:
            lines.append(line)
            event = json.loads(line)
            url = event.get("url", url)
            if event["event"] == "ready":
                break
        try:
            reports = [trio.run(talk, url.replace("http://", "ws://") + "/ws") for _ in range(2)]
        finally:
            server.send_signal(signal.SIGTERM)
            lines += server.stderr.readlines()
    path.write_text("".join(lines))
    return path, sum(report.frames_out for report in reports)


async def talk(url):
    """A short session; the deadline turns a hang into a failure."""
    with trio.fail_after(30):
        return await converse(url, np.zeros(1920 * FRAMES, np.float32))


def run(text, *arguments):
    command = [sys.executable, "-m", "pipeline", "trace", *arguments]
    return subprocess.run(command, cwd=ROOT, input=text, capture_output=True, check=False, timeout=120)


def line(**changed):
    event = {"event": "frame", "session": "a"} | dict.fromkeys((*PARTS, *SUMS), 1.0)
    return json.dumps(event | changed)


def test_a_real_log_becomes_a_table(log):
    """Every answered frame of both sessions is in it, and the parts of each add up to its total."""
    path, frames_out = log
    with path.open() as lines:
        traces = read_log(lines)
    assert traces.frames == frames_out > FRAMES
    assert len(traces.sessions) == 2
    for values in zip(*(traces.parts[name] for name in PARTS), traces.parts["total_ms"], strict=True):
        assert math.fsum(values[:-1]) == pytest.approx(values[-1], abs=0.02)
    done = run(path.read_bytes())
    assert (done.returncode, done.stderr) == (0, b"")
    rows = [row.split() for row in done.stdout.decode().splitlines()]
    assert rows[0][:5] == [str(frames_out), "frames", "of", "2", "sessions,"]
    assert rows[1] == ["p50", "p95", "p99", "max", "mean"]
    assert [" ".join(row[:-5]) for row in rows[2:]] == [
        *("encode queue", "encode", "step queue", "step", "decode queue", "decode", "egress"),
        *("added", "total"),
    ]
    assert all(float(number) >= 0 for row in rows[2:] for number in row[-5:])


def test_json_prints_the_same_numbers(log):
    """`--json` prints the table as one object."""
    path, frames_out = log
    printed = json.loads(run(path.read_bytes(), "--json").stdout)
    with path.open() as lines:
        assert printed == summary(read_log(lines))
    assert printed["frames"] == frames_out
    assert printed["skipped"] > 0  # `listening`, `ready`, the sessions' own lines


def test_traces_contain_no_text(log):
    """Frame events have times and ids, and nothing of what was spoken."""
    path, _ = log
    known = {"event", "level", "timestamp", "session", "frame", *PARTS, *SUMS}
    frames = [event for event in map(json.loads, path.read_text().splitlines()) if event["event"] == "frame"]
    assert frames
    assert all(event.keys() == known for event in frames)


def test_without_traces_the_error_names_the_setting():
    """A log without frame events is exit code 1 and one sentence."""
    done = run(b'{"event": "ready"}\nTraceback (most recent call last):\n\xff\xfe\n')
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"log.trace_every=1" in done.stderr
    assert b"3 lines" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    "other",
    [
        "",
        "\n",
        "listening on 127.0.0.1",
        "[1, 2]",
        '"frame"',
        "null",
        "{",
        '{"event": "frame"}',
        '{"event": "session", "total_ms": 3}',
        line(total_ms="fast"),
        line(total_ms=None),
        line(total_ms=True),
        line(total_ms=math.nan),
        line(step_ms=math.inf),
        "[" * 100_000,
    ],
)
def test_other_lines_are_skipped(other):
    """Any line between two frame events is counted as skipped, and both frames are read."""
    traces = read_log([line(), other, line(session="b")])
    assert (traces.frames, len(traces.sessions), traces.skipped) == (2, 2, 1)
    assert table(traces)


@given(st.lists(st.text()))
def test_any_log_can_be_read_log(lines):
    """Any line is read or skipped, without an error."""
    assert read_log(lines).skipped == len(lines)


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
@pytest.mark.parametrize("recipe", RECIPES)
def test_the_jq_recipes_work(log, recipe):
    """On an unfiltered log, each documented recipe finds frames of both sessions."""
    path, _ = log
    slow_enough = recipe.replace(".total_ms > 60", ".total_ms > 0")
    done = subprocess.run(
        ["sh", "-c", slow_enough], cwd=path.parent, capture_output=True, check=True, timeout=120
    )
    found = [json.loads(row) for row in done.stdout.splitlines()]
    assert len({event["session"] for event in found}) == 2
    assert all(None not in event.values() for event in found)
    assert done.stderr == b""


def test_the_docs_have_recipes():
    """The operations page has both jq recipes."""
    assert len(RECIPES) == 2
