"""`PYTHONPATH=.:tests python tests/benchmarks/sessions_held.py --base PATH [--seconds 15] [--rounds 2]`.

Finds out how many sessions the server holds, and how many another checkout of this project (`git worktree
add PATH COMMIT`) holds on the same machine in the same minutes. A server holds a number of sessions if less
than 1 % of the frames that its clients are due come too late. For each of the two servers the number is
doubled until it is too large, and then halved in between; the two searches take turns, probe by probe, and so
do the servers: the one that is not probed is idle. The clients share the cores with the server. Prints one
JSON object.
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Generator, Mapping
from contextlib import ExitStack
from pathlib import Path

import trio
from support.browser.servers import ROOT, Server, serving

from pipeline.loadtest.scenarios import UNDERRUNS_MAX, Load, client_summary

MOST = 128
Probe = Generator[int, float, int]


def search(most: int) -> Probe:
    """Yields numbers of sessions, is sent the percentage of underruns; returns the largest that is held."""
    held, count = 0, 1
    while count <= most:
        if (yield count) >= UNDERRUNS_MAX:
            break
        held, count = count, 2 * count
    broken = min(count, most + 1)
    while broken - held > 1:
        middle = (held + broken) // 2
        if (yield middle) < UNDERRUNS_MAX:
            held = middle
        else:
            broken = middle
    return held


def underruns_percent(server: Server, sessions: int, seconds: float, seed: int) -> float:
    """Of `sessions` clients that talk for `seconds`; all of it, where one had an error."""
    load = Load(sessions, 0, seconds, seed, mean_visit_s=math.inf)
    trio.run(load.run, server.port)
    if load.violations or load.rejected:
        print(f"  {load.rejected} rejected; {load.violations[:1]}", file=sys.stderr)
        return 100.0
    return float(client_summary(load.counts)["underruns_percent"])


def compare(servers: Mapping[str, Server], seconds: float, most: int, seed: int) -> dict[str, int]:
    """The number of sessions that each server holds."""
    searches = {name: search(most) for name in servers}
    counts = {name: next(each) for name, each in searches.items()}
    held: dict[str, int] = {}
    while counts:
        for name, count in list(counts.items()):
            percent = underruns_percent(servers[name], count, seconds, seed)
            print(f"{name}, {count} sessions: {percent} % underruns", file=sys.stderr)
            try:
                counts[name] = searches[name].send(percent)
            except StopIteration as done:
                held[name] = done.value
                del counts[name]
    return held


def _settings(root: Path, most: int) -> list[str]:
    connections = 4 * most + 64
    settings = [
        f"lanes.max={most}",
        f"limits.connections={connections}",
        f"limits.connections_per_address={connections}",
    ]
    if root == ROOT:  # others may not know the keys
        settings += [f"lanes.admit={most}", "limits.address_processor_share=1"]
    return settings


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", type=Path, help="another checkout, measured in turn with this one")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each probe")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--most", type=int, default=MOST, help="more sessions are not tried")
    options = parser.parse_args()
    roots = {"this": ROOT} | ({} if options.base is None else {"base": options.base.resolve()})
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(
                serving(*_settings(root, options.most), config=root / "configs/tiny", root=root)
            )
            for name, root in roots.items()
        }
        rounds = [compare(servers, options.seconds, options.most, seed) for seed in range(options.rounds)]
    result: dict[str, object] = {"held": {name: [held[name] for held in rounds] for name in roots}}
    if "base" in roots:
        result["ratio"] = round(statistics.median(each["this"] / max(1, each["base"]) for each in rounds), 2)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
