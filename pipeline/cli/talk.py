"""Talk to a running server in real time, with a sound file or a microphone.

    packet-voice talk --in question.wav --out answer.wav
    packet-voice talk --mic

The agent's text is printed on stderr as it arrives, the summary on stdout; with --json the last line of
stdout is one object.

Exit codes: 0; 1 the conversation failed; 2 usage or sound file error; 130 interrupted.
"""

import argparse
import json
import math
import signal
import ssl
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any, Final

import trio
from msgspec.structs import fields

from pipeline.audio.sound_file import FORMATS, SoundWriter, read_sound
from pipeline.cli.arguments import CommandParser
from pipeline.client.audio_device import AudioDevice, open_audio_device
from pipeline.client.connect import Address, ClientCredentials
from pipeline.client.report import Report
from pipeline.client.session import ConversationError, EventHandler, ServerUnavailableError, converse
from pipeline.errors import EXIT_INTERRUPTED
from pipeline.install.program_name import program
from pipeline.protocol.metadata import Configure
from pipeline.protocol.objects import FieldError, from_fields, to_fields
from pipeline.system.command import ending_signals
from pipeline.system.inputs import TOKEN_FILE_BYTES, read_bytes, read_text
from pipeline.system.outputs import STDOUT
from pipeline.values import Pcm

URL: Final = "ws://127.0.0.1:8788/ws"
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
FAILED: Final = 1
AUTHORITIES_BYTES: Final = 1 << 22  # those of a system are 220 kB


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments; a mistake in them is one sentence and exit code 2."""
    parser = CommandParser(
        prog=program("talk"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default=URL, type=_url, help=f"the server's address (default {URL})")
    speech = parser.add_mutually_exclusive_group(required=True)
    speech.add_argument(
        "--in", dest="source", metavar="FILE", type=Path, help="the sound file to send; - is stdin"
    )
    speech.add_argument("--mic", action="store_true", help="talk live, until Ctrl-C (wear headphones)")
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        help=f"write the agent's audio to this file ({', '.join(FORMATS)}), or as WAV to stdout (-)",
    )
    parser.add_argument("--json", action="store_true", help="make the last line of stdout one JSON object")
    parser.add_argument(
        "--wait", action="store_true", help="keep trying while the server is down, not ready or full"
    )
    security = parser.add_argument_group(
        "security", "for a server that requires a token, or has a certificate of its own"
    )
    security.add_argument("--token", help="the access token; other users can read it in the process list")
    security.add_argument("--token-file", metavar="FILE", type=Path, help="a file that contains the token")
    security.add_argument(
        "--ca", metavar="PEM", type=Path, help="certificate authorities to trust, besides those of the system"
    )
    persona = parser.add_argument_group(
        "persona", "for PersonaPlex; what is left out is the server's default"
    )
    persona.add_argument("--voice", metavar="NAME", help="the agent's voice, by its name on the server")
    persona.add_argument("--role", metavar="TEXT", help="who the agent is")
    sampling = parser.add_argument_group("sampling", "options left out use the server's defaults")
    sampling.add_argument("--greedy", action="store_true", help="always take the most likely token")
    sampling.add_argument("--seed", type=int, help="random seed")
    sampling.add_argument("--temperature", type=_finite, help="for audio; 0 is greedy")
    sampling.add_argument("--top-k", type=int, help="for audio; 0 is no limit")
    sampling.add_argument("--text-temperature", type=_finite, help="for text; 0 is greedy")
    sampling.add_argument("--text-top-k", type=int, help="for text; 0 is no limit")
    sampling.add_argument("--padding-bias", type=_finite, help="above 0 the agent talks less, below 0 more")
    sampling.add_argument(
        "--repetition-penalty", type=_finite, help="for text; above 1 recent tokens are less likely"
    )
    arguments = parser.parse_args(argv)
    if arguments.json and str(arguments.out) == STDOUT:
        parser.error("--json and --out - would both write to stdout")
    if arguments.greedy and (arguments.temperature or arguments.text_temperature):
        parser.error("--greedy sets temperatures to 0 and cannot be combined with other temperatures")
    try:
        arguments.credentials = _credentials(arguments)
    except ValueError as error:
        parser.error(str(error))
    try:
        arguments.configure = _configure(arguments)
    except FieldError as error:
        parser.error(f"{_option_of(error)} {error.problem}")
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


def _credentials(arguments: argparse.Namespace) -> ClientCredentials:
    """The token and the authorities; a `ValueError` explains what is wrong with them."""
    token, address = arguments.token, Address.of(arguments.url)
    tls = None
    try:
        if arguments.token_file is not None:
            token = read_text(arguments.token_file, TOKEN_FILE_BYTES).strip()
        if arguments.ca is not None:
            tls = ssl.create_default_context()
            pem = read_bytes(arguments.ca, AUTHORITIES_BYTES)
            # Comments may be in any language; only ASCII is accepted, and no empty text.
            tls.load_verify_locations(cadata=pem.decode("ascii", errors="ignore") or "none")
    except ssl.SSLError:
        raise ValueError(f"{arguments.ca}: not a PEM file") from None
    except OSError as error:
        raise ValueError(f"{error.filename}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{arguments.token_file} does not contain a token") from None
    if token is not None and not (token.isascii() and token.isprintable()):
        raise ValueError("a token is one word of printable ASCII characters")
    if token is not None and not address.tls and address.host not in _LOOPBACK:
        raise ValueError(f"a token would be sent to {address.host} unencrypted: use wss://")
    return ClientCredentials(token, tls)


def _configure(arguments: argparse.Namespace) -> Configure | None:
    """The options for the session; a `FieldError` if one is not within the server's bounds."""
    greedy = 0.0 if arguments.greedy else None
    configure = Configure(
        temperature=arguments.temperature if greedy is None else greedy,
        top_k=arguments.top_k,
        text_temperature=arguments.text_temperature if greedy is None else greedy,
        text_top_k=arguments.text_top_k,
        padding_bias=arguments.padding_bias,
        repetition_penalty=arguments.repetition_penalty,
        seed=arguments.seed,
        voice=arguments.voice,
        role=arguments.role,
    )
    from_fields(Configure, to_fields(configure), "")
    return None if configure == Configure() else configure


