"""Measure one step of a model split across several processes, and estimate it for several machines.

The steps of one lane are measured in one process, and in several on this machine, which mlx.launch
starts on loopback. These share the machine's memory and cores, so they show the cost of the exchanges
and not the gain. The estimate for several machines comes from sizes alone: the memory each reads in a
step, and the time they wait for their link.
"""

import argparse
import contextlib
import json
import math
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from pipeline import backend
from pipeline.cli.arguments import CommandParser, add_config_arguments, number, whole_number
from pipeline.cli.ranks import run_coordinator, run_follower
from pipeline.config import Settings, Source, read_config
from pipeline.errors import ConfigError
from pipeline.install.program_name import program
from pipeline.models.checkpoint.lm_config import LmConfig, parse_lm_config
from pipeline.models.checkpoint.resolve import open_config
from pipeline.models.lm import LmModel
from pipeline.models.sharding import Shard
from pipeline.percentiles import percentiles
from pipeline.stages.model_stages import ModelStages, open_stages
from pipeline.stages.tensor_parallel.collective import Coordinator
from pipeline.stages.tensor_parallel.messages import MessageLayout

_WARM_STEPS: Final = 5
_PORTS: Final = range(20_000, 32_000)
_TIMEOUT_S: Final = 600.0
_NUMBER_BYTES: Final = 2  # bfloat16, as weights are kept on a GPU


@dataclass(frozen=True, slots=True)
class Link:
    """A connection of two machines: the latency of one exchange, and the bandwidth."""

    name: str
    latency_us: float
    bytes_per_s: float


# Assumed, not measured: from one program to the other, with the wait of the processor for the GPU.
LINKS: Final = (
    Link("Thunderbolt 5, RDMA", 50, 6e9),
    Link("Thunderbolt, TCP", 150, 2.5e9),
    Link("10 Gb/s Ethernet", 150, 1.1e9),
    Link("1 Gb/s Ethernet", 250, 0.11e9),
)


def estimate(config: LmConfig, memory_gb_per_s: float, size: int = 2) -> dict[str, Any]:
    """Estimated milliseconds of a step of one lane on one machine, and on `size`, by link and sharding.

    A step reads all weights except the embedding tables once; only that and the link take time.
    """
    shapes = LmModel(config).parameter_shapes()

    def bytes_of(each: dict[str, tuple[int, ...]], *, read: bool) -> int:
        counted = (shape for name, shape in each.items() if not (read and "emb" in name))
        return _NUMBER_BYTES * sum(math.prod(shape) for shape in counted)

    def read_ms(each: dict[str, tuple[int, ...]]) -> float:
        return bytes_of(each, read=True) / memory_gb_per_s / 1e6

    message_bytes = 4 * MessageLayout(2, 1, config.n_q, config.dep_q).numbers
    by_depformer = {}
    for depformer in ("cut", "whole"):
        shard = Shard(0, size, replicated_depformer=depformer == "whole")
        shard.check(config)
        mine, traffic = shard.shapes(config, shapes), shard.traffic(config, 1, _NUMBER_BYTES)
        sent_bytes = traffic.sent_bytes + (size - 1) * message_bytes
        exchanges = traffic.exchanges + 1  # one round before the step
        by_depformer[depformer] = {
            "rank_gb": round(bytes_of(mine, read=False) / 1e9, 2),
            "exchanges": exchanges,
            "sent_kb": round(sent_bytes / 1e3, 1),
            "read_ms": round(read_ms(mine), 1),
            "step_ms": {
                link.name: round(
                    read_ms(mine) + exchanges * link.latency_us / 1e3 + 1e3 * sent_bytes / link.bytes_per_s, 1
                )
                for link in LINKS
            },
        }
    return {
        "memory_gb_per_s": memory_gb_per_s,
        "whole_gb": round(bytes_of(shapes, read=False) / 1e9, 2),
        "alone_ms": round(read_ms(shapes), 1),
        "ranks": size,
        "depformer": by_depformer,
    }


def measure_ranks(config: Source, overrides: Sequence[str], size: int, steps: int) -> dict[str, Any]:
    """A step of one lane in one process and in `size` processes, and what these exchange in it."""
    return {str(ranks): _measured(config, overrides, ranks, steps) for ranks in (1, size)}


