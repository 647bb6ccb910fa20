"""The cost of one frame, computed from an architecture: a lower bound for any implementation.

Counts the weights that have to be read at least once, and the operations of the matrix products.
Activations, attention over the KV cache and everything else come on top.
"""

import math
import re
from dataclasses import dataclass
from typing import Final

from pipeline.models import random_init
from pipeline.models.checkpoint.lm_config import LmConfig
from pipeline.models.checkpoint.mimi_config import MimiConfig
from pipeline.models.layers.transformer import TransformerConfig
from pipeline.units import FRAME_SAMPLES

_EMBEDDING: Final = re.compile(r"(text_emb|emb\.\d+|depformer_text_emb|depformer_emb\.\d+)\.weight")


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of one frame.

    weights: number of weights read. flop: operations for one lane. layers: layers that run in sequence.
    """

    weights: int
    flop: int
    layers: int = 0


def step_cost(lm: LmConfig) -> Cost:
    """One step of a language model. Of an embedding table only one row is read, which is not counted."""
    weights = flop = 0
    uses = lm.dep_q / (max(lm.weight_sets) + 1)
    for name, shape in random_init.lm_tensors(lm):
        if _EMBEDDING.fullmatch(name) is None:
            count = math.prod(shape)
            weights += count
            flop += round(2 * count * (uses if name.startswith("depformer.") else 1))
    return Cost(weights, flop, lm.num_layers + lm.dep_q * lm.depformer.num_layers)


def parameter_count(lm: LmConfig) -> int:
    """The number of parameters of a language model, embeddings included."""
    return sum(math.prod(shape) for _, shape in random_init.lm_tensors(lm))


def encode_cost(mimi: MimiConfig, codebooks: int) -> Cost:
    """Encoding one frame of audio into `codebooks` codes."""
    width, quantizer = mimi.seanet.dimension, mimi.quantizer
    layers = _seanet_layers(mimi, mimi.seanet.kernel_size, mimi.seanet.last_kernel_size)
    layers.append((_transformer_weights(mimi.transformer), mimi.frame_positions))
    layers.append((2 * mimi.frame_positions * width * width, 1))  # downsampling
    layers.append((2 * width * quantizer.dimension, 1))  # projection into the codebook space
    layers.append((codebooks * quantizer.bins * quantizer.dimension, 1))  # distance to each centroid
    return _sum(layers, mimi.transformer.num_layers)


def decode_cost(mimi: MimiConfig) -> Cost:
    """Decoding one frame of codes into audio."""
    width, quantizer = mimi.seanet.dimension, mimi.quantizer
    layers = _seanet_layers(mimi, mimi.seanet.last_kernel_size, mimi.seanet.kernel_size)
    layers.append((_transformer_weights(mimi.transformer), mimi.frame_positions))
    layers.append((2 * mimi.frame_positions * width, 1))  # upsampling, depthwise
    layers.append((2 * width * quantizer.dimension, 1))
    return _sum(layers, mimi.transformer.num_layers)


def _seanet_layers(mimi: MimiConfig, outer_kernel: int, inner_kernel: int) -> list[tuple[int, int]]:
    """The weights of each convolution, and at how many positions of a frame they are used.

    Encoder and decoder mirror each other except for the kernel sizes at both ends.
    """
    seanet = mimi.seanet
    channels, positions = seanet.n_filters, FRAME_SAMPLES
    layers = [(channels * outer_kernel, positions)]
    for ratio in reversed(seanet.ratios):
        hidden = channels // seanet.compress
        residual = channels * hidden * seanet.residual_kernel_size + hidden * channels
        layers += [(residual, positions)] * seanet.n_residual_layers
        positions //= ratio
        layers.append((2 * channels * channels * 2 * ratio, positions))
        channels *= 2
    layers.append((seanet.dimension * channels * inner_kernel, positions))
    return layers


def _transformer_weights(config: TransformerConfig) -> int:
    return config.num_layers * (4 * config.d_model**2 + 2 * config.d_model * config.dim_feedforward)


def _sum(layers: list[tuple[int, int]], transformer_layers: int) -> Cost:
    weights = sum(count for count, _ in layers)
    flop = sum(2 * count * positions for count, positions in layers)
    return Cost(weights, flop, transformer_layers + len(layers))
