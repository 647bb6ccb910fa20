"""Whatever the environment, the names of files and their contents are, a command ends with a sentence.

A server whose model is on this machine starts whatever the settings of its optional parts are.
"""

import contextlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.hub_proxy.client import HubClient
from actors.hub_proxy.request import FileRef
from pipeline.cli import config_reference, offline, talk, trace, weights
from pipeline.config import Server
from pipeline.errors import HubFileError
from pipeline.lan.credentials import prepare
from pipeline.stages.text import SentencePiece
from pipeline.system.command import run_command
from web.security.listen import ListenConfig

ROOT = Path(__file__).parents[2]
EMBEDDED = ROOT / "configs/tiny"
RAW = json.loads((EMBEDDED / "config.json").read_text())
SPEECH = ROOT / "tests/data/speech.wav"
DEEP = 100_000 * "["
REF = FileRef("Xenova/whisper-tiny", "main", "config.json")
BAD = {
    "ALL_PROXY": "socks5://127.0.0.1:1",
    "HTTPS_PROXY": "no-scheme",
    "HTTP_PROXY": "http://[::1",
    "NO_PROXY": "[",
    "SSL_CERT_FILE": "/nonexistent",
    "SSL_CERT_DIR": "/dev/null",
    "HF_HOME": "/dev/null/x",
    "HF_TOKEN_PATH": "/proc/self/mem",
    "TMPDIR": "/nonexistent",
    "XDG_CACHE_HOME": "relative",
    "LANG": "xx",
    "TERM": "\x1b",
    "COLUMNS": "x",
}


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}


@contextlib.contextmanager
def server(
    environment: dict[str, str],
    checkpoint: Path,
    program: tuple[str, ...] = ("-m", "pipeline.run"),
    settings: Sequence[str] = (),
) -> Iterator[str]:
    """The address of a server that became ready."""
    with subprocess.Popen(
        [sys.executable, *program, "--config", str(checkpoint), "--set", "server.port=0", *settings],
        close_fds=False,
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        try:
            lines = []
            for line in process.stderr:
                lines.append(line)
                if '"ready"' in line:
                    break
            assert lines, "the server has ended"
            ready = json.loads(lines[-1])
            assert ready["event"] == "ready", lines
            yield ready["open"].removesuffix("/packet-voice")
            process.terminate()
            assert process.wait(timeout=120) == 0
        finally:
            process.kill()


def hub_answer(url: str) -> str:
    """What the hub proxy says to a request for a file that is not in its cache."""
    with pytest.raises(urllib.error.HTTPError) as failed, no_proxy_opener() as opener:
        opener.open(f"{url}/api/hf/{REF.repo}/resolve/main/absent.json", timeout=60)
    with failed.value as response:
        message: str = json.load(response)["error"]["message"]
        return message


@contextlib.contextmanager
def no_proxy_opener() -> Iterator[urllib.request.OpenerDirector]:
    yield urllib.request.build_opener(urllib.request.ProxyHandler({}))


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1080", "socks://127.0.0.1:1080"])
def test_a_proxy_that_the_hub_client_cannot_use_concerns_only_the_hub(
    checkpoint: Path, proxy: str, tmp_path: Path
) -> None:
    """The server starts; a request for a file of the hub is answered with what is lacking."""
    environment = {**clean_environment(), "ALL_PROXY": proxy, "XDG_CACHE_HOME": str(tmp_path)}
    with server(environment, checkpoint) as url:
        message = hub_answer(url)
    assert "ALL_PROXY" in message
    assert "Traceback" not in message


def test_settings_of_optional_parts_do_not_keep_a_server_from_starting(checkpoint: Path) -> None:
    """All at once, wrong as they can be."""
    with server({**clean_environment(), **BAD}, checkpoint) as url:
        assert hub_answer(url)


def test_a_hub_client_that_cannot_be_imported_concerns_only_the_hub(checkpoint: Path) -> None:
    """It reads some variables when it is imported."""
    with server({**clean_environment(), "HF_HUB_DOWNLOAD_TIMEOUT": "soon"}, checkpoint) as url:
        assert "soon" in hub_answer(url)


HUBLESS = """
import sys

sys.modules["huggingface_hub"] = None  # importing it is an ImportError, as where it is not installed
from pipeline.run import run_and_exit

run_and_exit()
"""


def test_a_hub_client_that_is_not_installed_concerns_only_the_hub(checkpoint: Path) -> None:
    """A model that is on this machine does not need it."""
    with server(clean_environment(), checkpoint, ("-c", HUBLESS)) as url:
        assert "huggingface_hub" in hub_answer(url)


HOMELESS = """
import pwd

def absent(uid):
    raise KeyError(uid)

pwd.getpwuid = absent
from pipeline.run import run_and_exit

run_and_exit()
"""


def test_a_user_without_a_home_folder_can_serve(checkpoint: Path) -> None:
    """As in a container started with --user: the hub proxy has no place for its cache, and says so."""
    environment = {
        name: value for name, value in clean_environment().items() if not name.startswith(("HOME", "XDG_"))
    }
    with server(environment, checkpoint, ("-c", HOMELESS)) as url:
        assert "HOME" in hub_answer(url)


def names_of_proxies() -> st.SearchStrategy[str]:
    text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
    scheme = st.sampled_from(
        ["", "http://", "https://", "socks5://", "socks5h://", "socks4://", "//", "ftp://"]
    )
    return st.builds("{}{}".format, scheme, text)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(proxy=names_of_proxies(), endpoint=names_of_proxies())
def test_any_proxy_and_endpoint_is_an_error_of_the_request(
    monkeypatch: pytest.MonkeyPatch, proxy: str, endpoint: str
) -> None:
    """`HubClient` raises nothing else, and nothing before."""
    for name in ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ALL_PROXY", proxy)

    async def ask() -> None:
        client = HubClient(endpoint, None, offline=False, timeout_s=0.001, connections=1)
        try:
            with contextlib.suppress(HubFileError):
                client._check_environment()
        finally:
            await client.aclose()

    trio.run(ask)


NAMES = st.binary(min_size=1, max_size=60).map(
    lambda raw: os.fsdecode(raw.replace(b"\0", b"").replace(b"/", b"") or b"x")
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=NAMES, content=st.binary(max_size=200))
def test_files_of_any_name_and_content_are_a_sentence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, content: bytes
) -> None:
    """For every command that reads one."""
    folder = tmp_path / "any"
    folder.mkdir(exist_ok=True)
    path = folder / f"f{name}"
    path.write_bytes(content)
    try:
        for command in (
            lambda: talk.main(["--url", "ws://127.0.0.1:9/ws", "--in", str(path)]),
            lambda: offline.main([str(path), str(folder / "out.wav")]),
            lambda: trace.main([str(path)]),
            lambda: weights.main(["inspect", "--config", str(path)]),
        ):
            assert run_command(command) in (1, 2, 3)
            printed = capfd.readouterr().err
            assert "Traceback" not in printed
            assert "internal error" not in printed, printed
    finally:
        path.unlink()


