"""Tensors go from a safetensors file into a model all together, or not at all.

The header of the file says names, shapes and dtypes. Everything is decided from it before
a weight is read: which tensor becomes which parameter (`Rule`s, which are data), that
every parameter is filled exactly once, and that nothing is left over. All disagreements
come in one error. Which rules a model's layouts need: `lm_checkpoint`, `mimi_checkpoint`.
Format: https://huggingface.co/docs/safetensors/index#format
"""

import functools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import mlx.core as mx

from pipeline.errors import TensorMismatchError, WeightsError

Shape = tuple[int, ...]

_HEADER_LIMIT_BYTES = 100_000_000  # the format's own bound
_LENGTH_BYTES = 8
_DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32,
    "U32": 32, "F32": 32, "F64": 64, "I64": 64, "U64": 64, "F8_E4M3": 8, "F8_E5M2": 8,
}  # fmt: skip
_FLOATING = frozenset({"F16", "BF16", "F32", "F64"})


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """What a file says of one tensor."""

    dtype: str
    shape: Shape


@dataclass(frozen=True, slots=True)
class Rule:
    r"""How tensors whose whole name matches `pattern` become parameters.

    target: the parameter's name, with the pattern's groups as `\1`; None: not a weight,
        recognised and left out. `{part}` in it stands for the number of each part.
    parts: the tensor holds that many parameters, one after another along axis 0.
    leading_ones: axes of size 1 that the file has in front and the parameter has not.
    axes: the file's axes in the parameter's order, as for a transpose.
    copies: several tensors may become the same parameter; the first one does, and the
        others are checked to be equal to it.
    """

    pattern: str
    target: str | None
    parts: int = 1
    leading_ones: int = 0
    axes: tuple[int, ...] | None = None
    copies: bool = False

    def targets(self, source: str) -> list[str] | None:
        """Names of the parameters that `source` becomes; None where it does not match."""
        match = _compiled(self.pattern).fullmatch(source)
        if match is None:
            return None
        if self.target is None:
            return []
        name = match.expand(self.target)
        return [name.replace("{part}", str(part)) for part in range(self.parts)]

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
        return [part if self.axes is None else part.transpose(self.axes) for part in parts]


@dataclass(frozen=True, slots=True)
class Assignment:
    """One tensor, the rule that takes it (None: as it is), and the parameters it becomes."""

    source: str
    rule: Rule | None
    targets: tuple[str, ...]
    copy: bool = False


@functools.cache  # the cache inside `re` is smaller than a layout with a rule per tensor
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def read_header(path: Path) -> dict[str, TensorHeader]:
    """Say what a safetensors file holds without reading a weight.

    Raises:
        WeightsError: there is no such file, or it is not safetensors, or it was cut short.
    """
    try:
        with path.open("rb") as file:
            size_bytes = path.stat().st_size
            header_bytes = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            room_bytes = size_bytes - _LENGTH_BYTES - header_bytes
            if size_bytes < _LENGTH_BYTES or header_bytes > _HEADER_LIMIT_BYTES:
                raise WeightsError(str(path), "not a safetensors file")
            if room_bytes < 0:
                raise WeightsError(str(path), "truncated safetensors file, or not one")
            text = file.read(header_bytes)
    except OSError as error:
        raise WeightsError(str(path), error.strerror or "cannot be read") from error
    try:
        header = json.loads(text)
    except ValueError as error:  # not UTF-8, or not JSON
        raise WeightsError(str(path), "not a safetensors file") from error
    if not isinstance(header, dict):
        raise WeightsError(str(path), "not a safetensors file")
    header.pop("__metadata__", None)
    tensors = {}
    needed_bytes = 0
    for name, entry in header.items():
        if not _is_entry(entry):
            raise WeightsError(str(path), f"the header entry of {name} is malformed")
        begin_bytes, end_bytes = entry["data_offsets"]
        if end_bytes - begin_bytes != math.prod(entry["shape"]) * _DTYPE_BITS[entry["dtype"]] // 8:
            raise WeightsError(str(path), f"the header entry of {name} is malformed")
        needed_bytes = max(needed_bytes, end_bytes)
        tensors[name] = TensorHeader(entry["dtype"], tuple(entry["shape"]))
    if needed_bytes > room_bytes:
        raise WeightsError(str(path), f"truncated: {needed_bytes - room_bytes} bytes are missing at its end")
    return tensors


