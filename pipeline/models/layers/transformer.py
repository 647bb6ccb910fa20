"""The causal transformer of the language model and of Mimi, with a ring KV cache as its argument.

Stepping through a sequence gives what the whole sequence gives at once, however long it is.
Weights are immutable; the cache of a session is passed in and a new one returned. Attention
itself: `attention`. Weights that change from codebook to codebook of one step: `depformer`.
Source: Défossez et al. 2024, "Moshi", and the behaviour of the `moshi` package.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from mlx import nn

from pipeline.models.evaluation import EvalSchedule
from pipeline.models.layers.activations import gelu, silu
from pipeline.models.layers.attention import (
    AttentionMetadata,
    CacheAttention,
    Lanes,
    MultiheadAttention,
    Positions,
    RotaryEmbedding,
    causal_attention,
)
from pipeline.models.layers.linear import Linear
from pipeline.models.layers.norms import Norm, make_norm

PositionalEmbedding = Literal["rope", "rope_concat", "sin", "sin_rope", "none"]
Gating = Literal["none", "silu"]


@dataclass(frozen=True, slots=True)
class TransformerConfig:
    """The sizes of a transformer, named as in Kyutai's configs.

    `context`: positions that a query attends to, including itself; also the slots of a ring.
    `layer_scale`: None for none; its value only matters in training, the scales are weights.
    `kv_repeat`: query heads that share one key and value head.
    """

    d_model: int
    num_heads: int
    num_layers: int
    dim_feedforward: int
    context: int
    max_period: float = 10_000.0
    positional_embedding: PositionalEmbedding = "rope"
    gating: Gating = "none"
    norm: Norm = "layer_norm"
    layer_scale: float | None = None
    kv_repeat: int = 1

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.d_model // self.num_heads

    @property
    def num_kv_heads(self) -> int:
        """Number of key and value heads."""
        return self.num_heads // self.kv_repeat


class RingKVCache(NamedTuple):
    """Keys and values of each row's last `context` positions: per layer, rings `[rows, Hkv, context, Dh]`.

    `offsets [rows]` int64, on the host: how many positions each row has taken, without limit. A
    row is reset by setting its offset to 0; slots that have not been filled are never read.
    `pinned [rows]`: how many of a row's first positions are never overwritten (attention sink); its later
    ones use the other slots.
    """

    keys: tuple[mx.array, ...]
    values: tuple[mx.array, ...]
    offsets: Positions
    pinned: Positions


def gating_width(dim: int, dim_feedforward: int) -> int:
    """Hidden width that gives a gated block about as many weights as a plain one (Kyutai's rounding)."""
    return 21 * dim // 8 if dim_feedforward == 4 * dim else 2 * dim_feedforward // 3


class ActivationGating(nn.Module):
    """A feed-forward block in which one half of the hidden width gates the other (SwiGLU)."""

    def __init__(self, dim: int, dim_feedforward: int) -> None:
        super().__init__()
        width = gating_width(dim, dim_feedforward)
        self.linear_in = Linear(dim, 2 * width, bias=False)
        self.linear_out = Linear(width, dim, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        """`[..., D]` → `[..., D]`."""
        gate, value = mx.split(self.linear_in(x), 2, axis=-1)
        return self.linear_out(silu(gate) * value)


class LayerScale(nn.Module):
    """A learnt factor per channel on the output of a block."""

    def __init__(self, dim: int, scale: float) -> None:
        super().__init__()
        self.scale = mx.full((dim,), scale)

    def __call__(self, x: mx.array) -> mx.array:
        """`[..., D]` → `[..., D]`."""
        return self.scale * x


class TransformerLayer(nn.Module):
    """Attention, then feed-forward, each with a norm before it and a residual around it.

    `feedforward`: the size in each set of weights, where there are several.
    """

    def __init__(self, config: TransformerConfig, feedforward: Sequence[int] = ()) -> None:
        super().__init__()
        dim = config.d_model
        sizes = tuple(feedforward) or (config.dim_feedforward,)
        self.self_attn = MultiheadAttention(dim, config.num_heads, config.num_kv_heads, sets=len(sizes))
        self.norm1 = make_norm(config.norm, dim)
        self.norm2 = make_norm(config.norm, dim)
        self.gated = config.gating == "silu"
        if self.gated:
            self.gating = [ActivationGating(dim, size) for size in sizes]
        else:
            self.linear1 = Linear(dim, sizes[0], bias=False)
            self.linear2 = Linear(sizes[0], dim, bias=False)
        self.scaled = config.layer_scale is not None
        if config.layer_scale is not None:
            self.layer_scale_1 = LayerScale(dim, config.layer_scale)
            self.layer_scale_2 = LayerScale(dim, config.layer_scale)

    def step(
        self,
        x: mx.array,
        keys: mx.array,
        values: mx.array,
        metadata: CacheAttention,
        rope: RotaryEmbedding | None,
    ) -> tuple[mx.array, mx.array, mx.array]:
        """`x [w · T, D]` and this layer's rings → the layer's output and the updated rings."""
        queries, fresh_keys, fresh_values = self.self_attn.project(self.norm1(x), metadata.width, rope)
        keys = metadata.write(keys, fresh_keys)
        values = metadata.write(values, fresh_values)
        attended = metadata.attend(queries, keys, values)
        return self.feed_forward(x, self.self_attn.merge(attended)), keys, values

    def forward(self, x: mx.array, width: int, context: int, rope: RotaryEmbedding | None) -> mx.array:
        """All positions of `width` sequences at once: `x [B · T, D]` → `[B · T, D]`."""
        queries, keys, values = self.self_attn.project(self.norm1(x), width, rope)
        return self.feed_forward(x, self.self_attn.merge(causal_attention(queries, keys, values, context)))

    def feed_forward(self, x: mx.array, update: mx.array, weight_set: int = 0) -> mx.array:
        """Add attention's output `update` to `x [w · T, D]`, then the feed-forward block's output."""
        x = x + (self.layer_scale_1(update) if self.scaled else update)
        y = self.norm2(x)
        update = self.gating[weight_set](y) if self.gated else self.linear2(gelu(self.linear1(y)))
        return x + (self.layer_scale_2(update) if self.scaled else update)


def sinusoid(positions: Positions, dim: int, max_period: float) -> npt.NDArray[np.float32]:
    """`[w, T]` → `[w, T, D]`: cosines, then sines, of geometrically spaced periods."""
    half = dim // 2
    # `half - 1`: the slowest period is max_period itself, unlike in the rotary tables.
    phase = positions[:, :, None] / max_period ** (np.arange(half, dtype=np.float64) / (half - 1))
    return np.concatenate([np.cos(phase), np.sin(phase)], axis=-1).astype(np.float32)


def apply_sinusoid(x: mx.array, positions: Positions, config: TransformerConfig) -> mx.array:
    """Add sinusoids to `x [w · T, D]` where the config has them; `positions [w, T]`, or `[1, 1]` for all."""
    if config.positional_embedding not in ("sin", "sin_rope"):
        return x
    added = sinusoid(positions, config.d_model, config.max_period).reshape(-1, config.d_model)
    return x + mx.array(added).astype(x.dtype)


def apply_position_embedding(
    x: mx.array, positions: Positions, config: TransformerConfig
) -> tuple[mx.array, RotaryEmbedding | None]:
    """Add sinusoids to `x [w · T, D]` where the config has them; also the rotary embedding for its heads.

    `positions [w, T]`, or `[1, 1]` where all rows have the same.
    """
    x = apply_sinusoid(x, positions, config)
    if config.positional_embedding in ("sin", "none"):
        return x, None
    interleaved = config.positional_embedding != "rope_concat"
    return x, RotaryEmbedding.at(positions, config.head_dim, config.max_period, interleaved=interleaved)


class TransformerKernel(Protocol):
    """Computes all layers of a `Transformer` at once."""

    def ring(self, shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
        """A ring of keys or values without any past."""

    def takes(self, rows: int) -> bool:
        """Whether it computes so many positions."""

    def __call__(self, x: mx.array, state: RingKVCache, lanes: Lanes) -> tuple[mx.array, RingKVCache]:
        """As `Transformer.__call__`."""


class Transformer(nn.Module):
    """A stack of layers. Stepping through a sequence position by position equals `forward` of it."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = [TransformerLayer(config) for _ in range(config.num_layers)]
        self.kernel: TransformerKernel | None = None  # see `models.native`

    def state(self, rows: int, dtype: mx.Dtype = mx.float32) -> RingKVCache:
        """A cache of `rows` sessions without any past."""
        c = self.config
        heads = self.layers[0].self_attn.num_kv_heads  # with tensor parallelism, those of this rank
        shape = (rows, heads, c.context, c.head_dim)

        def rings() -> tuple[mx.array, ...]:
            make = mx.zeros if self.kernel is None else self.kernel.ring
            return tuple(make(shape, dtype) for _ in range(c.num_layers))

        return RingKVCache(rings(), rings(), np.zeros(rows, np.int64), np.zeros(rows, np.int64))

    def reset(self, state: RingKVCache, row: int) -> RingKVCache:
        """The cache with `row` emptied; the other rows are unchanged."""
        offsets, pinned = state.offsets.copy(), state.pinned.copy()
        offsets[row] = pinned[row] = 0
        return state._replace(offsets=offsets, pinned=pinned)

    def __call__(
        self, x: mx.array, state: RingKVCache, lanes: Lanes, schedule: EvalSchedule | None = None
    ) -> tuple[mx.array, RingKVCache]:
        """Advance the rows `lanes [w]` by the T positions of `x [w, T, D]` → `[w, T, D]`, new cache.

        Rows not named keep their state bit for bit. A row may be named several times only if it
        is never read, as the scratch row is: which of its inputs its rings keep is undefined.
        `schedule` gets the output of each layer, unless a kernel computes them at once.

        Raises:
            ValueError: T is larger than the context.
        """
        if (
            x.shape[1] <= self.config.context
            and self.kernel is not None
            and self.kernel.takes(x.shape[0] * x.shape[1])
        ):
            return self.kernel(x, state, lanes)  # one operation, which needs no point of `schedule`
        order = np.argsort(lanes, kind="stable")
        if (np.diff(order) < 0).any():  # rows that are adjacent in the rings attend in one call
            x, state = self(x[mx.array(order)], state, lanes[order], schedule)
            return x[mx.array(np.argsort(order))], state
        shape, steps = x.shape, x.shape[1]
        starts = state.offsets[lanes]
        heads = self.layers[0].self_attn.num_kv_heads
        metadata = AttentionMetadata.of(
            starts, lanes, steps, self.config.context, heads, pinned=state.pinned[lanes]
        )
        rows, rope = apply_position_embedding(
            x.reshape(-1, self.config.d_model), starts[:, None] + np.arange(steps), self.config
        )
        rows, keys, values = self.run_layers(
            rows, state.keys, state.values, metadata, rope, schedule=schedule
        )
        offsets = state.offsets.copy()
        offsets[lanes] = starts + steps
        return rows.reshape(shape), RingKVCache(keys, values, offsets, state.pinned)

    def run_layers(
        self,
        x: mx.array,
        keys: Sequence[mx.array],
        values: Sequence[mx.array],
        metadata: CacheAttention,
        rope: RotaryEmbedding | None,
        *,
        schedule: EvalSchedule | None = None,
    ) -> tuple[mx.array, tuple[mx.array, ...], tuple[mx.array, ...]]:
        """`x [w · T, D]` with its position embedding, and the rings → the output and the updated rings.

        `x` has two dimensions because each further one takes two more operations per product.
        """
        new_keys, new_values = [], []
        for layer, old_key, old_value in zip(self.layers, keys, values, strict=True):
            x, new_key, new_value = layer.step(x, old_key, old_value, metadata, rope)
            new_keys.append(new_key)
            new_values.append(new_value)
            if schedule is not None:
                schedule.add(x)
        return x, tuple(new_keys), tuple(new_values)

    def forward(self, x: mx.array) -> mx.array:
        """Whole sequences at once, from position 0, without a cache: `x [B, T, D]` → `[B, T, D]`."""
        batch, steps, dim = x.shape
        positions = np.broadcast_to(np.arange(steps), (batch, steps))
        rows, rope = apply_position_embedding(x.reshape(-1, dim), positions, self.config)
        for layer in self.layers:
            rows = layer.forward(rows, batch, self.config.context, rope)
        return rows.reshape(x.shape)
