"""Estimate the hardware for a number of concurrent sessions.

    packet-voice capacity --sessions 1000
    packet-voice capacity --sessions 1000 --lanes 40 --price 2.5
    packet-voice capacity --config PATH

The first row is this machine with the given or the embedded model, measured as a server measures itself at
its start. The other rows are computed: docs/reference/benchmarks.md has the sources of the figures. For
another machine of your own pass what its /health shows as capacity as --lanes; then nothing is measured.

Exit codes: 0; 2 usage or configuration error; 3 weights error.
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from pipeline import log
from pipeline.cli.arguments import CommandParser, add_config_arguments, number, whole_number
from pipeline.config import Source
from pipeline.diagnostics.capacity_plan import ReplicaCapacity, replica_capacities, shared_resources
from pipeline.errors import StartupError
from pipeline.install.paths import embedded
from pipeline.install.program_name import program


def plan(
    sessions: int, lanes: int | None, price: float | None, here: ReplicaCapacity | None = None
) -> dict[str, Any]:
    """The plan for `sessions` at once; with `lanes`, for replicas of that capacity only.

    `here` is this machine as measured, in place of the one that was measured for the documentation.
    """
    given = [] if lanes is None else [ReplicaCapacity("yours", "yours", lanes, "as given", measured=True)]
    rows = [_row(each, sessions, price) for each in given or replica_capacities(here)]
    return {
        "sessions": sessions,
        "replicas": rows,
        "shared": [dataclasses.asdict(each) for each in shared_resources()],
    }


def measured_here(config: Source | None, overrides: Sequence[str]) -> ReplicaCapacity | None:
    """This machine with `config`, or with the embedded model; None where that cannot be loaded.

    Raises:
        StartupError: `config` cannot be loaded.
    """
    # Only here: the tables need no model libraries.
    from pipeline.diagnostics.machine_capacity import measure_machine  # noqa: PLC0415
    from pipeline.models.checkpoint.resolve import open_config  # noqa: PLC0415
    from pipeline.stages.model_stages import open_stages  # noqa: PLC0415

    try:
        opened = open_config(config or embedded(), overrides, check=open_stages)
        stages = open_stages(opened)
        log.configure(replace(opened.settings.log, level="error"))
        held = measure_machine(opened.settings, stages)
    except StartupError:
        if config is not None or overrides:
            raise
        return None
    limit = "lanes.max" if held.sessions == held.lanes else "cores"
    return ReplicaCapacity("this machine", stages.card.name, held.sessions, limit, measured=True)


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
            "–" if row["replicas"] is None else f"{'' if row['measured'] else '≥ '}{row['replicas']:,}",
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
    parser = CommandParser(
        prog=program("capacity"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--sessions", type=whole_number(), default=1000, help="concurrent sessions (default 1000)"
    )
    parser.add_argument(
        "--lanes", type=whole_number(), help="sessions per replica (default: a table of known machines)"
    )
    add_config_arguments(parser, required=False)
    parser.add_argument("--price", type=number(0), help="cost of one replica per hour, in any currency")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    here = None if options.lanes is not None else measured_here(options.config, options.set)
    planned = plan(options.sessions, options.lanes, options.price, here)
    print(json.dumps(planned) if options.json else table(planned))
    return 0
