"""Start a server, check its endpoints and stream speech to it; one line per check.

Fails unless the models took steps, the decoder took time, and audio was received.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import trio

from pipeline.audio.sound_file import read_speech
from pipeline.cli.arguments import CommandParser, add_config_arguments
from pipeline.client.session import ConversationError, converse
from pipeline.install.program_name import program
from pipeline.loadtest.server_process import ServerProcess, start_server
from pipeline.values import Pcm

HUB_PROBE = "/api/test/hf-proxy?path="
HUB_FILE = "onnx-community/whisper-tiny/resolve/main/config.json"
HUB_ABSENT = ("hub_unreachable", "hub_timeout", "repo_refused")
HUB_TIMEOUT = "proxy.timeout_s=3"  # shorter than the timeout of a check


class ProbeFailedError(Exception):
    """A check failed; the message says what was found instead."""


def _expect(condition: object, problem: str) -> None:
    if not condition:
        raise ProbeFailedError(problem)


def _get(server: ServerProcess, path: str) -> Any:  # noqa: ANN401 - any JSON
    status, body = server.get(path)
    _expect(status == 200, f"status {status}: {body}")
    return body


def probe_live(server: ServerProcess) -> str:
    """`/health/live` returns 200."""
    _get(server, "/health/live")
    return "200"


def probe_ready(server: ServerProcess) -> str:
    """`/health/ready` returns 200."""
    _get(server, "/health/ready")
    return f"200 after {server.ready_s:.1f} s"


def probe_weights(server: ServerProcess) -> str:
    """`/weights` describes models that have parameters."""
    weights = _get(server, "/weights")
    _expect(weights["lm"]["parameters"] > 0, f"no parameters in {weights}")
    return f"{weights['name']}, {weights['lm']['parameters']:,} parameters, trained: {weights['trained']}"


def probe_speech(speech: Pcm, server: ServerProcess) -> str:
    """A conversation over `/ws`: every frame is answered in order, except those of the model's delay."""
    try:
        report = trio.run(converse, server.socket_url, speech)
    except ConversationError as error:
        raise ProbeFailedError(str(error)) from error
    _expect(report.frames_out > 0, "no audio was received")
    _expect(report.in_order, "frames were out of order")
    return f"{report.frames_in} frames in, {report.frames_out} out, p50 {report.latency_ms.p50} ms"


def probe_health(server: ServerProcess) -> str:
    """After the conversation, `/health` has counts and times of every stage."""
    health = _get(server, "/health")
    metrics = health["metrics"]
    for stage in ("encode", "step", "decode"):
        _expect(metrics[stage]["count"] > 0, f"no {stage} was counted")
        _expect(metrics[stage]["avgMs"] > 0, f"{stage} took no time")
    times = ", ".join(f"{stage} {metrics[stage]['p50']:.1f}" for stage in ("encode", "step", "decode"))
    return f"{metrics['step']['count']} steps, p50 in ms: {times}"


def probe_metrics(server: ServerProcess) -> str:
    """`/metrics` has the steps in the format of Prometheus."""
    text = str(_get(server, "/metrics"))
    samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    _expect(float(samples["packet_voice_steps_total"]) > 0, "no steps were counted")
    return f"{len(samples)} samples"


def probe_packets(server: ServerProcess) -> str:
    """`/api/test/packet-health`: packets of every type are encoded and decoded, and lanes are free."""
    found = _get(server, "/api/test/packet-health")
    _expect(found["ok"], f"not ok: {found}")
    _expect(found["lanes"]["free"] > 0, f"no lane is free: {found['lanes']}")
    return f"protocol {found['protocol']}, {len(found['packets'])} types, {found['lanes']['free']} lanes free"


def probe_hub(server: ServerProcess) -> str:
    """`/api/test/hf-proxy` returns an allowed file, or the reason why not; it refuses others."""
    status, refused = server.get(f"{HUB_PROBE}example/other/resolve/main/config.json")
    if status == 404:
        return "disabled: proxy.allow is empty"
    _expect(refused["code"] == "repo_refused", f"returned a repository that is not allowed: {refused}")
    found = _get(server, f"{HUB_PROBE}{HUB_FILE}")
    if not found["ok"]:
        _expect(found["code"] in HUB_ABSENT, f"status {found['status']}: {found['message']}")
        return f"not available, with a reason: {found['code']}"
    _expect(found["bytes"] > 0, f"an empty file: {found}")
    return f"{found['bytes']} bytes of {HUB_FILE}, {found['origin']}, in {found['ms']} ms"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    parser = CommandParser(prog=program("smoke"), description=__doc__)
    add_config_arguments(parser)
    parser.add_argument(
        "--in", dest="speech", type=Path, required=True, metavar="IN.wav", help="the speech to stream"
    )
    options = parser.parse_args(arguments)
    speech = read_speech(options.speech)
    failed = 0
    with start_server(options.config, (HUB_TIMEOUT, *options.set)) as server:
        probes: dict[str, Callable[[ServerProcess], str]] = {
            "/health/live": probe_live,
            "/health/ready": probe_ready,
            "/weights": probe_weights,
            "/ws": partial(probe_speech, speech),
            "/health": probe_health,
            "/metrics": probe_metrics,
            "/api/test/packet-health": probe_packets,
            "/api/test/hf-proxy": probe_hub,
        }
        for path, probe in probes.items():
            try:
                print(f"ok    {path}: {probe(server)}", flush=True)
            except (ProbeFailedError, OSError, KeyError, TypeError) as error:
                print(f"FAIL  {path}: {error}", flush=True)
                failed += 1
    return 1 if failed else 0
