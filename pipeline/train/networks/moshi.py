"""Moshi to be trained: whole sessions at a time. Arithmetic: `pipeline.models.lm`.

The depth transformer's weights of all codebooks are one tensor, so that a frame's codebooks are
one batched product; it runs only on chosen frames, because most are silence.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.train.networks.architecture import MoshiSizes, TransformerSizes
from pipeline.train.networks.attention import (
    RmsNorm,
    SelfAttention,
    attention_mask,
    fan_in_normal,
    gated_width,
    rope_table,
)


class ActivationGating(nn.Module):
    """A feed-forward in which one half of the hidden width gates the other."""

    def __init__(self, dim: int, feedforward: int) -> None:
        super().__init__()
        width = gated_width(dim, feedforward)
        self.linear_in = nn.Linear(dim, 2 * width, bias=False)
        self.linear_out = nn.Linear(width, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., D]` → `[..., D]`."""
        gate, value = self.linear_in(x).chunk(2, dim=-1)
        return self.linear_out(functional.silu(gate) * value)


class TemporalLayer(nn.Module):
    """Attention over steps, then a gated feed-forward."""

    def __init__(self, sizes: TransformerSizes) -> None:
        super().__init__()
        self.self_attn = SelfAttention(sizes)
        self.norm1 = RmsNorm(sizes.dim)
        self.norm2 = RmsNorm(sizes.dim)
        self.gating = ActivationGating(sizes.dim, sizes.feedforward)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor, drop: float) -> Tensor:
        """`[B, T, D]` → `[B, T, D]`; dropout with probability `drop`, in training."""
        x = x + functional.dropout(self.self_attn(self.norm1(x), rope, mask), drop, self.training)
        return x + functional.dropout(self.gating(self.norm2(x)), drop, self.training)


class DepthLayer(nn.Module):
    """Attention over codebooks, then a gated feed-forward; each codebook `K` has weights of its own."""

    def __init__(self, sizes: TransformerSizes, codebooks: int) -> None:
        super().__init__()
        dim, hidden = sizes.dim, gated_width(sizes.dim, sizes.feedforward)
        self.heads = sizes.heads
        self.norm1 = RmsNorm(dim)
        self.norm2 = RmsNorm(dim)
        self.in_proj = nn.Parameter(torch.empty(codebooks, 3 * dim, dim))
        self.out_proj = nn.Parameter(torch.empty(codebooks, dim, dim))
        self.linear_in = nn.Parameter(torch.empty(codebooks, 2 * hidden, dim))
        self.linear_out = nn.Parameter(torch.empty(codebooks, dim, hidden))
        for weight in (self.in_proj, self.out_proj, self.linear_in, self.linear_out):
            fan_in_normal(weight.data, weight.shape[-1])

    def forward(self, x: Tensor) -> Tensor:
        """`x [K, N, D]` → `[K, N, D]`."""
        packed = torch.bmm(self.norm1(x), self.in_proj.transpose(1, 2))  # [K, N, 3D]
        queries, keys, values = packed.permute(1, 0, 2).unflatten(-1, (3, self.heads, -1)).unbind(2)
        attended = functional.scaled_dot_product_attention(
            queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2), is_causal=True
        )  # [N, H, K, Dh]
        merged = attended.permute(2, 0, 1, 3).flatten(2)  # [K, N, D]
        x = x + torch.bmm(merged, self.out_proj.transpose(1, 2))
        gate, value = torch.bmm(self.norm2(x), self.linear_in.transpose(1, 2)).chunk(2, dim=-1)
        return x + torch.bmm(functional.silu(gate) * value, self.linear_out.transpose(1, 2))

    def published(self, prefix: str) -> dict[str, Tensor]:
        """One tensor per codebook."""
        tensors = {f"{prefix}.norm1.alpha": self.norm1.alpha, f"{prefix}.norm2.alpha": self.norm2.alpha}
        for k in range(len(self.in_proj)):
            tensors[f"{prefix}.self_attn.in_projs.{k}.weight"] = self.in_proj[k]
            tensors[f"{prefix}.self_attn.out_projs.{k}.weight"] = self.out_proj[k]
            tensors[f"{prefix}.gating.{k}.linear_in.weight"] = self.linear_in[k]
            tensors[f"{prefix}.gating.{k}.linear_out.weight"] = self.linear_out[k]
        return tensors


def embed(table: nn.Embedding, tokens: Tensor) -> Tensor:
    """Rows of a table; token −1 adds nothing."""
    rows: Tensor = table(tokens.clamp(min=0))
    return rows * (tokens >= 0)[..., None]


class Delayed(NamedTuple):
    """`inputs` and `targets [B, 1 + n_q, T]` of every step; −1: no target."""

    inputs: Tensor
    targets: Tensor


