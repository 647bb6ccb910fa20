"""The comparison on a GPU runs unattended: if one contender fails, the others run."""

import json
import sys
from pathlib import Path

import pytest
from benchmarks.peers import gpu
from benchmarks.peers.gpu import Results, lines_of, main, run_once
from benchmarks.peers.gpu_page import floor_ms, number_bytes, over_peer

from pipeline.errors import ConfigError
from pipeline.models.checkpoint.lm_config import parse_lm_config


def test_a_dry_run_measures_everything_and_names_a_missing_contender(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On any device, dense and quantized, two widths; without PyTorch the other contenders still run."""
    arguments = ["--dry-run", "--json", "--weights", "bf16,q4", "--widths", "1,2", "--rounds", "1"]
    arguments += ["--frames", "4", "--warmup", "2", "--torch", sys.executable, "--folder", str(tmp_path)]
    assert main(arguments) == 0
    whole = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "gpu.json").read_text()) == whole
    tiny = whole["sizes"]["tiny"]
    for name in ("ours bf16", "ours q4"):
        assert tiny[name]["cannot"] == []
        (widths,) = tiny[name]["rounds"]
        assert list(widths) == ["1", "2"]
        for result in widths.values():
            assert [len(result["full_ms"][stage]) for stage in ("encode", "step", "decode")] == [4] * 3
            assert result["memory_bytes"] > 0
    assert "ModuleNotFoundError" in tiny["PyTorch bf16"]["cannot"][0]
    page = (tmp_path / "gpu.md").read_text()
    assert sum(line.startswith("| ours") for line in page.splitlines()) == 4
    assert "PyTorch bf16: ended with 1: ModuleNotFoundError" in page


def test_results_printed_before_a_timeout_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Complete result lines are kept, half lines and other output are not, and the reason is reported."""
    script = tmp_path / "driver.py"
    output = '{"about": {"a": 1}}\nhello\n{"width": 1, "ms": {}}\n{"wid'
    script.write_text(f"import sys, time\nprint({output!r}, end='', flush=True)\ntime.sleep(60)\n")
    monkeypatch.setattr(gpu, "HERE", tmp_path)
    results = Results()
    run_once(results, Path(sys.executable), "driver.py", {}, limit_s=4)
    assert results.about == {"a": 1}
    assert list(results.rounds[0]) == [1]
    assert results.cannot == ["was not done after 4 s"]


def test_a_failed_width_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is given, and the widths after it are run."""
    (tmp_path / "driver.py").write_text(
        "from gpu_frames import drive\n"
        "class Never:\n"
        "    about = {}\n"
        "    def open(self, width):\n"
        "        raise RuntimeError(f'{width} is too wide\\nfor this')\n"
        "drive(lambda job: Never())\n"
    )
    (tmp_path / "gpu_frames.py").write_text((gpu.HERE / "gpu_frames.py").read_text())
    monkeypatch.setattr(gpu, "HERE", tmp_path)
    lines = list(lines_of(Path(sys.executable), "driver.py", {"widths": [1, 9]}, limit_s=60))
    assert [line.get("cannot") for line in lines] == [
        None,
        "RuntimeError: 1 is too wide",
        "RuntimeError: 9 is too wide",
    ]


def test_without_a_gpu_nothing_is_measured(tmp_path: Path) -> None:
    """Where MLX uses the CPU, the error says so and names --dry-run."""
    if gpu.device_rate(60, dry=True)[1] != "cpu":
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match="--dry-run"):
        main(["--sizes", "2b", "--folder", str(tmp_path)])
    with pytest.raises(ConfigError, match="9b"):
        main(["--sizes", "9b"])


def test_the_floor_is_every_weight_once_plus_full_caches() -> None:
    """4 bits with a 16-bit scale and bias for 32 numbers are 5 bits; each lane adds its caches."""
    assert number_bytes("q4") == 0.625
    assert number_bytes("q8") == 1.0625
    lm = parse_lm_config(dict(gpu.SHAPES["7b"]))
    empty = floor_ms(lm, "bf16", 4, 1e12, full=False)
    assert empty == floor_ms(lm, "bf16", 1, 1e12, full=False)
    assert 12 < empty < 16  # 7 billion numbers of two bytes
    per_lane = 2 * 32 * 4096 * 3000 * 2 / 1e9  # keys and values of all layers, in ms at 1 TB/s
    assert floor_ms(lm, "bf16", 4, 1e12, full=True) - empty == pytest.approx(4 * per_lane)


def test_ratios_are_taken_within_a_round() -> None:
    """A round that slows all contenders alike changes no ratio, and a round that only one ran is ignored."""

    def ran(*steps_ms: float) -> Results:
        return Results(rounds=[{1: {"ms": {"step": [ms]}}} for ms in steps_ms])

    assert over_peer(ran(1, 10, 3), ran(2, 20), 1) == 0.5
    assert over_peer(ran(1), ran(2), 4) is None
