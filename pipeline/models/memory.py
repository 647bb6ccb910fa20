"""The memory that a bundle needs, computed before a weight is read, and the check that it is free.

Weights in the dtype they are kept in, the caches of every lane, the prompts that are kept, and working
memory. All but the last are exact: they follow from the headers, the configuration and the number of
lanes; of prompts, the bound. How much memory is free: `pipeline.backend`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mlx.utils import tree_flatten

from pipeline import backend
from pipeline.errors import WeightsError
from pipeline.models.bundle import Bundle
from pipeline.models.checkpoint.formats import PERSONA_FAMILY, read
from pipeline.models.checkpoint.loading import Assignment, companions, stays
from pipeline.models.checkpoint.safetensors_header import Shape, TensorHeader
from pipeline.models.layers.conv import conv_state_floats
from pipeline.models.layers.transformer import TransformerConfig
from pipeline.models.lm import LmModel
from pipeline.models.lm import ring_bytes as lm_ring_bytes
from pipeline.models.mimi import Mimi
from pipeline.models.sharding import Shard
from pipeline.system import resources

# Resident memory of a server without weights and sessions, after a thousand steps, measured on
# Linux with MLX and MKL: the interpreter, the libraries, and the temporaries of a step.
_PROCESS_BYTES: Final = 160 * 2**20
# The bound of the prompts that a model with voices and roles keeps: about a dozen of the 7B model's.
PROMPT_CACHE_BYTES: Final = 2**30
KEPT_PROMPTS: Final = 64  # of a small model no more than as many full rows
_FLOAT32_BYTES: Final = 4
_DTYPE_BYTES: Final = {"float32": 4, "bfloat16": 2}
_STORED_BYTES: Final = {"F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True, slots=True)
class MemoryNeeds:
    """Bytes that serving `lanes` sessions takes, by purpose.

    lm_bytes, mimi_bytes: weights in the dtype they are kept in. rings_bytes: the state of sessions
    in both models. prompts_bytes: at most, of prompts that are kept for further sessions.
    working_bytes: the process itself, and the largest tensor while it is read.
    """

    lanes: int
    lm_bytes: int
    mimi_bytes: int
    rings_bytes: int
    prompts_bytes: int
    working_bytes: int

    @property
    def total_bytes(self) -> int:
        """The sum."""
        return self.lm_bytes + self.mimi_bytes + self.rings_bytes + self.prompts_bytes + self.working_bytes

    def __str__(self) -> str:
        lanes = "1 lane" if self.lanes == 1 else f"{self.lanes} lanes"
        prompts = f"kept prompts {_gib(self.prompts_bytes)}, " if self.prompts_bytes else ""
        return (
            f"{_gib(self.total_bytes)} for {lanes}: language model {_gib(self.lm_bytes)}, "
            f"codec {_gib(self.mimi_bytes)}, sessions {_gib(self.rings_bytes)}, "
            f"{prompts}working memory {_gib(self.working_bytes)}"
        )


def memory_needs(bundle: Bundle, lanes: int, shard: Shard | None = None) -> MemoryNeeds:
    """What `bundle` needs to serve `lanes` sessions on this machine's device; reads headers only.

    With a `shard`, what its rank needs; only rank 0 has the codec.

    Raises:
        WeightsError: the language model's file does not match the config.
    """
    machine = backend.prepare()
    dtype_bytes = _DTYPE_BYTES[machine.compute_dtype]
    lm, mimi = LmModel(bundle.lm, bundle.cfg_coef), Mimi(bundle.mimi, bundle.lm.mimi_codebooks)
    whole = lm.parameter_shapes()
    shapes = whole if shard is None else shard.shapes(bundle.lm, whole)
    keep = machine.keeps_quantized and bundle.lora is None
    assignments = lm.check_weights(bundle.lm_path, bundle.lora)
    header = read(bundle.lm_path)
    native = bundle.kernels is not None and bundle.lora is None and shard is None
    weights = [a for a in assignments if not a.copy]

    def kept(assignment: Assignment, shapes: Mapping[str, Shape]) -> int:
        if native and stays(assignment, whole):
            return _stored_bytes(assignment, shapes, header)
        return _kept_bytes(assignment, shapes, dtype_bytes, keep=keep)

    rows = lanes + 1  # and the scratch row
    conv_floats = conv_state_floats(mimi.encoder) + conv_state_floats(mimi.downsample)
    conv_floats += conv_state_floats(mimi.upsample) + conv_state_floats(mimi.decoder)
    number_bytes = lm_ring_bytes(weights) if native else dtype_bytes
    ring_bytes = lm.rows_per_session * _ring_numbers(bundle.lm.transformer) * number_bytes
    takes_prompts = bundle.family == PERSONA_FAMILY and lm.rows_per_session == 1 and shard is None
    prompts_bytes = kept_prompts_bytes(bundle.lm.transformer, number_bytes) if takes_prompts else 0
    codec_bytes = (2 * _ring_numbers(bundle.mimi.transformer) + conv_floats) * _FLOAT32_BYTES
    parameters = dict(tree_flatten(mimi.parameters()))
    mimi_bytes = sum(p.size * _FLOAT32_BYTES for p in parameters.values())
    if shard is not None:
        ring_bytes //= shard.size
        if shard.rank > 0:
            codec_bytes = mimi_bytes = 0
    return MemoryNeeds(
        lanes=lanes,
        lm_bytes=sum(kept(a, shapes) for a in weights),
        mimi_bytes=mimi_bytes,
        # With kernels the scratch row, which is reset before it is used, takes no memory beyond a few slots.
        rings_bytes=(lanes if native else rows) * ring_bytes + rows * codec_bytes,
        prompts_bytes=prompts_bytes,
        working_bytes=_PROCESS_BYTES + max(kept(a, whole) for a in weights),
    )


def kept_prompts_bytes(config: TransformerConfig, dtype_bytes: int) -> int:
    """The bound of the prompts that are kept for further sessions, in a model of these sizes."""
    return min(PROMPT_CACHE_BYTES, KEPT_PROMPTS * _ring_numbers(config) * dtype_bytes)


def require_memory(needs: MemoryNeeds, path: str) -> None:
    """Refuse to load what does not fit into the memory that is free now.

    Raises:
        WeightsError: with the memory that is free, and what is needed, by purpose.
    """
    free_bytes = backend.free_bytes()
    if needs.total_bytes > free_bytes:
        limit = " under this limit (ulimit -v)" if resources.limits_address_space() else ""
        raise WeightsError(path, f"needs {needs}; {_gib(free_bytes)} are free{limit}")


def _stored_bytes(
    assignment: Assignment, shapes: Mapping[str, Shape], header: Mapping[str, TensorHeader]
) -> int:
    """Memory of the parameters that one tensor becomes if it stays as it is stored."""
    how = assignment.quantization
    if how is not None:
        scale_bytes = _STORED_BYTES[header[companions(assignment.source)[0]].dtype]
        return sum(how.size_bytes(shapes[name], scale_bytes) for name in assignment.targets)
    number_bytes = _STORED_BYTES[header[assignment.source].dtype]
    return sum(math.prod(shapes[name]) * number_bytes for name in assignment.targets)


def _kept_bytes(assignment: Assignment, shapes: Mapping[str, Shape], dtype_bytes: int, *, keep: bool) -> int:
    """Memory of the parameters that one tensor becomes."""
    how = assignment.quantization
    if how is not None and keep:
        return sum(how.size_bytes(shapes[name], dtype_bytes) for name in assignment.targets)
    return sum(math.prod(shapes[name]) * dtype_bytes for name in assignment.targets)


def _ring_numbers(config: TransformerConfig) -> int:
    """Numbers in the keys and values of one row of a transformer's cache."""
    return 2 * config.num_layers * config.num_kv_heads * config.context * config.head_dim


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.2f} GiB"
