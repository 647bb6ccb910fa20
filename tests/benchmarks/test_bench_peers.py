"""The comparison with peers: the common input, the order of runs, and the arithmetic of the table."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.peers import environments, rounds
from benchmarks.peers.cases import CASES, CONTENDERS, OURS, SIZES, Contender
from benchmarks.peers.driving import Clock, Inputs, rows, weight
from benchmarks.peers.environments import BuildError, interpreter
from benchmarks.peers.material import Material, packed, product_shapes
from benchmarks.peers.page import Outcome, agreement, as_json, page
from benchmarks.peers.rounds import Plan, Rates, Run, compete
from benchmarks.peers.table import Cell, Row, formats_table, rows_of, times_table, works
from hypothesis import given
from hypothesis import strategies as st
from support.checkpoints import LM, MIMI

from pipeline import backend
from pipeline.audio.sound_file import read_speech
from pipeline.config import read_config
from pipeline.diagnostics.cost_model import step_cost
from pipeline.kernels.library import Library
from pipeline.models import random_init
from pipeline.models.checkpoint.lm_config import parse_lm_config
from pipeline.models.checkpoint.lm_key_map import detect_layout
from pipeline.models.checkpoint.mimi_config import parse_mimi_config
from pipeline.models.checkpoint.safetensors_header import read_header
from pipeline.models.lm import LmModel
from pipeline.models.mimi import Mimi
from pipeline.stages.model_stages import open_stages
from pipeline.values import GREEDY

ROOT = Path(__file__).parents[2]
PLAN = Plan(rounds=2, seconds=0.01, warmup_frames=1, threads=1, frames=4, compared_frames=4)
RATES = Rates(read_bytes_per_s=10e9, flop_per_s=100e9)
SMALL = CASES["small"]


def ran(*rounds_ms: float) -> Run:
    return Run(ms=[{"step": {1: [ms, ms, ms]}} for ms in rounds_ms], versions={"thing": "1.0"})


def small_material(folder: Path, checkpoint: Path) -> Material:
    speech = read_speech(ROOT / "tests/data/speech.wav")[: 8 * 1920]
    np.save(folder / "pcm.npy", speech.reshape(-1, 1920))
    np.save(folder / "codes.npy", np.random.default_rng(1).integers(0, 32, (8, 4)).astype(np.int32))
    return Material(
        checkpoint / "config.json",
        checkpoint / "model.safetensors",
        checkpoint / "mimi.safetensors",
        folder / "pcm.npy",
        folder / "codes.npy",
        parse_lm_config(LM),
    )


def test_the_packed_checkpoints_have_every_tensor_of_the_published_layout(tmp_path: Path) -> None:
    lm, mimi = parse_lm_config(LM), parse_mimi_config(MIMI)
    random_init.write_checkpoint(tmp_path / "lm.safetensors", packed(random_init.lm_tensors(lm)), 1)
    random_init.write_checkpoint(tmp_path / "mimi.safetensors", packed(random_init.mimi_tensors(mimi)), 1)
    assert detect_layout(read_header(tmp_path / "lm.safetensors")) == "packed"
    LmModel(lm).load_weights(tmp_path / "lm.safetensors")  # strict: nothing is missing or left over
    Mimi(mimi, 4).load_weights(tmp_path / "mimi.safetensors")


@pytest.mark.parametrize(("size", "millions"), [("small", 82), ("mid", 495)])
def test_the_sizes_are_those_in_the_docs(size: str, millions: int) -> None:
    tensors = random_init.lm_tensors(parse_lm_config(SIZES[size]))
    assert round(sum(np.prod(shape) for _, shape in tensors) / 1e6) == millions


def test_rows_of_a_batch_differ_and_a_frame_is_the_same_for_every_contender(tmp_path: Path) -> None:
    np.save(tmp_path / "pcm.npy", np.arange(16 * 1920, dtype=np.float32).reshape(16, 1920))
    np.save(tmp_path / "codes.npy", np.arange(16 * 8, dtype=np.int32).reshape(16, 8))
    inputs = Inputs({"pcm": tmp_path / "pcm.npy", "codes": tmp_path / "codes.npy"})
    assert len({row.tobytes() for row in inputs.pcm(3, 8)}) == 8
    assert len({row.tobytes() for row in inputs.codes(3, 8, 4)}) == 8
    assert np.array_equal(inputs.pcm(3, 8)[:4], inputs.pcm(3, 4))


@pytest.mark.parametrize(("seconds", "timed"), [(0.0, 3), (1e9, 10)])
def test_warm_up_frames_are_not_timed_and_a_slow_contender_still_runs_three(
    seconds: float, timed: int
) -> None:
    seen: list[int] = []
    clock = Clock({"seconds": seconds, "warmup_frames": 5, "frames": 10})
    assert len(clock.measure(seen.append)) == timed
    assert seen == list(range(5 + timed))  # every call gets a different frame


@given(st.lists(st.tuples(st.floats(1, 1e3), st.floats(1, 1e3), st.floats(0.1, 10)), min_size=1, max_size=7))
def test_a_round_that_slows_all_alike_changes_no_ratio(times: list[tuple[float, float, float]]) -> None:
    quiet = Cell(tuple(a for a, _, _ in times)).over(Cell(tuple(b for _, b, _ in times)))
    noisy = Cell(tuple(a * f for a, _, f in times)).over(Cell(tuple(b * f for _, b, f in times)))
    assert noisy == pytest.approx(quiet)


def test_the_best_peer_is_the_fastest_other_contender() -> None:
    cells = {OURS: Cell((1.0, 1.2)), "moshi": Cell((4.0, 6.0)), "moshi_mlx": Cell((3.0, 3.6))}
    row = Row("small", "step", 1, cells, reading_ms=0.5, arithmetic_ms=0.1)
    assert row.best_peer == "moshi_mlx"
    assert row.ratio == pytest.approx(1 / 3)
    assert row.floor_ms == 0.5
    assert Row("small", "step", 1, {OURS: Cell((1.0,))}, 0.5, 0.1).ratio is None


def test_only_weights_of_the_same_format_are_compared() -> None:
    """GGML in 4 bits is no peer of our float32, but of our 4 bits."""
    names = {OURS: 8.0, "ours, 4 bits": 2.0, "GGML, float32": 10.0, "GGML, 4 bits": 4.0}
    cells = {name: Cell((ms, ms)) for name, ms in names.items()}
    row = Row("products", "products", 4, cells, reading_ms=0.5, arithmetic_ms=0.1)
    assert row.best_peer == "GGML, float32"
    _, _, packed, peer = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in formats_table([row])
    )
    assert packed == ["products (products) ÷ our float32", "4", "1.00", "—", "—", "0.25"]
    assert peer == ["products (products) ÷ GGML, the same format", "4", "0.80", "—", "—", "0.50"]


def test_every_matrix_of_a_step_is_a_product_once() -> None:
    lm = parse_lm_config(SIZES["small"])
    assert sum(out * width for out, width in product_shapes(lm)) == pytest.approx(
        step_cost(lm).weights, rel=1e-3
    )


def test_our_products_are_those_of_the_common_weights(tmp_path: Path) -> None:
    """Of every format; packed ones to their resolution."""
    if not isinstance(backend.kernels(), Library):
        pytest.skip("needs native kernels")
    shapes = [(40, 64), (24, 128)]
    expected = np.concatenate([
        (rows(width, 1) @ weight(number, (out, width)).T)[0, :8]
        for number, (out, width) in enumerate(shapes)
    ])  # fmt: skip
    for stored, tolerance in (("float32", 1e-5), ("bfloat16", 0.05), ("8 bits", 0.1), ("4 bits", 0.8)):
        job = {
            "kind": "products", "stored": stored, "products": shapes, "widths": [1, 3], "threads": 1,
            "seconds": 0.01, "warmup_frames": 1, "frames": 3, "compared_frames": 1,
            "answers": str(tmp_path / "answers.npz"),
        }  # fmt: skip
        (tmp_path / "job.json").write_text(json.dumps(job))
        done = subprocess.run(
            [sys.executable, rounds.HERE / "drive_ours.py", tmp_path / "job.json"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert set(json.loads(done.stdout.splitlines()[-1])["ms"]) == {"1", "3"}
        with np.load(tmp_path / "answers.npz") as answers:
            np.testing.assert_allclose(answers["products"], expected, atol=tolerance)


def test_the_floor_is_the_longer_of_reading_and_computing_and_only_computing_grows_with_lanes() -> None:
    runs = {OURS: Run(ms=[{"step": {1: [9.0], 8: [9.0]}}])}
    alone, wide = rows_of(SMALL, runs, RATES)
    work = works(SMALL)["step"]
    assert alone.reading_ms == wide.reading_ms == pytest.approx(1000 * 4 * work.weights / 10e9)
    assert wide.arithmetic_ms == pytest.approx(8 * alone.arithmetic_ms)
    assert works(CASES["chain"])["all"].flop > work.flop


def test_a_contender_that_missed_a_round_is_in_no_ratio_and_is_reported() -> None:
    failed = ran(5.0)
    failed.cannot[""] = "OSError: no such thing"
    runs = {OURS: ran(1.0, 2.0), "moshi": ran(4.0, 4.0), "moshi_mlx": failed}
    (row,) = rows_of(SMALL, runs, RATES)
    assert set(row.cells) == {OURS, "moshi"}
    text = page([Outcome(SMALL, runs, RATES)], PLAN, ["2b: not run"], load=0.0)
    assert "small, moshi_mlx: did not run (OSError: no such thing)" in text
    assert "- 2b: not run" in text
    assert as_json([Outcome(SMALL, runs, RATES)], PLAN, 0.0)["cannot"][0]["why"] == "OSError: no such thing"


def test_the_table_has_median_spread_ratio_and_floor() -> None:
    (row,) = rows_of(SMALL, {OURS: ran(1.0, 3.0, 2.0), "moshi": ran(4.0, 12.0, 8.0)}, RATES)
    cells = [cell.strip() for cell in times_table([row])[2].strip("|").split("|")]
    assert cells[:5] == ["step `small`", "1", "2.0 (1.0–3.0)", "8.0 (4.0–12.0)", "0.25"]


def test_a_page_from_a_busy_machine_has_a_warning() -> None:
    outcome = Outcome(SMALL, {OURS: ran(1.0, 1.0)}, RATES)
    assert "busy" not in page([outcome], PLAN, [], load=0.1)
    assert "load 3.0" in page([outcome], PLAN, [], load=3.0)


def test_agreement_counts_tokens_of_exact_contenders_only() -> None:
    def answers(changed: int) -> dict[str, np.ndarray]:
        text = np.arange(16)
        text[:changed] += 1
        return {"text": text, "audio": np.zeros((15, 8))}

    runs = {OURS: ran(1.0), "moshi": ran(1.0), "moshi bf16": ran(1.0)}
    for changed, run in enumerate(runs.values()):
        run.answers = answers(changed)
    (found,) = agreement(Outcome(SMALL, runs, RATES))
    assert found == {"case": "small", "contender": "moshi", "text": [15, 16], "audio": [120, 120]}


SCRIPT = """
import json, pathlib, sys
import numpy as np
job = json.loads(pathlib.Path(sys.argv[1]).read_text())
with open({log!r}, "a") as log: log.write({name!r} + "\\n")
np.savez(job["answers"], text=np.zeros(1))
print(json.dumps({{"versions": {{}}, "cannot": {{}}, "ms": {{"1": {{"step": [1.0]}}}}}}))
"""


def test_contenders_alternate_and_a_missing_one_is_skipped(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    names = ("a", "b", "c")
    for name in names:
        (tmp_path / f"{name}.py").write_text(SCRIPT.format(log=str(log), name=name))
    (tmp_path / "machine.py").write_text('print(\'{"read_bytes_per_s": 1.0, "flop_per_s": 2.0}\')')
    field = [Contender(n, str(tmp_path / f"{n}.py"), None, {"lm": (1,)}, n) for n in names]
    field.append(Contender("d", "d.py", "nowhere", {"lm": (1,)}, "d"))
    monkeypatch.setattr(rounds, "CONTENDERS", field)
    monkeypatch.setattr(rounds, "MACHINE", str(tmp_path / "machine.py"))
    material = small_material(tmp_path, checkpoint)
    runs, rates = compete(SMALL, material, PLAN, {"nowhere": "there is none"}, tmp_path)
    assert log.read_text().split() == list(names) * PLAN.rounds
    assert [len(runs[name].ms) for name in names] == [PLAN.rounds] * 3
    assert runs["d"].cannot == {"": "there is none"}
    assert rates == Rates(1.0, 2.0)


def test_no_round_begins_that_would_end_too_late(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one is always made."""
    monkeypatch.setattr(rounds, "CONTENDERS", [])
    made: list[float] = []
    monkeypatch.setattr(rounds, "_rates", lambda *_: made.append(1.0) or (1.0, 2.0))
    material = small_material(tmp_path, checkpoint)
    compete(SMALL, material, PLAN, {}, tmp_path, until=0.0)
    assert len(made) == 1
    compete(SMALL, material, PLAN, {}, tmp_path)
    assert len(made) == 1 + PLAN.rounds


