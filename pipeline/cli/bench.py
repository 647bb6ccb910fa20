"""Measure stage times, memory use and server latency.

Measurements:
  stages   encode, step and decode at every batch width, one after the other
  memory   resident memory over many steps of one lane, which must not grow
  dialects processor time a frame to decode and encode each kind of client's messages
  server   a server started as a user would, with audio sent in real time

Only with --only:
  profile  where the time of each stage goes, for --lanes lanes: Python, products, convolutions, …
  load     a random checkpoint of 2 GB, or of the architecture of --config: written, loaded, removed
"""

import argparse
import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import trio

from pipeline import backend
from pipeline.audio.noise import noise_frames
from pipeline.cli.arguments import CommandParser, add_config_arguments, number, whole_number
from pipeline.client.session import ConversationError, converse
from pipeline.config import Source, read_config
from pipeline.diagnostics.checkpoint_load import ARCHITECTURE, measure_load
from pipeline.diagnostics.dialect_cost import time_dialects
from pipeline.diagnostics.profiler import measure_profile
from pipeline.diagnostics.stage_runner import StageRunner
from pipeline.errors import ConfigError
from pipeline.install.program_name import program
from pipeline.loadtest.server_process import start_server
from pipeline.models.checkpoint.lm_config import parse_lm_config
from pipeline.models.checkpoint.resolve import open_config
from pipeline.percentiles import percentiles
from pipeline.stages.batch import bucket_widths
from pipeline.stages.model_stages import open_stages
from pipeline.units import FRAME_SAMPLES, SAMPLE_RATE_HZ

WARM_STEPS = 1000  # before memory is first measured: ring caches have wrapped, pools have grown
STAGES = ("encode", "step", "decode")


def _percentiles(seconds: npt.NDArray[np.float64]) -> dict[str, float]:
    found = percentiles(seconds.tolist(), 50, 95, 99)
    return {name: round(1000 * s, 2) for name, s in zip(("p50", "p95", "p99"), found, strict=True)}


def measure_stages(runner: StageRunner, frames: int) -> dict[str, Any]:
    """Milliseconds of each stage, and of all three, at every batch width."""
    result: dict[str, Any] = {}
    for width in bucket_widths(runner.lanes):
        lanes = range(min(width, runner.lanes))
        pcm = noise_frames(len(lanes))
        for _ in range(10):
            runner.time_frame(lanes, pcm)
        times = np.array([runner.time_frame(lanes, pcm) for _ in range(frames)])
        row: dict[str, Any] = {stage: _percentiles(times[:, i]) for i, stage in enumerate(STAGES)}
        result[str(width)] = row | {"all": _percentiles(times.sum(axis=1))}
    return result


def measure_memory(runner: StageRunner, steps: int) -> dict[str, float]:
    """Resident memory after `WARM_STEPS` steps of one lane, and after `steps` more."""
    process, noise = psutil.Process(), noise_frames(1)

    def run(count: int) -> float:
        for _ in range(count):
            runner.time_frame([0], noise)
        return float(process.memory_info().rss / 2**20)

    warm_mib = run(WARM_STEPS)
    then_mib = run(steps)
    return {
        "steps": steps,
        "warm_mib": round(warm_mib, 1),
        "end_mib": round(then_mib, 1),
        "growth_percent": round(100 * (then_mib / warm_mib - 1), 2),
    }


def measure_server(config: Source, overrides: Sequence[str], seconds: float) -> dict[str, Any]:
    """Start-up time, and the latency, underruns and added latency of one session."""
    pcm = noise_frames(round(seconds * SAMPLE_RATE_HZ / FRAME_SAMPLES)).ravel()
    with start_server(config, overrides):
        pass  # the first start compiles and caches, so that the next one is warm
    with start_server(config, overrides) as server:
        try:
            report = trio.run(converse, server.socket_url, pcm)
        except ConversationError as error:
            raise ConfigError("", f"the conversation failed: {error}") from None
        _, health = server.get("/health")
        rss_mib = psutil.Process(server.pid).memory_info().rss / 2**20
    return {
        "ready_s": round(server.ready_s, 2),
        "rss_mib": round(rss_mib, 1),
        "session": report.as_json() | {"text": None},
        "added_ms": health["metrics"]["added"],
        "over_budget": health["metrics"]["overBudget"],
    }


