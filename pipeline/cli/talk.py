"""`python -m pipeline talk`: speak to a running server and hear it answer, at the pace of a microphone.

    python -m pipeline talk --in question.wav --out answer.wav
    python -m pipeline talk --mic

The agent's words appear on stderr as they come; the summary is on stdout, and `--json` makes
its last line one object. Exit codes: 0, 1 the conversation failed, 2 usage or sound files,
130 interrupted.
"""

import argparse
import json
import math
import signal
import ssl
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any, Final

import trio

from pipeline.audio.wav import WavWriter, read_speech
from pipeline.cli.program_name import program
from pipeline.client.audio_device import Soundcard, open_soundcard
from pipeline.client.connect import Address, Trust
from pipeline.client.report import Report
from pipeline.client.session import Audience, ConversationError, NotTakenError, converse
from pipeline.errors import EXIT_INTERRUPTED, StartupError
from pipeline.protocol import metadata
from pipeline.protocol.faults import RefusedPacketError
from pipeline.protocol.metadata import Configure
from pipeline.values import Pcm

URL: Final = "ws://127.0.0.1:8788/ws"
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
FAILED: Final = 1


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the arguments; what is wrong with them is one sentence and exit code 2."""
    parser = argparse.ArgumentParser(
        prog=program("talk"), description="Speak to a running server in real time."
    )
    parser.add_argument("--url", default=URL, type=_url, help=f"where the server listens (default {URL})")
    speech = parser.add_mutually_exclusive_group(required=True)
    speech.add_argument("--in", dest="source", metavar="WAV", type=Path, help="the sound file to say")
    speech.add_argument("--mic", action="store_true", help="talk live, until Ctrl-C (wear headphones)")
    parser.add_argument("--out", metavar="WAV", type=Path, help="write what the agent says to this file")
    parser.add_argument("--json", action="store_true", help="make the last line of stdout one JSON object")
    parser.add_argument(
        "--wait", action="store_true", help="keep asking while the server is not there, not ready or full"
    )
    trust = parser.add_argument_group(
        "security", "for a server that asks for a token, or whose wss:// is its own"
    )
    trust.add_argument("--token", help="what the server asks for; others can read it in the process list")
    trust.add_argument("--token-file", metavar="FILE", type=Path, help="the file that holds it instead")
    trust.add_argument(
        "--ca", metavar="PEM", type=Path, help="whom to believe, besides the system's authorities"
    )
    sampling = parser.add_argument_group("sampling", "what is left out, the server decides")
    sampling.add_argument("--greedy", action="store_true", help="always take the likeliest token")
    sampling.add_argument("--seed", type=int)
    sampling.add_argument("--temperature", type=_finite, help="of the voice; 0 is greedy")
    sampling.add_argument("--top-k", type=int, help="of the voice; 0 is no limit")
    sampling.add_argument("--text-temperature", type=_finite)
    sampling.add_argument("--text-top-k", type=int)
    sampling.add_argument("--padding-bias", type=_finite, help="above 0 the agent talks less, below 0 more")
    sampling.add_argument("--repetition-penalty", type=_finite)
    arguments = parser.parse_args(argv)
    if arguments.greedy and (arguments.temperature or arguments.text_temperature):
        parser.error("--greedy is a temperature of 0; it cannot have another one")
    try:
        arguments.trust = _trust(arguments)
    except ValueError as error:
        parser.error(str(error))
    try:
        arguments.configure = _configure(arguments)
    except RefusedPacketError as refusal:
        parser.error(str(refusal))
    return arguments


def _url(text: str) -> str:
    try:
        Address.of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}, such as {URL}") from None
    return text


def _finite(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return number


def _trust(arguments: argparse.Namespace) -> Trust:
    """The token and the authorities; a `ValueError` says what is wrong with them."""
    token, address = arguments.token, Address.of(arguments.url)
    tls = None
    try:
        if arguments.token_file is not None:
            token = arguments.token_file.read_text(encoding="ascii").strip()
        if arguments.ca is not None:
            tls = ssl.create_default_context()
            tls.load_verify_locations(arguments.ca)
    except OSError as error:  # ssl.SSLError is one
        raise ValueError(f"{error.filename or arguments.ca}: {error.strerror or 'not a PEM file'}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{arguments.token_file} holds no token") from None
    if token is not None and not (token.isascii() and token.isprintable()):
        raise ValueError("a token is one word of plain letters")
    if token is not None and not address.tls and address.host not in _LOOPBACK:
        raise ValueError(f"a token would travel to {address.host} for all to read: use wss://")
    return Trust(token, tls)


def _configure(arguments: argparse.Namespace) -> Configure | None:
    """The sampling asked for, held to the same bounds as the server will."""
    greedy = 0.0 if arguments.greedy else None
    configure = Configure(
        temperature=arguments.temperature if greedy is None else greedy,
        top_k=arguments.top_k,
        text_temperature=arguments.text_temperature if greedy is None else greedy,
        text_top_k=arguments.text_top_k,
        padding_bias=arguments.padding_bias,
        repetition_penalty=arguments.repetition_penalty,
        seed=arguments.seed,
    )
    metadata.decode(metadata.encode(configure), "client")
    return None if configure == Configure() else configure


def printable(text: str) -> str:
    """What a server said, without the control characters that could steer a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


