"""The talk command, as a process, against a small real server."""

import io
import json
import signal
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import soundfile
import trio
from support.client.arithmetic_agent import Agent, answers_to, serving
from support.recordings import write_speech

from pipeline.audio.sound_file import read_speech
from pipeline.cli.talk import main, parse, printable
from pipeline.client.connect import Address
from pipeline.protocol import outgoing
from pipeline.protocol.events import MetadataReceived
from pipeline.protocol.metadata import Bye, Configure, ErrorNotice
from pipeline.system.command import run_command

SPEECH = np.random.default_rng(2).uniform(-0.5, 0.5, 9600).astype(np.float32)  # 5 frames
KEYS = ["frames_in", "frames_out", "latency_ms", "underruns", "text", "close"]


@pytest.fixture
def speech(tmp_path):
    write_speech(tmp_path / "in.wav", SPEECH)
    return tmp_path / "in.wav"


async def talk(*arguments):
    """Run the command to its end."""
    command = [sys.executable, "-m", "pipeline", "talk", *map(str, arguments)]
    done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    assert b"Traceback" not in done.stderr
    return done.returncode, done.stdout.decode(), done.stderr.decode()


async def test_a_sound_file_in_and_a_sound_file_out(tmp_path, speech):
    """A WAV is sent, the answer is written to within a 16-bit step, and the report is one JSON line."""
    out = tmp_path / "out.wav"
    async with serving() as served:
        code, stdout, stderr = await talk("--url", served.url, "--in", speech, "--out", out, "--json")
    assert code == 0
    report = json.loads(stdout)
    assert list(report)[:6] == KEYS
    assert (report["frames_in"], report["frames_out"], report["close"]) == (5, 3, 1000)
    assert sorted(report["latency_ms"]) == ["max", "p50", "p95", "p99"]
    assert report["in_order"] is True
    assert report["text"] == "w0 w1 w2 w3 w4"
    assert np.abs(read_speech(out) - answers_to(read_speech(speech))).max() <= 1 / 32768
    assert "w0 w1 w2 w3 w4" in stderr.splitlines()  # and no partials, which only a terminal can overwrite


async def test_without_json_the_summary_is_lines(speech):
    """The report is printed with one fact per line."""
    async with serving() as served:
        code, stdout, _ = await talk("--url", served.url, "--in", speech)
    assert code == 0
    facts = {line.split()[0]: line for line in stdout.splitlines()}
    assert facts["frames"].endswith("5 in, 3 out, in order")
    assert list(facts) == ["frames", "latency", "underruns", "model", "closed", "text"]


async def test_sampling_options_are_sent_first(speech):
    """`--greedy --seed` reach the server before the first frame."""
    async with serving() as served:
        code, *_ = await talk("--url", served.url, "--in", speech, "--greedy", "--seed", 3, "--text-top-k", 9)
    assert code == 0
    configure = Configure(temperature=0.0, text_temperature=0.0, text_top_k=9, seed=3)
    assert served.agent.events[0] == MetadataReceived(configure)


async def test_a_conversation_that_fails_is_exit_code_1(tmp_path, speech):
    """There is one sentence on stderr, the report so far, and the audio so far."""

    class Failing(Agent):
        async def answer(self, index, timestamp_ms):
            await super().answer(index, timestamp_ms)
            if index == 2:
                await self.send(outgoing.metadata(ErrorNotice("internal", "the \x1b[31mdecoder failed")))
                await self.ws.aclose(1011)

    out = tmp_path / "out.wav"
    async with serving(Failing) as served:
        code, stdout, stderr = await talk("--url", served.url, "--in", speech, "--out", out, "--json")
    assert code == 1
    assert json.loads(stdout)["close"] == 1011
    assert "decoder failed" in stderr.splitlines()[-1]
    assert "\x1b" not in stderr
    assert len(read_speech(out)) == 1920