def _table(result: dict[str, Any]) -> str:
    lines = [f"{result.get('name', 'no model')} on {result['device']} ({result['blas']}), milliseconds"]
    if "stages" in result:
        lines.append(
            f"{'width':>6} " + "".join(f"{stage + ' p50/p95/p99':>26}" for stage in (*STAGES, "all"))
        )
        for width, row in result["stages"].items():
            cells = ("{p50:8.2f} {p95:8.2f} {p99:8.2f}".format(**row[stage]) for stage in (*STAGES, "all"))
            lines.append(f"{width:>6} " + "".join(f"{cell:>26}" for cell in cells))
    for stage, seen in result.get("profile", {}).items():
        apart = ", ".join(f"{kind} {ms}" for kind, ms in seen["apart_ms"].items())
        frequent = ", ".join(f"{name} {count}" for name, count in seen["most_frequent"].items())
        lines.append(
            f"{stage}: {seen['whole_ms']}, {seen['python_ms']} of them Python; "
            f"{seen['operations']} operations, {frequent}, …; layer by layer: {apart}"
        )
    if "memory" in result:
        lines.append(
            "memory: {warm_mib} MiB warm, {end_mib} MiB {steps} steps later".format(**result["memory"])
        )
    if "dialects" in result:
        cells = (f"{name} {row['p50_us']}" for name, row in result["dialects"].items())
        lines.append(f"dialects, microseconds a frame in and out: {', '.join(cells)}")
    if "load" in result:
        lines.append(
            "load: {parameters} parameters, {file_mib} MiB read in {read_s} s, loaded in {load_s} s; "
            "{kept_mib} MiB as {kept}, {peak_mib} MiB at most; a step takes {step_ms} ms".format(
                **result["load"]
            )
        )
    if "server" in result:
        server, session = result["server"], result["server"]["session"]
        lines.append(
            f"server: ready after {server['ready_s']} s, {server['rss_mib']} MiB; "
            f"{session['frames_in']} frames in, {session['frames_out']} out, "
            f"latency p50 {session['latency_ms']['p50']} p99 {session['latency_ms']['p99']}, "
            f"{session['underruns']} underruns, {server['over_budget']} over budget; "
            f"added p50 {server['added_ms']['p50']} p99 {server['added_ms']['p99']}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    usual = ("stages", "memory", "dialects", "server")
    parser = CommandParser(
        prog=program("bench"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config_arguments(parser)
    parser.add_argument(
        "--only",
        choices=(*usual, "profile", "load"),
        action="append",
        help="run this measurement only; repeatable (default stages, memory, dialects and server)",
    )
    parser.add_argument(
        "--frames", type=whole_number(), default=200, help="frames per batch width (default 200)"
    )
    parser.add_argument(
        "--steps", type=whole_number(), default=20_000, help="steps of the memory run (default 20000)"
    )
    parser.add_argument(
        "--seconds", type=number(0.08), default=30.0, help="speech for the server (default 30)"
    )
    parser.add_argument("--lanes", type=whole_number(), default=1, help="lanes of the profile (default 1)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args(arguments)
    wanted = set(options.only or usual)

    # First, because a mistake in the command line is told by it.
    measured = _measure(options, wanted) if wanted & {"stages", "memory", "server", "profile"} else {}
    machine = backend.prepare()
    result: dict[str, Any] = {"device": machine.device, "blas": machine.blas.name}
    if "load" in wanted:
        config = None if options.config is parser.get_default("config") else options.config
        result |= {"name": str(config or "random"), "load": _load(config, options.set)}
    if "dialects" in wanted:
        result["dialects"] = time_dialects(10 * options.frames)
    result |= measured
    print(json.dumps(result) if options.json else _table(result))
    return 0


def _load(config: Source | None, overrides: Sequence[str]) -> dict[str, Any]:
    if config is None:
        return measure_load(ARCHITECTURE)
    if isinstance(config, Path):  # the architecture is enough, weights are not needed
        return measure_load(parse_lm_config(read_config(config, overrides).model))
    return measure_load(parse_lm_config(open_config(config, overrides, check=open_stages).model))


def _measure(options: argparse.Namespace, wanted: Collection[str]) -> dict[str, Any]:
    """The measurements in `wanted` of the model that the command line names."""
    config = open_config(options.config, options.set, check=open_stages)
    stages = open_stages(config)
    result: dict[str, Any] = {"name": stages.card.name}
    if "server" in wanted:  # first, while this process has nothing else in memory
        result["server"] = measure_server(options.config, options.set, options.seconds)
    measures: dict[str, Callable[[StageRunner], Any]] = {
        "stages": lambda runner: measure_stages(runner, options.frames),
        "memory": lambda runner: measure_memory(runner, options.steps),
    }
    if "profile" in wanted:
        with backend.pinned_to(backend.core_affinity()[-1]):
            result["profile"] = measure_profile(stages, options.frames, options.lanes)
    chosen = [name for name in measures if name in wanted]
    if chosen:
        with StageRunner.of(stages) as runner:
            result |= {name: measures[name](runner) for name in chosen}
    return result
