"""Inspect, download, verify or quantize a checkpoint.

    packet-voice weights inspect --config hf://kyutai/moshiko-mlx-q4
    packet-voice weights fetch --config hf://kyutai/moshiko-mlx-q4
    packet-voice weights verify
    packet-voice weights quantize --config PATH --bits 8 OUT

inspect reads only the headers of the weight files. verify loads the models and runs them on silence.

Exit codes: 0; 2 usage or configuration error; 3 weights error.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import backend
from pipeline.cli.arguments import CommandParser, add_config_arguments, whole_number
from pipeline.config import Config
from pipeline.errors import ConfigError, OutputError, StartupError, WeightsError
from pipeline.install.program_name import program
from pipeline.models.bundle import Bundle, open_bundle
from pipeline.models.checkpoint.files import shard_paths
from pipeline.models.checkpoint.resolve import open_config, open_headers
from pipeline.models.inspection import describe_checkpoint, describe_tensors
from pipeline.models.memory import memory_needs
from pipeline.models.quantization import QuantizedCheckpoint, quantize_checkpoint
from pipeline.stages.model_stages import ModelStages, open_stages
from pipeline.system.outputs import OutputFolder
from pipeline.units import FRAME_SAMPLES
from pipeline.values import GREEDY

FILE_KEYS = ("moshi_name", "mimi_name", "mimi_config_name", "tokenizer_name", "lora_name", "voices_name")
GB = 1e9
LANE = 0
FASTEST_BITS = 4  # on a CPU, of those that native kernels compute with (docs/reference/benchmarks.md)
Report = dict[str, Any]


def inspect(options: argparse.Namespace) -> Report:
    """Describe a checkpoint from its headers; `problems` lists where they contradict the config."""
    report: Report = {"config": str(options.config), "problems": []}
    try:
        with open_headers(options.config, options.set) as config:
            report["name"] = config.name
            bundle = open_bundle(config)
            report |= describe_checkpoint(bundle)
            report["lm"] |= describe_tensors(bundle)
            report["voices"] = _voices(ModelStages(bundle, config.settings))
            bundle.check()
            needs = memory_needs(bundle, options.lanes or ModelStages(bundle, config.settings).lanes)
            report["memory"] = {**asdict(needs), "total_bytes": needs.total_bytes, "figures": str(needs)}
            report["memory"]["free_bytes"] = backend.free_bytes()
            report["advice"] = _advice(bundle, set(report["lm"]["stored"]))
    except StartupError as error:
        report["problems"].append(str(error))
        report["exit_code"] = error.exit_code
    return report


def _advice(bundle: Bundle, stored: Collection[str], *, quantized: bool = False) -> str | None:
    """What this machine would rather compute with than weights that are `stored` so, in a sentence.

    `quantized`: whether they have just been quantized, and could have been in another way.
    """
    if not backend.prepare().on_cpu:
        return None
    if bundle.kernels is None:
        packed = any(" bits" in how for how in stored)
        return "without native kernels this CPU makes float32 of them" if packed else None
    if any(how.startswith(f"{FASTEST_BITS} bits") for how in stored):
        return None
    advice = f"on this CPU {FASTEST_BITS} bits are fastest and smallest, 8 bits are closest to the original"
    if quantized or not bundle.trained or bundle.lora is not None or any(" bits" in how for how in stored):
        return advice
    return f"{advice}: {program('weights')} quantize --bits {FASTEST_BITS}"


def _voices(stages: ModelStages) -> list[dict[str, str]] | None:
    voices = stages.personas.voices()
    return None if voices is None else [{"name": each.name, "origin": each.origin} for each in voices]


def fetch(options: argparse.Namespace) -> Report:
    """Download all files of a checkpoint and return their paths and sizes."""
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
    """Load all models and run them on silence until they produce audio."""
    config = open_config(options.config, options.set, check=open_stages)
    stages = open_stages(config)
    began = time.perf_counter()
    encoder, stepper, decoder = stages.load_encoder(), stages.load_stepper(), stages.load_decoder()
    loaded = time.perf_counter()
    for stage in (encoder, stepper, decoder):
        stage.open(LANE, GREEDY)
    frames = stages.bundle.lm.max_delay + 1
    for _ in range(frames):
        (step,) = stepper.step([LANE], encoder.encode([LANE], np.zeros((1, FRAME_SAMPLES), np.float32)))
    if step.codes is None or not np.isfinite(decoder.decode([LANE], step.codes[None])).all():
        raise WeightsError(str(stages.bundle.mimi_path), "the output for silence is not valid audio")
    return {
        "name": config.name,
        "family": stages.bundle.family,
        "parameters": stages.bundle.lm_parameters,
        "device": backend.prepare().device,
        "frames": frames,
        "load_s": round(loaded - began, 2),
        "answer_s": round(time.perf_counter() - loaded, 2),
    }


def quantize(options: argparse.Namespace) -> Report:
    """Write a checkpoint folder with the language model quantized to `--bits` bits."""
    config = open_config(options.config, options.set, check=_check)
    bundle = open_bundle(config)
    bundle.check()
    target: Path = options.output
    if not bundle.trained:
        raise ConfigError("--config", "has no weights; random weights made from a seed cannot be quantized")
    if bundle.lora is not None:
        raise ConfigError(
            "lora_name",
            "a checkpoint with a LoRA adapter cannot be quantized; the adapter is fused only while loading",
        )
    with OutputFolder(target) as folder:
        try:
            done = _write_quantized(config, bundle, folder.path, options)
        except OSError as error:
            raise OutputError(str(target), f"cannot be written ({error.strerror})") from None
        except WeightsError as error:
            if not Path(error.path).is_relative_to(folder.path):
                raise
            raise OutputError(str(target), error.problem) from None
        folder.commit()
    return {
        "folder": str(target),
        "quantized": done.quantized,
        "kept": list(done.kept),
        "bytes": done.size_bytes,
        "advice": _advice(bundle, {f"{options.bits} bits"}, quantized=True),
    }


def _write_quantized(
    config: Config, bundle: Bundle, folder: Path, options: argparse.Namespace
) -> QuantizedCheckpoint:
    """Write all files of the checkpoint into `folder`."""
    weights = f"model.q{options.bits}.safetensors"
    done = quantize_checkpoint(
        bundle.lm_path,
        folder / weights,
        bundle.lm,
        options.bits,
        options.group,
        uniform=options.uniform,
    )
    model = {**config.model, "moshi_name": weights}
    copied = {
        "mimi_name": bundle.mimi_path,
        "tokenizer_name": bundle.tokenizer,
        "voices_name": bundle.voices,
    }
    if model.get("mimi_config_name"):
        copied["mimi_config_name"] = config.folder / model["mimi_config_name"]
    for key, path in copied.items():
        if path is not None:
            model[key] = path.name
            shutil.copyfile(path, folder / path.name)
    (folder / "config.json").write_text(json.dumps(model, indent=2) + "\n", encoding="utf-8")
    return done


def _format_inspection(report: Mapping[str, Any]) -> str:
    lines = []
    if "lm" in report:
        lm, mimi = report["lm"], report["mimi"]
        lines = [
            f"{report['name']}: {report['family']}" + ("" if report["trained"] else ", random weights"),
            f"language model: {_file_list(lm)}, layout {lm['layout']}",
            "  {parameters:,} parameters: {layers} layers of {dim}, {heads} heads".format(**lm),
            "  {codebooks_heard} input and {codebooks_spoken} output codebooks, delay {delay_ms} ms, "
            "context {context_frames} frames, {text_vocabulary} text tokens".format(**lm),
        ]
        if "stored" in lm:
            stored = ", ".join(f"{count:,} as {how}" for how, count in lm["stored"].items())
            lines.append(f"  stored: {stored}")
        for each in lm.get("tensors", ()):
            shape = "×".join(map(str, each["shape"]))
            lines.append(f"    {each['count']:>5} {each['name']}  {shape}  {each['stored']}")
        lines.append(
            f"codec: {_file_list(mimi)}, layout {mimi['layout']}, "
            f"{mimi['codebooks']} of {mimi['codebooks_in_file']} codebooks in use"
        )
        lines.append(f"tokenizer: {report['tokenizer'] or 'none; text is shown as token ids'}")
    if report.get("voices") is not None:
        lines.append(f"voices: {', '.join(each['name'] for each in report['voices']) or 'none'}")
    if "memory" in report:
        free = report["memory"]["free_bytes"] / 2**30
        lines.append(f"memory: {report['memory']['figures']}; {free:.2f} GiB free")
    if report.get("advice") is not None:
        lines.append(f"advice: {report['advice']}")
    return "\n".join(lines)


def _file_list(half: Mapping[str, Any]) -> str:
    return ", ".join(f"{file['name']} ({file['bytes'] / GB:.3f} GB)" for file in half["files"])


def _format_fetch(report: Mapping[str, Any]) -> str:
    return "\n".join(
        f"{key:>16} {file['bytes'] / GB:8.3f} GB  {file['path']}" for key, file in report["files"].items()
    )


def _format_verification(report: Mapping[str, Any]) -> str:
    return (
        "{name} ({family}): valid; {parameters:,} parameters loaded on {device} in {load_s} s, "
        "{frames} frames of silence processed in {answer_s} s".format(**report)
    )


def _format_quantization(report: Mapping[str, Any]) -> str:
    page = f"{report['folder']}: {report['quantized']} tensors quantized, {report['bytes'] / GB:.3f} GB"
    advice = [] if report["advice"] is None else [f"advice: {report['advice']}"]
    return "\n".join([page, *(f"not quantized: {name}" for name in report["kept"]), *advice])


Subcommand = tuple[Callable[[argparse.Namespace], Report], Callable[[Mapping[str, Any]], str], str]
SUBCOMMANDS: Mapping[str, Subcommand] = {
    "inspect": (
        inspect,
        _format_inspection,
        "describe a checkpoint and its memory needs, from the headers of its files",
    ),
    "fetch": (fetch, _format_fetch, "download a checkpoint and print where its files are"),
    "verify": (verify, _format_verification, "load the models and run them on silence"),
    "quantize": (quantize, _format_quantization, "write a checkpoint folder with a quantized language model"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = CommandParser(
        prog=program("weights"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    subparsers = parser.add_subparsers(dest="subcommand", required=True)
    for name, (_, _, summary) in SUBCOMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, description=f"{summary.capitalize()}.")
        add_config_arguments(subparser)
        subparser.add_argument("--json", action="store_true", help="print one JSON object")
        if name == "inspect":
            subparser.add_argument(
                "--lanes",
                type=whole_number(),
                metavar="N",
                help="concurrent sessions (default: as configured)",
            )
        if name == "quantize":
            subparser.add_argument(
                "--bits",
                type=int,
                choices=(4, 6, 8),
                default=4,
                help="bits per weight (default 4: fastest on a CPU; 8: closest to the original)",
            )
            subparser.add_argument(
                "--uniform",
                action="store_true",
                help="use --bits throughout, also for a model that gets 8 in the parts that need them",
            )
            subparser.add_argument(
                "--group", type=whole_number(), metavar="N", help="weights per quantization group"
            )
            subparser.add_argument("output", type=Path, metavar="OUT", help="folder to create")
    options = parser.parse_args(arguments)
    run, format_report, _ = SUBCOMMANDS[options.subcommand]
    report = run(options)
    exit_code: int = report.pop("exit_code", 0)
    if options.json:
        print(json.dumps(report))
        return exit_code
    if text := format_report(report):
        print(text)
    for problem in report.get("problems", ()):
        print(problem, file=sys.stderr)
    return exit_code
