"""`doctor` measures, reports consistent results, and needs no network."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors.capacity import Capacity
from pipeline.cli.doctor import TOO_SLOW, Diagnosis, check_real_time, format_report
from pipeline.diagnostics.environment import Finding
from pipeline.diagnostics.estimates import PUBLISHED, Measurements, estimate
from pipeline.diagnostics.stage_timing import StageTimes

GIB = 2**30


def doctor(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", "doctor", *arguments]
    everything = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=everything)


@pytest.fixture(scope="module")
def found(checkpoint: Path) -> Mapping[str, Any]:
    """The JSON of one real run on a small model, with an unreachable hub."""
    done = doctor(
        "--config", str(checkpoint), "--set", "server.port=0", "--set", "lanes.max=2",
        "--seconds", "0.05", "--json", HF_ENDPOINT="http://127.0.0.1:9",
    )  # fmt: skip
    assert done.returncode in {0, TOO_SLOW}, done.stderr
    found: Mapping[str, Any] = json.loads(done.stdout)
    assert found["exit_code"] == done.returncode
    return found


def test_the_machine_is_described(found: Mapping[str, Any]) -> None:
    assert found["machine"]["device"] in {"cpu", "cuda", "metal"}
    assert found["machine"]["blas"] in {"mkl", "openblas", "accelerate", "reference"}
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["memory_bytes"] > found["machine"]["free_bytes"] > 0


def test_every_width_of_the_chain_and_the_full_size_codec_is_timed(found: Mapping[str, Any]) -> None:
    assert set(found["chain"]) == {"1", "2"}
    assert "1" in found["codec"]
    for times in (*found["chain"].values(), *found["codec"].values()):
        assert times["p99_ms"] >= times["p50_ms"] > 0
    assert all(times["step_ms"] > 0 for times in found["chain"].values())


def test_every_published_model_has_an_estimate_in_every_format(found: Mapping[str, Any]) -> None:
    assert {each["model"] for each in found["estimated"]} == set(PUBLISHED)
    for each in found["estimated"]:
        assert each["frame_ms"]["1"] > found["codec"]["1"]["p50_ms"] / 2
        assert each["one_lane_bytes"] > GIB


def test_every_check_has_a_finding(found: Mapping[str, Any]) -> None:
    about = [finding["about"] for finding in found["findings"]]
    assert {"port", "backend", "real time", "downloads", "browser", *PUBLISHED} <= set(about)
    assert all(len(finding["sentence"]) > 10 for finding in found["findings"])


def test_a_configuration_error_is_one_sentence_and_exit_code_2() -> None:
    done = doctor("--set", "server.port=never")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pipeline.server.port" in done.stderr


def test_missing_weights_are_exit_code_3(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "config.json").write_text((checkpoint / "config.json").read_text())
    (tmp_path / "mimi_config.json").write_text((checkpoint / "mimi_config.json").read_text())
    done = doctor("--config", str(tmp_path))
    assert done.returncode == 3
    assert "model.safetensors" in done.stderr or "mimi.safetensors" in done.stderr


def test_the_exit_code_is_that_of_the_first_problem() -> None:
    findings = [
        Finding("a", "ok", "fine"),
        Finding("port", "problem", "in use", 4),
        Finding("real time", "problem", "too slow", TOO_SLOW),
    ]
    diagnosis = Diagnosis({}, {}, "tiny", None, {}, {}, [], findings)
    assert diagnosis.exit_code == 4
    assert replace(diagnosis, findings=findings[:1]).exit_code == 0


def test_the_number_of_sessions_is_that_of_a_server(found: Mapping[str, Any]) -> None:
    """The same calculation, on the threads of a server: ticks by width, and what follows from them."""
    assert set(found["capacity"]["ticksMs"]) <= {"1", "2"}
    ticks = {int(width): ms for width, ms in found["capacity"]["ticksMs"].items()}
    assert found["capacity"]["sessions"] == Capacity(2, ticks).sessions


def test_a_model_too_slow_for_real_time_is_a_problem_with_an_exit_code() -> None:
    times = {1: StageTimes(20, 30, 20, 70, 75)}
    slow = check_real_time("m", times, Capacity(4, {1: 300}))
    assert (slow.verdict, slow.exit_code) == ("problem", TOO_SLOW)
    assert "quantized" in slow.sentence
    assert check_real_time("m", times, Capacity(4, {1: 70})).verdict == "warning"
    fine = check_real_time("m", times, Capacity(4, {1: 20, 2: 33, 4: 90}))
    assert (fine.verdict, fine.exit_code) == ("ok", 0)
    assert "holds 2 sessions" in fine.sentence


def test_the_text_report_has_the_values_of_the_json() -> None:
    about = {
        "system": "Linux", "architecture": "x86_64", "cores": 2, "memory_bytes": 8 * GIB,
        "free_bytes": 6 * GIB, "python": "3.11.7",
    }  # fmt: skip
    rates = {"read_gb_per_s": 28.0, "gflop_per_s": 90.0, "layer_ms": 0.5}
    times = {1: StageTimes(5.4, 14.1, 5.2, 24.8, 27.3)}
    measured = Measurements(1e12, {"4 bits": {1: 1e-12}}, 1e-5, times)
    one = estimate("Moshi 7B", "4 bits", measured, 100 * GIB)
    finding = Finding("port", "ok", "it is free")
    held = Capacity(2, {1: 31.5})
    text = format_report(Diagnosis(about, rates, "tiny", held, times, times, [one], [finding]))
    for expected in ("2 cores", "28.0 GB/s", "24.8", "1: 31.5", "Moshi 7B in 4 bits", "port: it is free"):
        assert expected in text