def _measured(config: Source, overrides: Sequence[str], size: int, steps: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "pipeline", "bench-tensor-parallel", "--part", "--config", str(config)]
    command += ["--steps", str(steps)]
    command += [part for override in overrides for part in ("--set", override)]
    if size > 1:
        launcher = Path(sys.executable).with_name("mlx.launch")
        port = str(free_ports_from(size))
        command = [str(launcher), "--backend", "ring", "-n", str(size), "-p", port, "--", *command]
    # The launcher polls its stdin, and busily once that is at its end: give it an open pipe.
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(  # noqa: S603 - our own command
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=backend.user_environment(),
        )
        with process:
            assert process.stdout is not None
            printed = process.stdout.read()
            process.wait(_TIMEOUT_S)
        found = [json.loads(line) for line in printed.splitlines() if line.startswith('{"step_ms"')]
        if len(found) != 1:
            log.seek(0)
            lines = [
                line for line in log.read().splitlines() if "Node with rank" not in line
            ]  # of the launcher
            raise ConfigError("", f"{size} processes did not finish: {' / '.join(lines[-3:])}")
    result: dict[str, Any] = found[0]
    return result


def free_ports_from(count: int) -> int:
    """The first of `count` consecutive free loopback ports, below the ephemeral range."""
    while True:
        first = random.choice(_PORTS)  # noqa: S311 - no secret
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first


def _report(stages: ModelStages, steps: int, coordinator: Coordinator | None = None) -> int:
    """Take steps with empty inputs, and print their times."""
    stage = stages.load_stepper(coordinator)
    stage.warmup(reset=True)
    for _ in range(_WARM_STEPS):
        stage.warmup(reset=False)
    taken_ms = []
    for _ in range(steps):
        began_s = time.perf_counter()
        stage.warmup(reset=False)
        taken_ms.append(1000 * (time.perf_counter() - began_s))
    shard = stages.shard or Shard(0, 1)
    number_bytes = 2 if backend.prepare().compute_dtype == "bfloat16" else 4
    traffic = shard.traffic(stages.bundle.lm, 1, number_bytes)
    message_bytes = 0 if coordinator is None else 4 * coordinator.collective.layout.numbers
    p50, p95 = (round(ms, 2) for ms in percentiles(taken_ms, 50, 95))
    found = {
        "step_ms": {"p50": p50, "p95": p95},
        "exchanges": traffic.exchanges + 1 if coordinator is not None else 0,
        "sent_bytes": traffic.sent_bytes + (shard.size - 1) * message_bytes,
        "lm_mib": round(stages.memory.lm_bytes / 2**20, 1),
    }
    print(json.dumps(found), flush=True)
    return 0


def _part(stages: ModelStages, settings: Settings, ranks: backend.Ranks, steps: int) -> int:
    """Run as one of the measured processes."""
    if ranks.rank > 0:
        return run_follower(stages, settings)
    if ranks.size == 1:
        return _report(stages, steps)
    return run_coordinator(stages, settings, partial(_report, stages, steps))


def _table(result: dict[str, Any]) -> str:
    lines = []
    for ranks, row in result.get("measured", {}).items():
        lines.append(
            "{ranks:>2} processes: step p50 {p50} ms, p95 {p95} ms; {exchanges} exchanges, "
            "{sent_bytes} bytes sent; {lm_mib} MiB of weights each".format(
                ranks=ranks, **row, **row["step_ms"]
            )
        )
    estimated = result["reckoned"]
    lines.append(
        "estimated, bfloat16, {memory_gb_per_s:g} GB/s of memory: "
        "one machine {whole_gb} GB, {alone_ms} ms a step".format(**estimated)
    )
    for depformer, row in estimated["depformer"].items():
        links = ", ".join(f"{name} {ms}" for name, ms in row["step_ms"].items())
        lines.append(
            f"{estimated['ranks']} machines, depformer {depformer}: {row['rank_gb']} GB each, "
            f"{row['exchanges']} exchanges, {row['sent_kb']} kB; read in {row['read_ms']} ms; "
            f"a step, ms: {links}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    parser = CommandParser(prog=program("bench-tensor-parallel"), description=__doc__)
    add_config_arguments(parser)
    parser.add_argument(
        "--ranks",
        type=whole_number(),
        default=2,
        help="number of ranks to measure and to estimate (default 2)",
    )
    parser.add_argument(
        "--steps", type=whole_number(0), default=100, help="steps to measure; 0: estimate only (default 100)"
    )
    parser.add_argument(
        "--memory",
        type=number(1e-3),
        default=400.0,
        metavar="GB/S",
        help="memory bandwidth of a machine (default 400)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--part", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.part:
        ranks = backend.launched_ranks()
        check = partial(open_stages, ranks=ranks)
        config = open_config(options.config, options.set, check=check)
        code = _part(check(config), config.settings, ranks, options.steps)
        sys.stdout.flush()
        os._exit(code)  # MLX must not be torn down while its threads run
    result: dict[str, Any] = {}
    if options.steps:
        result["measured"] = measure_ranks(options.config, options.set, options.ranks, options.steps)
    raw = read_config(options.config, options.set) if isinstance(options.config, Path) else None
    config = raw or open_config(options.config, options.set, check=open_stages)
    result["reckoned"] = estimate(parse_lm_config(config.model), options.memory, options.ranks)
    print(json.dumps(result) if options.json else _table(result))
    return 0
