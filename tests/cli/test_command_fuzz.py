"""Commands as real processes, in any environment, with any streams, interrupted at any moment.

The seed is fixed, so that a failure can be repeated. Each ends with an exit code, and never with a traceback.
"""

import os
import random
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.cli.main import GROUPS
from pipeline.system.command import TRACEBACK

ROOT = Path(__file__).parents[2]
NOWHERE = "ws://127.0.0.1:9/ws"
COMMANDS = [
    ["pipeline", "config-reference"],
    ["pipeline", "health", "--url", "http://127.0.0.1:9"],
    ["pipeline", "invite"],
    ["pipeline", "talk", "--url", NOWHERE, "--in", "tests/data/question.wav"],
    ["pipeline", "trace", "/dev/null"],
    ["pipeline", "weights", "inspect", "--config", "configs/tiny"],
    ["pipeline", "nonsense"],
    ["pipeline.run", "--config", "configs/absent"],
    ["pipeline.run", "--config", "configs/tiny", "--set", "server.host=192.0.2.1"],
]
VARIABLES = [
    *("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("all_proxy", "https_proxy", "http_proxy", "no_proxy"),
    *("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT", "HF_HUB_VERBOSITY", "HF_HUB_DISABLE_XET"),
    *("HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN", "HF_TOKEN_PATH"),
    *(
        "LM_REPO",
        "MIMI_REPO",
        "MIMI_LOCAL",
        "PACKET_VOICE_DEVICE",
        "PACKET_VOICE_KERNELS",
        "PACKET_VOICE_STARTED_BY",
    ),
    *("HOME", "TMPDIR", "USER", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR"),
    *("COLUMNS", "LANG", "LC_ALL", "LINES", "NO_COLOR", "TERM", "TZ"),
    *("MKL_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
    *(
        "MLX_RANK",
        "MLX_WORLD_SIZE",
        "MLX_HOSTFILE",
        "MLX_IBV_DEVICES",
        "SYSTEMD_EXEC_PID",
        "XPC_SERVICE_NAME",
    ),
]
VALUES = [
    *(b"", b"0", b"-1", b"9" * 30, b"x", b"a b", b"{", b"[", b"\n", b"\x1b[2J", b"\xff\xfe", b"~nobody/x"),
    *(b"/", b"/dev/full", b"/dev/null", b"/nonexistent", b"relative", b"http://[", b"socks5://x", b"//"),
]
STREAMS = {
    0: ["", "<&-", "</dev/null", "<configs"],
    1: ["", ">&-", ">/dev/full", "| true"],
    2: ["", "2>&-", "2>/dev/full", "2>/dev/null"],
}
ENDS = (0, 1, 2, 3, 4, 128 + signal.SIGPIPE)  # not 70, and no signal


def check(code: int, printed: bytes, ends: tuple[int, ...], case: object) -> None:
    assert code in ends, (case, code, printed)
    assert b"Traceback" not in printed, (case, printed)
    assert b"internal error" not in printed, (case, printed)


def test_every_variable_that_the_code_reads_is_among_them() -> None:
    """Except the one that shows a traceback on request."""
    sources = [path for room in ("pipeline", "actors", "web") for path in (ROOT / room).rglob("*.py")]
    names = re.compile(r'"((?:PACKET_VOICE|HF|LM|MIMI|MLX|XDG)_[A-Z_]+)"')
    read = {name for path in sources if "train" not in path.parts for name in names.findall(path.read_text())}
    assert read - {TRACEBACK} <= set(VARIABLES)


def any_environment(rng: random.Random, home: Path) -> dict[bytes, bytes]:
    """A third of all variables that are read, with any bytes."""
    environment = dict(os.environb)
    environment |= {b"HOME": os.fsencode(home), b"XDG_DATA_HOME": os.fsencode(home)}
    for name in rng.sample(VARIABLES, len(VARIABLES) // 3):
        value = rng.choice([*VALUES, rng.randbytes(12).replace(b"\0", b"")])
        environment[name.encode()] = value
    return environment


@pytest.mark.parametrize("seed", [103, 104, 105])  # with the embedded model, MLX_RANK, and MIMI_LOCAL
def test_doctor_in_any_environment(seed: int, tmp_path: Path) -> None:
    """It looks at more of it than all others."""
    environment = any_environment(random.Random(seed), tmp_path)
    command = ["pipeline", "doctor", "--config", "configs/tiny", "--seconds", "0.001"]
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, env=environment, capture_output=True, check=False
    )
    check(done.returncode, done.stdout + done.stderr, ENDS, environment)


@pytest.mark.parametrize("seed", range(16))
def test_any_environment(seed: int, tmp_path: Path) -> None:
    """For a command of all."""
    rng = random.Random(seed)
    environment = any_environment(rng, tmp_path)
    command = rng.choice(COMMANDS)
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        timeout=60,
        check=False,
    )
    check(done.returncode, done.stderr, ENDS, (command, environment))


@pytest.mark.parametrize("seed", range(10))
def test_any_streams(seed: int) -> None:
    """Closed, full, gone, or what cannot be read."""
    rng = random.Random(seed)
    command, how = rng.choice(COMMANDS), [rng.choice(STREAMS[number]) for number in (2, 0, 1)]
    line = f"{sys.executable} -m {' '.join(command)} {' '.join(how)}"
    done = subprocess.run(["/bin/sh", "-c", line], cwd=ROOT, capture_output=True, timeout=60, check=False)
    check(done.returncode, done.stderr, ENDS, line)


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
EMBEDDED = ["--config", "configs/tiny"]
SPEECH = "tests/data/question.wav"
# Every command, and how many modules it imports at least.
INTERRUPTED = {
    "run": (["pipeline.run", *EMBEDDED, "--set", "server.port=0"], 1150),
    "invite": (["pipeline", "invite"], 230),
    "health": (["pipeline", "health"], 150),
    "talk": (["pipeline", "talk", "--in", SPEECH], 320),
    "offline": (["pipeline", "offline", *EMBEDDED, SPEECH, "-"], 270),
    "weights": (["pipeline", "weights", "inspect", *EMBEDDED], 280),
    "voices": (["pipeline", "voices", "list", *EMBEDDED], 270),
    "config-reference": (["pipeline", "config-reference"], 150),
    "doctor": (["pipeline", "doctor", *EMBEDDED], 850),
    "bench": (["pipeline", "bench", *EMBEDDED], 250),
    "bench-tensor-parallel": (["pipeline", "bench-tensor-parallel", *EMBEDDED], 250),
    "capacity": (["pipeline", "capacity", *EMBEDDED], 250),
    "loadtest": (["pipeline", "loadtest", *EMBEDDED], 250),
    "smoke": (["pipeline", "smoke", *EMBEDDED, "--in", SPEECH], 250),
    "trace": (["pipeline", "trace", "/dev/null"], 150),
    "service": (["pipeline", "service", "status"], 150),
    "uninstall": (["pipeline", "uninstall", "--help"], 150),
}
MOMENTS = [
    *((name, number, 0) for name in ("run", "talk", "weights") for number in SIGNALS),
    *((name, SIGNALS[each % 3], 1) for each, name in enumerate(INTERRUPTED)),
]


def test_every_command_is_interrupted() -> None:
    """A new one, too."""
    assert set(INTERRUPTED) == {name for commands in GROUPS.values() for name in commands}


@pytest.mark.parametrize(("name", "number", "seed"), MOMENTS)
def test_interrupted_at_any_moment(name: str, number: int, seed: int, tmp_path: Path) -> None:
    """From the first import on: as if it had not begun, or was interrupted later, or had ended before."""
    rng = random.Random(f"{name} {number} {seed}")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        command, imports = INTERRUPTED[name]
        if name in ("health", "talk"):
            command = [*command, "--url", f"http://127.0.0.1:{silent.getsockname()[1]}"]  # it does not answer
        with subprocess.Popen(
            [sys.executable, "-X", "importtime", "-m", *command],
            cwd=ROOT,
            env={**os.environ, "XDG_DATA_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stderr is not None
            lines = iter(process.stderr.readline, b"")
            for _ in zip(range(rng.randrange(imports)), after_own_code(lines), strict=False):
                pass
            process.send_signal(number)
            printed = b"".join(line for line in lines if b"import time:" not in line)
        # It may have ended before.
        check(process.returncode, printed, (*ENDS, -number, 128 + number), (command, number))


def after_own_code(lines: Iterator[bytes]) -> Iterator[bytes]:
    """The lines from when the first of our own modules has been run: Python's start is not ours."""
    for line in lines:
        if line.split(b"|")[-1].strip() == b"difflib":
            break
    yield from lines
