"""`python -m pipeline trace`: latency of frames by part of the pipeline, from a server's log on stdin.

    python -m pipeline.run --config configs/tiny --set log.trace_every=1 --set log.format=json 2> server.log
    python -m pipeline trace < server.log

Reads the events that `actors.runtime.tracing` writes and ignores every other line, so that a complete
log can be piped in. Exit codes: 0; 1 no frame was traced; 130 interrupted.
"""

import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TextIO

from pipeline.cli.arguments import CommandParser
from pipeline.errors import ConfigError
from pipeline.install.program_name import program
from pipeline.percentiles import percentiles

STDIN: Final = "-"
EVENT: Final = "frame"
NOTHING_TRACED: Final = 1
LINE_CHARACTERS: Final = 1 << 20  # no line of a log is that long
# The parts of a frame's latency, in order; they add up to `total_ms`.
PARTS: Final = (
    "encode_queue_ms",
    "encode_ms",
    "step_queue_ms",
    "step_ms",
    "decode_queue_ms",
    "decode_ms",
    "egress_ms",
)
SUMS: Final = ("added_ms", "total_ms")
PERCENTS: Final = (50, 95, 99)


@dataclass(slots=True)
class Traces:
    """Milliseconds of each part of every frame; `skipped` counts lines that are no frame event."""

    parts: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in (*PARTS, *SUMS)})
    sessions: set[str] = field(default_factory=set)
    skipped: int = 0

    @property
    def frames(self) -> int:
        """Number of frames."""
        return len(self.parts["total_ms"])


def read_log(lines: Iterable[str]) -> Traces:
    """Every frame in a log; other lines are skipped."""
    traces = Traces()
    for line in lines:
        event = _event(line)
        if event is None:
            traces.skipped += 1
            continue
        traces.sessions.add(str(event.get("session")))
        for name, values in traces.parts.items():
            values.append(float(event[name]))
    return traces


def summary(traces: Traces) -> dict[str, Any]:
    """The table as an object, for tools."""
    return {
        "frames": traces.frames,
        "sessions": len(traces.sessions),
        "skipped": traces.skipped,
        "ms": {name: _row(values) for name, values in traces.parts.items()},
    }


def table(traces: Traces) -> str:
    """A line for each part, for the latency that the server adds, and for the total."""
    return "\n".join(_table(traces))


def _table(traces: Traces) -> Iterator[str]:
    yield f"{traces.frames} frames of {len(traces.sessions)} sessions, milliseconds"
    columns = [*(f"p{percent}" for percent in PERCENTS), "max", "mean"]
    yield f"{'':<14}" + "".join(f"{column:>10}" for column in columns)
    for name, values in traces.parts.items():
        title = name.removesuffix("_ms").replace("_", " ")
        yield f"{title:<14}" + "".join(f"{value:>10.2f}" for value in _row(values).values())


def _row(values: Sequence[float]) -> dict[str, float]:
    row = {f"p{p}": value for p, value in zip(PERCENTS, percentiles(values, *PERCENTS), strict=True)}
    return row | {"max": max(values), "mean": round(math.fsum(values) / len(values), 3)}


def _event(line: str) -> Mapping[str, Any] | None:
    """The frame event of a line, or None: a log has other events, and lines of other programs."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or event.get("event") != EVENT:
        return None
    return event if all(_is_number(event.get(name)) for name in (*PARTS, *SUMS)) else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _read(path: Path) -> Traces:
    """The frames in the file, or in stdin; a log may contain any bytes."""
    if str(path) == STDIN:
        sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]  # it is a text file
        return read_log(_lines(sys.stdin, "stdin"))
    try:
        with path.open(encoding="utf-8", errors="replace") as log:
            return read_log(_lines(log, str(path)))
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read ({error.strerror})") from None


def _lines(log: TextIO, shown: str) -> Iterator[str]:
    """The lines of a log; what has no lines, such as an endless device, is none."""
    while line := log.readline(LINE_CHARACTERS):
        if len(line) == LINE_CHARACTERS:
            raise ConfigError(shown, f"is not a log: a line has more than {LINE_CHARACTERS - 1} characters")
        yield line


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    parser = CommandParser(
        prog=program("trace"),
        description="Show the latency breakdown of traced frames, from a server's JSON log on stdin.",
        epilog="The server writes such lines with --set log.trace_every=N --set log.format=json.",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument(
        "log",
        type=Path,
        nargs="?",
        default=Path(STDIN),
        metavar="LOG",
        help="the log to read (default -, stdin)",
    )
    options = parser.parse_args(arguments)
    traces = _read(options.log)
    if not traces.frames:
        print(
            f"no frame was traced in {traces.skipped} lines; start the server with --set log.trace_every=1",
            file=sys.stderr,
        )
        return NOTHING_TRACED
    print(json.dumps(summary(traces)) if options.json else table(traces))
    return 0