class Terminal(Audience):
    """Shows text on stderr, an open utterance only where it can be written over; plays and keeps audio."""

    def __init__(self, out: WavWriter | None, soundcard: Soundcard | None) -> None:
        self._out = out
        self._soundcard = soundcard
        self._rewrites = sys.stderr.isatty()

    def agent_spoke(self, pcm: Pcm) -> None:
        """Keep it, play it."""
        if self._out is not None:
            self._out.write(pcm)
        if self._soundcard is not None:
            self._soundcard.loudspeaker.play(pcm)

    def agent_wrote(self, text: str, *, final: bool) -> None:
        """Show it."""
        if self._rewrites:
            tail = "\n" if final else ""
            sys.stderr.write(f"\r\x1b[K{printable(text) if final else printable(text)[-100:]}{tail}")
        elif final:
            sys.stderr.write(f"{printable(text)}\n")
        sys.stderr.flush()

    def noticed(self, sentence: str) -> None:
        """Show it on a line of its own."""
        start = "\r\x1b[K" if self._rewrites else ""
        sys.stderr.write(f"{start}[{printable(sentence)}]\n")
        sys.stderr.flush()


@contextmanager
def _stopped_by_signals(stop: trio.Event) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM sets `stop`; the second does what it did before."""
    token = trio.lowlevel.current_trio_token()

    def interrupt(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, former[number])
        token.run_sync_soon(stop.set)

    former: dict[int, Any] = {
        number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


async def talk(
    arguments: argparse.Namespace, speech: Pcm | None, out: WavWriter | None
) -> tuple[Report, bool]:
    """Hold the conversation, live where `speech` is None; the flag says that Ctrl-C ended it.

    Raises:
        StartupError: the sound card or the output file cannot be used.
        ConversationError: the conversation failed.
    """
    stop = trio.Event()
    told = ""
    with _stopped_by_signals(stop):
        while True:
            try:
                with open_soundcard() if speech is None else nullcontext() as soundcard:
                    source = speech if soundcard is None else soundcard.microphone.listen()
                    assert source is not None
                    audience = Terminal(out, soundcard)
                    report = await converse(
                        arguments.url,
                        source,
                        audience=audience,
                        configure=arguments.configure,
                        stop=stop,
                        trust=arguments.trust,
                    )
                    if soundcard is not None:
                        audience.noticed(soundcard.trouble())
                return report, stop.is_set()
            except NotTakenError as refusal:
                if not arguments.wait or stop.is_set():
                    raise
                if str(refusal) != told:
                    told = str(refusal)
                    Terminal(None, None).noticed(f"waiting: {told}")
                again_s = refusal.retry_after_s
            with trio.move_on_after(again_s):
                await stop.wait()


def summary(report: Report) -> str:
    """The report as a person reads it, a fact a line."""
    latency = report.latency_ms
    lines = [
        f"frames     {report.frames_in} in, {report.frames_out} out"
        + (", in order" if report.in_order else ", NOT in order"),
        "latency    no answer"
        if latency.p50 is None
        else f"latency    p50 {latency.p50:.1f} ms, p95 {latency.p95:.1f} ms, "
        f"p99 {latency.p99:.1f} ms, max {latency.max:.1f} ms",
        f"underruns  {report.underruns}, heard with a prebuffer of {report.prebuffer_ms} ms",
    ]
    if report.model is not None:
        lines.append(f"model      {report.model.name}, whose own delay is {report.model.model_delay_ms} ms")
    lines += [f"dropped    {count} {what} by the server" for what, count in report.dropped.items()]
    lines += [f"errors     {count} {code}" for code, count in report.errors.items()]
    lines.append(f"closed     {report.close} {report.close_reason}".rstrip())
    lines += [f"text       {line}" for line in report.text.split("\n") if line]
    return "\n".join(map(printable, lines))


def _print_report(report: Report, *, as_json: bool) -> None:
    text = json.dumps(report.as_json()) if as_json else summary(report)
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives its exit code."""
    arguments = parse(argv)
    try:
        speech = read_speech(arguments.source) if arguments.source else None
        with WavWriter(arguments.out) if arguments.out else nullcontext() as out:
            report, interrupted = trio.run(talk, arguments, speech, out)
    except StartupError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except ConversationError as error:
        _print_report(error.report, as_json=arguments.json)
        sys.stderr.write(f"{printable(str(error))}\n")
        return FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    _print_report(report, as_json=arguments.json)
    return EXIT_INTERRUPTED if interrupted else 0