async def test_a_refused_connection_is_exit_code_1(speech):
    """A refused connection is one sentence."""
    async with serving() as served:
        url = served.url
    code, stdout, stderr = await talk("--url", url, "--in", speech)
    assert code == 1
    assert stderr.endswith("connection refused\n")
    assert stderr.count("\n") == 1
    assert "0 in, 0 out" in stdout


async def test_wait_retries_until_the_server_has_room(speech):
    """With `--wait`, a server that is full at first is tried again after its retry time."""
    attempts = []

    class FullAtFirst(Agent):
        async def greet(self):
            attempts.append(self)
            if len(attempts) == 1:
                await self.send(outgoing.metadata(ErrorNotice("full", "all lanes taken", retry_after_ms=50)))
                await self.ws.aclose(1013)
            await super().greet()

    async with serving(FullAtFirst) as served:
        code, stdout, stderr = await talk("--url", served.url, "--in", speech, "--wait", "--json")
    assert code == 0
    assert len(attempts) == 2
    assert "all lanes taken" in stderr
    assert json.loads(stdout)["frames_out"] == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interruption_sends_bye(tmp_path, number):
    """Ctrl-C sends `bye`, leaves a valid WAV of the answer, prints the summary, and is exit code 130."""
    write_speech(tmp_path / "long.wav", np.zeros(24_000 * 60, np.float32))
    out = tmp_path / "out.wav"
    received = trio.Event()

    class Counting(Agent):
        async def answer(self, index, timestamp_ms):
            await super().answer(index, timestamp_ms)
            if index == 4:
                received.set()

    command = [sys.executable, "-m", "pipeline", "talk", "--json"]
    async with serving(Counting) as served, trio.open_nursery() as nursery:
        process = await nursery.start(
            partial(
                trio.run_process,
                [*command, "--url", served.url, "--in", str(tmp_path / "long.wav"), "--out", str(out)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                check=False,
            )
        )
        await received.wait()
        process.send_signal(number)
        stdout = b"".join([piece async for piece in process.stdout])
        stderr = b"".join([piece async for piece in process.stderr])
        await process.wait()
    assert process.returncode == 130
    assert b"Traceback" not in stderr
    report = json.loads(stdout)
    assert 5 <= report["frames_in"] == len(served.agent.frames)
    assert MetadataReceived(Bye()) in served.agent.events
    assert len(read_speech(out)) == 1920 * report["frames_out"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "one of the arguments --in --mic is required"),
        (["--in", "a.wav", "--mic"], "not allowed with"),
        (["--in", "a.wav", "--url", "ftp://127.0.0.1"], "is not the address of a WebSocket"),
        (["--in", "a.wav", "--url", "ws://127.0.0.1:99999"], "out of range"),
        (["--in", "a.wav", "--temperature", "-1"], "--temperature must be a number from 0"),
        (["--in", "a.wav", "--temperature", "nan"], "'nan' is not a finite number"),
        (["--in", "a.wav", "--seed", "x"], "argument --seed: invalid int value"),
        (["--in", "a.wav", "--greedy", "--temperature", "1"], "--greedy"),
        (["--in", "none.wav"], "none.wav: no such file"),
        (["--in", __file__], "cannot be read as a sound file"),
    ],
)
def test_a_mistake_in_the_arguments_is_exit_code_2(capsys, arguments, sentence):
    """An invalid option or unreadable file is reported before a connection is opened."""
    assert run_command(lambda: main(arguments)) == 2
    assert sentence in capsys.readouterr().err


def test_a_path_that_cannot_be_written_is_exit_code_2(capsys, tmp_path, speech):
    """The output is opened before the conversation, so that no answer is lost."""
    out = tmp_path / "none" / "out.wav"
    assert run_command(lambda: main(["--in", str(speech), "--out", str(out)])) == 2
    assert "does not exist" in capsys.readouterr().err


async def test_a_disk_that_fills_up_is_exit_code_2(speech):
    """A write error ends the conversation with one sentence."""
    async with serving() as served:
        code, _, stderr = await talk("--url", served.url, "--in", speech, "--out", "/dev/full")
    assert code == 2
    assert stderr.splitlines()[-1].startswith("/dev/full: ")


