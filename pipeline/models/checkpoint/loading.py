"""Loads the tensors of a safetensors file into a model's parameters: all of them, or none.

Everything is decided from the header (`safetensors_header`) before a weight is read: which tensor
becomes which parameter (by `Rule`s, which are data), that every parameter is filled exactly once,
and that no tensor is left over. All mismatches are in one error. Weights are then read one
tensor at a time, so that loading takes little more memory than the result. The rules of each
layout: `lm_key_map`, `mimi_key_map`; quantized tensors: `layers.quantized`.
Format: https://huggingface.co/docs/safetensors/index#format
"""

import functools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, Protocol, TypeVar

import mlx.core as mx
import numpy as np

from pipeline import backend
from pipeline.errors import TensorMismatchError, WeightsError
from pipeline.models.checkpoint.files import shard_paths
from pipeline.models.checkpoint.safetensors_header import Shape, TensorHeader, read_header
from pipeline.models.layers.conditioning import PREFIX as CONDITIONS
from pipeline.models.layers.quantized import Quantization, Quantized, quantization_of
from pipeline.system.inputs import named_in_utf8

Weight = mx.array | Quantized


class TensorReader(Protocol):
    """How the tensors of a checkpoint come into memory."""

    def open(self, path: Path) -> dict[str, mx.array]:
        """All of them by name. Each is read when it is evaluated, and released when it is removed."""
        ...

    def contiguous(self, tensor: mx.array) -> mx.array:
        """The same numbers row by row."""
        ...


def changed_meanwhile(path: Path | str) -> WeightsError:
    """The error for a file whose header was read, and whose tensors cannot be."""
    return WeightsError(str(path), "it was removed or changed while it was read")


class Copies:
    """Reads every tensor into memory of its own."""

    def open(self, path: Path) -> dict[str, mx.array]:
        """All tensors of a checkpoint, as MLX loads them.

        Raises:
            WeightsError: the file is not what its header was any more.
        """
        tensors: dict[str, mx.array] = {}
        for shard in shard_paths(path):
            with _as_weights_error(shard), named_in_utf8(shard) as name:
                shard_tensors = mx.load(name, format="safetensors")
            assert isinstance(shard_tensors, dict)
            tensors |= shard_tensors
        return tensors

    def contiguous(self, tensor: mx.array) -> mx.array:
        """A copy of what is part of a larger tensor, so that the rest of that can be released."""
        return mx.contiguous(tensor)