def _is_entry(entry: object) -> TypeGuard[dict[str, Any]]:
    def naturals(value: object) -> bool:
        return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)

    return (
        isinstance(entry, dict)
        and isinstance(entry.get("dtype"), str)
        and entry["dtype"] in _DTYPE_BITS
        and naturals(entry.get("shape"))
        and naturals(entry.get("data_offsets"))
        and len(entry["data_offsets"]) == 2
    )


def match(
    path: Path, header: Mapping[str, TensorHeader], parameters: Mapping[str, Shape], rules: Sequence[Rule]
) -> list[Assignment]:
    """Pair every tensor of `header` with every one of `parameters`, both without remainder.

    The first rule whose pattern matches takes a tensor; one that no rule matches keeps
    its name.

    Raises:
        TensorMismatchError: names all that is missing, left over or mis-shaped.
        WeightsError: tensors that hold no floating-point numbers, or rules that match nothing.
    """
    assignments: list[Assignment] = []
    extra: list[str] = []
    misshaped: list[tuple[str, Shape, Shape]] = []
    filled: dict[str, str] = {}
    used: set[Rule] = set()
    for source, found in header.items():
        rule, targets = _rule_for(source, rules)
        if rule is not None:
            used.add(rule)
        if not targets:
            continue
        known = [name for name in targets if name in parameters]
        repeated = any(name in filled for name in targets)
        if len(known) < len(targets) or (repeated and not (rule is not None and rule.copies)):
            extra.append(source)
            continue
        shape = parameters[known[0]]
        expected = rule.source_shape(shape) if rule is not None else shape
        if found.shape != expected:
            misshaped.append((source, expected, found.shape))
        filled |= dict.fromkeys(known, source)
        assignments.append(Assignment(source, rule, tuple(known), copy=repeated))
    missing = [name for name in parameters if name not in filled]
    if missing or extra or misshaped:
        raise TensorMismatchError(str(path), missing=missing, extra=extra, misshaped=misshaped)
    unused = [rule.pattern.replace("\\", "") for rule in rules if rule not in used]
    if unused:
        raise WeightsError(str(path), "no tensor is named like " + ", ".join(unused))
    odd = [f"{a.source} ({header[a.source].dtype})" for a in assignments]
    odd = [text for text, a in zip(odd, assignments, strict=True) if header[a.source].dtype not in _FLOATING]
    if odd:
        raise WeightsError(str(path), "not floating-point numbers: " + ", ".join(odd))
    return assignments


def _rule_for(source: str, rules: Sequence[Rule]) -> tuple[Rule | None, list[str]]:
    for rule in rules:
        targets = rule.targets(source)
        if targets is not None:
            return rule, targets
    return None, [source]


def load_parameters(
    path: Path, parameters: Mapping[str, Shape], rules: Sequence[Rule], dtype: mx.Dtype
) -> list[tuple[str, mx.array]]:
    """Read what `match` allows, cast to `dtype`, one tensor at a time, fully evaluated.

    Raises:
        WeightsError: as `read_header` and `match`; or copies of a parameter differ.
    """
    assignments = match(path, read_header(path), parameters, rules)
    tensors = mx.load(str(path), format="safetensors")
    assert isinstance(tensors, dict)
    loaded: dict[str, mx.array] = {}
    for assignment in assignments:
        # Taken out of the dict, so that a tensor stored in another dtype is freed once cast.
        tensor = tensors.pop(assignment.source).astype(dtype)
        pieces = assignment.rule.convert(tensor) if assignment.rule is not None else [tensor]
        # A transposed view would be copied by every product it is used in.
        pieces = [mx.contiguous(piece) for piece in pieces]
        mx.eval(pieces)
        for name, piece in zip(assignment.targets, pieces, strict=True):
            if assignment.copy and not mx.array_equal(loaded[name], piece, equal_nan=True):
                raise WeightsError(str(path), f"{assignment.source} differs from its other copies")
            loaded[name] = piece
    return list(loaded.items())
