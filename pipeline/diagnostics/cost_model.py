"""What one frame asks of a machine, counted from the architecture: a bound that no implementation beats.

Numbers of weights that have to be read at least once, and multiplications and additions of
matrix products. Activations, attention over the past and everything else come on top.
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

_TABLE: Final = re.compile(r"(text_emb|emb\.\d+|depformer_text_emb|depformer_emb\.\d+)\.weight")


@dataclass(frozen=True, slots=True)
class Work:
    """numbers: of weights read. flop: operations for one lane. calls: layers, each waiting for the last."""

    numbers: int
    flop: int
    calls: int = 0


def step_work(lm: LmConfig) -> Work:
    """One step of a language model. Of an embedding only a row is read."""
    numbers = flop = 0
    uses = lm.dep_q / (max(lm.weight_sets) + 1)
    for name, shape in random_init.lm_tensors(lm):
        if _TABLE.fullmatch(name) is None:
            count = math.prod(shape)
            numbers += count
            flop += round(2 * count * (uses if name.startswith("depformer.") else 1))
    return Work(numbers, flop, lm.num_layers + lm.dep_q * lm.depformer.num_layers)


def weight_numbers(lm: LmConfig) -> int:
    """All numbers of a language model, embeddings too."""
    return sum(math.prod(shape) for _, shape in random_init.lm_tensors(lm))


def encode_work(mimi: MimiConfig, codebooks: int) -> Work:
    """One frame of sound to `codebooks` codes."""
    width, quantizer = mimi.seanet.dimension, mimi.quantizer
    layers = _seanet_layers(mimi, mimi.seanet.kernel_size, mimi.seanet.last_kernel_size)
    layers.append((_transformer_numbers(mimi.transformer), mimi.frame_positions))
    layers.append((2 * mimi.frame_positions * width * width, 1))  # halving
    layers.append((2 * width * quantizer.dimension, 1))  # into the space of the codebooks
    layers.append((codebooks * quantizer.bins * quantizer.dimension, 1))  # the distance to each centroid
    return _sum(layers, mimi.transformer.num_layers)


def decode_work(mimi: MimiConfig) -> Work:
    """One frame of codes to sound."""
    width, quantizer = mimi.seanet.dimension, mimi.quantizer
    layers = _seanet_layers(mimi, mimi.seanet.last_kernel_size, mimi.seanet.kernel_size)
    layers.append((_transformer_numbers(mimi.transformer), mimi.frame_positions))
    layers.append((2 * mimi.frame_positions * width, 1))  # doubling, channel by channel
    layers.append((2 * width * quantizer.dimension, 1))
    return _sum(layers, mimi.transformer.num_layers)


def _seanet_layers(mimi: MimiConfig, outer_kernel: int, inner_kernel: int) -> list[tuple[int, int]]:
    """Numbers of each convolution, and the positions of a frame at which they are used.

    Encoder and decoder mirror each other but for the kernels at their ends.
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


def _transformer_numbers(config: TransformerConfig) -> int:
    return config.num_layers * (4 * config.d_model**2 + 2 * config.d_model * config.dim_feedforward)


def _sum(layers: list[tuple[int, int]], calls: int) -> Work:
    numbers = sum(count for count, _ in layers)
    return Work(numbers, sum(2 * count * positions for count, positions in layers), calls + len(layers))