@contextmanager
def _as_weights_error(path: Path | str) -> Iterator[None]:
    """MLX has one exception for everything, which begins with the function that raised it."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith(("[load", "[read]")):
            raise
        raise changed_meanwhile(path) from error


COPIES: Final = Copies()

_FLOATING = frozenset({"F16", "BF16", "F32"})  # no checkpoint has been published with 64-bit weights
_WEIGHT, _SCALES, _BIASES = ".weight", ".scales", ".biases"
KERNEL_BITS: Final = frozenset({4, 6, 8})  # of quantized numbers that native kernels compute with
_MOST_GROUPS: Final = 960  # in a row of theirs
# All bits of the exponent are set in infinite numbers and in NaN.
_EXPONENTS: Final = {mx.bfloat16: np.uint16(0x7F80), mx.float16: np.uint16(0x7C00)}
_FINITE_PART: Final = 2**18  # numbers that stay in the cache


@dataclass(frozen=True, slots=True)
class Rule:
    r"""How tensors whose whole name matches `pattern` become parameters.

    target: the parameter's name, with the pattern's groups as `\1`; None skips the tensor. `{part}`
        stands for the number of each part.
    parts: the tensor holds that many parameters, one after another along axis 0.
    kept: only this many of the first parts are parameters; the others are skipped.
    leading_ones: leading axes of size 1 in the file that the parameter does not have.
    axes: the file's axes in the parameter's order, as for a transpose.
    copies: several tensors may become the same parameter; the first one does, and the others are
        checked to be equal to it.
    """

    pattern: str
    target: str | None
    parts: int = 1
    kept: int | None = None
    leading_ones: int = 0
    axes: tuple[int, ...] | None = None
    copies: bool = False

    def targets(self, source: str) -> list[str] | None:
        """Names of the parameters that `source` becomes; None if the pattern does not match."""
        match = _compiled(self.pattern).fullmatch(source)
        if match is None:
            return None
        if self.target is None:
            return []
        name = match.expand(self.target)
        return [name.replace("{part}", str(part)) for part in range(self.kept or self.parts)]

    def source_shape(self, target: Shape) -> Shape:
        """The shape a tensor must have to become parameters of shape `target`."""
        shape = list(target)
        if self.axes is not None:
            for ours, theirs in enumerate(self.axes):
                shape[theirs] = target[ours]
        shape[0] *= self.parts
        return (1,) * self.leading_ones + tuple(shape)

    def convert(self, tensor: mx.array) -> list[mx.array]:
        """The parameters in `tensor`, in the order of `targets`."""
        tensor = tensor.reshape(tensor.shape[self.leading_ones :])
        parts = tensor.reshape(self.parts, -1, *tensor.shape[1:]) if self.parts > 1 else tensor[None]
        return [part if self.axes is None else part.transpose(self.axes) for part in parts[: self.kept]]


@dataclass(frozen=True, slots=True)
class Assignment:
    """One tensor, the rule that applies to it (None: unchanged), and the parameters it becomes.

    A quantized tensor's `source` is the name of its words; its scales and biases belong to it.
    """

    source: str
    rule: Rule | None
    targets: tuple[str, ...]
    copy: bool = False
    quantization: Quantization | None = None


Layout = TypeVar("Layout", bound=str)


def find_layout(names: Iterable[str], patterns: Mapping[Layout, str], default: Layout) -> Layout:
    """The first layout in `patterns` whose pattern matches one of the tensors `names`, or `default`."""
    known = list(names)
    for layout, pattern in patterns.items():
        compiled = _compiled(pattern)
        if any(compiled.fullmatch(name) for name in known):
            return layout
    return default


@functools.cache  # the cache inside `re` is too small for a layout with a rule per tensor
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def match(
    path: Path, header: Mapping[str, TensorHeader], parameters: Mapping[str, Shape], rules: Sequence[Rule]
) -> list[Assignment]:
    """Assign every tensor of `header` to `parameters`, without remainder on either side.

    The first rule whose pattern matches applies; a tensor without a rule keeps its name. Rules
    treat a quantized tensor as the dense one that it represents.

    Raises:
        TensorMismatchError: names all tensors that are missing, left over or mis-shaped.
        WeightsError: tensors that hold no floating-point numbers, or rules that match nothing.
    """
    assignments: list[Assignment] = []
    extra: list[str] = []
    misfits = _Misfits([], [])
    filled: dict[str, str] = {}
    used: set[Rule] = set()
    quantized = _quantized(header)
    companions = {name for names in quantized.values() for name in names}
    for source in header:
        if source in companions:
            continue
        rule, targets = _rule_for(source, rules)
        if rule is not None:
            used.add(rule)
        if not targets:
            continue
        known = [name for name in targets if name in parameters]
        repeated = any(name in filled for name in targets)
        if len(known) < len(targets) or (repeated and not (rule is not None and rule.copies)):
            extra += [name for name in (source, *quantized.get(source, ())) if name in header]
            continue
        shape = parameters[known[0]]
        expected = rule.source_shape(shape) if rule is not None else shape
        how = _compare(header, source, quantized.get(source, ()), expected, misfits)
        filled |= dict.fromkeys(known, source)
        assignments.append(Assignment(source, rule, tuple(known), repeated, how))
    missing = [*misfits.missing, *(name for name in parameters if name not in filled)]
    if missing or extra or misfits.misshaped:
        raise TensorMismatchError(str(path), missing=missing, extra=extra, misshaped=misfits.misshaped)
    unused = [rule.pattern.replace("\\", "") for rule in rules if rule not in used]
    if unused:
        raise WeightsError(str(path), "no tensor is named like " + ", ".join(unused))
    numbers = [name for a in assignments for name in quantized.get(a.source, (a.source,))]
    odd = [f"{name} ({header[name].dtype})" for name in numbers if header[name].dtype not in _FLOATING]
    if odd:
        raise WeightsError(str(path), "not F32, F16 or BF16 numbers: " + ", ".join(odd))
    return assignments


def _rule_for(source: str, rules: Sequence[Rule]) -> tuple[Rule | None, list[str]]:
    for rule in rules:
        targets = rule.targets(source)
        if targets is not None:
            return rule, targets
    return None, [source]


def companions(words: str) -> tuple[str, str]:
    """The names of the scales and biases that belong to a tensor of packed words."""
    return words.removesuffix(_WEIGHT) + _SCALES, words.removesuffix(_WEIGHT) + _BIASES


def _quantized(header: Mapping[str, TensorHeader]) -> dict[str, tuple[str, str]]:
    """Tensors of packed words, with the names of their scales and biases."""
    return {
        name: companions(name)
        for name, tensor in header.items()
        if name.endswith(_WEIGHT) and tensor.dtype == "U32"
    }


class _Misfits(NamedTuple):
    """Mismatches of tensors that were assigned to a parameter."""

    missing: list[str]
    misshaped: list[tuple[str, Shape, Shape]]


def _compare(
    header: Mapping[str, TensorHeader],
    source: str,
    companions: tuple[str, ...],
    expected: Shape,
    misfits: _Misfits,
) -> Quantization | None:
    """The quantization of `source`, if it has any, after comparing it with the shape `expected`."""
    found = header[source].shape
    if not companions:
        if found != expected:
            misfits.misshaped.append((source, expected, found))
        return None
    absent = [name for name in companions if name not in header]
    if absent:
        misfits.missing.extend(absent)
        return None
    scales, biases = (header[name].shape for name in companions)
    how = quantization_of(expected, found, scales)
    if scales != biases:
        misfits.misshaped.append((companions[1], scales, biases))
    elif how is None:
        misfits.misshaped.append((source, expected, found))
    return how


def load_parameters(
    path: Path,
    parameters: Mapping[str, Shape],
    rules: Sequence[Rule],
    dtype: mx.Dtype,
) -> list[tuple[str, mx.array]]:
    """Read all parameters, dense and in `dtype`, evaluated.

    Raises:
        WeightsError: as `read_header` and `match`; or copies of a parameter differ; or numbers are
            infinite or NaN; or scales do not fit their tensor.
    """
    weights = stream_parameters(path, parameters, rules, dtype)
    return [(name, weight) for name, weight in weights if isinstance(weight, mx.array)]


def stream_parameters(
    path: Path,
    parameters: Mapping[str, Shape],
    rules: Sequence[Rule],
    dtype: mx.Dtype,
    *,
    keep_quantized: bool = False,
    keep_stored: bool = False,
    reader: TensorReader = COPIES,
) -> Iterator[tuple[str, Weight]]:
    """Read parameters one at a time, as `load_parameters`; quantized ones stay so if `keep_quantized`.

    With `keep_stored`, matrices stay as they are in the file (`stays`), whatever `dtype` is.
    Only parameters with further copies to compare are kept in memory.
    """
    header = read_header(path)
    assignments = match(path, header, parameters, rules)
    tensors = reader.open(path)
    copies_left = Counter(name for assignment in assignments for name in assignment.targets)
    held: dict[str, Weight] = {}
    for assignment in assignments:
        source = assignment.source
        file = str(header[source].file)
        kept = keep_stored and stays(assignment, parameters)
        with _as_weights_error(file):
            weight = _read(
                file, tensors, assignment, None if kept else dtype, keep_quantized=keep_quantized or kept
            )
            pieces = _pieces(weight, assignment.rule, reader)
        for name, piece in zip(assignment.targets, pieces, strict=True):
            copies_left[name] -= 1
            if assignment.copy and not _equal(held[name], piece):
                raise WeightsError(file, f"{source} differs from its other copies")
            if copies_left[name] == 0:
                held.pop(name, None)
            else:
                held.setdefault(name, piece)
            if not assignment.copy:
                yield name, piece
        # Released before the next is read, so that a caller who keeps a shard has one whole one in memory.
        del weight, pieces, piece


def stays(assignment: Assignment, parameters: Mapping[str, Shape]) -> bool:
    """Whether kernels compute with this tensor as it is stored: a matrix of a layer or of an embedding."""
    shapes = [parameters[name] for name in assignment.targets]
    if any(len(shape) != 2 for shape in shapes) or assignment.targets[0].startswith(CONDITIONS):
        return False
    how, rule = assignment.quantization, assignment.rule
    if how is None:
        return True
    packable = how.bits in KERNEL_BITS and shapes[0][-1] // how.group <= _MOST_GROUPS
    return packable and (rule is None or rule.axes is None)


def _read(
    file: str,
    tensors: dict[str, mx.array],
    assignment: Assignment,
    dtype: mx.Dtype | None,
    *,
    keep_quantized: bool,
) -> Weight:
    """The tensor of `assignment`, evaluated, and removed from `tensors` so that it is freed in time.

    `dtype`: None leaves it as it is stored.
    """
    source, how = assignment.source, assignment.quantization
    if how is None:
        dense = tensors.pop(source)
        dense = dense if dtype is None else dense.astype(dtype)
        if not _is_finite(dense):
            raise WeightsError(file, f"{source} holds infinite numbers, or NaN")
        return dense
    name = source.removesuffix(_WEIGHT)
    scales, biases = (tensors.pop(name + part) for part in (_SCALES, _BIASES))
    if dtype is not None:
        scales, biases = scales.astype(dtype), biases.astype(dtype)
    quantized = Quantized(tensors.pop(source), scales, biases, how)
    mx.eval(quantized.arrays())
    for part, numbers in ((_SCALES, scales), (_BIASES, biases)):
        if not _is_finite(numbers):
            raise WeightsError(file, f"{name}{part} holds infinite numbers, or NaN")
    if not quantized.is_plausible():
        raise WeightsError(file, f"the scales of {source} are not those of {how.bits}-bit numbers")
    kept = keep_quantized and (assignment.rule is None or assignment.rule.axes is None)
    return quantized if kept or dtype is None else quantized.dequantized(dtype)


def _pieces(weight: Weight, rule: Rule | None, reader: TensorReader) -> Sequence[Weight]:
    """The parameters that `rule` makes of a tensor, evaluated."""
    if isinstance(weight, Quantized):
        parts = [weight] if rule is None else weight.split(rule.convert)
        mx.eval([part.arrays() for part in parts])
        return parts
    # A transposed view would be copied by every product it is used in.
    pieces = rule.convert(weight) if rule is not None else [weight]
    mx.eval(pieces)
    pieces = [reader.contiguous(piece) for piece in pieces]
    mx.eval(pieces)
    return pieces


def _is_finite(tensor: mx.array) -> bool:
    """Whether all numbers are finite, in one pass over memory and without a temporary of that size."""
    if tensor.size == 0:
        return True
    if tensor.dtype in _EXPONENTS and backend.prepare().on_cpu:  # where products of 16 bits are very slow
        mx.eval(tensor)
        exponent = _EXPONENTS[tensor.dtype]
        flat = np.asarray(tensor.view(mx.uint16)).reshape(-1)
        parts = (flat[i : i + _FINITE_PART] for i in range(0, flat.size, _FINITE_PART))
        return not any(((part & exponent) == exponent).any() for part in parts)
    # A product with ones, because BLAS is many times faster than a plain reduction on a CPU.
    rows = tensor.reshape(-1, tensor.shape[-1] if tensor.ndim else 1)
    total = mx.sum(rows @ mx.ones((rows.shape[1],), tensor.dtype))
    # Finite numbers may still add up to infinity.
    return bool(mx.isfinite(total).item()) or bool(mx.all(mx.isfinite(tensor)).item())


def _equal(one: Weight, other: Weight) -> bool:
    if isinstance(one, Quantized) and isinstance(other, Quantized):
        return one.how == other.how and all(map(_equal, one.arrays(), other.arrays()))
    if isinstance(one, Quantized) or isinstance(other, Quantized):
        return False
    return bool(mx.array_equal(one, other).item())