def delayed(codes: Tensor, sizes: MoshiSizes) -> Delayed:
    """`codes [B, 1 + n_q, T]` by frames → by steps."""
    batch, _, frames = codes.shape
    inputs, targets = [], []
    for index, delay in enumerate(sizes.delays):
        initial = sizes.text_card if index == 0 else sizes.card
        start = codes.new_full((batch, 1 + delay), initial)
        inputs.append(torch.cat([start, codes[:, index, : frames - delay]], 1))
        nothing = codes.new_full((batch, delay), -1)
        targets.append(torch.cat([nothing, codes[:, index, : frames - delay]], 1))
    return Delayed(torch.stack(inputs, 1)[:, :, :-1], torch.stack(targets, 1))


class MoshiNetwork(nn.Module):
    """The language model."""

    def __init__(self, sizes: MoshiSizes) -> None:
        super().__init__()
        self.sizes = sizes
        dim, depth = sizes.transformer.dim, sizes.depth.dim
        self.text_emb = nn.Embedding(sizes.text_card + 1, dim)
        self.emb = nn.ModuleList([nn.Embedding(sizes.card + 1, dim) for _ in range(sizes.n_q)])
        self.layers = nn.ModuleList(
            [TemporalLayer(sizes.transformer) for _ in range(sizes.transformer.layers)]
        )
        self.out_norm = RmsNorm(dim)
        self.text_linear = nn.Linear(dim, sizes.text_card, bias=False)
        self.depformer_in = nn.Parameter(torch.empty(sizes.dep_q, depth, dim))
        self.depformer_text_emb = nn.Embedding(sizes.text_card + 1, depth)
        self.depformer_emb = nn.ModuleList(
            [nn.Embedding(sizes.card + 1, depth) for _ in range(sizes.dep_q - 1)]
        )
        self.depth_layers = nn.ModuleList(
            [DepthLayer(sizes.depth, sizes.dep_q) for _ in range(sizes.depth.layers)]
        )
        self.linears = nn.Parameter(torch.empty(sizes.dep_q, sizes.card, depth))
        self._init_weights()

    def _init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                fan_in_normal(module.weight.data, module.in_features)
            elif isinstance(module, nn.Embedding):
                fan_in_normal(module.weight.data, module.embedding_dim)
        fan_in_normal(self.depformer_in.data, self.sizes.transformer.dim)
        fan_in_normal(self.linears.data, self.sizes.depth.dim)

    def context(self, inputs: Tensor, drop: float = 0.0) -> Tensor:
        """`inputs [B, 1 + n_q, T]`, delayed → `[B, T, D]`."""
        x = embed(self.text_emb, inputs[:, 0])
        for codebook, table in enumerate(self.emb):
            x = x + embed(table, inputs[:, 1 + codebook])
        sizes = self.sizes.transformer
        steps = x.shape[1]
        rope = rope_table(steps, sizes.dim // sizes.heads, sizes.max_period, x.device)
        mask = attention_mask(steps, sizes.context, 1, x.device)
        for layer in self.layers:
            x = layer(x, rope, mask, drop)
        return self.out_norm(x)

    def audio_logits(self, context: Tensor, codes: Tensor) -> Tensor:
        """`context [N, D]` and `codes [N, dep_q]`, text and all codes but the last → `[N, dep_q, card]`."""
        embeddings = [embed(self.depformer_text_emb, codes[:, 0])]
        embeddings += [embed(table, codes[:, 1 + k]) for k, table in enumerate(self.depformer_emb)]
        each = context.expand(self.sizes.dep_q, -1, -1)
        x = torch.bmm(each, self.depformer_in.transpose(1, 2)) + torch.stack(embeddings)
        for layer in self.depth_layers:
            x = layer(x)
        return torch.bmm(x, self.linears.transpose(1, 2)).transpose(0, 1)

    def published(self) -> dict[str, Tensor]:
        """Every weight by the name and in the shape that Kyutai publishes."""
        tensors = {
            "text_emb.weight": self.text_emb.weight,
            "text_linear.weight": self.text_linear.weight,
            "out_norm.alpha": self.out_norm.alpha,
            "depformer_text_emb.weight": self.depformer_text_emb.weight,
        }
        tensors |= {f"emb.{k}.weight": table.weight for k, table in enumerate(self.emb)}
        tensors |= {f"transformer.layers.{name}": tensor for name, tensor in self.layers.state_dict().items()}
        tensors |= {f"depformer_emb.{k}.weight": table.weight for k, table in enumerate(self.depformer_emb)}
        for k in range(self.sizes.dep_q):
            tensors[f"depformer_in.{k}.weight"] = self.depformer_in[k]
            tensors[f"linears.{k}.weight"] = self.linears[k]
        for index, layer in enumerate(self.depth_layers):
            tensors |= layer.published(f"depformer.layers.{index}")
        return tensors

    @torch.no_grad()
    def load_published(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over weights by their published names; all of them, in their shapes."""
        own = self.published()
        if own.keys() != tensors.keys():
            raise KeyError(sorted(own.keys() ^ tensors.keys()))
        for name, tensor in own.items():
            if tensor.shape != tensors[name].shape:
                raise ValueError(f"{name} is {tuple(tensors[name].shape)}, not {tuple(tensor.shape)}")
            tensor.copy_(tensors[name])