def test_a_model_may_be_in_a_folder_of_any_name(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The libraries that read its weights take only names that are text."""
    folder = tmp_path / os.fsdecode(b"\xff\n")
    shutil.copytree(EMBEDDED, folder)
    out = folder / "answer.wav"
    assert run_command(lambda: offline.main(["--config", str(folder), str(SPEECH), str(out)])) == 0
    assert out.stat().st_size > 0
    assert "internal error" not in capfd.readouterr().err


def test_a_setting_whose_name_is_no_text_is_a_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    """As a shell passes it on."""
    setting = os.fsdecode(b"\xff=1")
    inspect = ["inspect", "--config", str(EMBEDDED), "--set", setting]
    assert run_command(lambda: weights.main(inspect)) == 2
    assert "not text in UTF-8" in capfd.readouterr().err


def test_certificate_key_and_token_may_come_through_pipes(checkpoint: Path, tmp_path: Path) -> None:
    """As by process substitution: a server reads each of them once, and has them all the same."""
    token, now = "0123456789abcdef", datetime.now(UTC)
    credentials = prepare(Server(tls_folder=str(tmp_path)), "127.0.0.1", now, token=False)
    with contextlib.ExitStack() as stack:
        settings: list[str] = []
        for key, content in (
            ("tls_cert", credentials.server_file.read_bytes()),
            ("tls_key", credentials.server_file.read_bytes()),
            ("token_file", token.encode()),
        ):
            reading, writing = os.pipe()
            stack.callback(os.close, reading)
            with os.fdopen(writing, "wb") as file:
                file.write(content)
            os.set_inheritable(reading, True)
            settings += ["--set", f"server.{key}=/dev/fd/{reading}"]
        with server(clean_environment(), checkpoint, settings=settings) as url:
            trusted = ssl.create_default_context(cafile=credentials.authority_file)
            https = urllib.request.HTTPSHandler(context=trusted)
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), https)
            request = urllib.request.Request(f"{url}/health", headers={"Authorization": f"Bearer {token}"})
            with opener.open(request, timeout=60) as response:
                assert response.status == 200


KINDS = [
    *("folder", "fifo", "socket", "null", "zero", "full", "loop", "nothing", "unreadable"),
    *("endless", "huge"),
]


def inspect_with(key: str, path: Path) -> int:
    """Inspect the embedded model with another file as one of its own."""
    config = {name: EMBEDDED / each if name.endswith("_name") else each for name, each in RAW.items()}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.json"
        file.write_text(json.dumps({**config, key: path}, default=str))
        return weights.main(["inspect", "--config", folder])


READERS: dict[str, Callable[[Path], object]] = {
    "talk --in": lambda path: talk.main(["--url", "ws://127.0.0.1:9/ws", "--in", str(path)]),
    "talk --token-file": lambda path: talk.main(
        ["--url", "ws://127.0.0.1:9/ws", "--in", str(SPEECH), "--token-file", str(path)]
    ),
    "talk --ca": lambda path: talk.main(
        ["--url", "wss://127.0.0.1:9/ws", "--in", str(SPEECH), "--ca", str(path)]
    ),
    "offline": lambda path: offline.main([str(path), "-"]),
    "weights": lambda path: weights.main(["inspect", "--config", str(path)]),
    "config-reference": lambda path: config_reference.main(["--write", str(path)]),
    "certificate": lambda path: ListenConfig.from_settings(Server(tls_cert=str(path))),
    "token": lambda path: ListenConfig.from_settings(Server(token_file=str(path))),
    "tokenizer": lambda path: SentencePiece(path, 8000),
    "trace": lambda path: trace.main([str(path)]),
    **{key: partial(inspect_with, key) for key in ("moshi_name", "mimi_name", "mimi_config_name")},
}

# A log may be followed; it is read line by line.
CASES = [(reader, kind) for reader in READERS for kind in KINDS if (reader, kind) != ("trace", "endless")]


@contextlib.contextmanager
def file_of_kind(kind: str, folder: Path) -> Iterator[Path]:
    """A pipe that was closed, a socket and an endless device included."""
    path = folder / "file"
    with contextlib.ExitStack() as stack:
        match kind:
            case "folder":
                path.mkdir()
            case "fifo":
                os.mkfifo(path)
                writer = subprocess.Popen([sys.executable, "-c", f"open({str(path)!r}, 'wb').close()"])
                stack.callback(writer.wait)
                stack.callback(writer.kill)  # nobody opened the other end
            case "socket":
                listener = stack.enter_context(socket.socket(socket.AF_UNIX))
                listener.bind(str(path))
            case "endless":
                os.mkfifo(path)
                endless = subprocess.Popen(["/bin/sh", "-c", f"exec yes '' >{path}"])
                stack.callback(endless.wait)
                stack.callback(endless.kill)
            case "huge":
                with path.open("wb") as file:
                    file.truncate(1 << 40)  # without a block on the disk
            case "loop":
                path.symlink_to(path)
            case "unreadable":
                path.write_bytes(b"")
                path.chmod(0)
            case "nothing":
                pass
            case device:
                path = Path("/dev") / device
        yield path


@pytest.mark.parametrize(("reader", "kind"), CASES)
def test_files_of_any_kind_are_a_sentence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], reader: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sentence and an exit code, for every argument and setting that names a file to read."""
    monkeypatch.setattr("pipeline.audio.sound_file.PIPED_BYTES_MAX", 1 << 16)

    def read() -> int:
        result = READERS[reader](path)
        return result if isinstance(result, int) else 0

    with file_of_kind(kind, tmp_path) as path:
        assert run_command(read) in (1, 2, 3)
    printed = capfd.readouterr().err
    assert len(printed.splitlines()) in (1, 2), printed  # the second is where to find help
    assert "internal error" not in printed
    assert "memory" not in printed  # it was not read until there was no more


@pytest.mark.parametrize(
    "command",
    [
        lambda nested: weights.main(["inspect", "--config", nested]),
        lambda _: weights.main(["inspect", "--config", "configs/tiny", "--set", f"lanes={DEEP}"]),
        lambda nested: offline.main(["--replay", str(Path(nested).parent), "-"]),
    ],
    ids=["config", "--set", "--replay"],
)
def test_json_that_is_nested_too_deep_is_a_sentence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], command: Callable[[str], int]
) -> None:
    """Python reports it with an exception of its own."""
    for name in ("config.json", "session.jsonl"):
        (tmp_path / name).write_text(DEEP)
    (tmp_path / "audio.f32").touch()
    assert run_command(lambda: command(str(tmp_path / "config.json"))) == 2
    assert "internal error" not in capfd.readouterr().err