def test_a_server_cannot_control_the_terminal():
    """Control characters are replaced, other characters stay."""
    assert printable("a\x1b[2J\r\nb é") == "a\ufffd[2J\ufffd\ufffdb é"


@pytest.mark.parametrize(
    ("given", "resource", "tls"),
    [
        ("ws://127.0.0.1:8788/ws", "/ws", False),
        ("ws://127.0.0.1:8788", "/", False),
        ("http://127.0.0.1:8788", "/ws", False),
        ("http://127.0.0.1:8788/", "/ws", False),
        ("http://127.0.0.1:8788/packet-voice", "/ws", False),
        ("https://voice.example.org/packet-voice#token=abc", "/ws", True),
        ("https://voice.example.org/prefix/packet-voice", "/prefix/ws", True),
        ("https://voice.example.org/prefix/ws", "/prefix/ws", True),
        ("127.0.0.1:8788", "/ws", False),
        ("[::1]:8788", "/ws", False),
    ],
)
def test_the_address_that_a_server_prints_is_accepted(given, resource, tls):
    """Its own, and that of its page."""
    address = Address.of(given)
    assert (address.resource, address.tls) == (resource, tls)


async def test_an_earlier_answer_stays_where_nobody_answers(tmp_path, speech):
    """Neither it nor the question is touched by a conversation without audio."""
    out = tmp_path / "answer.flac"
    out.write_bytes(b"earlier")
    async with serving() as served:
        url = served.url
    code, _, stderr = await talk("--url", url, "--in", speech, "--out", out)
    assert (code, out.read_bytes()) == (1, b"earlier")
    assert "was not written" in stderr
    before = speech.read_bytes()
    code, _, stderr = await talk("--url", url, "--in", speech, "--out", speech)
    assert (code, speech.read_bytes()) == (2, before)
    assert "is also the input" in stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answer.flac", "in.wav"]


async def test_pipes_in_and_out(speech):
    """A question from stdin, the answer to stdout, and the summary to stderr."""
    async with serving() as served:
        done = await trio.run_process(
            [sys.executable, "-m", "pipeline", "talk", "--url", served.url, "--in", "-", "--out", "-"],
            stdin=speech.read_bytes(),
            capture_stdout=True,
            capture_stderr=True,
        )
    pcm, rate_hz = soundfile.read(io.BytesIO(done.stdout), dtype="float32")
    assert rate_hz == 24_000
    assert np.abs(pcm - answers_to(read_speech(speech))).max() <= 1 / 32768
    assert b"closed     1000" in done.stderr


async def test_what_is_lost_of_a_recording_is_told(tmp_path):
    """Before the conversation, on stderr."""
    write_speech(tmp_path / "silent.wav", SPEECH * 0)
    async with serving() as served:
        code, _, stderr = await talk("--url", served.url, "--in", tmp_path / "silent.wav")
    assert code == 0
    assert "holds only zeros" in stderr


def test_a_voice_and_a_role_are_asked_for():
    """As they are given."""
    configure = parse(["--in", "a.wav", "--voice", "NATF0", "--role", "be kind"]).configure
    assert configure == Configure(voice="NATF0", role="be kind")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--role", "x" * 4001),
        ("--voice", "x" * 65),
        ("--seed", "-1"),
        ("--temperature", "11"),
        ("--top-k", "-1"),
        ("--text-temperature", "-1"),
        ("--text-top-k", "1000000"),
        ("--padding-bias", "1e9"),
        ("--repetition-penalty", "0"),
    ],
)
def test_an_option_that_is_out_of_range_is_named(option, value, capsys):
    """As it is written on the command line, and not as it is called in the protocol."""
    with pytest.raises(SystemExit):
        parse(["--in", "a.wav", option, value])
    assert f" {option} must be " in capsys.readouterr().err
