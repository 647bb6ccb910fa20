"""`python -m benchmarks.peers.gpu`: this project and the official PyTorch package on one GPU, in alternation.

    PYTHONPATH=tests python -m benchmarks.peers.gpu
    PYTHONPATH=tests python -m benchmarks.peers.gpu --sizes 2b --weights bf16,q4 --widths 1,8 --rounds 1
    PYTHONPATH=tests python -m benchmarks.peers.gpu --torch /usr/bin/python3    PyTorch and moshi from there
    PYTHONPATH=tests python -m benchmarks.peers.gpu --dry-run                   a tiny model on any device

No checkpoint is read: shapes are the published ones, weights are random and made on the device.
PyTorch's environment is created in `.peers/` with pip, unless `--torch` names one. Every contender
runs in a process of its own with a time limit; what it measured until then counts. The table is
printed, and written with every number to `.peers/gpu.md` and `.peers/gpu.json`.
Exit codes: 0; 2 usage, or no GPU; 130 interrupted.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.peers.cases import SIZES
from benchmarks.peers.environments import BuildError, interpreter
from benchmarks.peers.gpu_page import gpu_page
from support.checkpoints import LM, MIMI

from pipeline.errors import ConfigError
from pipeline.system.command import run_command

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[2]
SHAPES: Final[Mapping[str, Mapping[str, Any]]] = {
    "2b": SIZES["2b"],
    "7b": json.loads((ROOT / "configs/moshi_7b_202409.json").read_text()),
    "tiny": LM,
}
WEIGHTS: Final = ("bf16", "q8", "q4")
WIDTHS: Final = (1, 2, 4, 8, 16, 32)
DEVICE_BYTES: Final = 2 * 2**30  # several times any cache
DRY_BYTES: Final = 2**20


@dataclass(slots=True)
class Results:
    """The results of one contender at one size. rounds: for each, a result per width. cannot: failures."""

    about: dict[str, Any] = field(default_factory=dict)
    rounds: list[dict[int, dict[str, Any]]] = field(default_factory=list)
    cannot: list[str] = field(default_factory=list)


def lines_of(python: Path, driver: str, job: Mapping[str, Any], limit_s: float) -> Iterator[dict[str, Any]]:
    """Every line that a driver printed; at the end, if it failed, the reason."""
    with tempfile.TemporaryDirectory() as folder:
        task, out, wrong = (Path(folder, name) for name in ("job.json", "out", "err"))
        task.write_text(json.dumps(job))
        with out.open("wb") as stdout, wrong.open("wb") as stderr:
            process = subprocess.Popen([python, HERE / driver, task], stdout=stdout, stderr=stderr)
            try:
                code: int | None = process.wait(limit_s)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                process.kill()
                process.wait()
        for line in out.read_text().splitlines():
            if line.startswith("{") and line.endswith("}"):  # no output of a library, and no half line
                yield json.loads(line)
        if code is None:
            yield {"cannot": f"was not done after {limit_s:.0f} s"}
        elif code:
            last = wrong.read_text(errors="replace").strip().splitlines()[-1:]
            yield {"cannot": f"ended with {code}: {' '.join(last)}"}


def run_once(results: Results, python: Path, driver: str, job: Mapping[str, Any], limit_s: float) -> None:
    """One contender's part of a round."""
    widths: dict[int, dict[str, Any]] = {}
    for line in lines_of(python, driver, job, limit_s):
        if "about" in line:
            results.about = line["about"]
        elif "cannot" in line:
            at = f"{line['width']} lanes: " if "width" in line else ""
            results.cannot.append(at + line["cannot"])
        elif "width" in line:
            widths[line["width"]] = line
    results.rounds.append(widths)


def device_rate(limit_s: float, *, dry: bool) -> tuple[float, str]:
    """The bytes per second that the device reads and writes, and its name.

    Raises:
        ConfigError: it could not be measured, or there is no GPU.
    """
    job = {"bytes": DRY_BYTES if dry else DEVICE_BYTES, "passes": 20, "dry": dry, "widths": []}
    lines = list(lines_of(Path(sys.executable), "gpu_ours.py", job, limit_s))
    about = next((line["about"] for line in lines if "about" in line), None)
    if about is None:
        raise ConfigError("", f"the device cannot be used: {lines[-1]['cannot'] if lines else 'no answer'}")
    if about["device"] == "cpu" and not dry:
        raise ConfigError("", "there is no GPU that MLX can use here; --dry-run needs none")
    return about["bytes_per_s"], about["device"]


