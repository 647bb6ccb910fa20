"""`python -m pipeline weights`: what a checkpoint is, what it needs, whether it is whole.

* **inspect** — family, layout, bits, shapes, memory for a number of lanes, from headers alone;
* **fetch** — bring what lies on a hub to this machine, and say where it is;
* **verify** — load both models strictly, and let them answer silence;
* **quantize** — a checkpoint folder whose language model has fewer bits.

`--config` is what every command takes. What is wrong is one sentence and an exit code:
2 for the configuration, 3 for the weights. `--json` prints one object in place of a page.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import backend
from pipeline.cli.arguments import add_config_arguments
from pipeline.cli.program_name import program
from pipeline.config import Config
from pipeline.errors import ConfigError, StartupError, WeightsError
from pipeline.models.bundle import open_bundle
from pipeline.models.checkpoint.files import shard_paths
from pipeline.models.checkpoint.resolve import open_config, open_headers
from pipeline.models.inspection import describe_checkpoint, describe_tensors
from pipeline.models.memory import memory_needs
from pipeline.models.quantization import quantize_checkpoint
from pipeline.stages.model_stages import ModelStages, open_stages
from pipeline.units import FRAME_SAMPLES
from pipeline.values import GREEDY

FILE_KEYS = ("moshi_name", "mimi_name", "mimi_config_name", "tokenizer_name", "lora_name")
GB = 1e9
LANE = 0
Report = dict[str, Any]


def inspect(options: argparse.Namespace) -> Report:
    """What the headers say; `problems` is empty where they and the config agree."""
    report: Report = {"config": str(options.config), "problems": []}
    try:
        with open_headers(options.config, options.set) as config:
            report["name"] = config.name
            bundle = open_bundle(config)
            report |= describe_checkpoint(bundle)
            report["lm"] |= describe_tensors(bundle)
            bundle.check()
            needs = memory_needs(bundle, options.lanes or ModelStages(bundle, config.settings).lanes)
            report["memory"] = {**asdict(needs), "total_bytes": needs.total_bytes, "figures": str(needs)}
            report["memory"]["free_bytes"] = backend.free_bytes()
    except StartupError as error:
        report["problems"].append(str(error))
        report["exit_code"] = error.exit_code
    return report


def fetch(options: argparse.Namespace) -> Report:
    """Where every file is, now that all of them are here."""
    config = open_config(options.config, options.set, check=_check)
    bundle = open_bundle(config)
    bundle.check()
    files = {key: Path(config.model[key]) for key in FILE_KEYS if config.model.get(key)}
    files |= {"moshi_name": bundle.lm_path, "mimi_name": bundle.mimi_path}
    return {
        "name": config.name,
        "files": {
            key: {"path": str(path), "bytes": sum(shard.stat().st_size for shard in shard_paths(path))}
            for key, path in files.items()
        },
    }


def _check(config: Config) -> None:
    open_bundle(config).check()


def verify(options: argparse.Namespace) -> Report:
    """What came of loading everything and answering silence for as long as the model's delay, and a frame."""
    config = open_config(options.config, options.set, check=open_stages)
    chain = open_stages(config)
    began = time.perf_counter()
    encoder, stepper, decoder = chain.load_encoder(), chain.load_stepper(), chain.load_decoder()
    loaded = time.perf_counter()
    for stage in (encoder, stepper, decoder):
        stage.open(LANE, GREEDY)
    frames = chain.bundle.lm.max_delay + 1
    for _ in range(frames):
        (step,) = stepper.step([LANE], encoder.encode([LANE], np.zeros((1, FRAME_SAMPLES), np.float32)))
    if step.codes is None or not np.isfinite(decoder.decode([LANE], step.codes[None])).all():
        raise WeightsError(str(chain.bundle.mimi_path), "what it answers to silence is not sound")
    return {
        "name": config.name,
        "family": chain.bundle.family,
        "parameters": chain.bundle.lm_parameters,
        "device": backend.prepare().device,
        "frames": frames,
        "load_s": round(loaded - began, 2),
        "answer_s": round(time.perf_counter() - loaded, 2),
    }