def test_a_failed_driver_is_reported_with_its_last_line(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "broken.py").write_text("raise ValueError('no such model')")
    run = Run()
    broken = Contender("broken", str(tmp_path / "broken.py"), None, {"lm": (1,)}, "")
    job = rounds._job(SMALL, broken, small_material(tmp_path, checkpoint), PLAN)
    rounds._turn(run, Path(sys.executable), broken, job, tmp_path)
    assert run.cannot == {"": "ValueError: no such model"}
    assert run.ms == []


def test_an_environment_that_cannot_be_made_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(environments.INSTALLS, "odd", (("./nothing-here",),))
    (tmp_path / "constraints.txt").write_text("")
    with pytest.raises(BuildError, match=r"the environment odd cannot be made: .*nothing-here"):
        interpreter(tmp_path, "odd", tmp_path / "constraints.txt")
    assert not (tmp_path / "odd" / ".ready").exists()


@pytest.mark.parametrize("kind", ["mimi", "lm", "chain"])
def test_our_driver_computes_what_the_stages_do_and_times_every_width(
    kind: str, tmp_path: Path, checkpoint: Path
) -> None:
    job: dict[str, Any] = rounds._job(SMALL, CONTENDERS[0], small_material(tmp_path, checkpoint), PLAN)
    job |= {"kind": kind, "widths": [1, 2], "codebooks": 4, "user_codebooks": 4, "options": []}
    job["answers"] = str(tmp_path / "answers.npz")
    (tmp_path / "job.json").write_text(json.dumps(job))
    done = subprocess.run(
        [sys.executable, rounds.HERE / "drive_ours.py", tmp_path / "job.json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: Mapping[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert result["cannot"] == {}
    assert set(result["ms"]) == {"1", "2"}
    assert all(len(times) >= 3 for width in result["ms"].values() for times in width.values())
    stages = open_stages(read_config(checkpoint))
    with np.load(tmp_path / "answers.npz") as answers:
        if kind == "mimi":
            encoder = stages.load_encoder()
            encoder.open(0, GREEDY)
            pcm = np.load(tmp_path / "pcm.npy")
            mine = [encoder.encode([0], pcm[[frame]])[0] for frame in range(PLAN.compared_frames)]
            assert np.array_equal(answers["codes"], mine)
        elif kind == "lm":
            stepper = stages.load_stepper()
            stepper.open(0, GREEDY)
            codes = np.load(tmp_path / "codes.npy")
            tokens = [stepper.step([0], codes[[frame]])[0].token for frame in range(PLAN.compared_frames)]
            assert np.array_equal(answers["text"], tokens)
