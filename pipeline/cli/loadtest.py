"""`python -m pipeline loadtest`: load-test a server of its own and report what failed.

    loadtest                                                12 sessions for a minute, a tenth misbehaving
    loadtest --sessions 12 --minutes 30 --misbehaving 0.1   the same for half an hour
    loadtest --ramp 40 --minutes 0.5                        how many sessions the server can hold
    loadtest --stall 3                                      the server's process is suspended for 3 s
    loadtest --fuzz 1000000                                 random messages, in every dialect
    loadtest --dialects 3                                   what each dialect costs, in three rounds
    loadtest --flood all                                    legal input as fast as possible, beside a client
    loadtest --ticks 400                                    a batch of 8 lanes, and of 1
    loadtest --steps 200000                                 one lane, as fast as possible
    loadtest --slow 1,0.5,0.25                              a server with a share of the processor
    loadtest --replicas 3 --sessions 12                     behind HAProxy, with a rolling restart

Options that name a scenario can be combined. Everything stays on this machine. Exit codes: 0; 1 a
guarantee was violated (a wrong response, a crash, a leak; slowness is no violation); 2 usage; 130
interrupted.
"""

import argparse
import json
import ssl
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import trio

from pipeline.cli.arguments import CommandParser, add_config_arguments, number, whole_number
from pipeline.config import LONGEST_S, Config, Server, Source
from pipeline.errors import ConfigError, StartupError
from pipeline.install.program_name import program
from pipeline.lan.credentials import prepare
from pipeline.loadtest.client import ViolationError
from pipeline.loadtest.cluster import start_cluster
from pipeline.loadtest.dialect_fuzzing import fuzz_dialects
from pipeline.loadtest.dialects import measure_dialects
from pipeline.loadtest.failover import run_failover_load
from pipeline.loadtest.flooding import FLOODS, NEED_TLS, measure_floods
from pipeline.loadtest.fuzzing import Fuzzer, fuzz_protocol
from pipeline.loadtest.in_process import measure_steps, measure_ticks
from pipeline.loadtest.misbehaving import fuzz_socket
from pipeline.loadtest.monitor import ServerMonitor
from pipeline.loadtest.scenarios import Load, ramp, run_load, stall
from pipeline.loadtest.server_process import ServerProcess, start_server
from pipeline.loadtest.slow_machine import MOST, slow_machine
from pipeline.models.checkpoint.resolve import open_config
from pipeline.stages.model_stages import open_stages
from pipeline.system.command import leaves

SOCKET_SHARE: Final = 100  # one fuzzed packet in so many is sent over a socket
SPARE_LANES: Final = 4
STALLED_SESSIONS: Final = 4
VIOLATED: Final = 1
_CLIENT_ERRORS: Final = (ViolationError, trio.TooSlowError)

# What the keys of `--json` were called before; each value is printed under both for one version.
FORMER_KEYS: Final = {
    "load": "crowd",
    "violations": "laws",
    "normal": "polite",
    "faulty": "rude",
    "clients": "heard",
    "faults": "misdeeds",
    "rejected": "turned_away",
    "overload_actions": "ladder",
    "reported_dropped": "told_dropped",
    "balancer_overhead_ms": "added_by_balancer_ms",
    "new_sessions": "asked_to_leave",
}


def _server_settings(options: argparse.Namespace, lanes: int) -> list[str]:
    """Settings with room for all clients, from one address; the user's come last and take precedence."""
    connections = 4 * lanes + 64
    return [
        f"lanes.max={lanes}",
        f"lanes.admit={lanes}",
        f"limits.connections={connections}",
        f"limits.connections_per_address={connections}",
        "limits.address_processor_share=1",
        *options.set,
    ]


class LoadStoppedError(StartupError):
    """The clients of a load test could not do what it is about, with these settings or at all."""

    exit_code = VIOLATED


