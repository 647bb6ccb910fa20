"""Tensor parallelism of one language model: every rank holds a shard of each large matrix.

A step needs two sums over all ranks in each layer, as in Megatron-LM (Shoeybi et al. 2019):
attention is split by heads, a feed-forward block by its hidden width; the projections into them
are split by output features, those out of them by input features, and the results are summed.
Output heads are split by vocabulary and their logits concatenated. Every rank then has the same
logits, bit for bit, and samples the same tokens.

Norms, conditions and embedding tables are replicated: a lookup computes nothing, and a split
table would take one more exchange per step to save a few percent of the memory. So is the
projection into the depformer, for the same reason.

What belongs here: which numbers a rank has, and the layers that exchange. What does not: which
step the ranks take (`pipeline.stages.tensor_parallel`), and how a file is read (`checkpoint`).
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import mlx.core as mx
from mlx import nn

from pipeline.errors import ConfigError, UnsupportedModelError
from pipeline.models.checkpoint.lm_config import LmConfig
from pipeline.models.checkpoint.loading import Assignment, Weight
from pipeline.models.checkpoint.safetensors_header import Shape
from pipeline.models.layers.quantized import WORD_BITS, Quantization, Quantized
from pipeline.models.layers.transformer import TransformerConfig, TransformerLayer, gating_width

_LAYER: Final = re.compile(r"(transformer|depformer)\.layers\.\d+\.(.+)")
_ROWS, _COLUMNS = 0, 1


@dataclass(frozen=True, slots=True)
class ShardSpec:
    """How a matrix is split: each of the consecutive `blocks` along `axis` is divided among the ranks."""

    axis: int
    blocks: tuple[int, ...]

    def local(self, shape: Shape, size: int) -> Shape:
        """The shape of one rank's shard of a tensor of `shape`."""
        local = list(shape)
        local[self.axis] = sum(self.blocks) // size
        return tuple(local)


@dataclass(frozen=True, slots=True)
class Traffic:
    """The exchanges of one step, and the bytes that each rank sends in them."""

    exchanges: int
    sent_bytes: int


