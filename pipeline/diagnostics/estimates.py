"""Estimates the frame time and memory of the published models on this machine, without running them.

The time of a language model step is the sum of its matrix products, at the measured time per weight of the
format and batch width; of reading full KV caches, at the measured bandwidth; and of a fixed overhead per
layer, taken from the model that was timed. The codec is measured directly. Memory follows from the sizes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pipeline.diagnostics.cost_model import codec_weight_count, parameter_count, step_cost
from pipeline.diagnostics.microbenchmarks import QUANTIZED, Format
from pipeline.diagnostics.stage_timing import CODEBOOKS, StageTimes
from pipeline.models.checkpoint.formats import MOSHI_V0_1
from pipeline.models.checkpoint.lm_config import LmConfig, parse_lm_config
from pipeline.models.checkpoint.mimi_config import parse_mimi_config
from pipeline.models.layers.transformer import TransformerConfig
from pipeline.units import FRAME_MS

# A fifth of the frame is left for everything else the machine does.
USABLE_MS: Final = 0.8 * FRAME_MS
BYTES: Final[Mapping[Format, float]] = {  # bytes per weight
    "float32": 4.0,
    "bfloat16": 2.0,
    # Plus a 16-bit scale and a 16-bit bias per group.
    **{name: bits / 8 + 4 / group for name, (bits, group) in QUANTIZED.items()},
}
_PROCESS_BYTES: Final = 160 * 2**20  # as in pipeline.models.memory

_HIBIKI_2B: Final[Mapping[str, Any]] = {
    **MOSHI_V0_1,
    "dim": 2560, "num_heads": 20, "num_layers": 24, "text_card": 48_000, "context": 500,
    "n_q": 32, "dep_q": 16, "delays": [0, *([0] + [2] * 15) * 2], "max_period": 100_000.0,
    "depformer_num_layers": 4, "depformer_dim_feedforward": 3072, "depformer_low_rank_embeddings": 128,
    "depformer_weights_per_step_schedule": [*range(8), *[8] * 8],
}  # fmt: skip
PUBLISHED: Final[Mapping[str, LmConfig]] = {
    "Hibiki 2B": parse_lm_config(_HIBIKI_2B),
    "Moshi 7B": parse_lm_config(MOSHI_V0_1),
}
_QUANTIZE_FIRST: Final = "quantized from kyutai/hibiki-2b-mlx-bf16"
REPOSITORIES: Final[Mapping[tuple[str, Format], str]] = {
    ("Hibiki 2B", "float32"): "kyutai/hibiki-2b-mlx-bf16",
    ("Hibiki 2B", "bfloat16"): "kyutai/hibiki-2b-mlx-bf16",
    ("Hibiki 2B", "8 bits"): _QUANTIZE_FIRST,
    ("Hibiki 2B", "4 bits"): _QUANTIZE_FIRST,
    ("Moshi 7B", "float32"): "kyutai/moshiko-mlx-q8",
    ("Moshi 7B", "bfloat16"): "kyutai/moshiko-mlx-bf16",
    ("Moshi 7B", "8 bits"): "kyutai/moshiko-mlx-q8",
    ("Moshi 7B", "4 bits"): "kyutai/moshiko-mlx-q4",
}


@dataclass(frozen=True, slots=True)
class Measurements:
    """The measurements of this machine.

    products_s: seconds per weight of a matrix product, by format and batch width. layer_s: overhead of each
    layer of a step. codec: times by batch width.
    """

    read_bytes_per_s: float
    products_s: Mapping[Format, Mapping[int, float]]
    layer_s: float
    codec: Mapping[int, StageTimes]


@dataclass(frozen=True, slots=True)
class Estimate:
    """One published model in one weight format.

    kept: the format. one_lane_bytes: memory for one session; lane_bytes: for each further one. frame_ms:
    encode, step and decode together, by batch width. lanes: how many fit here in time and memory, may be 0.
    """

    model: str
    kept: Format
    repository: str
    one_lane_bytes: int
    lane_bytes: int
    frame_ms: Mapping[int, float]
    lanes: int


def layer_s(step_s: float, lm: LmConfig, products_s: float) -> float:
    """The overhead of each layer: the part of a measured step that its matrix products do not explain."""
    cost = step_cost(lm)
    return max(0.0, step_s - cost.flop / 2 * products_s) / cost.layers


def estimate(
    model: str, weight_format: Format, measured: Measurements, free_bytes: int, *, on_cpu: bool = False
) -> Estimate:
    """Estimate `model` in a weight format, on a machine with `free_bytes` of free memory.

    `on_cpu`: with native kernels, which keep bfloat16 weights beside float32 caches, and give the row of the
    batch that is padding no memory.
    """
    lm = PUBLISHED[model]
    cached: Format = "float32" if on_cpu and weight_format not in QUANTIZED else weight_format
    lane_bytes = kv_cache_bytes(lm, cached)
    model_bytes = weights_bytes(lm, weight_format)
    frame_ms = {
        width: 1000 * _step_s(lm, weight_format, cached, width, measured) + codec.p50_ms
        for width, codec in measured.codec.items()
    }
    lanes = 0
    for width, ms in frame_ms.items():
        if ms > USABLE_MS or model_bytes + (width + 1) * lane_bytes > free_bytes:
            break
        lanes = width
    one_lane_bytes = model_bytes + (1 if on_cpu else 2) * lane_bytes  # one row of the batch is padding
    return Estimate(
        model, weight_format, REPOSITORIES[model, weight_format], one_lane_bytes, lane_bytes, frame_ms, lanes
    )


def _step_s(lm: LmConfig, weight_format: Format, cached: Format, width: int, measured: Measurements) -> float:
    cost = step_cost(lm)
    products_s = cost.flop / 2 * measured.products_s[weight_format][width]
    kv_cache_s = width * _kv_numbers(lm.transformer) * _number_bytes(cached) / measured.read_bytes_per_s
    return products_s + kv_cache_s + cost.layers * measured.layer_s


def weights_bytes(lm: LmConfig, weight_format: Format) -> int:
    """Memory of language model, codec and process. The codec is always float32."""
    codec = codec_weight_count(parse_mimi_config({}), max(CODEBOOKS, lm.mimi_codebooks))
    largest_bytes = lm.dim * (lm.text_card + 1) * BYTES[weight_format]  # temporarily, while it is loaded
    return round(parameter_count(lm) * BYTES[weight_format] + 4 * codec + largest_bytes + _PROCESS_BYTES)


def kv_cache_bytes(lm: LmConfig, weight_format: Format) -> int:
    """Memory of the KV caches of one lane, in both models."""
    codec = 2 * _kv_numbers(parse_mimi_config({}).transformer)
    return round(_kv_numbers(lm.transformer) * _number_bytes(weight_format) + 4 * codec)


def _kv_numbers(config: TransformerConfig) -> int:
    """Keys and values in the KV cache of one lane."""
    return 2 * config.num_layers * config.num_kv_heads * config.context * config.head_dim


def _number_bytes(weight_format: Format) -> int:
    """Bytes of one activation or cache entry."""
    return 4 if weight_format == "float32" else 2
