"""Check whether this machine can serve, and estimate how many sessions it can hold.

    packet-voice doctor                        the embedded model
    packet-voice doctor --config PATH          another model
    packet-voice doctor --set server.port=9000

Measures the stages of one model, the full-size codec, memory bandwidth and matrix products; estimates from
these which published models run in real time here and with how many lanes; checks the port, the disk space
and the requirements of browsers. Nothing is downloaded unless --config names a repository.

Exit codes: 0 no problem; 1 the model is too slow for real time; 2 configuration error; 3 weights error;
4 port in use; 130 interrupted. With several problems, the one a server would hit first counts.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from msgspec.structs import replace

from actors.capacity import Capacity
from pipeline import backend, log
from pipeline.cli.arguments import CommandParser, add_config_arguments, number
from pipeline.config import Config
from pipeline.diagnostics import microbenchmarks
from pipeline.diagnostics import stage_timing as timing
from pipeline.diagnostics.environment import Finding, check_browser, check_disk, check_port
from pipeline.diagnostics.estimates import PUBLISHED, Estimate, Measurements, estimate, layer_s
from pipeline.diagnostics.machine_capacity import measure_machine
from pipeline.diagnostics.stage_timing import StageTimes, time_codec, time_stages
from pipeline.install.paths import embedded
from pipeline.install.program_name import program
from pipeline.kernels.library import Library
from pipeline.models.checkpoint.resolve import open_config
from pipeline.stages.model_stages import open_stages
from pipeline.system import resources
from pipeline.units import FRAME_MS
from web.security.listen import ListenConfig

TOO_SLOW: Final = 1
CODEC_LANES: Final = {"cpu": 8, "cuda": 32, "metal": 16}  # the largest batch to measure
SECONDS: Final = 1.0
GIB: Final = 2**30
_LABELS: Final = {"ok": "ok  ", "warning": "note", "problem": "FAIL"}


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The complete result. `model`: name of the model that was timed; `capacity`: as a server measures it."""

    machine: Mapping[str, Any]
    rates: Mapping[str, float]
    model: str
    capacity: Capacity | None
    stages: Mapping[int, StageTimes]
    codec: Mapping[int, StageTimes]
    estimates: Sequence[Estimate]
    findings: Sequence[Finding]

    @property
    def exit_code(self) -> int:
        """The exit code of the first finding that has one, or 0."""
        return next((finding.exit_code for finding in self.findings if finding.exit_code), 0)

    @property
    def as_json(self) -> dict[str, Any]:
        """The result as a JSON object."""
        return {
            "machine": dict(self.machine),
            "measured": dict(self.rates),
            "model": self.model,
            "capacity": None if self.capacity is None else self.capacity.as_json,
            "chain": timing.as_json(dict(self.stages)),
            "codec": timing.as_json(dict(self.codec)),
            "estimated": [asdict(each) for each in self.estimates],
            "findings": [asdict(finding) for finding in self.findings],
            "exit_code": self.exit_code,
        }


def diagnose(config: Config, seconds: float) -> Diagnosis:
    """Run all measurements, for `seconds` each, and all checks.

    Raises:
        ConfigError: the server or model configuration is invalid.
        WeightsError: the weights are missing, malformed or too large for the memory.
    """
    about = microbenchmarks.describe()
    server = config.settings.server
    listen = ListenConfig.from_settings(server)
    findings = [check_port(server, listen)]
    stages = open_stages(config)
    times = time_stages(stages, seconds)
    log.configure(replace(config.settings.log, level="error"))
    capacity = measure_machine(config.settings, stages)
    findings += [_check_load(about), _check_backend(about), _check_kernels(stages.bundle.kernels)]
    findings.append(check_real_time(stages.card.name, times, capacity))
    formats = microbenchmarks.formats()
    codec = _time_codec(CODEC_LANES[about["device"]], seconds, findings)
    products_s = {each: microbenchmarks.product_s_per_weight(list(codec) or [1], each) for each in formats}
    read_bytes_per_s = microbenchmarks.read_bytes_per_s(resources.usable_cores())
    measured = Measurements(
        read_bytes_per_s,
        products_s,
        layer_s(times[1].step_ms / 1000, stages.bundle.lm, products_s[formats[0]][1]),
        codec,
    )
    estimates = [
        estimate(model, each, measured, about["free_bytes"], on_cpu=about["device"] == "cpu")
        for model in PUBLISHED
        for each in formats
    ]
    findings += [_summarize_model(model, [e for e in estimates if e.model == model]) for model in PUBLISHED]
    findings += [*check_disk(), check_browser(server, listen)]
    rates = {
        "read_gb_per_s": round(read_bytes_per_s / 1e9, 1),
        "gflop_per_s": round(microbenchmarks.flop_per_s() / 1e9, 1),
        "layer_ms": round(1000 * measured.layer_s, 3),
    }
    return Diagnosis(about, rates, stages.card.name, capacity, times, codec, estimates, findings)


def _time_codec(lanes: int, seconds: float, findings: list[Finding]) -> dict[int, StageTimes]:
    try:
        return time_codec(lanes, seconds)
    except OSError as error:
        findings.append(Finding("codec", "warning", f"not measured ({error}), so nothing can be estimated"))
        return {}


