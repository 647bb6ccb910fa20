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


def codec_weight_count(mimi: MimiConfig, codebooks: int) -> int:
    """The number of weights that encoding to and decoding from `codebooks` codes reads per frame."""
    matrices = (
        math.prod(shape)
        for name, shape in random_init.mimi_tensors(mimi)
        if len(shape) > 1 and not name.endswith("embedding_sum")
    )
    return sum(matrices) + codebooks * mimi.quantizer.bins * mimi.quantizer.dimension
