"""`python -m pipeline loadtest`: load-test a server of its own and report what failed.

    python -m pipeline loadtest                                   12 sessions for a minute, a tenth of them
    rude python -m pipeline loadtest --sessions 12 --minutes 30 --misbehaving 0.1 python -m pipeline
    loadtest --ramp 40 --minutes 0.5          how many sessions hold python -m
    pipeline loadtest --stall 3                         the server stands still for 3 s python -m pipeline
    loadtest --fuzz 1000000                    packets nobody should send python -m pipeline loadtest
    --ticks 400                       a tick with 8 lanes, beside one with 1 python -m pipeline loadtest
    --steps 200000                    one lane, as fast as it goes python -m pipeline loadtest --replicas 3
    --sessions 12        behind HAProxy, and each replica replaced once

Several may be asked for at once. Everything stays on this machine. Exit codes: 0; 1 a law was
broken (a wrong answer, a crash, a leak; a poor figure breaks none); 2 usage; 130 interrupted.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import trio

from pipeline.cli.arguments import add_config_arguments
from pipeline.cli.program_name import program
from pipeline.config import Config
from pipeline.loadtest.client import WrongAnswerError
from pipeline.loadtest.cluster import fleet
from pipeline.loadtest.failover import press_replicas
from pipeline.loadtest.fuzzing import Fuzzer, fuzz_protocol
from pipeline.loadtest.in_process import measure_steps, measure_ticks
from pipeline.loadtest.misbehaving import fuzz_socket
from pipeline.loadtest.monitor import Watch
from pipeline.loadtest.scenarios import Crowd, press, ramp, stall
from pipeline.loadtest.server_process import Booted, boot
from pipeline.models.checkpoint.resolve import open_config
from pipeline.stages.model_stages import open_stages

SOCKET_SHARE: Final = 100  # of so many fuzzed packets one goes over a socket
SPARE_LANES: Final = 4
STALLED_SESSIONS: Final = 4
LAW_BROKEN: Final = 1


def _server_settings(options: argparse.Namespace, lanes: int) -> list[str]:
    """Room for everybody, from one address; what the user sets comes last, and wins."""
    connections = 4 * lanes + 64
    return [
        f"lanes.max={lanes}",
        f"limits.connections={connections}",
        f"limits.connections_per_address={connections}",
        *options.set,
    ]


def soak_crowd(options: argparse.Namespace, config: Config) -> dict[str, Any]:
    """Polite and rude sessions together."""
    rude = round(options.sessions * options.misbehaving)
    crowd = Crowd(options.sessions - rude, rude, round(60 * options.minutes, 3), options.seed)
    lanes = max(config.settings.lanes.max or 0, options.sessions + rude + SPARE_LANES)
    with boot(options.config, _server_settings(options, lanes)) as server:
        return _stopped(trio.run(partial(press, server, crowd, grace_s=_grace_s(config))), server)


def soak_ramp(options: argparse.Namespace, config: Config) -> dict[str, Any]:
    """More and more polite sessions."""
    most, seconds = options.ramp, round(60 * options.minutes, 3)
    with boot(options.config, _server_settings(options, most)) as server:
        asked = partial(ramp, server, most, seconds, options.seed, grace_s=_grace_s(config), tell=_tell)
        return _stopped(trio.run(asked), server)


def soak_stall(options: argparse.Namespace, config: Config) -> dict[str, Any]:  # noqa: ARG001
    """A server that stands still."""
    with boot(options.config, _server_settings(options, STALLED_SESSIONS)) as server:
        return _stopped(trio.run(stall, server, STALLED_SESSIONS, options.stall), server)


def soak_fuzz(options: argparse.Namespace, config: Config) -> dict[str, Any]:
    """Packets against the protocol, and a share of them against a server."""
    result: dict[str, Any] = {"packets": options.fuzz, "laws": []}
    try:
        result["protocol"] = dict(fuzz_protocol(options.fuzz, options.seed))
    except WrongAnswerError as error:
        result["laws"].append(str(error))
    packets = max(1, options.fuzz // SOCKET_SHARE)
    with boot(options.config, _server_settings(options, STALLED_SESSIONS)) as server:

        async def over_sockets() -> None:
            watch = Watch(server, grace_s=_grace_s(config))
            await watch.begin()
            try:
                result["sockets"] = dict(await fuzz_socket(server.port, Fuzzer(options.seed), packets))
            except* WrongAnswerError as group:
                result["laws"].append(f"over a socket: {group.exceptions[0]}")
            result["laws"] += await watch.end()

        trio.run(over_sockets)
        return _stopped(result, server)


def soak_ticks(options: argparse.Namespace, config: Config) -> dict[str, Any]:
    """What a wider batch costs."""
    return measure_ticks(open_stages(config), options.ticks)


def soak_steps(options: argparse.Namespace, config: Config) -> dict[str, Any]:
    """One lane for very long."""
    return measure_steps(open_stages(config), options.steps, _tell)


def soak_replicas(options: argparse.Namespace, config: Config) -> dict[str, Any]:  # noqa: ARG001
    """Several servers behind a balancer, each with room for everybody."""
    settings = _server_settings(options, options.sessions + SPARE_LANES)
    with fleet(options.config, settings, options.replicas) as servers:
        seconds = round(60 * options.minutes, 3)
        return trio.run(press_replicas, servers, options.sessions, seconds, options.seed)


SCENARIOS: Final[dict[str, Callable[[argparse.Namespace, Config], dict[str, Any]]]] = {
    "ticks": soak_ticks,
    "steps": soak_steps,
    "fuzz": soak_fuzz,
    "stall": soak_stall,
    "ramp": soak_ramp,
    "replicas": soak_replicas,
}


def _stopped(result: dict[str, Any], server: Booted) -> dict[str, Any]:
    """A server that was pressed still ends as one that was not."""
    said_bytes = len(server.logged())
    exit_code = server.stop()
    if exit_code != 0:
        last = server.logged()[said_bytes:][-2000:]
        result["laws"].append(f"after SIGTERM the server ended with {exit_code}, not 0: {last}")
    return result


def _grace_s(config: Config) -> float:
    return float(config.settings.limits.resume_grace_ms) / 1000


def _tell(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def _print(name: str, result: dict[str, Any]) -> None:
    print(name)
    for key, value in result.items():
        if key == "laws":
            continue
        if isinstance(value, list) and value and isinstance(value[0], dict):
            for row in value:
                print(f"  {key}: {json.dumps(row)}")
        else:
            print(f"  {key}: {json.dumps(value)}")
    for law in result["laws"]:
        print(f"  BROKEN {law}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    parser = argparse.ArgumentParser(
        prog=program("loadtest"), description="Press on a server of our own, and report what gives."
    )
    add_config_arguments(parser)
    parser.add_argument("--sessions", type=int, default=12, help="of the crowd")
    parser.add_argument(
        "--minutes", type=float, default=1.0, help="of the crowd, and of each step of the ramp"
    )
    parser.add_argument("--misbehaving", type=float, default=0.1, help="which share of the crowd is rude")
    parser.add_argument("--seed", type=int, default=0, help="of everything drawn")
    parser.add_argument("--ramp", type=int, metavar="MOST", help="1, 2, 4, 8, 12, … up to MOST sessions")
    parser.add_argument("--stall", type=float, metavar="SECONDS", help="the server's process stands still")
    parser.add_argument("--fuzz", type=int, metavar="PACKETS", help="and one in a hundred over sockets")
    parser.add_argument("--ticks", type=int, metavar="TICKS", help="of 1 lane, 8 lanes, and 8 calls")
    parser.add_argument("--steps", type=int, metavar="STEPS", help="of one lane")
    parser.add_argument("--replicas", type=int, metavar="REPLICAS", help="behind HAProxy, each replaced")
    parser.add_argument("--json", action="store_true", help="make the last line of stdout one JSON object")
    options = parser.parse_args(arguments)
    config = open_config(options.config, options.set, check=open_stages)
    asked = {name: run for name, run in SCENARIOS.items() if getattr(options, name) is not None}
    results = {name: run(options, config) for name, run in (asked or {"crowd": soak_crowd}).items()}
    for name, result in results.items():
        _print(name, result)
    if options.json:
        print(json.dumps(results))
    return LAW_BROKEN if any(result["laws"] for result in results.values()) else 0