def _check_load(about: Mapping[str, Any]) -> Finding:
    load = f"average {about['load']} on {about['host_cores']} cores at the start"
    if about["load"] > about["host_cores"] / 4:
        return Finding("load", "warning", f"{load}: the times are too high; run again on an idle machine")
    return Finding("load", "ok", load)


def _check_backend(about: Mapping[str, Any]) -> Finding:
    if about["warning"] is not None:
        return Finding("backend", "warning", about["warning"])
    return Finding("backend", "ok", f"MLX {about['mlx']} on {about['device']}, {about['blas']} BLAS")


def _check_kernels(kernels: Library | None) -> Finding:
    if kernels is not None:
        return Finding("kernels", "ok", f"native, {kernels.instruction_set}")
    missing = backend.missing_kernels()
    return Finding("kernels", "ok", "not used") if missing is None else Finding("kernels", "warning", missing)


def check_real_time(name: str, times: Mapping[int, StageTimes], capacity: Capacity) -> Finding:
    """Whether a server would hold at least one session, and how many it would admit at first."""
    alone = times[1]
    took = f"{name} takes {alone.p50_ms:.1f} ms per frame of {FRAME_MS} ms"
    if capacity.advice is not None:
        return Finding("real time", "problem", f"{took}. {capacity.advice}", TOO_SLOW)
    if capacity.sessions == 0:
        return Finding("real time", "warning", f"{took}: one session in real time, but without headroom")
    held = "1 session" if capacity.sessions == 1 else f"{capacity.sessions} sessions"
    at_most = f", of at most {capacity.lanes} (lanes.max)" if capacity.sessions == capacity.lanes else ""
    return Finding("real time", "ok", f"{took} (p99 {alone.p99_ms:.1f}); this machine holds {held}{at_most}")


def _summarize_model(model: str, estimates: Sequence[Estimate]) -> Finding:
    """Report the widest weight format that runs in real time."""
    for each in estimates:
        if each.lanes:
            lanes = "1 lane" if each.lanes == 1 else f"{each.lanes} lanes"
            return Finding(
                model,
                "ok",
                f"in {each.kept}, {lanes}: estimated at {each.frame_ms[each.lanes]:.0f} ms per frame, "
                f"{each.one_lane_bytes / GIB:.1f} GiB, {each.lane_bytes / GIB:.1f} GiB per additional lane "
                f"({each.repository})",
            )
    if not any(each.frame_ms for each in estimates):
        return Finding(model, "warning", "cannot be estimated")
    best = min(estimates, key=lambda each: each.frame_ms[1])
    needs = f"{best.frame_ms[1]:.0f} ms per frame (estimated) and {best.one_lane_bytes / GIB:.1f} GiB"
    sentence = f"too slow or too large for this machine: in {best.kept} it takes {needs}"
    return Finding(model, "warning", sentence)


def format_report(found: Diagnosis) -> str:
    """The result as text."""
    return "\n".join(_lines(found))


def _lines(found: Diagnosis) -> Iterator[str]:
    about = found.machine
    yield (
        f"{about['system']} on {about['architecture']}, {about['cores']} cores, "
        f"{about['memory_bytes'] / GIB:.1f} GiB of memory, {about['free_bytes'] / GIB:.1f} GiB available; "
        f"Python {about['python']}"
    )
    yield "measured: memory {read_gb_per_s} GB/s, matrix products {gflop_per_s} GFLOP/s".format(**found.rates)
    yield ""
    if found.capacity is not None:
        ticks = ", ".join(f"{width}: {ms:.1f}" for width, ms in found.capacity.ticks_ms.items())
        yield f"all models at once, as a server measures it, ms per frame by number of sessions: {ticks}"
        yield ""
    yield f"{'lanes':>6}" + "".join(
        f"{title:>14}" for title in ("encode", "step", "decode", "total p50", "p99")
    )
    for title, times in ((found.model, found.stages), ("full-size codec", found.codec)):
        yield f"{title}, measured, ms per frame"
        for width, taken in times.items():
            yield f"{width:>6}" + "".join(f"{getattr(taken, name):>14.1f}" for name in StageTimes.__slots__)
    if found.estimates:
        yield ""
        yield "published models, estimated with full KV caches, ms per frame by number of lanes"
    for each in found.estimates:
        by_width = "  ".join(f"{width}: {ms:.0f}" for width, ms in each.frame_ms.items())
        yield f"  {each.model} in {each.kept}, {each.one_lane_bytes / GIB:.1f} GiB: {by_width}"
    yield ""
    for finding in found.findings:
        yield f"{_LABELS[finding.verdict]}  {finding.about}: {finding.sentence}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = CommandParser(
        prog=program("doctor"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config_arguments(parser, required=False)
    parser.add_argument(
        "--seconds", type=number(1e-3), default=SECONDS, help="duration of each measurement (default 1)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    found = diagnose(
        open_config(options.config or embedded(), options.set, check=open_stages), options.seconds
    )
    print(json.dumps(found.as_json) if options.json else format_report(found))
    return found.exit_code
