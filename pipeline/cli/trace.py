"""`python -m pipeline trace`: where the time of frames went, from a server's log on stdin.

    python -m pipeline.run --config configs/tiny --set log.trace_every=1 --set log.format=json 2> server.log
    python -m pipeline trace < server.log

Reads the events that `actors.runtime.tracing` writes and passes over every other line, so that a log can
be piped in as it is. Exit codes: 0; 1 no frame was traced; 130 interrupted.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pipeline.cli.program_name import program

EVENT: Final = "frame"
NOTHING_TRACED: Final = 1
# The parts of a frame's way, in their order; they add up to `total_ms`.
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
    """Milliseconds of each part, of every frame read; `skipped` counts lines that were none."""

    parts: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in (*PARTS, *SUMS)})
    sessions: set[str] = field(default_factory=set)
    skipped: int = 0

    @property
    def frames(self) -> int:
        """How many were read."""
        return len(self.parts["total_ms"])


def read(lines: Iterable[str]) -> Traces:
    """Every frame in a log; whatever else it holds is skipped."""
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


def percentile(ranked: Sequence[float], percent: int) -> float:
    """Nearest rank: one of the values, never between two."""
    return ranked[max(math.ceil(len(ranked) * percent / 100), 1) - 1]


def summary(traces: Traces) -> dict[str, Any]:
    """The table as an object, for tools."""
    return {
        "frames": traces.frames,
        "sessions": len(traces.sessions),
        "skipped": traces.skipped,
        "ms": {name: _row(values) for name, values in traces.parts.items()},
    }


def table(traces: Traces) -> str:
    """A line for each part, and one each for what the server adds and the whole."""
    return "\n".join(_table(traces))


def _table(traces: Traces) -> Iterator[str]:
    yield f"{traces.frames} frames of {len(traces.sessions)} sessions, milliseconds"
    columns = [*(f"p{percent}" for percent in PERCENTS), "max", "mean"]
    yield f"{'':<14}" + "".join(f"{column:>10}" for column in columns)
    for name, values in traces.parts.items():
        title = name.removesuffix("_ms").replace("_", " ")
        yield f"{title:<14}" + "".join(f"{value:>10.2f}" for value in _row(values).values())


def _row(values: Sequence[float]) -> dict[str, float]:
    ranked = sorted(values)
    row = {f"p{percent}": percentile(ranked, percent) for percent in PERCENTS}
    return row | {"max": ranked[-1], "mean": round(math.fsum(ranked) / len(ranked), 3)}


def _event(line: str) -> Mapping[str, Any] | None:
    """The frame that a line tells of, or None: logs hold other events, and lines of other programs."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or event.get("event") != EVENT:
        return None
    return event if all(_is_number(event.get(name)) for name in (*PARTS, *SUMS)) else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    parser = argparse.ArgumentParser(
        prog=program("trace"),
        description="Print where the time of frames went, from a server's JSON log on stdin.",
        epilog="The server writes such lines with --set log.trace_every=N --set log.format=json.",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args(arguments)
    sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]  # a log may hold anything
    traces = read(sys.stdin)
    if not traces.frames:
        print(
            f"no frame was traced in {traces.skipped} lines; start the server with --set log.trace_every=1",
            file=sys.stderr,
        )
        return NOTHING_TRACED
    print(json.dumps(summary(traces)) if options.json else table(traces))
    return 0
