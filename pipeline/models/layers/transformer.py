"""A causal transformer: a step is the next position of the whole, however long a session lasts.

Both the language model and Mimi are built on it. Weights are immutable; what a session
leaves behind is a `TransformerState`, taken as an argument and returned anew. Attention
itself: `attention`. Weights that change from step to step of one frame: `depformer`.
Source: Défossez et al. 2024, "Moshi", and the behaviour of the `moshi` package.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from mlx import nn

from pipeline.models.layers.activations import gelu, silu
from pipeline.models.layers.attention import (
    AttentionPlan,
    Lanes,
    Plan,
    Positions,
    Projections,
    Rotation,
    attend_whole,
)
from pipeline.models.layers.linear import Linear
from pipeline.models.layers.norms import Norm, make_norm

PositionalEmbedding = Literal["rope", "rope_concat", "sin", "sin_rope", "none"]
Gating = Literal["none", "silu"]


@dataclass(frozen=True, slots=True)
class TransformerConfig:
    """The sizes of a transformer, named as in Kyutai's configs.

    `context`: positions a query sees, itself among them, and slots of a ring.
    `layer_scale`: None for none; the value is a training matter, the scales are weights.
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
        """Heads that keys and values have."""
        return self.num_heads // self.kv_repeat


class TransformerState(NamedTuple):
    """What `rows` sessions leave behind: per layer, rings `[rows, Hkv, context, Dh]`.

    `positions [rows]` int64 counts what each row has seen; it lives on the host, has no
    limit, and a row is reset by setting it to 0: unfilled slots are never read.
    """

    keys: tuple[mx.array, ...]
    values: tuple[mx.array, ...]
    positions: Positions


def gating_width(dim: int, dim_feedforward: int) -> int:
    """Width that gives a gated block about the weights of a plain one (Kyutai's rounding)."""
    return 21 * dim // 8 if dim_feedforward == 4 * dim else 2 * dim_feedforward // 3


class GatedBlock(nn.Module):
    """A feed-forward block in which one half of the hidden width gates the other."""

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
    """A learnt factor per channel on what a block adds."""

    def __init__(self, dim: int, scale: float) -> None:
        super().__init__()
        self.scale = mx.full((dim,), scale)

    def __call__(self, x: mx.array) -> mx.array:
        """`[..., D]` → `[..., D]`."""
        return self.scale * x


class Layer(nn.Module):
    """Attention, then feed-forward; each is normed first and added to what came in.

    `feedforward`: one size per set of weights, where there are several.
    """

    def __init__(self, config: TransformerConfig, feedforward: Sequence[int] = ()) -> None:
        super().__init__()
        dim = config.d_model
        sizes = tuple(feedforward) or (config.dim_feedforward,)
        self.self_attn = Projections(dim, config.num_heads, config.num_kv_heads, sets=len(sizes))
        self.norm1 = make_norm(config.norm, dim)
        self.norm2 = make_norm(config.norm, dim)
        self.gated = config.gating == "silu"
        if self.gated:
            self.gating = [GatedBlock(dim, size) for size in sizes]
        else:
            self.linear1 = Linear(dim, sizes[0], bias=False)
            self.linear2 = Linear(sizes[0], dim, bias=False)
        self.scaled = config.layer_scale is not None
        if config.layer_scale is not None:
            self.layer_scale_1 = LayerScale(dim, config.layer_scale)
            self.layer_scale_2 = LayerScale(dim, config.layer_scale)

    def step(
        self, x: mx.array, keys: mx.array, values: mx.array, plan: Plan, rotation: Rotation | None
    ) -> tuple[mx.array, mx.array, mx.array]:
        """`x [w · T, D]` and this layer's rings → the same, one call later."""
        queries, fresh_keys, fresh_values = self.self_attn.heads(self.norm1(x), plan.width, rotation)
        keys = plan.write(keys, fresh_keys)
        values = plan.write(values, fresh_values)
        seen = plan.attend(queries, keys, values)
        return self.finish(x, self.self_attn.merge(seen)), keys, values

    def whole(self, x: mx.array, width: int, context: int, rotation: Rotation | None) -> mx.array:
        """`x [B · T, D]`, all positions at once, of `width` sequences → `[B · T, D]`."""
        queries, keys, values = self.self_attn.heads(self.norm1(x), width, rotation)
        return self.finish(x, self.self_attn.merge(attend_whole(queries, keys, values, context)))

    def finish(self, x: mx.array, update: mx.array, which: int = 0) -> mx.array:
        """Add what attention found to `x [w · T, D]`, then the feed-forward of set `which`."""
        x = x + (self.layer_scale_1(update) if self.scaled else update)
        y = self.norm2(x)
        update = self.gating[which](y) if self.gated else self.linear2(gelu(self.linear1(y)))
        return x + (self.layer_scale_2(update) if self.scaled else update)


