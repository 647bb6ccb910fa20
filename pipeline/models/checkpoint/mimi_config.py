"""Parses a Mimi configuration: the sizes may vary, the architecture is fixed.

The keys are those of the official loader (package `moshi`, `models/loaders.py`); the
defaults are the published model's. A key is a size, or a constant of the architecture
that must have one value, or a training parameter without effect here; any other is refused.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, get_type_hints

import msgspec

from pipeline.errors import ConfigError, did_you_mean
from pipeline.models.layers.transformer import TransformerConfig
from pipeline.units import FRAME_SAMPLES, FRAMES_PER_MINUTE, SAMPLE_RATE_HZ

Count = Annotated[int, msgspec.Meta(ge=1)]

_ARCHITECTURE: Final[Mapping[str, Mapping[str, object]]] = {
    "": {"sample_rate": SAMPLE_RATE_HZ, "channels": 1, "frame_rate": FRAMES_PER_MINUTE / 60},
    "seanet": {
        "channels": 1,
        "causal": True,
        "activation": "ELU",
        "activation_params": {"alpha": 1.0},
        "norm": "none",
        "norm_params": {},
        "disable_norm_outer_blocks": 0,
        "pad_mode": "constant",
        "true_skip": True,
    },
    "quantizer": {"n_q_semantic": 1},
    "transformer": {
        "causal": True,
        "conv_layout": True,
        "gating": "none",
        "norm": "layer_norm",
        "positional_embedding": "rope",
        "kv_repeat": 1,
    },
}
_TRAINING: Final[Mapping[str, frozenset[str]]] = {
    "seanet": frozenset(),
    "quantizer": frozenset(
        {"q_dropout", "no_quantization_rate", "decay", "threshold_usage_ratio", "replaced_usage_ratio"}
    ),
    "transformer": frozenset({"checkpointing", "betas"}),
}
_NO_WIDTHS: Final[Mapping[str, object]] = {}


@dataclass(frozen=True, slots=True)
class SeanetConfig:
    """Sizes of the convolutional encoder and decoder; `ratios` in the decoder's order."""

    dimension: Count = 512
    n_filters: Count = 64
    n_residual_layers: Annotated[int, msgspec.Meta(ge=0)] = 1
    ratios: tuple[Count, ...] = (8, 6, 5, 4)
    kernel_size: Count = 7
    residual_kernel_size: Count = 3
    last_kernel_size: Count = 3
    dilation_base: Count = 2
    compress: Count = 2


@dataclass(frozen=True, slots=True)
class QuantizerConfig:
    """Sizes of the quantizer: `n_q` codebooks of `bins` centroids, `dimension` wide."""

    dimension: Count = 256
    n_q: Annotated[int, msgspec.Meta(ge=2)] = 32
    bins: Annotated[int, msgspec.Meta(ge=2)] = 2048


@dataclass(frozen=True, slots=True)
class _TransformerSizes:
    d_model: Count = 512
    num_heads: Count = 8
    num_layers: Count = 8
    dim_feedforward: Count = 2048
    context: Annotated[int, msgspec.Meta(ge=2)] = 250
    max_period: Annotated[float, msgspec.Meta(gt=0)] = 10_000.0
    layer_scale: float | None = 0.01  # the initial value in training; only its presence matters


def _transformer(sizes: _TransformerSizes) -> TransformerConfig:
    return TransformerConfig(
        d_model=sizes.d_model,
        num_heads=sizes.num_heads,
        num_layers=sizes.num_layers,
        dim_feedforward=sizes.dim_feedforward,
        context=sizes.context,
        max_period=sizes.max_period,
        layer_scale=sizes.layer_scale,
        positional_embedding="rope",
        gating="none",
        norm="layer_norm",
    )


@dataclass(frozen=True, slots=True)
class MimiConfig:
    """The sizes of one Mimi."""

    seanet: SeanetConfig = SeanetConfig()
    quantizer: QuantizerConfig = QuantizerConfig()
    transformer: TransformerConfig = field(default_factory=lambda: _transformer(_TransformerSizes()))

    @property
    def frame_positions(self) -> int:
        """Feature vectors per frame, which is also the stride of the downsampling."""
        return FRAME_SAMPLES // math.prod(self.seanet.ratios)


def parse_mimi_config(raw: Mapping[str, Any]) -> MimiConfig:
    """Parse the content of a `mimi_config_name` file; missing keys have the published values.

    Raises:
        ConfigError: a key is unknown, mistyped, or has a value that this codec does not support.
    """
    known = {*_ARCHITECTURE[""], "seanet", "quantizer", "transformer"}
    unknown = set(raw) - known
    if unknown:
        key = min(unknown)
        raise ConfigError(key, f"not a key of Mimi's configuration{did_you_mean(key, known)}")
    _check_constants("", raw)
    seanet = SeanetConfig(**_sizes(raw, "seanet", SeanetConfig))
    hop_samples = math.prod(seanet.ratios)
    if FRAME_SAMPLES % hop_samples or hop_samples == FRAME_SAMPLES:
        raise ConfigError(
            "seanet.ratios",
            f"their product, {hop_samples}, must divide a frame of {FRAME_SAMPLES} samples "
            "in two equal parts or more",
        )
    if seanet.n_filters < seanet.compress:
        raise ConfigError("seanet.compress", f"leaves nothing of n_filters, {seanet.n_filters}")
    width = {"input_dimension": seanet.dimension, "output_dimension": seanet.dimension}
    quantizer = QuantizerConfig(**_sizes(raw, "quantizer", QuantizerConfig, width))
    widths: dict[str, object] = {"input_dimension": seanet.dimension, "output_dimensions": [seanet.dimension]}
    sizes = _TransformerSizes(**_sizes(raw, "transformer", _TransformerSizes, widths))
    if sizes.d_model != seanet.dimension:
        raise ConfigError("transformer.d_model", f"must be seanet.dimension, {seanet.dimension}")
    if sizes.d_model % (2 * sizes.num_heads):
        raise ConfigError("transformer.num_heads", "each head must be equally and evenly wide")
    if sizes.context < FRAME_SAMPLES // hop_samples:
        raise ConfigError("transformer.context", "shorter than one frame")
    return MimiConfig(seanet, quantizer, _transformer(sizes))


def _sizes(
    raw: Mapping[str, Any], section: str, kind: type, widths: Mapping[str, object] = _NO_WIDTHS
) -> dict[str, Any]:
    """The sizes that a section gives; `widths` are keys that must repeat the network's width."""
    given = raw.get(section, {})
    if not isinstance(given, dict):
        raise ConfigError(section, "expected an object")
    _check_constants(section, given, widths)
    hints = get_type_hints(kind, include_extras=True)
    sizes = {}
    for key, value in given.items():
        if key in hints:
            try:
                sizes[key] = msgspec.convert(value, hints[key])
            except msgspec.ValidationError as error:
                raise ConfigError(f"{section}.{key}", str(error)) from None
        elif key not in {*_ARCHITECTURE[section], *(widths), *_TRAINING[section]}:
            raise ConfigError(f"{section}.{key}", "not a key of Mimi's configuration")
    return sizes


def _check_constants(
    section: str, given: Mapping[str, Any], widths: Mapping[str, object] = _NO_WIDTHS
) -> None:
    for key, value in {**_ARCHITECTURE[section], **widths}.items():
        if key in given and given[key] != value:
            path = f"{section}.{key}".lstrip(".")
            raise ConfigError(
                path, f"must be {value!r}, not {given[key]!r}: this codec supports no other value"
            )
