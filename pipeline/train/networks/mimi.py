"""Mimi to be trained: sound → features → codes → features → sound, whole recordings at a time."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pipeline.train.networks.architecture import MimiSizes
from pipeline.train.networks.attention import CodecTransformer
from pipeline.train.networks.convolution import (
    ConvDownsample1d,
    ConvTrUpsample1d,
    Decoder,
    Encoder,
    init_weights,
)
from pipeline.train.networks.quantizer import ResidualQuantizer


class Coded(NamedTuple):
    """`sound [B, 1, S]`; `codes [B, K, T]`; `first [B, T, D]`, what the first codebook alone decodes to."""

    sound: Tensor
    codes: Tensor
    first: Tensor
    commitment: Tensor


class CodedFeatures(NamedTuple):
    """`features [B, T, D]` before they are quantized; what the `first` codebook and `all` decode to."""

    features: Tensor
    codes: Tensor
    first: Tensor
    all: Tensor
    commitment: Tensor


class MimiNetwork(nn.Module):
    """The codec. All lengths are whole frames."""

    def __init__(self, sizes: MimiSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.encoder = Encoder(sizes)
        self.encoder_transformer = CodecTransformer(sizes.transformer, sizes.layer_scale, sizes.positions)
        self.downsample = ConvDownsample1d(sizes.dim, sizes.positions)
        self.quantizer = nn.ModuleDict(
            {
                "rvq_first": ResidualQuantizer(1, sizes),
                "rvq_rest": ResidualQuantizer(sizes.codebooks - 1, sizes),
            }
        )
        self.upsample = ConvTrUpsample1d(sizes.dim, sizes.positions)
        self.decoder_transformer = CodecTransformer(sizes.transformer, sizes.layer_scale, sizes.positions)
        self.decoder = Decoder(sizes)
        init_weights(self)

    def features(self, sound: Tensor) -> Tensor:
        """`[B, 1, S]` → `[B, T, D]`, one vector a frame."""
        x = self.encoder_transformer(self.encoder(sound))
        return self.downsample(x).transpose(1, 2)

    def sound(self, features: Tensor) -> Tensor:
        """`[B, T, D]` → `[B, 1, S]`."""
        x = self.upsample(features.transpose(1, 2))
        return self.decoder(self.decoder_transformer(x))

    def forward(self, sound: Tensor, levels: Tensor, *, quantize: bool = True, learn: bool = True) -> Coded:
        """`sound [B, 1, S]`, of which the first `levels [B]` codebooks are decoded."""
        features = self.features(sound)  # [B, T, D]
        batch, steps, dim = features.shape
        flat = features.reshape(-1, dim).float()
        first, rest = self.quantizer["rvq_first"], self.quantizer["rvq_rest"]
        if not quantize:
            semantic = first.unquantized(flat)
            decoded = semantic + rest.unquantized(flat)
            codes = torch.zeros(batch, 0, steps, dtype=torch.long, device=sound.device)
            shaped = decoded.view(batch, steps, dim)
            return Coded(self.sound(shaped), codes, semantic.view(batch, steps, dim), flat.new_zeros(()))
        each = levels.repeat_interleave(steps)
        with torch.autocast(sound.device.type, enabled=False):
            one = first(flat, each, learn=learn)
            others = rest(flat, each - 1, learn=learn)
        decoded = (one.features + others.features).view(batch, steps, dim)
        codes = torch.cat([one.codes, others.codes], 1).view(batch, steps, -1).transpose(1, 2)
        return Coded(
            self.sound(decoded),
            codes,
            one.features.view(batch, steps, dim),
            one.commitment + others.commitment,
        )

    def coded_features(self, sound: Tensor, *, learn: bool) -> CodedFeatures:
        """`sound [B, 1, S]` as far as its codes, with gradients to the encoder."""
        features = self.features(sound)
        batch, steps, dim = features.shape
        flat = features.reshape(-1, dim).float()
        every = torch.full((len(flat),), self.sizes.codebooks, device=flat.device)
        with torch.autocast(sound.device.type, enabled=False):
            one = self.quantizer["rvq_first"](flat, every, learn=learn)
            others = self.quantizer["rvq_rest"](flat, every - 1, learn=learn)
        return CodedFeatures(
            features,
            torch.cat([one.codes, others.codes], 1).view(batch, steps, -1).transpose(1, 2),
            one.features.view(batch, steps, dim),
            (one.features + others.features).view(batch, steps, dim),
            one.commitment + others.commitment,
        )

    @torch.no_grad()
    def encode(self, sound: Tensor) -> Tensor:
        """`[B, 1, S]` → `[B, K, T]`."""
        return self.coded_features(sound, learn=False).codes

    def decode(self, codes: Tensor) -> Tensor:
        """`[B, k ≤ K, T]` → `[B, 1, S]`."""
        batch, levels, steps = codes.shape
        flat = codes.transpose(1, 2).reshape(-1, levels)
        features = self.quantizer["rvq_first"].decode(flat[:, :1]) + self.quantizer["rvq_rest"].decode(
            flat[:, 1:]
        )
        return self.sound(features.view(batch, steps, -1))

    def published(self) -> dict[str, Tensor]:
        """Every weight by the name and in the shape that Kyutai publishes."""
        return dict(self.state_dict())

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
