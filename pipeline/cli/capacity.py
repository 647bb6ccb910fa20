"""`python -m pipeline capacity`: what it takes to talk with so many people at once, on paper.

    python -m pipeline capacity --sessions 1000
    python -m pipeline capacity --sessions 1000 --lanes 40 --price 2.5

`--lanes` is what one replica of yours holds, as `python -m pipeline doctor` or `python -m pipeline loadtest
--ramp` found; `--price` what it costs an hour, in whatever money. Nothing is measured here: what
the figures rest on is in docs/how-to/scaling.md. Exit codes: 0; 2 usage.
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from pipeline.cli.program_name import program
from pipeline.diagnostics.capacity_plan import Room, rooms, shares


def plan(sessions: int, lanes: int | None, price: float | None) -> dict[str, Any]:
    """Everything, for `sessions` at once; with `lanes`, for replicas that hold so many."""
    given = [] if lanes is None else [Room("yours", "yours", lanes, "as measured", measured=True)]
    rows = [_row(room, sessions, price) for room in given or rooms()]
    return {
        "sessions": sessions,
        "replicas": rows,
        "shared": [dataclasses.asdict(share) for share in shares()],
    }


def _row(room: Room, sessions: int, price: float | None) -> dict[str, Any]:
    replicas = room.replicas(sessions)
    row = dataclasses.asdict(room) | {"replicas": replicas}
    if price is not None and replicas is not None:
        row |= {
            "per_hour": round(price * replicas, 2),
            "per_session_hour": round(price * replicas / sessions, 4),
        }
    return row


def table(planned: dict[str, Any]) -> str:
    """The plan as two tables of Markdown."""
    head = ["machine", "model", "lanes", "ends with", f"replicas for {planned['sessions']:,}"]
    with_price = any("per_hour" in row for row in planned["replicas"])
    rows = [
        [
            row["machine"],
            row["model"],
            f"{row['lanes']}" if row["measured"] else f"≤ {row['lanes']}",
            row["ends_with"] if row["lanes"] else f"{row['ends_with']}: none fits",
            "–" if row["replicas"] is None else f"{'' if row['measured'] else '≥ '}{row['replicas']}",
            *([f"{row.get('per_hour', '–')}", f"{row.get('per_session_hour', '–')}"] if with_price else []),
        ]
        for row in planned["replicas"]
    ]
    shared = [
        [share["resource"], share["each"], share["amount"], f"{share['sessions']:,}"]
        for share in planned["shared"]
    ]
    prices = ["an hour", "a session and hour"] if with_price else []
    return "\n\n".join(
        (_markdown([*head, *prices], rows), _markdown(["shared", "each session", "of", "is gone at"], shared))
    )


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    parser = argparse.ArgumentParser(
        prog=program("capacity"), description="What so many sessions at once would take."
    )
    parser.add_argument("--sessions", type=_count, default=1000, help="at once (default 1000)")
    parser.add_argument("--lanes", type=_count, help="what one replica holds; unset: what is known of some")
    parser.add_argument("--price", type=float, help="of one replica, an hour")
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