@contextmanager
def serving(
    config: Source, settings: Sequence[str], *, tls: ssl.SSLContext | None = None
) -> Iterator[ServerProcess]:
    """The server of a scenario. Where it ends in the middle, that is the error, not what came of it.

    Raises:
        ServerStartError: it did not start.
        ServerEndedError: it ended before the scenario did.
        LoadStoppedError: a normal client had no conversation with it, so that there was nothing to measure.
    """
    with start_server(config, settings, tls=tls) as server:
        try:
            yield server
        except Exception as error:
            server.check_running()
            failed = next((each for each in leaves(error) if isinstance(each, _CLIENT_ERRORS)), None)
            if failed is None:
                raise
            reason = str(failed) or "a client waited in vain for the server"
            raise LoadStoppedError(f"the load test had to stop: {reason}") from None


def run_mixed_load(options: argparse.Namespace, config: Config) -> dict[str, Any]:
    """Normal and faulty sessions together."""
    faulty = round(options.sessions * options.misbehaving)
    load = Load(options.sessions - faulty, faulty, round(60 * options.minutes, 3), options.seed)
    lanes = max(config.settings.lanes.max or 0, options.sessions + faulty + SPARE_LANES)
    with serving(options.config, _server_settings(options, lanes)) as server:
        return _stopped(trio.run(partial(run_load, server, load, grace_s=_grace_s(config))), server)


def run_ramp(options: argparse.Namespace, config: Config) -> dict[str, Any]:
    """More and more normal sessions."""
    most, seconds = options.ramp, round(60 * options.minutes, 3)
    with serving(options.config, _server_settings(options, most)) as server:
        run = partial(ramp, server, most, seconds, options.seed, grace_s=_grace_s(config), report=_progress)
        return _stopped(trio.run(run), server)


def run_stall(options: argparse.Namespace, config: Config) -> dict[str, Any]:  # noqa: ARG001
    """A server that is suspended for a while."""
    with serving(options.config, _server_settings(options, STALLED_SESSIONS)) as server:
        return _stopped(trio.run(stall, server, STALLED_SESSIONS, options.stall), server)


def run_flood(options: argparse.Namespace, config: Config) -> dict[str, Any]:  # noqa: ARG001
    """Clients that send as fast as they can, beside a normal one; with the limits of a usual server."""
    lanes = [f"lanes.max={STALLED_SESSIONS}", f"lanes.admit={STALLED_SESSIONS}"]
    settings = [*lanes, "limits.resume_grace_ms=500", *options.set]
    names = list(FLOODS) if options.flood == "all" else [options.flood]
    result: dict[str, Any] = {"floods": {}, "violations": []}
    for encrypted in (False, True):
        some = [name for name in names if (name in NEED_TLS) is encrypted]
        if not some:
            continue
        with tempfile.TemporaryDirectory() as folder:
            tls, own = _own_tls(folder) if encrypted else (None, [])
            with serving(options.config, [*settings, *own], tls=tls) as server:
                part = _stopped(trio.run(measure_floods, server, some), server)
        result["floods"] |= part["floods"]
        result["violations"] += part["violations"]
    return result


def _own_tls(folder: str) -> tuple[ssl.SSLContext, list[str]]:
    """What clients trust, and the settings of a server that speaks TLS."""
    credentials = prepare(Server(tls_folder=folder), "127.0.0.1", datetime.now(UTC), token=False)
    trusted = ssl.create_default_context(cafile=credentials.authority_file)
    return trusted, ["server.tls=auto", f"server.tls_folder={folder}"]


