"""The cost of a frame counts every weight and operation of an architecture once."""

import json
from pathlib import Path

import numpy as np
from benchmarks.peers.codec_cost import decode_cost, encode_cost
from support.checkpoints import LM, MIMI

from pipeline.diagnostics.cost_model import codec_weight_count, parameter_count, step_cost
from pipeline.diagnostics.estimates import PUBLISHED
from pipeline.models import random_init
from pipeline.models.checkpoint.lm_config import parse_lm_config
from pipeline.models.checkpoint.mimi_config import parse_mimi_config

ROOT = Path(__file__).parents[2]


def test_every_weight_of_the_codec_is_counted_once() -> None:
    """Encoder and decoder together read every matrix, every kernel and the codebooks in use."""
    for config in (parse_mimi_config({}), parse_mimi_config(MIMI)):
        codebooks = config.quantizer.n_q // 2
        matrices = [
            int(np.prod(shape))
            for name, shape in random_init.mimi_tensors(config)
            if len(shape) > 1 and not name.endswith("embedding_sum")
        ]
        centroids = codebooks * config.quantizer.bins * config.quantizer.dimension
        read = encode_cost(config, codebooks).weights + decode_cost(config).weights
        assert read == codec_weight_count(config, codebooks) == sum(matrices) + centroids


def test_a_step_reads_all_weights_except_the_embeddings() -> None:
    config = parse_lm_config(LM)
    audio, text = config.card + 1, config.text_card + 1
    embeddings = config.dim * (config.n_q * audio + text)
    embeddings += config.depformer_dim * ((config.dep_q - 1) * audio + text)
    assert step_cost(config).weights == parameter_count(config) - embeddings
    assert step_cost(config).flop == 2 * step_cost(config).weights  # each weight set is used once
    full = parse_mimi_config({})
    assert 0.4e9 < encode_cost(full, 8).flop < 0.5e9
    assert 0.4e9 < decode_cost(full).flop < 0.5e9


def test_weights_shared_by_codebooks_are_read_once_and_used_several_times() -> None:
    shared = PUBLISHED["Hibiki 2B"]
    work = step_cost(shared)
    assert work.flop > 2 * work.weights


def test_moshi_7b_is_the_published_architecture() -> None:
    raw = json.loads((ROOT / "configs/moshi_7b_202409.json").read_text())
    assert step_cost(parse_lm_config(raw)) == step_cost(PUBLISHED["Moshi 7B"])
