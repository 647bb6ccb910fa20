"""What a bundle needs is known before a weight is read, and a machine that is too small is told so.

Weights as they will be kept, the rings and histories of every lane, and room to work in.
All but the last are exact: they follow from the headers, the configuration and the number
of lanes. How much memory there is: `pipeline.backend`.
"""

import math
from dataclasses import dataclass
from typing import Final

from mlx.utils import tree_flatten

from pipeline import backend
from pipeline.errors import WeightsError
from pipeline.models.bundle import Bundle
from pipeline.models.checkpoint.loading import Assignment
from pipeline.models.checkpoint.safetensors_header import Shape
from pipeline.models.layers.conv import history_floats
from pipeline.models.layers.transformer import TransformerConfig
from pipeline.models.lm import LmModel
from pipeline.models.mimi import Mimi
from pipeline.models.sharding import Share

# Resident memory of a whole server beside weights and sessions, after a thousand steps, measured
# on Linux with MLX and MKL: the interpreter, the libraries, and what a step makes and frees.
_PROCESS_BYTES: Final = 160 * 2**20
_FLOAT32_BYTES: Final = 4
_DTYPE_BYTES: Final = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class MemoryNeeds:
    """Bytes that serving `lanes` sessions takes, by what takes them.

    lm_bytes, mimi_bytes: weights as they are kept. rings_bytes: what sessions leave behind,
    in both models. working_bytes: the process itself, and the largest tensor while it is read.
    """

    lanes: int
    lm_bytes: int
    mimi_bytes: int
    rings_bytes: int
    working_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.lm_bytes + self.mimi_bytes + self.rings_bytes + self.working_bytes

    def __str__(self) -> str:
        lanes = "1 lane" if self.lanes == 1 else f"{self.lanes} lanes"
        return (
            f"{_gib(self.total_bytes)} for {lanes}: language model {_gib(self.lm_bytes)}, "
            f"codec {_gib(self.mimi_bytes)}, sessions {_gib(self.rings_bytes)}, "
            f"working room {_gib(self.working_bytes)}"
        )


def memory_needs(bundle: Bundle, lanes: int, share: Share | None = None) -> MemoryNeeds:
    """What `bundle` needs to serve `lanes` sessions on this machine's device; reads headers only.

    Of a model that several ranks share, what the rank of this `share` needs; the codec is at rank 0.

    Raises:
        WeightsError: the language model's file is not what the config says.
    """
    machine = backend.prepare()
    dtype_bytes = _DTYPE_BYTES[machine.compute_dtype]
    lm, mimi = LmModel(bundle.lm, bundle.guidance), Mimi(bundle.mimi, bundle.lm.mimi_codebooks)
    whole = lm.parameter_shapes()
    shapes = whole if share is None else share.shapes(bundle.lm, whole)
    keep = machine.keeps_quantized and bundle.lora is None
    assignments = lm.check_weights(bundle.lm_path, bundle.lora)
    weights = [a for a in assignments if not a.copy]
    read = [_kept_bytes(a, whole, dtype_bytes, keep=keep) for a in weights]
    rows = lanes + 1  # one is for padding
    histories = history_floats(mimi.encoder) + history_floats(mimi.downsample)
    histories += history_floats(mimi.upsample) + history_floats(mimi.decoder)
    ring_bytes = lm.rows_per_session * _ring_numbers(bundle.lm.transformer) * dtype_bytes
    codec_bytes = (2 * _ring_numbers(bundle.mimi.transformer) + histories) * _FLOAT32_BYTES
    parameters = dict(tree_flatten(mimi.parameters()))
    mimi_bytes = sum(p.size * _FLOAT32_BYTES for p in parameters.values())
    if share is not None:
        ring_bytes //= share.size
        if share.rank > 0:
            codec_bytes = mimi_bytes = 0
    return MemoryNeeds(
        lanes=lanes,
        lm_bytes=sum(_kept_bytes(a, shapes, dtype_bytes, keep=keep) for a in weights),
        mimi_bytes=mimi_bytes,
        rings_bytes=rows * (ring_bytes + codec_bytes),
        working_bytes=_PROCESS_BYTES + max(read),
    )


def require_room(needs: MemoryNeeds, path: str) -> None:
    """Refuse to load what cannot fit into the memory that is free now.

    Raises:
        WeightsError: with both figures, and where what is needed would go.
    """
    free_bytes = backend.free_bytes()
    if needs.total_bytes > free_bytes:
        raise WeightsError(path, f"needs {needs}; {_gib(free_bytes)} are free")


def _kept_bytes(assignment: Assignment, shapes: dict[str, Shape], dtype_bytes: int, *, keep: bool) -> int:
    """Memory of what one tensor becomes."""
    how = assignment.quantization
    if how is not None and keep:
        return sum(how.size_bytes(shapes[name], dtype_bytes) for name in assignment.targets)
    return sum(math.prod(shapes[name]) * dtype_bytes for name in assignment.targets)


def _ring_numbers(config: TransformerConfig) -> int:
    """Keys and values that one row of a transformer's state has room for."""
    return 2 * config.num_layers * config.num_kv_heads * config.context * config.head_dim


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.2f} GiB"