def limited(module: str, limit: str) -> subprocess.CompletedProcess[str]:
    """Run a module with its arguments under a limit of the shell."""
    return subprocess.run(
        ["/bin/sh", "-c", f"ulimit {limit}; exec {sys.executable} -m {module}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("limit", ["-n 8", *(f"-v {kib}000" for kib in (100, 200, 300, 400, 600, 800, 1000))])
def test_too_little_of_the_machine_is_a_sentence(checkpoint: Path, limit: str) -> None:
    """Too few open files, or too little memory (KiB) for a library, its threads, or what they map."""
    done = limited(f"pipeline.run --config {checkpoint} --set server.port=0", limit)
    assert done.returncode in (1, 3), done.stderr
    *logged, sentence = done.stderr.splitlines()
    assert {json.loads(line)["level"] for line in logged} <= {"info", "warning"}
    assert "internal error" not in sentence


CLIENT = f"talk --url ws://127.0.0.1:9/ws --in {SPEECH}"


@pytest.mark.parametrize(
    ("command", "limit"),
    [
        (CLIENT, "-n 8"),
        (CLIENT, "-v 300000"),
        ("weights verify", "-v 600000"),
        ("loadtest --minutes 0.02", "-n 7"),
        ("loadtest --minutes 0.02", "-v 600000"),
    ],
)
def test_too_little_of_the_machine_is_a_sentence_of_every_command(command: str, limit: str) -> None:
    """The last line, and an exit code."""
    done = limited(f"pipeline {command}", limit)
    assert done.returncode in (1, 2, 3), done.stderr
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr.splitlines()[-1]