def quantize(options: argparse.Namespace) -> Report:
    """A folder like the one at `--config`, its language model in `--bits` bits."""
    config = open_config(options.config, options.set, check=_check)
    bundle = open_bundle(config)
    bundle.check()
    target: Path = options.output
    if not bundle.trained:
        raise ConfigError("--config", "has no weights; those made from a seed are not worth keeping")
    if bundle.lora is not None:
        raise ConfigError("lora_name", "an adapter is fused as it is loaded; only what has none is quantized")
    if (target / "config.json").exists():
        raise ConfigError("OUT", f"{target} already holds a config.json")
    weights = f"model.q{options.bits}.safetensors"
    try:
        target.mkdir(parents=True, exist_ok=True)
        done = quantize_checkpoint(bundle.lm_path, target / weights, bundle.lm, options.bits, options.group)
        model = {**config.model, "moshi_name": weights}
        for key, path in (("mimi_name", bundle.mimi_path), ("tokenizer_name", bundle.tokenizer)):
            if path is not None:
                model[key] = path.name
                shutil.copyfile(path, target / path.name)
        if model.get("mimi_config_name"):
            path = config.folder / model["mimi_config_name"]
            model["mimi_config_name"] = path.name
            shutil.copyfile(path, target / path.name)
        (target / "config.json").write_text(json.dumps(model, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise WeightsError(str(target), f"cannot be written ({error.strerror})") from None
    return {
        "folder": str(target),
        "quantized": done.quantized,
        "kept": list(done.kept),
        "bytes": done.size_bytes,
    }


def _inspection_page(report: Mapping[str, Any]) -> str:
    lines = []
    if "lm" in report:
        lm, mimi = report["lm"], report["mimi"]
        lines = [
            f"{report['name']}: {report['family']}" + ("" if report["trained"] else ", untrained"),
            f"language model: {_file_list(lm)}, layout {lm['layout']}",
            "  {parameters:,} parameters: {layers} layers of {dim}, {heads} heads".format(**lm),
            "  {codebooks_heard} codebooks heard, {codebooks_spoken} spoken, {delay_ms} ms late, context of "
            "{context_frames} frames, {text_vocabulary} text tokens".format(**lm),
        ]
        if "stored" in lm:
            stored = ", ".join(f"{count:,} as {how}" for how, count in lm["stored"].items())
            lines.append(f"  numbers stored: {stored}")
        for each in lm.get("tensors", ()):
            shape = "×".join(map(str, each["shape"]))
            lines.append(f"    {each['count']:>5} {each['name']}  {shape}  {each['stored']}")
        lines.append(
            f"codec: {_file_list(mimi)}, layout {mimi['layout']}, "
            f"{mimi['codebooks']} of its {mimi['codebooks_in_file']} codebooks"
        )
        lines.append(f"tokenizer: {report['tokenizer'] or 'none; text will be token ids'}")
    if "memory" in report:
        free = report["memory"]["free_bytes"] / 2**30
        lines.append(f"memory: {report['memory']['figures']}; {free:.2f} GiB free")
    return "\n".join(lines)


def _file_list(half: Mapping[str, Any]) -> str:
    return ", ".join(f"{file['name']} ({file['bytes'] / GB:.3f} GB)" for file in half["files"])


def _fetch_page(report: Mapping[str, Any]) -> str:
    return "\n".join(
        f"{key:>16} {file['bytes'] / GB:8.3f} GB  {file['path']}" for key, file in report["files"].items()
    )


def _verification_page(report: Mapping[str, Any]) -> str:
    return (
        "{name} ({family}): whole; {parameters:,} parameters loaded on {device} in {load_s} s, "
        "{frames} frames of silence answered in {answer_s} s".format(**report)
    )


def _quantization_page(report: Mapping[str, Any]) -> str:
    page = f"{report['folder']}: {report['quantized']} tensors quantized, {report['bytes'] / GB:.3f} GB"
    return "\n".join([page, *(f"kept as it is: {name}" for name in report["kept"])])


Verb = tuple[Callable[[argparse.Namespace], Report], Callable[[Mapping[str, Any]], str], str]
VERBS: Mapping[str, Verb] = {
    "inspect": (inspect, _inspection_page, "say what a checkpoint is and needs, from headers alone"),
    "fetch": (fetch, _fetch_page, "bring a checkpoint to this machine"),
    "verify": (verify, _verification_page, "load both models strictly, and let them answer silence"),
    "quantize": (quantize, _quantization_page, "make a checkpoint folder of fewer bits"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    parser = argparse.ArgumentParser(prog=program("weights"), description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name, (_, _, summary) in VERBS.items():
        verb = verbs.add_parser(name, help=summary, description=summary)
        add_config_arguments(verb)
        verb.add_argument("--json", action="store_true", help="one JSON object")
        if name == "inspect":
            verb.add_argument("--lanes", type=int, metavar="N", help="sessions at once (default: as served)")
        if name == "quantize":
            verb.add_argument("--bits", type=int, choices=(4, 6, 8), default=4, help="default 4")
            verb.add_argument("--group", type=int, metavar="N", help="numbers that share a scale")
            verb.add_argument("output", type=Path, metavar="OUT", help="the folder to make")
    options = parser.parse_args(arguments)
    act, page, _ = VERBS[options.verb]
    report = act(options)
    exit_code: int = report.pop("exit_code", 0)
    if options.json:
        print(json.dumps(report))
        return exit_code
    if text := page(report):
        print(text)
    for problem in report.get("problems", ()):
        print(problem, file=sys.stderr)
    return exit_code
