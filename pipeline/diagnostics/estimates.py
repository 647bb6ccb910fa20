"""What a published model would take here, worked out from what was measured; nothing of it is run.

A frame of a language model of which only the sizes are known takes: its matrix products, at the
measured cost of a number of weights in that format and at that width; reading full attention
rings, at the measured bandwidth; and what a layer costs beside that, measured on the model that
was timed. The codec is measured as it is. Memory follows from the sizes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pipeline.diagnostics.cost_model import decode_work, encode_work, step_work, weight_numbers
from pipeline.diagnostics.microbenchmarks import QUANTIZED, Format
from pipeline.diagnostics.stage_timing import CODEBOOKS, Times
from pipeline.models.checkpoint.formats import MOSHI_V0_1
from pipeline.models.checkpoint.lm_config import LmConfig, parse_lm_config
from pipeline.models.checkpoint.mimi_config import parse_mimi_config
from pipeline.models.layers.transformer import TransformerConfig
from pipeline.units import FRAME_MS

# A machine that is busy to the last millisecond has none left for anything else it does.
USABLE_MS: Final = 0.8 * FRAME_MS
BYTES: Final[Mapping[Format, float]] = {  # of one weight
    "float32": 4.0,
    "bfloat16": 2.0,
    # With a scale and a bias of 16 bits for each group.
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
class Measured:
    """What the estimates rest on.

    products_s: seconds of each number of a weight matrix, by format and width. layer_s: what a
    layer of a step costs beside its products. codec: by width.
    """

    read_bytes_per_s: float
    products_s: Mapping[Format, Mapping[int, float]]
    layer_s: float
    codec: Mapping[int, Times]


@dataclass(frozen=True, slots=True)
class Estimate:
    """One published model in one format.

    one_lane_bytes: to serve one session; lane_bytes: each further one. frame_ms: encode, step and
    decode together, by width. lanes: how many it holds here, 0 if not even one.
    """

    model: str
    kept: Format
    repository: str
    one_lane_bytes: int
    lane_bytes: int
    frame_ms: Mapping[int, float]
    lanes: int


def layer_s(step_s: float, lm: LmConfig, products_s: float) -> float:
    """What is left of a measured step after its products, for each of its layers."""
    work = step_work(lm)
    return max(0.0, step_s - work.flop / 2 * products_s) / work.calls


def estimate(model: str, kept: Format, measured: Measured, free_bytes: int) -> Estimate:
    """What `model` would take with its weights kept as `kept`, on a machine with `free_bytes` free."""
    lm = PUBLISHED[model]
    lane_bytes = ring_bytes(lm, kept)
    kept_bytes = weights_bytes(lm, kept)
    frame_ms = {
        width: 1000 * _step_s(lm, kept, width, measured) + codec.p50_ms
        for width, codec in measured.codec.items()
    }
    lanes = 0
    for width, ms in frame_ms.items():
        if ms > USABLE_MS or kept_bytes + (width + 1) * lane_bytes > free_bytes:
            break
        lanes = width
    one_lane_bytes = kept_bytes + 2 * lane_bytes  # one row is for padding
    return Estimate(model, kept, REPOSITORIES[model, kept], one_lane_bytes, lane_bytes, frame_ms, lanes)


def _step_s(lm: LmConfig, kept: Format, width: int, measured: Measured) -> float:
    work = step_work(lm)
    products_s = work.flop / 2 * measured.products_s[kept][width]
    rings_s = width * _rings(lm.transformer) * _number_bytes(kept) / measured.read_bytes_per_s
    return products_s + rings_s + work.calls * measured.layer_s


def weights_bytes(lm: LmConfig, kept: Format) -> int:
    """Both models, and room to work in. The codec is float32 everywhere."""
    mimi = parse_mimi_config({})
    codec = encode_work(mimi, max(CODEBOOKS, lm.mimi_codebooks)).numbers + decode_work(mimi).numbers
    largest_bytes = lm.dim * (lm.text_card + 1) * BYTES[kept]  # while it is read
    return round(weight_numbers(lm) * BYTES[kept] + 4 * codec + largest_bytes + _PROCESS_BYTES)


def ring_bytes(lm: LmConfig, kept: Format) -> int:
    """What one more lane leaves behind, in both models."""
    codec = 2 * _rings(parse_mimi_config({}).transformer)
    return round(_rings(lm.transformer) * _number_bytes(kept) + 4 * codec)


def _rings(config: TransformerConfig) -> int:
    """Numbers in the keys and values of one lane."""
    return 2 * config.num_layers * config.num_kv_heads * config.context * config.head_dim


def _number_bytes(kept: Format) -> int:
    """Of what is not a weight."""
    return 4 if kept == "float32" else 2
