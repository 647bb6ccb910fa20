"""`doctor` measures, reports consistent results, and needs no network."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.peers.codec_cost import decode_cost, encode_cost
from hypothesis import given
from hypothesis import strategies as st
from support.checkpoints import LM, MIMI

from pipeline.cli.doctor import TOO_SLOW, Diagnosis, _check_real_time, format_report
from pipeline.config import Server
from pipeline.diagnostics.cost_model import codec_weight_count, parameter_count, step_cost
from pipeline.diagnostics.environment import Finding, check_browser, check_disk, check_port
from pipeline.diagnostics.estimates import PUBLISHED, USABLE_MS, Measurements, estimate, layer_s
from pipeline.diagnostics.stage_timing import StageTimes
from pipeline.models import random_init
from pipeline.models.checkpoint.lm_config import parse_lm_config
from pipeline.models.checkpoint.mimi_config import parse_mimi_config
from web.security.listen import ListenConfig

ROOT = Path(__file__).parents[2]
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


def test_a_port_in_use_is_a_problem_with_exit_code_4() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = Server(port=taken.getsockname()[1])
        finding = check_port(server, ListenConfig.from_settings(server))
    assert (finding.verdict, finding.exit_code) == ("problem", 4)
    assert str(server.port) in finding.sentence
    free = Server(port=0)
    assert check_port(free, ListenConfig.from_settings(free)).verdict == "ok"


def test_the_exit_code_is_that_of_the_first_problem() -> None:
    findings = [
        Finding("a", "ok", "fine"),
        Finding("port", "problem", "in use", 4),
        Finding("real time", "problem", "too slow", TOO_SLOW),
    ]
    diagnosis = Diagnosis({}, {}, "tiny", {}, {}, [], findings)
    assert diagnosis.exit_code == 4
    assert replace(diagnosis, findings=findings[:1]).exit_code == 0


def test_the_address_to_open_is_a_secure_context() -> None:
    for host, address in (("127.0.0.1", "http://127.0.0.1:8788"), ("::1", "http://[::1]:8788")):
        server = Server(host=host)
        assert (
            f"open {address}/packet-voice"
            in check_browser(server, ListenConfig.from_settings(server)).sentence
        )


def test_a_server_for_other_devices_has_an_external_address(tmp_path: Path) -> None:
    server = Server(host="192.0.2.7", tls="auto", tls_folder=str(tmp_path / "lan"))
    assert (
        "open https://192.0.2.7:8788/packet-voice"
        in check_browser(server, ListenConfig.from_settings(server)).sentence
    )
    everywhere = Server(host="0.0.0.0", tls="auto", tls_folder=str(tmp_path / "lan"))
    listen = ListenConfig.from_settings(everywhere)
    assert listen.credentials is not None
    for host in listen.credentials.hosts.external("0.0.0.0")[:1]:
        assert f"open https://{host}:8788/packet-voice" in check_browser(everywhere, listen).sentence


def test_disk_space_is_checked_where_files_will_be_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "not" / "yet"))
    downloads, made = check_disk()
    assert str(tmp_path / "not" / "yet") in downloads.sentence
    assert re.match(r"\d+ GB free for ", made.sentence)


def test_every_weight_of_the_codec_is_counted_once() -> None:
    """Encoder and decoder together read every matrix, every kernel and the codebooks in use."""
    for config in (parse_mimi_config({}), parse_mimi_config(MIMI)):
        codebooks = config.quantizer.n_q // 2
        matrices = [
            int(np.prod(shape))
            for name, shape in random_init.mimi_tensors(config)
            if len(shape) > 1 and not name.endswith("embedding_sum")
        ]
        centroids = codebooks * config.quantizer.bins * config.quantizer.dimension
        read = encode_cost(config, codebooks).weights + decode_cost(config).weights
        assert read == codec_weight_count(config, codebooks) == sum(matrices) + centroids


def test_a_step_reads_all_weights_except_the_embeddings() -> None:
    config = parse_lm_config(LM)
    audio, text = config.card + 1, config.text_card + 1
    embeddings = config.dim * (config.n_q * audio + text)
    embeddings += config.depformer_dim * ((config.dep_q - 1) * audio + text)
    assert step_cost(config).weights == parameter_count(config) - embeddings
    assert step_cost(config).flop == 2 * step_cost(config).weights  # each weight set is used once
    full = parse_mimi_config({})
    assert 0.4e9 < encode_cost(full, 8).flop < 0.5e9
    assert 0.4e9 < decode_cost(full).flop < 0.5e9


def test_weights_shared_by_codebooks_are_read_once_and_used_several_times() -> None:
    shared = PUBLISHED["Hibiki 2B"]
    work = step_cost(shared)
    assert work.flop > 2 * work.weights


def test_moshi_7b_is_the_published_architecture() -> None:
    raw = json.loads((ROOT / "configs/moshi_7b_202409.json").read_text())
    assert step_cost(parse_lm_config(raw)) == step_cost(PUBLISHED["Moshi 7B"])


def test_memory_matches_the_table_of_models() -> None:
    table = (ROOT / "docs/reference/models.md").read_text()
    measured = Measurements(1e9, {k: {1: 1e-9} for k in ("float32", "bfloat16", "8 bits", "4 bits")}, 0.0, {})
    for model, repository, kept in (
        ("Moshi 7B", "kyutai/moshiko-mlx-bf16", "bfloat16"),
        ("Moshi 7B", "kyutai/moshiko-mlx-q8", "8 bits"),
        ("Moshi 7B", "kyutai/moshiko-mlx-q4", "4 bits"),
        ("Hibiki 2B", "kyutai/hibiki-2b-mlx-bf16", "bfloat16"),
    ):
        row = next(line for line in table.splitlines() if line.startswith(f"| `{repository}`"))
        figures = re.search(r"\| ([\d.]+) \+ ([\d.]+) \| ([\d.]+) \|", row)
        assert figures is not None
        one, further, on_cpu = map(float, figures.groups())
        found = estimate(model, kept, measured, 0)  # type: ignore[arg-type]
        assert found.one_lane_bytes / GIB == pytest.approx(one, abs=0.1)
        assert found.lane_bytes / GIB == pytest.approx(further, abs=0.1)
        dense = estimate(model, "float32", measured, 0)
        assert dense.one_lane_bytes / GIB == pytest.approx(on_cpu, rel=0.02)


def measured(product_s: float, codec_ms: float) -> Measurements:
    widths = (1, 2, 4, 8, 16)
    codec = {width: StageTimes(0, 0, 0, codec_ms * width**0.5, 0) for width in widths}
    return Measurements(1e12, {"4 bits": dict.fromkeys(widths, product_s)}, 1e-5, codec)


@given(st.floats(1e-13, 1e-10), st.floats(0.5, 100), st.floats(1, 4), st.floats(0, 200e9), st.floats(0, 50e9))
def test_a_faster_or_larger_machine_never_holds_fewer_lanes(
    product_s: float, codec_ms: float, slower: float, free_bytes: float, more_bytes: float
) -> None:
    here = estimate("Moshi 7B", "4 bits", measured(product_s, codec_ms), int(free_bytes))
    slow = estimate("Moshi 7B", "4 bits", measured(product_s * slower, codec_ms * slower), int(free_bytes))
    large = estimate("Moshi 7B", "4 bits", measured(product_s, codec_ms), int(free_bytes + more_bytes))
    assert slow.lanes <= here.lanes <= large.lanes
    if here.lanes:
        assert here.frame_ms[here.lanes] <= USABLE_MS
        assert here.one_lane_bytes + (here.lanes - 1) * here.lane_bytes <= free_bytes


def test_the_layer_overhead_is_the_time_beyond_the_matrix_products() -> None:
    config = parse_lm_config(LM)
    work = step_cost(config)
    assert layer_s(0.010, config, 0.0) == pytest.approx(0.010 / work.layers)
    assert layer_s(0.010, config, 1.0) == 0.0  # never negative


def test_a_model_too_slow_for_real_time_is_a_problem_with_an_exit_code() -> None:
    assert _check_real_time("m", {1: StageTimes(30, 40, 30, 100, 120)}).exit_code == TOO_SLOW
    assert _check_real_time("m", {1: StageTimes(20, 30, 20, 70, 75)}).verdict == "warning"
    fine = _check_real_time(
        "m",
        {1: StageTimes(5, 10, 5, 20, 25), 2: StageTimes(9, 15, 9, 33, 40), 4: StageTimes(0, 0, 0, 90, 99)},
    )
    assert (fine.verdict, fine.exit_code) == ("ok", 0)
    assert "2 lanes" in fine.sentence


def test_the_text_report_has_the_values_of_the_json() -> None:
    about = {
        "system": "Linux", "architecture": "x86_64", "cores": 2, "memory_bytes": 8 * GIB,
        "free_bytes": 6 * GIB, "python": "3.11.7",
    }  # fmt: skip
    rates = {"read_gb_per_s": 28.0, "gflop_per_s": 90.0, "layer_ms": 0.5}
    one = estimate("Moshi 7B", "4 bits", measured(1e-12, 5), 100 * GIB)
    times = {1: StageTimes(5.4, 14.1, 5.2, 24.8, 27.3)}
    text = format_report(
        Diagnosis(about, rates, "tiny", times, times, [one], [Finding("port", "ok", "it is free")])
    )
    for expected in ("2 cores", "28.0 GB/s", "24.8", "Moshi 7B in 4 bits", "ok    port: it is free"):
        assert expected in text
