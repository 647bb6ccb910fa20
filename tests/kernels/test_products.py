"""Products with weights as they are stored, in every instruction set, against float64."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from pipeline.kernels.library import Library

DENSE = [mx.float32, mx.bfloat16, mx.float16]
# Widths that are no multiple of a vector, of a block of outputs, or of what a packed vector covers.
# The last is no matrix of those that the second cache holds, whatever it is stored as.
SHAPES = [(1, 1), (7, 5), (16, 64), (33, 96), (40, 257), (130, 320), (1101, 320)]
ROWS = [1, 2, 3, 4, 5, 9, 32]


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def evaluated(array: mx.array) -> mx.array:
    mx.eval(array)
    return array


def packed(
    library: Library, shape: tuple[int, int], bits: int, group: int, dtype: Any
) -> tuple[Any, np.ndarray]:
    """A quantized matrix and its numbers."""
    out, width = shape
    words, scales, biases = mx.quantize(
        mx.array(numbers(out, width)).astype(dtype), group_size=group, bits=bits
    )
    mx.eval(words, scales, biases)
    matrix = library.native.Matrix(words, scales, biases, bits, group)
    exact = mx.dequantize(
        words, scales.astype(mx.float32), biases.astype(mx.float32), group_size=group, bits=bits
    )
    return matrix, np.array(exact, np.float64)


def agree(y: mx.array, x: np.ndarray, weight: np.ndarray) -> None:
    """Within 1e-5 of what the products of all terms add up to, which bounds any order of summation."""
    terms = np.abs(x.astype(np.float64)) @ np.abs(weight.T)
    difference = np.abs(np.array(y) - x.astype(np.float64) @ weight.T)
    assert (difference <= 1e-5 * terms + 1e-30).all(), (difference / terms).max()


@pytest.mark.parametrize("dtype", DENSE)
@pytest.mark.parametrize("shape", SHAPES)
def test_dense_weights(
    library: Library, instruction_set: str, shape: tuple[int, int], dtype: mx.Dtype
) -> None:
    """Any number of rows, any width."""
    weight = evaluated(mx.array(numbers(*shape)).astype(dtype))
    matrix = library.native.Matrix(weight)
    for rows in ROWS:
        x = numbers(rows, shape[1])
        agree(library.native.linear(mx.array(x), matrix), x, np.array(weight.astype(mx.float32), np.float64))


@pytest.mark.parametrize("dtype", DENSE)
@pytest.mark.parametrize("bits", [4, 6, 8])
@pytest.mark.parametrize("group", [32, 64, 128])
def test_packed_weights(
    library: Library, instruction_set: str, bits: int, group: int, dtype: mx.Dtype
) -> None:
    """Every packing of MLX, also where a row is no whole number of vectors."""
    for groups in (1, 2, 3, 8):
        matrix, exact = packed(library, (11, groups * group), bits, group, dtype)
        for rows in ROWS:
            x = numbers(rows, groups * group)
            agree(library.native.linear(mx.array(x), matrix), x, exact)


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_inputs_of_any_size(library: Library, instruction_set: str, bits: int) -> None:
    """Large and small inputs side by side: an error is one of the largest in its group, by 22 bits."""
    matrix, exact = packed(library, (11, 256), bits, 32, mx.bfloat16)
    x = numbers(4, 256)
    x[0] *= 10.0 ** np.arange(-4, 4).repeat(32)  # each group by another power
    x[1, ::32] *= 1e5  # one in each group
    x[2, 32:] = 0
    x[3] *= 1e-36
    y = np.array(library.native.linear(mx.array(x), matrix))
    largest = np.abs(x).reshape(4, 8, 32).max(axis=2).repeat(32, axis=1).astype(np.float64)
    # The products with scale and bias are summed apart, and both are larger than what they stand for.
    sizes = np.abs(exact).reshape(11, 8, 32).max(axis=2).repeat(32, axis=1)
    bound = 2.0**-22 * 4 * largest @ sizes.T + 1e-5 * np.abs(x).astype(np.float64) @ np.abs(exact.T) + 1e-33
    assert (np.abs(y - x.astype(np.float64) @ exact.T) <= bound).all()


@pytest.mark.parametrize("bits", [4, 6, 8])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_so(library: Library, instruction_set: str, bits: int, wrong: float) -> None:
    """In its row, whose outputs are no numbers that anybody would take for a result."""
    matrix, exact = packed(library, (11, 128), bits, 64, mx.bfloat16)
    x = numbers(3, 128)
    x[1, 70] = wrong
    y = np.array(library.native.linear(mx.array(x), matrix))
    assert not np.isfinite(y[1]).any()
    for row in (0, 2):
        agree(mx.array(y[row]), x[row], exact)


def test_a_bias_is_added(library: Library, instruction_set: str) -> None:
    weight, bias, x = numbers(5, 24), numbers(5), numbers(3, 24)
    matrix = library.native.Matrix(evaluated(mx.array(weight)))
    y = library.native.linear(mx.array(x), matrix, evaluated(mx.array(bias)))
    np.testing.assert_allclose(np.array(y), x @ weight.T + bias, atol=1e-5)


def test_a_row_does_not_depend_on_the_rows_beside_it(library: Library, instruction_set: str) -> None:
    """Bit for bit, whatever the width of the batch."""
    x = mx.array(numbers(9, 192))
    matrices = [packed(library, (40, 192), bits, 64, mx.bfloat16)[0] for bits in (4, 6, 8)]
    for out in (40, 1500):  # one that the second cache holds, and one that it does not
        matrices += [library.native.Matrix(evaluated(mx.array(numbers(out, 192)).astype(d))) for d in DENSE]
    for matrix in matrices:
        whole = np.array(library.native.linear(x, matrix))
        for row in range(9):
            np.testing.assert_array_equal(
                np.array(library.native.linear(x[row : row + 1], matrix))[0], whole[row]
            )


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_change_no_bit(library: Library, threads: int) -> None:
    """A product that is shared among threads is the same as alone."""
    x = mx.array(numbers(3, 512))
    matrix = library.native.Matrix(evaluated(mx.array(numbers(1500, 512))))
    alone = np.array(library.native.linear(x, matrix))
    try:
        library.native.set_threads(threads)
        for _ in range(50):
            np.testing.assert_array_equal(np.array(library.native.linear(x, matrix)), alone)
    finally:
        library.native.set_threads(1)


def test_rows_of_any_strides(library: Library) -> None:
    """Transposed and sliced inputs are what they stand for."""
    weight, x = numbers(6, 12), numbers(12, 8)
    matrix = library.native.Matrix(evaluated(mx.array(weight)))
    np.testing.assert_allclose(
        np.array(library.native.linear(mx.array(x).T, matrix)), x.T @ weight.T, atol=1e-5
    )
    part = mx.array(numbers(4, 24))[1:3, 6:18]
    np.testing.assert_allclose(
        np.array(library.native.linear(part, matrix)), np.array(part) @ weight.T, atol=1e-5
    )


def test_embeddings_are_summed_and_nothing_is_zero(library: Library, instruction_set: str) -> None:
    """One row of each table, dense or packed; −1 adds nothing."""
    quantized, exact = packed(library, (12, 64), 4, 32, mx.float16)
    plain = numbers(9, 64)
    tables = [library.native.Matrix(evaluated(mx.array(plain))), quantized]
    tokens = np.array([[[8, 0], [11, -1]], [[-1, 3], [-1, 5]]], np.int32)  # [w, tables, T]
    expected = np.stack(
        [[plain[8] + exact[11], plain[0]], [np.zeros(64), plain[3] + exact[5]]],
    )
    np.testing.assert_allclose(np.array(library.native.embed(tables, mx.array(tokens))), expected, atol=1e-6)


def test_wrong_arguments_raise(library: Library) -> None:
    """No shape, dtype or state of an array reaches the loops unless they can compute with it."""
    native = library.native
    good = evaluated(mx.zeros((4, 64)))
    words, scales, biases = mx.quantize(evaluated(mx.ones((4, 64))), group_size=32, bits=4)
    mx.eval(words, scales, biases)
    matrix = native.Matrix(good)
    for call in (
        lambda: native.Matrix(evaluated(mx.zeros((4,)))),
        lambda: native.Matrix(evaluated(mx.zeros((0, 4)))),
        lambda: native.Matrix(evaluated(mx.zeros((4, 4), mx.int32))),
        lambda: native.Matrix(mx.zeros((4, 4)) + 1),  # not evaluated
        lambda: native.Matrix(evaluated(good.T)),
        lambda: native.Matrix(words, scales, biases, 5, 32),
        lambda: native.Matrix(words, scales, biases, 8, 32),
        lambda: native.Matrix(words, scales, biases, 4, 64),
        lambda: native.Matrix(words, evaluated(scales[:3]), biases, 4, 32),
        lambda: native.Matrix(words, evaluated(scales.astype(mx.float16)), biases, 4, 32),
        lambda: native.linear(mx.zeros((1, 63)), matrix),
        lambda: native.linear(mx.zeros((64,)), matrix),
        lambda: native.linear(mx.zeros((1, 64), mx.bfloat16), matrix),
        lambda: native.linear(mx.zeros((1, 64)), matrix, evaluated(mx.zeros((5,)))),
        lambda: native.embed([matrix], mx.zeros((1, 2, 1), mx.int32)),
        lambda: native.embed([matrix], mx.zeros((1, 1, 1))),
    ):
        with pytest.raises(ValueError, match=r"\w"):
            call()
    assert native.choose("mmx") is False
    # A token beyond the table is that of its last row, as it cannot be refused before it is computed.
    np.testing.assert_array_equal(
        np.array(native.embed([matrix], mx.array([[[99]]], mx.int32))), np.zeros((1, 1, 64))
    )
