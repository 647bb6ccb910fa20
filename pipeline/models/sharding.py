"""One language model dealt out to several processes: each holds a share of every large matrix.

A step needs two sums over all ranks in each layer, as in Megatron-LM (Shoeybi et al. 2019):
attention is dealt out by heads, a feed-forward block by its hidden width; what leads into them
is cut by rows, what leads out by columns, and what comes out is added up. Output heads are cut
by vocabulary and their logits laid side by side. Every rank then has the same numbers, to the
bit, and draws the same tokens from them.

Whole on every rank are norms, conditions and tables of tokens: looking up is nothing to compute,
and a table cut in two would cost one more exchange a step to save a few percent of the memory.
So is what leads into the depformer, for the same reason.

What belongs here: which numbers a rank has, and the layers that exchange. What does not: who
says what to do (`pipeline.stages.tensor_parallel.leader`), and how a file is read (`checkpoint`).
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
from pipeline.models.layers.transformer import Layer, TransformerConfig, gating_width

_LAYER: Final = re.compile(r"(transformer|depformer)\.layers\.\d+\.(.+)")
_ROWS, _COLUMNS = 0, 1


@dataclass(frozen=True, slots=True)
class Cut:
    """Along `axis`, each of `blocks`, which lie one behind the other, is dealt out by itself."""

    axis: int
    blocks: tuple[int, ...]

    def local(self, shape: Shape, size: int) -> Shape:
        """The shape of one rank's share of a tensor of `shape`."""
        cut = list(shape)
        cut[self.axis] = sum(self.blocks) // size
        return tuple(cut)


@dataclass(frozen=True, slots=True)
class Traffic:
    """What one step exchanges: how often, and the bytes that each rank sends."""

    exchanges: int
    sent_bytes: int


