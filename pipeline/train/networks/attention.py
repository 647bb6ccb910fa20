"""Causal transformers over whole sequences. Arithmetic: `pipeline.models.layers.transformer`."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.train.networks.architecture import TransformerSizes


def rope_table(steps: int, head_dim: int, max_period: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rotary tables `cos, sin [T, 1, Dh / 2]`; a pair is two neighbours."""
    frequencies = max_period ** (-torch.arange(head_dim // 2, dtype=torch.float64) * 2 / head_dim)
    angles = torch.arange(steps, dtype=torch.float64)[:, None, None] * frequencies
    return angles.cos().float().to(device), angles.sin().float().to(device)


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`x [B, T, H, Dh]` rotated; the dtype stays."""
    real, imaginary = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    rotated = torch.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], dim=-1)
    return rotated.flatten(-2).to(x.dtype)


def attention_mask(steps: int, context: int, chunk: int, device: torch.device) -> Tensor:
    """`[T, T]` bool: the keys of each query, where `chunk` positions enter a ring cache of `context` at once.

    All positions of a chunk are written before any attends, so the first have lost their oldest keys.
    """
    position = torch.arange(steps, device=device)
    last = position // chunk * chunk + chunk - 1
    return (position <= position[:, None]) & (position > last[:, None] - context)


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """`[B, H, T, Dh]` each, `mask [T, T]` → `[B, H, T, Dh]`.

    On a CPU as two products: with their gradients, they take half as long as the fused attention.
    """
    if queries.device.type != "cpu":
        return functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    hidden = torch.zeros(mask.shape, dtype=queries.dtype).masked_fill(~mask, -torch.inf)
    batch, scale = queries.shape[:2], queries.shape[-1] ** -0.5
    scores = torch.baddbmm(hidden, scale * queries.flatten(0, 1), keys.flatten(0, 1).transpose(1, 2))
    return torch.bmm(scores.softmax(-1).to(values.dtype), values.flatten(0, 1)).unflatten(0, batch)


class SelfAttention(nn.Module):
    """The four products of one layer, heads packed as all queries, all keys, all values."""

    def __init__(self, sizes: TransformerSizes) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.in_projs = nn.ModuleList([nn.Linear(sizes.dim, 3 * sizes.dim, bias=False)])
        self.out_projs = nn.ModuleList([nn.Linear(sizes.dim, sizes.dim, bias=False)])

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        """`x [B, T, D]`, `rope` from `rope_table`, `mask [T, T]` → `[B, T, D]`."""
        queries, keys, values = self.in_projs[0](x).unflatten(-1, (3, self.heads, -1)).unbind(2)
        queries, keys = apply_rope(queries, *rope), apply_rope(keys, *rope)
        attended = attend(queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2), mask)
        return self.out_projs[0](attended.transpose(1, 2).flatten(-2))


class LayerScale(nn.Module):
    """A learnt factor per channel."""

    def __init__(self, dim: int, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((dim,), scale))

    def forward(self, x: Tensor) -> Tensor:
        """`[..., D]` → `[..., D]`."""
        return self.scale * x


class CodecLayer(nn.Module):
    """Layer norms, a plain feed-forward with GELU, layer scales: a layer of Mimi."""

    def __init__(self, sizes: TransformerSizes, layer_scale: float) -> None:
        super().__init__()
        self.self_attn = SelfAttention(sizes)
        self.norm1 = nn.LayerNorm(sizes.dim, eps=1e-5)
        self.norm2 = nn.LayerNorm(sizes.dim, eps=1e-5)
        self.linear1 = nn.Linear(sizes.dim, sizes.feedforward, bias=False)
        self.linear2 = nn.Linear(sizes.feedforward, sizes.dim, bias=False)
        self.layer_scale_1 = LayerScale(sizes.dim, layer_scale)
        self.layer_scale_2 = LayerScale(sizes.dim, layer_scale)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        """`[B, T, D]` → `[B, T, D]`."""
        x = x + self.layer_scale_1(self.self_attn(self.norm1(x), rope, mask))
        return x + self.layer_scale_2(self.linear2(functional.gelu(self.linear1(self.norm2(x)))))


class CodecTransformer(nn.Module):
    """Mimi's transformer, over channels-first features; `chunk` positions make a frame."""

    def __init__(self, sizes: TransformerSizes, layer_scale: float, chunk: int) -> None:
        super().__init__()
        self.sizes = sizes
        self.chunk = chunk
        layers = [CodecLayer(sizes, layer_scale) for _ in range(sizes.layers)]
        self.transformer = nn.ModuleDict({"layers": nn.ModuleList(layers)})

    def forward(self, x: Tensor) -> Tensor:
        """`[B, D, T]` → `[B, D, T]`."""
        x = x.transpose(1, 2)
        steps = x.shape[1]
        rope = rope_table(steps, self.sizes.dim // self.sizes.heads, self.sizes.max_period, x.device)
        mask = attention_mask(steps, self.sizes.context, self.chunk, x.device)
        for layer in self.transformer["layers"]:
            x = layer(x, rope, mask)
        return x.transpose(1, 2)


class RmsNorm(nn.Module):
    """Unit root mean square in float32, then a weight per channel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, 1, dim))

    def forward(self, x: Tensor) -> Tensor:
        """`[B, T, D]` → `[B, T, D]`."""
        full = x.float()
        return (full * torch.rsqrt(full.square().mean(-1, keepdim=True) + 1e-8) * self.alpha).to(x.dtype)


def gated_width(dim: int, feedforward: int) -> int:
    """Hidden width of a gated block (Kyutai's rounding)."""
    return 21 * dim // 8 if feedforward == 4 * dim else 2 * feedforward // 3


def fan_in_normal(tensor: Tensor, fan_in: int, scale: float = 1.0) -> None:
    """Fill with a truncated normal of deviation `scale / √fan_in`."""
    deviation = scale / math.sqrt(fan_in)
    nn.init.trunc_normal_(tensor, std=deviation, a=-3 * deviation, b=3 * deviation)
