"""A voice and a role through every way in: what begins with them, and what is refused in one sentence."""

import asyncio
import json
import subprocess
import sys
import urllib.parse
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
import websockets
from support.personas import write_persona_folder

from pipeline.cli.offline import main as offline
from pipeline.errors import ConfigError
from pipeline.loadtest.server_process import ServerProcess, start_server
from pipeline.protocol import outgoing
from pipeline.protocol.conversation import Conversation
from pipeline.protocol.events import MetadataReceived
from pipeline.protocol.metadata import ROLE_MAX, Configure, ErrorNotice, Ready

ROOT = Path(__file__).parent.parent
QUESTION = ROOT / "tests/data/question.wav"
T = TypeVar("T")

UNKNOWN = "NATF9: there is no such voice; there are NATF0"
TOO_LONG = "frames, and the model attends to 40: shorten the role"
TAKES_NONE = "takes neither a voice nor a role"
LONG_ROLE = "be kind " * 60
DEFAULT_ROLE = "a wise teacher"
REFUSED = [("NATF9", None, UNKNOWN), ("NATF0", LONG_ROLE, TOO_LONG)]


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The user's folders are temporary ones."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("XDG_DATA_HOME", "XDG_CACHE_HOME"):
            patch.setenv(variable, str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_persona_folder(tmp_path_factory.mktemp("persona"))


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServerProcess]:
    with start_server(folder, ["lanes.admit=4", f"prompt.role={DEFAULT_ROLE}"]) as server:
        yield server


@pytest.fixture(scope="module")
def embedded() -> Iterator[ServerProcess]:
    """A server whose model takes neither a voice nor a role."""
    with start_server(ROOT / "configs/tiny", ["lanes.max=2", "lanes.admit=2"]) as server:
        yield server


def run(client: Coroutine[object, object, T]) -> T:
    """`asyncio.run` in a thread of its own: a browser test may have left an event loop in this one."""
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(asyncio.run, client).result()


async def packets(server: ServerProcess, voice: str | None, role: str | None) -> tuple[list[str], Ready]:
    """Over the packet protocol: the errors, and the last `ready`."""
    conversation = Conversation("client", heartbeat_every_s=5, heartbeat_timeout_s=1e9, now_s=0.0)
    errors: list[str] = []
    readies: list[Ready] = []
    async with asyncio.timeout(30), websockets.connect(server.socket_url) as connection:
        while len(readies) < 2:
            message = await connection.recv()
            event, _ = conversation.receive(message, now_s=0.0)
            match event:
                case MetadataReceived(ErrorNotice(_, text)):
                    errors.append(text)
                case MetadataReceived(Ready() as ready):
                    readies.append(ready)
                    if len(readies) == 1:
                        change = outgoing.metadata(Configure(voice=voice, role=role))
                        await connection.send(conversation.encode_next(change, timestamp_ms=0.0))
    return errors, readies[-1]


async def moshi(server: ServerProcess, voice: str | None, role: str | None) -> tuple[list[str], list[str]]:
    """Over `/api/chat`, as far as the handshake: the errors, and what is not supported."""
    asked = {"voice_prompt": voice and f"{voice}.pt", "text_prompt": role}
    query = urllib.parse.urlencode({name: text or "" for name, text in asked.items()})
    errors: list[str] = []
    unsupported: list[str] = []
    async with (
        asyncio.timeout(30),
        websockets.connect(f"ws://127.0.0.1:{server.port}/api/chat?{query}") as connection,
    ):
        while (message := await connection.recv())[0] != 0:
            if message[0] == 5:
                errors.append(bytes(message[1:]).decode())
        if server.get("/health")[1]["model"]["voices"] is None:
            message = await connection.recv()
            unsupported = json.loads(message[1:])["parameters"]
    return errors, unsupported


async def live(server: ServerProcess, voice: str | None, role: str | None) -> dict[str, Any]:
    """Over the Live API: the answer to `session.start`, an error or `session.started`.

    Before it may come that the session waits for the lane of the one before.
    """
    session: dict[str, Any] = {"model": "any"}
    if voice is not None:
        session["audio"] = {"output": {"voice": voice}}
    if role is not None:
        session["instructions"] = role
    url = f"ws://127.0.0.1:{server.port}/v1/live/sessions"
    async with asyncio.timeout(30), websockets.connect(url) as connection:
        await connection.send(json.dumps({"type": "session.start", "session": session}))
        answer: dict[str, Any] = {"type": None}
        while answer["type"] not in ("error", "session.started"):
            answer = json.loads(await connection.recv())
    return answer


