"""Estimate the hardware for a number of concurrent sessions.

    packet-voice capacity --sessions 1000
    packet-voice capacity --sessions 1000 --lanes 40 --price 2.5

Nothing is measured: docs/reference/benchmarks.md has the sources of the figures. To plan with your own
machine, measure its lanes with packet-voice doctor or packet-voice loadtest --ramp and pass them as --lanes.

Exit codes: 0; 2 usage error.
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from pipeline.cli.program_name import program
from pipeline.diagnostics.capacity_plan import ReplicaCapacity, replica_capacities, shared_resources


def plan(sessions: int, lanes: int | None, price: float | None) -> dict[str, Any]:
    """The plan for `sessions` at once; with `lanes`, for replicas of that capacity only."""
    given = [] if lanes is None else [ReplicaCapacity("yours", "yours", lanes, "as given", measured=True)]
    rows = [_row(each, sessions, price) for each in given or replica_capacities()]
    return {
        "sessions": sessions,
        "replicas": rows,
        "shared": [dataclasses.asdict(each) for each in shared_resources()],
    }


def _row(capacity: ReplicaCapacity, sessions: int, price: float | None) -> dict[str, Any]:
    replicas = capacity.replicas(sessions)
    row = dataclasses.asdict(capacity) | {"replicas": replicas}
    if price is not None and replicas is not None:
        row |= {
            "per_hour": round(price * replicas, 2),
            "per_session_hour": round(price * replicas / sessions, 4),
        }
    return row


def table(planned: dict[str, Any]) -> str:
    """The plan as two Markdown tables."""
    head = ["machine", "model", "lanes", "limited by", f"replicas for {planned['sessions']:,}"]
    with_price = any("per_hour" in row for row in planned["replicas"])
    rows = [
        [
            row["machine"],
            row["model"],
            f"{row['lanes']}" if row["measured"] else f"≤ {row['lanes']}",
            row["ends_with"] if row["lanes"] else f"{row['ends_with']}: does not fit",
            "–" if row["replicas"] is None else f"{'' if row['measured'] else '≥ '}{row['replicas']}",
            *([f"{row.get('per_hour', '–')}", f"{row.get('per_session_hour', '–')}"] if with_price else []),
        ]
        for row in planned["replicas"]
    ]
    shared = [
        [share["resource"], share["each"], share["amount"], f"{share['sessions']:,}"]
        for share in planned["shared"]
    ]
    prices = ["cost per hour", "per session-hour"] if with_price else []
    return "\n\n".join(
        (
            _markdown([*head, *prices], rows),
            _markdown(["shared resource", "per session", "available", "sessions"], shared),
        )
    )


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog=program("capacity"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sessions", type=_count, default=1000, help="concurrent sessions (default 1000)")
    parser.add_argument("--lanes", type=_count, help="sessions per replica (default: the known machines)")
    parser.add_argument("--price", type=float, help="cost of one replica per hour, in any currency")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    planned = plan(options.sessions, options.lanes, options.price)
    print(json.dumps(planned) if options.json else table(planned))
    return 0


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number