def _option_of(error: FieldError) -> str:
    """The option that sets a field of `Configure`."""
    name = next(field.name for field in fields(Configure) if f".{field.encode_name}" == error.path)
    return f"--{name.replace('_', '-')}"


def printable(text: str) -> str:
    """Text of a server without control characters, which could control the terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


class Terminal(EventHandler):
    """Prints text on stderr, plays audio and writes it to a file.

    An unfinished utterance is printed only on a terminal, where it can be overwritten.
    """

    def __init__(self, out: SoundWriter | None, device: AudioDevice | None) -> None:
        self._out = out
        self._device = device
        self._rewrites = sys.stderr.isatty()

    def on_audio(self, pcm: Pcm) -> None:
        """Write and play it."""
        if self._out is not None:
            self._out.write(pcm)
        if self._device is not None:
            self._device.loudspeaker.play(pcm)

    def on_text(self, text: str, *, final: bool) -> None:
        """Print it."""
        if self._rewrites:
            tail = "\n" if final else ""
            sys.stderr.write(f"\r\x1b[K{printable(text) if final else printable(text)[-100:]}{tail}")
        elif final:
            sys.stderr.write(f"{printable(text)}\n")
        sys.stderr.flush()

    def on_notice(self, message: str) -> None:
        """Print it on a line of its own."""
        start = "\r\x1b[K" if self._rewrites else ""
        sys.stderr.write(f"{start}[{printable(message)}]\n")
        sys.stderr.flush()


@contextmanager
def _stopped_by_signals(stop: trio.Event) -> Iterator[None]:
    """The first Ctrl-C, SIGTERM or SIGHUP sets `stop`; the second has its previous effect."""
    token = trio.lowlevel.current_trio_token()

    def interrupt(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, previous[number])
        token.run_sync_soon(stop.set)

    previous: dict[int, Any] = {number: signal.signal(number, interrupt) for number in ending_signals()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


async def talk(
    arguments: argparse.Namespace, speech: Pcm | None, out: SoundWriter | None
) -> tuple[Report, bool]:
    """Hold the conversation, live where `speech` is None; the flag is whether Ctrl-C ended it.

    Raises:
        StartupError: the audio device or the output file cannot be used.
        ConversationError: the conversation failed.
    """
    stop = trio.Event()
    last_refusal = ""
    with _stopped_by_signals(stop):
        while True:
            try:
                with (
                    open_audio_device(Terminal(None, None).on_notice)
                    if speech is None
                    else nullcontext() as device
                ):
                    source = speech if device is None else device.microphone.frames()
                    assert source is not None
                    terminal = Terminal(out, device)
                    report = await converse(
                        arguments.url,
                        source,
                        handler=terminal,
                        configure=arguments.configure,
                        stop=stop,
                        credentials=arguments.credentials,
                    )
                    if device is not None:
                        terminal.on_notice(device.losses())
                return report, stop.is_set()
            except ServerUnavailableError as refusal:
                if not arguments.wait or stop.is_set():
                    raise
                if str(refusal) != last_refusal:
                    last_refusal = str(refusal)
                    Terminal(None, None).on_notice(f"waiting: {last_refusal}")
                retry_s = refusal.retry_after_s
            with trio.move_on_after(retry_s):
                await stop.wait()


def summary(report: Report) -> str:
    """The report for people, one fact per line."""
    latency = report.latency_ms
    lines = [
        f"frames     {report.frames_in} in, {report.frames_out} out"
        + (", in order" if report.in_order else ", NOT in order"),
        "latency    no frames answered"
        if latency.p50 is None
        else f"latency    p50 {latency.p50:.1f} ms, p95 {latency.p95:.1f} ms, "
        f"p99 {latency.p99:.1f} ms, max {latency.max:.1f} ms",
        f"underruns  {report.underruns} ({report.prebuffer_ms} ms playout buffer)",
    ]
    if report.model is not None:
        lines.append(f"model      {report.model.name} (model delay {report.model.model_delay_ms} ms)")
    if report.put_back:
        lines.append(f"paused     {report.put_back} times by a busy server")
    lines += [f"dropped    {count} {what} by the server" for what, count in report.dropped.items()]
    lines += [f"errors     {count} {code}" for code, count in report.errors.items()]
    lines.append(f"closed     {report.close} {report.close_reason}".rstrip())
    lines += [f"text       {line}" for line in report.text.split("\n") if line]
    return "\n".join(map(printable, lines))


def _print_report(report: Report, arguments: argparse.Namespace) -> None:
    """On stdout, unless the audio is written there."""
    text = json.dumps(report.as_json()) if arguments.json else summary(report)
    out = sys.stderr if str(arguments.out) == STDOUT else sys.stdout
    out.write(f"{text}\n")
    out.flush()


def _open_output(arguments: argparse.Namespace) -> AbstractContextManager[SoundWriter | None]:
    if arguments.out is None:
        return nullcontext()
    return SoundWriter(arguments.out, inputs=(arguments.source, arguments.token_file, arguments.ca))


def _keep(out: SoundWriter | None) -> None:
    """Put the answer in place of an earlier file, if there is one."""
    if out is None:
        return
    if out.samples:
        out.commit()
    else:
        sys.stderr.write(f"no audio was received: {out.path} was not written\n")


def _read(source: Path | None) -> Pcm | None:
    if source is None:
        return None
    speech = read_sound(source)
    for notice in speech.notices:
        sys.stderr.write(f"[{printable(notice)}]\n")
    return speech.pcm


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = parse(argv)
    with _open_output(arguments) as out:
        speech = _read(arguments.source)
        try:
            report, interrupted = trio.run(talk, arguments, speech, out)
        except ConversationError as error:
            _keep(out)
            _print_report(error.report, arguments)
            sys.stderr.write(f"{printable(str(error))}\n")
            return FAILED
        _keep(out)
    _print_report(report, arguments)
    return EXIT_INTERRUPTED if interrupted else 0