def talk(
    server: ServerProcess, out: Path, voice: str | None, role: str | None
) -> "subprocess.CompletedProcess[str]":
    """`packet-voice talk` in a process of its own."""
    asked = [] if voice is None else ["--voice", voice]
    asked += [] if role is None else ["--role", role]
    command = [sys.executable, "-m", "pipeline", "talk", "--url", server.socket_url, "--in", str(QUESTION)]
    return subprocess.run(
        [*command, "--out", str(out), *asked],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=60,
    )


def test_packets_begin_with_a_voice_and_a_role(server: ServerProcess) -> None:
    """What is not asked for is the server's default."""
    assert run(packets(server, "NATF0", "be kind")) == ([], Ready("NATF0", "be kind"))
    assert run(packets(server, "NATF0", None)) == ([], Ready("NATF0", DEFAULT_ROLE))


@pytest.mark.parametrize(("voice", "role", "sentence"), REFUSED)
def test_packets_are_refused_in_one_sentence(server: ServerProcess, voice, role, sentence) -> None:
    """The session goes on as it was."""
    errors, ready = run(packets(server, voice, role))
    assert_is_one_sentence(errors, sentence)
    assert ready == Ready(None, DEFAULT_ROLE)


def test_moshi_clients_begin_with_a_voice_and_a_role(server: ServerProcess) -> None:
    """The handshake follows once the session has them."""
    assert run(moshi(server, "NATF0", "be kind")) == ([], [])


@pytest.mark.parametrize(("voice", "role", "sentence"), REFUSED)
def test_moshi_clients_are_refused_in_one_sentence(server: ServerProcess, voice, role, sentence) -> None:
    """Ahead of the handshake: the session goes on without."""
    errors, _ = run(moshi(server, voice, role))
    assert_is_one_sentence(errors, sentence)


@pytest.mark.parametrize(
    ("voice", "role", "begins_with"),
    [
        ("NATF0", "be kind", ("NATF0", "be kind")),
        (None, "be kind", (None, "be kind")),
        ("NATF0", None, ("NATF0", DEFAULT_ROLE)),
        (None, None, (None, DEFAULT_ROLE)),
    ],
)
def test_live_sessions_start_with_a_voice_and_a_role(server: ServerProcess, voice, role, begins_with) -> None:
    """The answer has what the session begins with, the server's defaults included."""
    started = run(live(server, voice, role))
    session = started["session"]
    assert (session["audio"].get("output", {}).get("voice"), session.get("instructions")) == begins_with


@pytest.mark.parametrize(("voice", "role", "sentence"), REFUSED)
def test_live_sessions_are_refused_in_one_sentence(server: ServerProcess, voice, role, sentence) -> None:
    """The session does not start."""
    error = run(live(server, voice, role))
    assert_is_one_sentence([error["error"]["message"]], sentence)


@pytest.mark.parametrize(("voice", "role", "sentence"), REFUSED)
def test_talk_ends_in_one_sentence(server: ServerProcess, tmp_path, voice, role, sentence) -> None:
    """No conversation is held with somebody else."""
    result = talk(server, tmp_path / "out.wav", voice, role)
    assert result.returncode != 0
    assert_is_one_sentence([result.stderr.strip().splitlines()[-1]], sentence)
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out.wav").exists()


def test_a_role_beyond_the_protocol_is_one_sentence(server: ServerProcess, folder: Path, tmp_path) -> None:
    """Longer than any model takes; where it is written to a file or given as an argument, too."""
    role = "a" * (ROLE_MAX + 1)
    result = talk(server, tmp_path / "out.wav", None, role)
    sentence, _hint = result.stderr.strip().splitlines()
    assert_is_one_sentence([sentence], f"role must be a string of at most {ROLE_MAX} characters")
    error = run(live(server, None, role))
    assert_is_one_sentence([error["error"]["message"]], str(ROLE_MAX))
    with pytest.raises(ConfigError, match="shorten the role"):
        offline(["--config", str(folder), "--role", role, str(QUESTION), str(tmp_path / "out.wav")])


def test_a_model_that_takes_none_says_so(embedded: ServerProcess, tmp_path) -> None:
    """Through every way in, in its own words."""
    errors, ready = run(packets(embedded, "NATF0", "be kind"))
    assert_is_one_sentence(errors, TAKES_NONE)
    assert ready == Ready()
    assert run(moshi(embedded, "NATF0", "be kind"))[1] == ["voice_prompt", "text_prompt"]
    error = run(live(embedded, "NATF0", None))
    assert error["error"]["param"] == "session.audio.output.voice"
    error = run(live(embedded, None, "be kind"))
    assert error["error"]["param"] == "session.instructions"
    result = talk(embedded, tmp_path / "out.wav", "NATF0", None)
    assert_is_one_sentence([result.stderr.strip().splitlines()[-1]], TAKES_NONE)


def assert_is_one_sentence(errors: list[str], sentence: str) -> None:
    (error,) = errors
    assert sentence in error
    assert "\n" not in error