def torch_python(options: argparse.Namespace) -> Path | str:
    """The interpreter of PyTorch's environment, or the reason why there is none."""
    if options.without_torch:
        return "left out"
    if options.torch is not None:
        named: Path = options.torch
        return named
    try:
        return interpreter(options.folder / "environments", "torch", ROOT / "constraints.txt")
    except (BuildError, OSError) as error:
        return str(error)


def compete(size: str, torch: Path | str, options: argparse.Namespace) -> dict[str, Results]:
    """All rounds of one size: in each, every contender runs once."""
    contenders = {f"ours {weights}": weights for weights in options.weights}
    results = {name: Results() for name in [*contenders, "PyTorch bf16"]}
    if isinstance(torch, str):
        results["PyTorch bf16"].cannot.append(torch)
    job = {"lm_config": dict(SHAPES[size]), "mimi_config": dict(MIMI) if size == "tiny" else {}}
    job |= {"widths": options.widths, "frames": options.frames, "warmup": options.warmup}
    for turn in range(options.rounds):
        for name, each in results.items():
            print(f"{size}, round {turn + 1} of {options.rounds}: {name}", file=sys.stderr, flush=True)
            if name in contenders:
                python, driver = Path(sys.executable), "gpu_ours.py"
            elif isinstance(torch, Path):
                python, driver = torch, "gpu_torch.py"
            else:
                continue
            run_once(each, python, driver, job | {"weights": contenders.get(name)}, options.limit)
    return results


def listed(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sizes", type=listed, default=["2b", "7b"], help="default 2b,7b")
    parser.add_argument("--weights", type=listed, default=[*WEIGHTS], help="default bf16,q8,q4")
    parser.add_argument("--widths", type=listed, default=[*WIDTHS], help="default 1,2,4,8,16,32")
    parser.add_argument("--rounds", type=int, default=2, help="how often each contender runs (default 2)")
    parser.add_argument("--frames", type=int, default=100, help="timed frames per width (default 100)")
    parser.add_argument("--warmup", type=int, default=10, help="warm-up frames (default 10)")
    parser.add_argument("--limit", type=float, default=600, help="seconds for each process (default 600)")
    parser.add_argument("--torch", type=Path, help="an interpreter that has PyTorch and moshi")
    parser.add_argument("--without-torch", action="store_true")
    parser.add_argument("--folder", type=Path, default=ROOT / ".peers", help="default .peers")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a page")
    parser.add_argument("--dry-run", action="store_true", help="a tiny model, on any device")
    options = parser.parse_args(arguments)
    if options.dry_run:
        options.sizes = ["tiny"]
    for name, known in (("sizes", SHAPES), ("weights", WEIGHTS)):
        unknown = sorted(set(getattr(options, name)) - set(known))
        if unknown:
            raise ConfigError(f"--{name}", f"{', '.join(unknown)}: there are {', '.join(known)}")
    options.widths = [int(width) for width in options.widths]
    if min(options.rounds, options.frames, options.warmup, *options.widths) < 1:
        parser.error("--rounds, --frames, --warmup and --widths must be positive")
    rate, device = device_rate(options.limit, dry=options.dry_run)
    torch = torch_python(options)
    results = {size: compete(size, torch, options) for size in options.sizes}
    markdown = gpu_page(results, SHAPES, rate, device)
    whole = {
        "device": device,
        "bytes_per_s": rate,
        "sizes": {
            size: {
                name: {"about": each.about, "rounds": each.rounds, "cannot": each.cannot}
                for name, each in contenders.items()
            }
            for size, contenders in results.items()
        },
    }
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu.md").write_text(markdown + "\n")
    (folder / "gpu.json").write_text(json.dumps(whole) + "\n")
    print(json.dumps(whole) if options.json else markdown)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
