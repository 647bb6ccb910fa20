"""Parses a language model's configuration: the flat keys of Kyutai's config.json.

Every key is known by name and either used, or a constant that must have one value, or not about
the language model. No key is ignored: an unknown one could change what the model computes.
Names, defaults and what the depformer inherits are those of the official `LMModel` (package
`moshi`).
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Final

import msgspec

from pipeline.errors import ConfigError, did_you_mean
from pipeline.models.layers.conditioning import LutConfig, parse_conditioners, parse_fuser
from pipeline.models.layers.norms import Norm
from pipeline.models.layers.transformer import Gating, PositionalEmbedding, TransformerConfig

Count = Annotated[int, msgspec.Meta(ge=1)]
Natural = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[float, msgspec.Meta(gt=0)]

# Keys about files, other models or sampling, which are read elsewhere; details of what must be
# off; and keys without effect (the depformer's context is always its dep_q steps).
NOT_LM: Final = frozenset(
    {
        "moshi_name", "mimi_name", "mimi_config_name", "tokenizer_name", "voices_name", "model_id", "version",
        "lm_gen_config", "tts_config", "stt_config", "lora", "lora_name", "lora_rank", "lora_scaling",
        "extra_heads_dim", "depformer_context", "pipeline",
    }
)  # fmt: skip
_CONDITIONS: Final = frozenset({"conditioners", "fuser"})
_DERIVED: Final = frozenset({"conditioners", "summed", "unused_slices"})
# Keys of what is not implemented: the value that leaves it off, and the error message otherwise.
# `null` leaves everything off.
_OFF: Final[Mapping[str, tuple[object, str]]] = {
    "cross_attention": (False, "cross-attention models are not supported"),
    "causal": (True, "only causal models can stream"),
    "depformer_causal": (True, "only causal models can stream"),
    "demux_second_stream": (False, "two text streams in one are not supported"),
    "demux_second_text_stream": (False, "two text streams in one are not supported"),
    "extra_heads_num_heads": (0, "extra output heads (speech recognition) are not supported"),
    "quantize": (False, "weights quantized for PyTorch are not supported; use those quantized for MLX"),
}
# PersonaPlex's depformer was trained to predict the user's voice as well as the agent's.
_PREDICTS_THE_USER: Final = "personaplex"
# Hibiki may end its text before the user has finished: the end token is then fed back as padding.
_CONTINUES: Final = "hibiki"
_END_OF_TEXT: Final = 2


class LmConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, dict=True):
    """The sizes and variants of one Moshi language model, named as in config.json.

    n_q: audio codebooks of the input; the first dep_q are the agent's, the rest the user's.
    delays: steps by which text, then each codebook, is delayed.
    context: steps that attention reads, including the current one.
    depformer_weights_per_step_schedule: codebook → which set of weights predicts it.
    unused_slices: codebooks after the first dep_q that the checkpoint could predict and that are
        not used: their weights are not loaded.
    conditioners: by name; summed: those that are added to the model's input.
    """

    dim: Count
    num_heads: Count
    num_layers: Count
    n_q: Count
    dep_q: Count
    card: Count
    text_card: Count
    delays: tuple[Natural, ...]
    context: Count
    hidden_scale: Positive = 4.0
    kv_repeat: Count = 1
    positional_embedding: PositionalEmbedding = "sin"
    max_period: Positive = 10_000.0
    gating: Gating = "none"
    norm: Norm = "layer_norm"
    norm_emb: bool = False
    layer_scale: float | None = None
    bias_proj: bool = False
    text_card_out: Count | None = None
    existing_text_padding_id: Natural = 3
    existing_text_end_padding_id: Natural = 0
    depformer_dim: Count = 256
    depformer_num_heads: Count
    depformer_num_layers: Count | None = None
    depformer_dim_feedforward: Count | tuple[Count, ...] | None = None
    depformer_kv_repeat: Count | None = None
    depformer_max_period: Positive | None = None
    depformer_gating: Gating | None = None
    depformer_norm: Norm | None = None
    depformer_layer_scale: float | msgspec.UnsetType | None = msgspec.UNSET
    depformer_pos_emb: PositionalEmbedding = "sin"
    depformer_multi_linear: bool = False
    depformer_weights_per_step: bool = False
    depformer_weights_per_step_schedule: tuple[Natural, ...] | None = None
    depformer_low_rank_embeddings: Count | None = None
    model_type: str = "moshi"
    unused_slices: Natural = 0
    conditioners: dict[str, LutConfig] = {}
    summed: tuple[str, ...] = ()

    @cached_property
    def max_delay(self) -> int:
        """Steps from a frame's first token to its last: the model's own acoustic delay."""
        return max(self.delays)

    @property
    def mimi_codebooks(self) -> int:
        """Codebooks that the codec must encode and decode."""
        return max(self.dep_q, self.n_q - self.dep_q)

    @property
    def text_vocabulary(self) -> int:
        """Text tokens that can be produced; as input there is one more, the initial token."""
        return self.text_card if self.text_card_out is None else self.text_card_out

    @property
    def replaced_text_token(self) -> tuple[int, int] | None:
        """A text token and the one that replaces it as input; None if no token is replaced."""
        return (_END_OF_TEXT, self.existing_text_padding_id) if self.model_type == _CONTINUES else None

    @cached_property
    def weight_sets(self) -> tuple[int, ...]:
        """`[dep_q]`: which set of per-step weights the depformer uses in each step."""
        if not self.depformer_weights_per_step:
            return (0,) * self.dep_q
        return self.depformer_weights_per_step_schedule or tuple(range(self.dep_q))

    @cached_property
    def transformer(self) -> TransformerConfig:
        """The temporal transformer: one position per step."""
        return TransformerConfig(
            d_model=self.dim,
            num_heads=self.num_heads,
            num_layers=self.num_layers,
            dim_feedforward=int(self.hidden_scale * self.dim),
            context=self.context,
            max_period=self.max_period,
            positional_embedding=self.positional_embedding,
            gating=self.gating,
            norm=self.norm,
            layer_scale=self.layer_scale,
            kv_repeat=self.kv_repeat,
        )

    @cached_property
    def depformer(self) -> TransformerConfig:
        """The depth transformer: one position per codebook, inside one step.

        Where its feed-forward differs from one weight set to the next, this has the first;
        `depformer_feedforward` has them all.
        """
        layer_scale = self.depformer_layer_scale
        return TransformerConfig(
            d_model=self.depformer_dim,
            num_heads=self.depformer_num_heads,
            num_layers=self.depformer_num_layers or self.num_layers,
            dim_feedforward=self.depformer_feedforward[0],
            context=self.dep_q,
            max_period=self.depformer_max_period or self.max_period,
            positional_embedding=self.depformer_pos_emb,
            gating=self.depformer_gating or self.gating,
            norm=self.norm,
            layer_scale=self.layer_scale if isinstance(layer_scale, msgspec.UnsetType) else layer_scale,
            kv_repeat=self.depformer_kv_repeat or self.kv_repeat,
        )

    @property
    def depformer_feedforward(self) -> tuple[int, ...]:
        """Feed-forward size of each weight set."""
        given = self.depformer_dim_feedforward
        if isinstance(given, tuple):
            return given
        size = int(self.hidden_scale * self.depformer_dim) if given is None else given
        return (size,) * (max(self.weight_sets) + 1)


def parse_lm_config(raw: Mapping[str, Any]) -> LmConfig:
    """The language model's part of a config.json; `null` stands for a key's default.

    Raises:
        ConfigError: a key is unknown, mistyped, contradicts another one, or asks for what
            this implementation does not do.
    """
    fields = msgspec.structs.fields(LmConfig)
    known = {field.name for field in fields} - _DERIVED
    given: dict[str, Any] = {}
    for key, value in raw.items():
        if key in _OFF:
            _refuse_unless_off(key, value)
        elif key not in known and key not in NOT_LM and key not in _CONDITIONS:
            meant = did_you_mean(key, known | NOT_LM | _CONDITIONS)
            raise ConfigError(key, f"not a key that this implementation knows{meant}")
        elif key in known and (value is not None or key == "depformer_layer_scale"):
            given[key] = value
    if given.get("dep_q") == 0:
        raise ConfigError("dep_q", "0: this model produces no speech (speech recognition is not supported)")
    for field in fields:
        if field.required and field.name not in given:
            raise ConfigError(field.name, "missing")
    conditioners = parse_conditioners(raw.get("conditioners") or {})
    summed = parse_fuser(raw.get("fuser") or {}, conditioners)
    try:
        config = msgspec.convert(given, LmConfig)
    except msgspec.ValidationError as error:
        problem, _, at = str(error).partition(" - at `$.")
        raise ConfigError(at.rstrip("`"), problem) from None
    config = msgspec.structs.replace(config, conditioners=conditioners, summed=summed)
    if config.model_type == _PREDICTS_THE_USER and config.dep_q == config.n_q:
        half = config.n_q // 2
        config = msgspec.structs.replace(config, dep_q=half, unused_slices=half)
    _check_streams(config)
    _check_weight_sets(config)
    _check_widths(config)
    return config


def _refuse_unless_off(key: str, value: object) -> None:
    off, sentence = _OFF[key]
    if value is None or (value == off and type(value) is type(off)):
        return
    raise ConfigError(key, sentence)


def _check_streams(c: LmConfig) -> None:
    if c.dep_q > c.n_q:
        raise ConfigError("dep_q", f"{c.dep_q} of only {c.n_q} codebooks (n_q)")
    if len(c.delays) != c.n_q + 1:
        raise ConfigError("delays", f"{len(c.delays)} given, 1 + n_q = {c.n_q + 1} needed")
    if c.text_vocabulary > c.text_card + 1:
        raise ConfigError("text_card_out", f"more than the input vocabulary, 1 + {c.text_card}")
    for key in ("existing_text_padding_id", "existing_text_end_padding_id"):
        if getattr(c, key) >= c.text_vocabulary:
            raise ConfigError(key, f"not below {c.text_vocabulary}, the text vocabulary")


def _check_weight_sets(c: LmConfig) -> None:
    schedule = c.depformer_weights_per_step_schedule
    key = "depformer_weights_per_step_schedule"
    if schedule is not None and not c.depformer_weights_per_step:
        raise ConfigError(key, "needs depformer_weights_per_step")
    if schedule is not None and len(schedule) != c.dep_q:
        raise ConfigError(key, f"{len(schedule)} given, dep_q = {c.dep_q} needed")
    if schedule is not None and c.unused_slices:
        raise ConfigError(key, "not supported with unused codebooks")
    if c.depformer_weights_per_step and c.depformer.gating == "none":
        raise ConfigError("depformer_weights_per_step", "needs a gated feed-forward (depformer_gating)")
    sets = max(c.weight_sets) + 1
    if len(c.depformer_feedforward) != sets:
        raise ConfigError("depformer_dim_feedforward", f"one for each of {sets} sets of weights needed")


def _check_widths(c: LmConfig) -> None:
    for prefix, t in (("", c.transformer), ("depformer_", c.depformer)):
        pairs = t.positional_embedding in ("rope", "rope_concat", "sin_rope")
        if t.d_model % t.num_heads or (pairs and t.head_dim % 2):
            raise ConfigError(f"{prefix}num_heads", f"{t.num_heads} do not divide {t.d_model} evenly")
        if t.positional_embedding in ("sin", "sin_rope") and (t.d_model % 2 or t.d_model < 4):
            raise ConfigError(f"{prefix}dim", f"{t.d_model} cannot hold sinusoidal positions")
        if t.num_heads % t.kv_repeat:
            raise ConfigError(f"{prefix}kv_repeat", f"{t.kv_repeat} does not divide {t.num_heads} heads")