def run_fuzz(options: argparse.Namespace, config: Config) -> dict[str, Any]:
    """Random messages to every dialect, and a share of the packets to a server."""
    result: dict[str, Any] = {"packets": options.fuzz, "violations": []}
    try:
        result["protocol"] = dict(fuzz_protocol(options.fuzz, options.seed))
        result["dialects"] = dict(fuzz_dialects(options.fuzz, options.seed))
    except ViolationError as error:
        result["violations"].append(str(error))
    packets = max(1, options.fuzz // SOCKET_SHARE)
    with serving(options.config, _server_settings(options, STALLED_SESSIONS)) as server:

        async def over_sockets() -> None:
            monitor = ServerMonitor(server, grace_s=_grace_s(config))
            await monitor.take_baseline()
            try:
                result["sockets"] = dict(await fuzz_socket(server.port, Fuzzer(options.seed), packets))
            except* ViolationError as group:
                result["violations"].append(f"over a socket: {group.exceptions[0]}")
            result["violations"] += await monitor.violations()

        trio.run(over_sockets)
        return _stopped(result, server)


def run_dialects(options: argparse.Namespace, config: Config) -> dict[str, Any]:  # noqa: ARG001
    """The cost of each dialect."""
    seconds = 60 * options.minutes / 5
    with serving(options.config, _server_settings(options, options.sessions + SPARE_LANES)) as server:
        run = partial(measure_dialects, server, options.sessions, seconds, options.dialects)
        return _stopped(trio.run(run), server)


def run_ticks(options: argparse.Namespace, config: Config) -> dict[str, Any]:
    """The cost of a wider batch."""
    return measure_ticks(open_stages(config), options.ticks)


def run_steps(options: argparse.Namespace, config: Config) -> dict[str, Any]:
    """One lane for many steps."""
    return measure_steps(open_stages(config), options.steps, _progress)


def run_replicas(options: argparse.Namespace, config: Config) -> dict[str, Any]:  # noqa: ARG001
    """Several servers behind a balancer, each with room for all clients."""
    settings = _server_settings(options, options.sessions + SPARE_LANES)
    with start_cluster(options.config, settings, options.replicas) as cluster:
        seconds = round(60 * options.minutes, 3)
        return trio.run(run_failover_load, cluster, options.sessions, seconds, options.seed)


def run_slow(options: argparse.Namespace, config: Config) -> dict[str, Any]:  # noqa: ARG001
    """A server that measures what it holds, with shares of the processor."""
    settings = [s for s in _server_settings(options, MOST) if not s.startswith("lanes.")]
    seconds = round(60 * options.minutes, 3)
    shares = [slow_machine(options.config, settings, share, seconds, _progress) for share in options.slow]
    return {
        "shares": shares,
        "violations": [violation for each in shares for violation in each.pop("violations")],
    }


def _shares(text: str) -> list[float]:
    shares = [float(share) for share in text.split(",")]
    if not all(0 < share <= 1 for share in shares):
        raise ValueError(text)
    return shares


SCENARIOS: Final[dict[str, Callable[[argparse.Namespace, Config], dict[str, Any]]]] = {
    "ticks": run_ticks,
    "steps": run_steps,
    "flood": run_flood,
    "fuzz": run_fuzz,
    "dialects": run_dialects,
    "stall": run_stall,
    "ramp": run_ramp,
    "slow": run_slow,
    "replicas": run_replicas,
}


WITHOUT_SERVER: Final = frozenset({"ticks", "steps"})


def _stopped(result: dict[str, Any], server: ServerProcess) -> dict[str, Any]:
    """The result, with a violation added where the server does not exit normally after the load."""
    log_bytes = len(server.logged())
    exit_code = server.stop()
    if exit_code != 0:
        last = server.logged()[log_bytes:][-2000:]
        result["violations"].append(f"after SIGTERM the server exited with {exit_code}, not 0: {last}")
    return result


def _check_server(server: Server) -> None:
    """Raise a `ConfigError` if the clients of a load test could not talk to a server with these settings."""
    needed = {"tls": None, "tls_cert": None, "token": None, "token_file": None, "host": "127.0.0.1"}
    for key, value in needed.items():
        if getattr(server, key) not in (value, value and "localhost"):
            raise ConfigError(
                f"pipeline.server.{key}",
                "a load test connects to 127.0.0.1, without TLS and without a token: "
                f"add --set server.{key}={value or 'null'}",
            )
    if "127.0.0.1" not in server.allowed_hosts:
        raise ConfigError(
            "pipeline.server.allowed_hosts", "a load test connects to 127.0.0.1, which is not among them"
        )


def _grace_s(config: Config) -> float:
    return float(config.settings.limits.resume_grace_ms) / 1000


def _progress(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _print(name: str, result: dict[str, Any]) -> None:
    print(name)
    for key, value in result.items():
        if key == "violations":
            continue
        if isinstance(value, list) and value and isinstance(value[0], dict):
            for row in value:
                print(f"  {key}: {json.dumps(row)}")
        else:
            print(f"  {key}: {json.dumps(value)}")
    for violation in result["violations"]:
        print(f"  VIOLATED {violation}")


def _with_former_keys(value: Any) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(value, list):
        return [_with_former_keys(each) for each in value]
    if not isinstance(value, dict):
        return value
    now = {key: _with_former_keys(each) for key, each in value.items()}
    return now | {FORMER_KEYS[key]: each for key, each in now.items() if key in FORMER_KEYS}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    parser = CommandParser(
        prog=program("loadtest"), description="Load-test a server that is started for the test."
    )
    add_config_arguments(parser)
    parser.add_argument("--sessions", type=whole_number(), default=12, help="number of sessions (default 12)")
    parser.add_argument(
        "--minutes",
        type=number(0, LONGEST_S / 60),
        default=1.0,
        help="duration in minutes; with --ramp and --slow, of each step (default 1)",
    )
    parser.add_argument(
        "--misbehaving", type=number(0, 1), default=0.1, help="share of misbehaving sessions (default 0.1)"
    )
    parser.add_argument("--seed", type=whole_number(0), default=0, help="random seed (default 0)")
    parser.add_argument(
        "--ramp", type=whole_number(), metavar="MAX", help="run 1, 2, 4, 8, 12, … up to MAX sessions"
    )
    parser.add_argument("--stall", type=number(0), metavar="SECONDS", help="suspend the server's process")
    parser.add_argument(
        "--fuzz",
        type=whole_number(),
        metavar="MESSAGES",
        help="random messages in every dialect, and 1 %% as many packets over sockets",
    )
    parser.add_argument(
        "--dialects",
        type=whole_number(),
        metavar="ROUNDS",
        help="measure the latency and processor time of --sessions sessions of each dialect, in so many "
        "rounds of a fifth of --minutes each",
    )
    parser.add_argument(
        "--flood", choices=["all", *FLOODS], help="flood the server, and measure what a neighbour notices"
    )
    parser.add_argument(
        "--ticks", type=whole_number(), metavar="TICKS", help="time batches of 1 lane and of 8 lanes"
    )
    parser.add_argument("--steps", type=whole_number(), metavar="STEPS", help="run one lane for STEPS frames")
    parser.add_argument(
        "--slow",
        type=_shares,
        metavar="SHARES",
        help="run a server with each share of the processor, for example 1,0.5,0.25, and load it with ½ to 4 "
        "times what it measured",
    )
    parser.add_argument(
        "--replicas",
        type=whole_number(),
        metavar="REPLICAS",
        help="run replicas behind HAProxy, with a rolling restart",
    )
    parser.add_argument("--json", action="store_true", help="make the last line of stdout one JSON object")
    options = parser.parse_args(arguments)
    config = open_config(options.config, options.set, check=open_stages)
    chosen = {name: run for name, run in SCENARIOS.items() if getattr(options, name) is not None}
    if not chosen or chosen.keys() - WITHOUT_SERVER:
        _check_server(config.settings.server)
    results = {name: run(options, config) for name, run in (chosen or {"load": run_mixed_load}).items()}
    for name, result in results.items():
        _print(name, result)
    if options.json:
        print(json.dumps(_with_former_keys(results)))
    return VIOLATED if any(result["violations"] for result in results.values()) else 0
