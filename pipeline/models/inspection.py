"""Describes a checkpoint from its config and the headers of its files, without reading a weight.

All results are plain Python, ready for JSON. Whether a checkpoint is valid: `Bundle.check`.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.models.bundle import Bundle
from pipeline.models.checkpoint.files import shard_paths
from pipeline.models.checkpoint.loading import Assignment
from pipeline.models.checkpoint.safetensors_header import TensorHeader, read_header
from pipeline.models.layers.quantized import WORD_BITS
from pipeline.models.lm import LmModel
from pipeline.units import FRAME_MS


def describe_tensors(bundle: Bundle) -> dict[str, Any]:
    """How the language model's parameters are stored: counts by format, and each kind of tensor.

    Raises:
        WeightsError: the file does not match the config.
    """
    assignments = LmModel(bundle.lm).check_weights(bundle.lm_path, bundle.lora)
    header = read_header(bundle.lm_path)
    return {"stored": _stored(assignments, header), "tensors": _kinds(assignments, header)}


def describe_checkpoint(bundle: Bundle) -> dict[str, Any]:
    """Family, layouts and sizes.

    Raises:
        WeightsError: a file is missing, malformed, or in another program's layout.
    """
    lm = bundle.lm
    return {
        "family": bundle.family,
        "trained": bundle.trained,
        "lm": {
            "files": _files(bundle.lm_path),
            "layout": bundle.lm_layout,
            "parameters": bundle.lm_parameters,
            "dim": lm.dim,
            "heads": lm.num_heads,
            "layers": lm.num_layers,
            "context_frames": lm.context,
            "codebooks_heard": lm.n_q,
            "codebooks_spoken": lm.dep_q,
            "text_vocabulary": lm.text_vocabulary,
            "delay_ms": FRAME_MS * lm.max_delay,
            "conditions": list(lm.summed),
            "guidance": bundle.cfg_coef,
            "lora": bundle.lora.path.name if bundle.lora else None,
        },
        "mimi": {
            "files": _files(bundle.mimi_path),
            "layout": bundle.mimi_layout,
            "codebooks": lm.mimi_codebooks,
            "codebooks_in_file": bundle.mimi.quantizer.n_q,
        },
        "tokenizer": bundle.tokenizer.name if bundle.tokenizer else None,
    }


def _files(path: Path) -> list[dict[str, Any]]:
    return [{"name": shard.name, "bytes": shard.stat().st_size} for shard in shard_paths(path)]


def _how(assignment: Assignment, header: Mapping[str, TensorHeader]) -> str:
    """`bf16`, or `4 bits / 32` for 4-bit numbers in groups of 32."""
    if assignment.quantization is None:
        return header[assignment.source].dtype.lower()
    bits, group = assignment.quantization
    return f"{bits} bits / {group}"


def _shape(assignment: Assignment, header: Mapping[str, TensorHeader]) -> tuple[int, ...]:
    *rows, last = header[assignment.source].shape
    return (
        *rows,
        last if assignment.quantization is None else last * WORD_BITS // assignment.quantization[0],
    )


def _stored(assignments: list[Assignment], header: Mapping[str, TensorHeader]) -> dict[str, int]:
    """Parameters by the format in which they are stored, the most frequent first."""
    counts: Counter[str] = Counter()
    for assignment in assignments:
        counts[_how(assignment, header)] += math.prod(_shape(assignment, header))
    return dict(counts.most_common())


def _kinds(assignments: list[Assignment], header: Mapping[str, TensorHeader]) -> list[dict[str, Any]]:
    """Tensors grouped by name without numbers: name, count, shape and format."""
    kinds: Counter[tuple[str, tuple[int, ...], str]] = Counter()
    for assignment in assignments:
        name = re.sub(r"\d+", "N", assignment.source)
        kinds[name, _shape(assignment, header), _how(assignment, header)] += 1
    return [
        {"name": name, "count": count, "shape": list(shape), "stored": how}
        for (name, shape, how), count in kinds.items()
    ]