def sinusoid(positions: Positions, dim: int, max_period: float) -> npt.NDArray[np.float32]:
    """`[w, T]` → `[w, T, D]`: cosines, then sines, of geometrically spaced periods."""
    half = dim // 2
    # `half - 1`: the slowest period is max_period itself, unlike in the rotary tables.
    phase = positions[:, :, None] / max_period ** (np.arange(half, dtype=np.float64) / (half - 1))
    return np.concatenate([np.cos(phase), np.sin(phase)], axis=-1).astype(np.float32)


def place(x: mx.array, positions: Positions, config: TransformerConfig) -> tuple[mx.array, Rotation | None]:
    """Tell `x [w · T, D]` where it is: added sinusoids, or the rotation that its heads will get.

    `positions [w, T]`, or `[1, 1]` where it is the same for all rows.
    """
    way = config.positional_embedding
    if way in ("sin", "sin_rope"):
        added = sinusoid(positions, config.d_model, config.max_period).reshape(-1, config.d_model)
        x = x + mx.array(added).astype(x.dtype)
    if way in ("sin", "none"):
        return x, None
    interleaved = way != "rope_concat"
    return x, Rotation.at(positions, config.head_dim, config.max_period, interleaved=interleaved)


class Transformer(nn.Module):
    """Layers in a row. Stepping through a sequence position by position equals `whole` of it."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = [Layer(config) for _ in range(config.num_layers)]

    def state(self, rows: int, dtype: mx.Dtype = mx.float32) -> TransformerState:
        """`rows` sessions that have seen nothing."""
        c = self.config
        heads = self.layers[0].self_attn.num_kv_heads  # of a model that ranks share, this one's
        shape = (rows, heads, c.context, c.head_dim)

        def rings() -> tuple[mx.array, ...]:
            return tuple(mx.zeros(shape, dtype) for _ in range(c.num_layers))

        return TransformerState(rings(), rings(), np.zeros(rows, np.int64))

    def reset(self, state: TransformerState, row: int) -> TransformerState:
        """The state in which `row` has seen nothing; the others are as they were."""
        positions = state.positions.copy()
        positions[row] = 0
        return state._replace(positions=positions)

    def __call__(
        self, x: mx.array, state: TransformerState, lanes: Lanes, marks: list[mx.array] | None = None
    ) -> tuple[mx.array, TransformerState]:
        """Advance the rows `lanes [w]` by the T positions of `x [w, T, D]` → `[w, T, D]`, new state.

        Rows not named keep their state bit for bit. A row may be named several times only
        if nobody reads it: which of its inputs stays in its rings is not defined. To `marks`
        is added what each layer makes of them.

        Raises:
            ValueError: T is larger than the context.
        """
        order = np.argsort(lanes, kind="stable")
        if (np.diff(order) < 0).any():  # neighbours in the rings attend together
            x, state = self(x[mx.array(order)], state, lanes[order], marks)
            return x[mx.array(np.argsort(order))], state
        shape, steps = x.shape, x.shape[1]
        starts = state.positions[lanes]
        heads = self.layers[0].self_attn.num_kv_heads
        plan = AttentionPlan.of(starts, lanes, steps, self.config.context, heads)
        rows, rotation = place(
            x.reshape(-1, self.config.d_model), starts[:, None] + np.arange(steps), self.config
        )
        rows, keys, values = self.through(rows, state.keys, state.values, plan, rotation, marks=marks)
        positions = state.positions.copy()
        positions[lanes] = starts + steps
        return rows.reshape(shape), TransformerState(keys, values, positions)

    def through(
        self,
        x: mx.array,
        keys: Sequence[mx.array],
        values: Sequence[mx.array],
        plan: Plan,
        rotation: Rotation | None,
        *,
        marks: list[mx.array] | None = None,
    ) -> tuple[mx.array, tuple[mx.array, ...], tuple[mx.array, ...]]:
        """`x [w · T, D]`, told where it is, and the rings → the same, one call later; `marks` as above.

        Of two dimensions, because around a product every further one is two operations.
        """
        new_keys, new_values = [], []
        for layer, old_key, old_value in zip(self.layers, keys, values, strict=True):
            x, new_key, new_value = layer.step(x, old_key, old_value, plan, rotation)
            new_keys.append(new_key)
            new_values.append(new_value)
            if marks is not None:
                marks.append(x)
        return x, tuple(new_keys), tuple(new_values)

    def whole(self, x: mx.array) -> mx.array:
        """Teacher forcing: `x [B, T, D]` from position 0 → `[B, T, D]`, each within its window."""
        batch, steps, dim = x.shape
        positions = np.broadcast_to(np.arange(steps), (batch, steps))
        rows, rotation = place(x.reshape(-1, dim), positions, self.config)
        for layer in self.layers:
            rows = layer.whole(rows, batch, self.config.context, rotation)
        return rows.reshape(x.shape)
