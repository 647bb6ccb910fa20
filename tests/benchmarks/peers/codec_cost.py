"""The cost of one frame of the codec, computed from its architecture: a lower bound for any implementation.

Counts the weights that have to be read at least once, and the operations of the matrix products, as
`pipeline.diagnostics.cost_model` does for a step of the language model.
"""

from pipeline.diagnostics.cost_model import Cost
from pipeline.models.checkpoint.mimi_config import MimiConfig
from pipeline.models.layers.transformer import TransformerConfig
from pipeline.units import FRAME_SAMPLES


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