@dataclass(frozen=True, slots=True)
class Shard:
    """The part of a model that rank `rank` of `size` holds. `replicated_depformer`: each holds all of it."""

    rank: int
    size: int
    replicated_depformer: bool = False

    def check(self, config: LmConfig) -> None:
        """Refuse a number of ranks that does not divide the model evenly.

        Raises:
            ConfigError: names the size that is not divisible, and the numbers of ranks that are possible.
        """
        for what, amount in self._split_sizes(config):
            if amount % self.size:
                common = math.gcd(*(each for _, each in self._split_sizes(config)))
                fit = [str(n) for n in range(2, common + 1) if common % n == 0]
                others = f"numbers that do: {', '.join(fit)}" if fit else "it runs in one process only"
                raise ConfigError("mlx.launch", f"{self.size} ranks do not divide {what}, {amount}; {others}")

    def check_quantized(self, config: LmConfig, assignments: Iterable[Assignment], path: str) -> None:
        """Refuse a quantized file whose groups a shard would divide, for weights that stay quantized.

        Raises:
            UnsupportedModelError: names the tensor.
        """
        for assignment in assignments:
            how = assignment.quantization
            specs = [self.spec(config, name) for name in assignment.targets]
            if how is not None and any(spec is not None and not self._fits(spec, how) for spec in specs):
                raise UnsupportedModelError(
                    path,
                    f"{assignment.source}: its groups of {how.group} do not divide among {self.size} ranks",
                )

    def spec(self, config: LmConfig, name: str) -> ShardSpec | None:
        """How the parameter `name` is split; None where every rank has all of it."""
        found = _LAYER.fullmatch(name)
        if found is not None:
            if found[1] == "transformer":
                return _layer_spec(config.transformer, (config.transformer.dim_feedforward,), found[2])
            if self.replicated_depformer:
                return None
            return _layer_spec(config.depformer, config.depformer_feedforward, found[2])
        if name.startswith("text_linear."):
            return self._vocabulary(config.text_vocabulary)
        if name.startswith("linears.") and not self.replicated_depformer:
            return self._vocabulary(config.card)
        return None

    def shapes(self, config: LmConfig, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        """The shapes of this rank's shards of parameters of these `shapes`."""
        specs = {name: self.spec(config, name) for name in shapes}
        return {
            name: shape if (spec := specs[name]) is None else spec.local(shape, self.size)
            for name, shape in shapes.items()
        }

    def take(self, config: LmConfig, name: str, weight: Weight) -> Weight:
        """This rank's shard of a whole parameter, evaluated; it keeps no reference to the whole."""
        spec = self.spec(config, name)
        if spec is None:
            return weight
        if not isinstance(weight, Quantized):
            shard = self._take(weight, spec.axis, spec.blocks)
            mx.eval(shard)
            return shard
        bits, group = weight.how
        words = spec.blocks if spec.axis == _ROWS else [b * bits // WORD_BITS for b in spec.blocks]
        groups = spec.blocks if spec.axis == _ROWS else [b // group for b in spec.blocks]
        quantized = Quantized(
            self._take(weight.words, spec.axis, words),
            self._take(weight.scales, spec.axis, groups),
            self._take(weight.biases, spec.axis, groups),
            weight.how,
        )
        mx.eval(quantized.arrays())
        return quantized

    def _take(self, array: mx.array, axis: int, blocks: Sequence[int]) -> mx.array:
        pieces, begin = [], 0
        for block in blocks:
            width = block // self.size
            start = begin + self.rank * width
            pieces.append(array[start : start + width] if axis == _ROWS else array[:, start : start + width])
            begin += block
        # A copy, because a slice would keep the whole array in memory.
        return mx.contiguous(pieces[0] if len(pieces) == 1 else mx.concatenate(pieces, axis=axis))

    def _vocabulary(self, tokens: int) -> ShardSpec | None:
        # One that is not divisible is replicated, which is better than refusing the model.
        return None if tokens % self.size else ShardSpec(_ROWS, (tokens,))

    def _fits(self, spec: ShardSpec, how: Quantization) -> bool:
        return spec.axis == _ROWS or all(block // self.size % how.group == 0 for block in spec.blocks)

    def _split_sizes(self, config: LmConfig) -> list[tuple[str, int]]:
        """The sizes that the number of ranks must divide, each with a name for the error message."""
        main, depth = config.transformer, config.depformer
        sizes = [
            ("the heads of keys and values (num_heads)", main.num_kv_heads),
            ("the width of the feed-forward (hidden_scale)", hidden_width(main, main.dim_feedforward)),
        ]
        if not self.replicated_depformer:
            sizes.append(("the depformer's heads (depformer_num_heads)", depth.num_kv_heads))
            sizes += [
                ("the depformer's feed-forward (depformer_dim_feedforward)", hidden_width(depth, size))
                for size in config.depformer_feedforward
            ]
        return sizes

    def traffic(self, config: LmConfig, width: int, number_bytes: int) -> Traffic:
        """The traffic of one step of `width` rows, with numbers of `number_bytes`."""
        # How many exchanges, and how many numbers each rank sends to each other rank in one.
        exchanges = [(2 * config.num_layers, config.dim)]
        if self._vocabulary(config.text_vocabulary) is not None:
            exchanges.append((1, config.text_vocabulary // self.size))
        if not self.replicated_depformer:
            exchanges.append((2 * config.depformer.num_layers * config.dep_q, config.depformer_dim))
            if self._vocabulary(config.card) is not None:
                exchanges.append((config.dep_q, config.card // self.size))
        numbers = sum(count * each for count, each in exchanges)
        return Traffic(
            exchanges=sum(count for count, _ in exchanges),
            sent_bytes=width * number_bytes * (self.size - 1) * numbers,
        )


@dataclass(frozen=True, slots=True)
class ShardRank:
    """One rank: its shard of the model, and the group through which it exchanges with the others."""

    shard: Shard
    group: mx.distributed.Group


def hidden_width(config: TransformerConfig, dim_feedforward: int) -> int:
    """The width between the two matrices of a feed-forward block."""
    return dim_feedforward if config.gating == "none" else gating_width(config.d_model, dim_feedforward)


def _layer_spec(config: TransformerConfig, feedforward: Sequence[int], name: str) -> ShardSpec | None:
    """The spec of the parameter `name` of a layer; `feedforward`: the size in each set of weights."""
    if name.startswith("self_attn."):
        queries, keys = config.d_model, config.num_kv_heads * config.head_dim
        if ".in_projs." in name:
            return ShardSpec(_ROWS, (queries, keys, keys))
        return ShardSpec(_COLUMNS, (queries,))
    if name.startswith("gating."):
        _, which, side, _ = name.split(".")
        width = hidden_width(config, feedforward[int(which)])
        return ShardSpec(_ROWS, (width, width)) if side == "linear_in" else ShardSpec(_COLUMNS, (width,))
    if name.startswith("linear1."):
        return ShardSpec(_ROWS, (feedforward[0],))
    return ShardSpec(_COLUMNS, (feedforward[0],)) if name.startswith("linear2.") else None


class RowParallelLinear(nn.Module):
    """A linear layer split by input features; the outputs of all ranks are summed.

    Like `nn.ShardedToAllLinear`, but with one all-gather in place of an all-reduce, which on a ring
    takes two rounds; with two ranks it sends as many bytes. The messages are so small that the
    number of rounds decides.
    """

    def __init__(self, local: nn.Module, group: mx.distributed.Group) -> None:
        super().__init__()
        self.local = local
        self._group = group

    def __call__(self, x: mx.array) -> mx.array:
        """`[..., in / ranks]` → `[..., out]`, the same bits on every rank."""
        return mx.distributed.all_gather(self.local(x)[None], group=self._group).sum(axis=0)


class ColumnParallelLinear(nn.Module):
    """A linear layer split by output features; every rank gets the outputs of all."""

    def __init__(self, local: nn.Module, group: mx.distributed.Group) -> None:
        super().__init__()
        self.local = local
        self._group = group

    def __call__(self, x: mx.array) -> mx.array:
        """`[..., in]` → `[..., out]`."""
        parts = mx.distributed.all_gather(self.local(x)[None], group=self._group)  # [ranks, ..., out / ranks]
        return mx.moveaxis(parts, 0, -2).flatten(-2)


def shard_layer(layer: TransformerLayer, group: mx.distributed.Group) -> None:
    """Make `layer`, which holds one rank's shard of its weights, sum the outputs of all ranks."""
    attention = layer.self_attn
    attention.num_heads //= group.size()
    attention.num_kv_heads //= group.size()
    attention["out_projs"] = [RowParallelLinear(linear, group) for linear in attention.out_projs]
    if layer.gated:
        for block in layer.gating:
            block["linear_out"] = RowParallelLinear(block.linear_out, group)
    else:
        layer["linear2"] = RowParallelLinear(layer.linear2, group)
