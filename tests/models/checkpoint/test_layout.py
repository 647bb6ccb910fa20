"""Fused weights give what each layer gives by itself."""

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn

from pipeline.models.layers.embedding import Embedding, FusedEmbedding
from pipeline.models.layers.fused_linear import FusedLinear
from pipeline.models.layers.quantized import Quantization, Quantized, keep


def quantized(table: Embedding) -> Embedding:
    how = Quantization(8, 32)
    keep(table, Quantized(*mx.quantize(table.weight, how.group, how.bits), how))
    return table


def tables(kind: str) -> list[Embedding]:
    mx.random.seed(3)
    made = [Embedding(tokens, 64, normed=kind == "normed") for tokens in (7, 9, 5)]
    return [quantized(table) for table in made] if kind == "quantized" else made


@pytest.mark.parametrize("kind", ["plain", "normed", "quantized"])
def test_a_fused_embedding_is_the_sum_of_all_tables(kind: str) -> None:
    """Each token's vector is that of its own table; token −1 adds exactly zero."""
    each = tables(kind)
    tokens = np.array([[[0, 6], [8, -1], [4, 2]], [[-1, 3], [-1, 0], [-1, 1]]], np.int32)  # [w, tables, T]
    expected = sum(np.array(table(mx.array(tokens[:, i]))) for i, table in enumerate(each))
    fused = FusedEmbedding(each)
    fused.materialize()
    np.testing.assert_allclose(np.array(fused(tokens)), expected, rtol=0, atol=1e-6)
    for i, table in enumerate(each):  # each table is unchanged
        alone = np.array(table(mx.array(tokens[:1, i])))
        assert np.isfinite(alone).all()
    np.testing.assert_allclose(
        sum(np.array(table(mx.array(tokens[:, i]))) for i, table in enumerate(each)), expected, atol=1e-6
    )


@pytest.mark.parametrize("layers", [1, 4])
@pytest.mark.parametrize("biased", [False, True])
def test_a_fused_linear_gives_the_output_of_each_layer(layers: int, biased: bool) -> None:
    """In order, for any number of layers, also where one has a bias and each is computed separately."""
    mx.random.seed(4)
    each = [nn.Linear(16, 8, bias=False) for _ in range(layers)]
    if biased:
        each[0] = nn.Linear(16, 8)
    x = mx.random.normal((3, 1, 16))
    expected = [np.array(layer(x)) for layer in each]
    fused = FusedLinear(each)
    fused.materialize()
    for made, alone in zip(fused(x), expected, strict=True):
        np.testing.assert_allclose(np.array(made), alone, rtol=0, atol=1e-5)
    for layer, alone in zip(each, expected, strict=True):
        np.testing.assert_allclose(np.array(layer(x)), alone, rtol=0, atol=1e-5)