@dataclass(frozen=True, slots=True)
class Share:
    """Which part of a model is rank `rank`'s, of `size`; a `whole_depformer` is everybody's."""

    rank: int
    size: int
    whole_depformer: bool = False

    def check(self, config: LmConfig) -> None:
        """Refuse a number of ranks that the model cannot be dealt out to evenly.

        Raises:
            ConfigError: it names what does not divide, and the numbers of ranks that do.
        """
        for what, amount in self._dealt(config):
            if amount % self.size:
                common = math.gcd(*(each for _, each in self._dealt(config)))
                fit = [str(n) for n in range(2, common + 1) if common % n == 0]
                others = f"numbers that do: {', '.join(fit)}" if fit else "it runs in one process only"
                raise ConfigError("mlx.launch", f"{self.size} ranks do not divide {what}, {amount}; {others}")

    def check_quantized(self, config: LmConfig, assignments: Iterable[Assignment], path: str) -> None:
        """Refuse a quantized file where a rank's share would begin within a group, for weights that stay so.

        Raises:
            UnsupportedModelError: it names the tensor.
        """
        for assignment in assignments:
            how = assignment.quantization
            cuts = [self.cut(config, name) for name in assignment.targets]
            if how is not None and any(cut is not None and not self._fits(cut, how) for cut in cuts):
                raise UnsupportedModelError(
                    path,
                    f"{assignment.source}: its groups of {how.group} do not divide among {self.size} ranks",
                )

    def cut(self, config: LmConfig, name: str) -> Cut | None:
        """How the parameter `name` is dealt out; None where every rank has all of it."""
        found = _LAYER.fullmatch(name)
        if found is not None:
            if found[1] == "transformer":
                return _layer_cut(config.transformer, (config.transformer.dim_feedforward,), found[2])
            if self.whole_depformer:
                return None
            return _layer_cut(config.depformer, config.depformer_feedforward, found[2])
        if name.startswith("text_linear."):
            return self._vocabulary(config.text_vocabulary)
        if name.startswith("linears.") and not self.whole_depformer:
            return self._vocabulary(config.card)
        return None

    def shapes(self, config: LmConfig, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        """What this rank has of parameters of these `shapes`."""
        cuts = {name: self.cut(config, name) for name in shapes}
        return {
            name: shape if (cut := cuts[name]) is None else cut.local(shape, self.size)
            for name, shape in shapes.items()
        }

    def take(self, config: LmConfig, name: str, weight: Weight) -> Weight:
        """This rank's share of a whole parameter, evaluated; nothing of it refers to the whole any more."""
        cut = self.cut(config, name)
        if cut is None:
            return weight
        if not isinstance(weight, Quantized):
            mine = self._take(weight, cut.axis, cut.blocks)
            mx.eval(mine)
            return mine
        bits, group = weight.how
        words = cut.blocks if cut.axis == _ROWS else [b * bits // WORD_BITS for b in cut.blocks]
        groups = cut.blocks if cut.axis == _ROWS else [b // group for b in cut.blocks]
        part = Quantized(
            self._take(weight.words, cut.axis, words),
            self._take(weight.scales, cut.axis, groups),
            self._take(weight.biases, cut.axis, groups),
            weight.how,
        )
        mx.eval(part.arrays())
        return part

    def _take(self, array: mx.array, axis: int, blocks: Sequence[int]) -> mx.array:
        pieces, begin = [], 0
        for block in blocks:
            width = block // self.size
            at = begin + self.rank * width
            pieces.append(array[at : at + width] if axis == _ROWS else array[:, at : at + width])
            begin += block
        # A copy, or the slice would keep the whole in memory.
        return mx.contiguous(pieces[0] if len(pieces) == 1 else mx.concatenate(pieces, axis=axis))

    def _vocabulary(self, tokens: int) -> Cut | None:
        # One that does not divide stays whole: it is not worth refusing the model for.
        return None if tokens % self.size else Cut(_ROWS, (tokens,))

    def _fits(self, cut: Cut, how: Quantization) -> bool:
        return cut.axis == _ROWS or all(block // self.size % how.group == 0 for block in cut.blocks)

    def _dealt(self, config: LmConfig) -> list[tuple[str, int]]:
        """What has to divide: a name for people, and how many there are."""
        main, depth = config.transformer, config.depformer
        dealt = [
            ("the heads of keys and values (num_heads)", main.num_kv_heads),
            ("the width of the feed-forward (hidden_scale)", hidden_width(main, main.dim_feedforward)),
        ]
        if not self.whole_depformer:
            dealt.append(("the depformer's heads (depformer_num_heads)", depth.num_kv_heads))
            dealt += [
                ("the depformer's feed-forward (depformer_dim_feedforward)", hidden_width(depth, size))
                for size in config.depformer_feedforward
            ]
        return dealt

    def traffic(self, config: LmConfig, width: int, number_bytes: int) -> Traffic:
        """What one step of `width` rows exchanges, of numbers of `number_bytes`."""
        # How often, and how many numbers each rank hands to the others.
        exchanges = [(2 * config.num_layers, config.dim)]
        if self._vocabulary(config.text_vocabulary) is not None:
            exchanges.append((1, config.text_vocabulary // self.size))
        if not self.whole_depformer:
            exchanges.append((2 * config.depformer.num_layers * config.dep_q, config.depformer_dim))
            if self._vocabulary(config.card) is not None:
                exchanges.append((config.dep_q, config.card // self.size))
        numbers = sum(count * each for count, each in exchanges)
        return Traffic(
            exchanges=sum(count for count, _ in exchanges),
            sent_bytes=width * number_bytes * (self.size - 1) * numbers,
        )


@dataclass(frozen=True, slots=True)
class Member:
    """One rank among those that share a model: what is its own, and how it reaches the others."""

    share: Share
    group: mx.distributed.Group


def hidden_width(config: TransformerConfig, dim_feedforward: int) -> int:
    """Between the two matrices of a feed-forward block."""
    return dim_feedforward if config.gating == "none" else gating_width(config.d_model, dim_feedforward)


def _layer_cut(config: TransformerConfig, feedforward: Sequence[int], name: str) -> Cut | None:
    """`name` is the parameter's within its layer; `feedforward` has the size of each set of weights."""
    if name.startswith("self_attn."):
        queries, keys = config.d_model, config.num_kv_heads * config.head_dim
        if ".in_projs." in name:
            return Cut(_ROWS, (queries, keys, keys))
        return Cut(_COLUMNS, (queries,))
    if name.startswith("gating."):
        _, which, side, _ = name.split(".")
        width = hidden_width(config, feedforward[int(which)])
        return Cut(_ROWS, (width, width)) if side == "linear_in" else Cut(_COLUMNS, (width,))
    if name.startswith("linear1."):
        return Cut(_ROWS, (feedforward[0],))
    return Cut(_COLUMNS, (feedforward[0],)) if name.startswith("linear2.") else None


class SummedLinear(nn.Module):
    """Each rank has some of the inputs, and what all ranks make of theirs is added up.

    What `nn.ShardedToAllLinear` does, in one round in place of the two of a sum on a ring, for
    the same bytes where there are two ranks. What is exchanged is small: it is the rounds that take time.
    """

    def __init__(self, mine: nn.Module, group: mx.distributed.Group) -> None:
        super().__init__()
        self.mine = mine
        self._group = group

    def __call__(self, x: mx.array) -> mx.array:
        """`[..., in / ranks]` → `[..., out]`, the same bits on every rank."""
        return mx.distributed.all_gather(self.mine(x)[None], group=self._group).sum(axis=0)


class GatheredLinear(nn.Module):
    """Each rank works out some of the outputs, and all have all of them."""

    def __init__(self, mine: nn.Module, group: mx.distributed.Group) -> None:
        super().__init__()
        self.mine = mine
        self._group = group

    def __call__(self, x: mx.array) -> mx.array:
        """`[..., in]` → `[..., out]`."""
        parts = mx.distributed.all_gather(self.mine(x)[None], group=self._group)  # [ranks, ..., out / ranks]
        return mx.moveaxis(parts, 0, -2).flatten(-2)


def deal_layer(layer: Layer, group: mx.distributed.Group) -> None:
    """Let a layer that holds one rank's share of its weights add up what all ranks find."""
    attention = layer.self_attn
    attention.num_heads //= group.size()
    attention.num_kv_heads //= group.size()
    attention["out_projs"] = [SummedLinear(linear, group) for linear in attention.out_projs]
    if layer.gated:
        for block in layer.gating:
            block["linear_out"] = SummedLinear(block.linear_out, group)
    else:
        layer["linear2"] = SummedLinear(layer.linear2, group)
