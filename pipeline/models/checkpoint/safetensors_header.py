"""Reads the headers of safetensors files: names, shapes and dtypes of all tensors, without a weight.

Of one file, or of the index of several; also checks that no file is truncated. Which tensors
become parameters: `loading`.
Format: https://huggingface.co/docs/safetensors/index#format
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from pipeline.errors import WeightsError
from pipeline.models.checkpoint.files import INDEX_SUFFIX, shard_paths
from pipeline.system.inputs import parse_json, read_text

Shape = tuple[int, ...]

_HEADER_LIMIT_BYTES = 100_000_000  # the format's own bound
_LENGTH_BYTES = 8
_DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32,
    "U32": 32, "F32": 32, "F64": 64, "I64": 64, "U64": 64, "F8_E4M3": 8, "F8_E5M2": 8,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """The header entry of one tensor; `file` is the one that holds it, from byte `offset` on."""

    dtype: str
    shape: Shape
    file: Path = field(default=Path(), compare=False)
    offset: int = field(default=0, compare=False)

    @property
    def size_bytes(self) -> int:
        """Its size in the file."""
        return math.prod(self.shape) * _DTYPE_BITS[self.dtype] // 8


def read_header(path: Path) -> dict[str, TensorHeader]:
    """The tensors of a checkpoint, one safetensors file or an index of several, by name.

    Raises:
        WeightsError: there is no such file, or it is not safetensors, or it was cut short,
            or an index and its files contradict each other.
    """
    header: dict[str, TensorHeader] = {}
    for shard in shard_paths(path):
        part = _read_file_header(shard)
        twice = sorted(header.keys() & part.keys())
        if twice:
            raise WeightsError(str(shard), "also in another file of the checkpoint: " + ", ".join(twice))
        header |= part
    if path.name.endswith(INDEX_SUFFIX):
        _check_index(path, header)
    return header


def _check_index(path: Path, header: Mapping[str, TensorHeader]) -> None:
    """Raise unless the index at `path` maps every tensor to the file that holds it."""
    weight_map: dict[str, str] = parse_json(read_text(path))["weight_map"]
    wrong = [
        name for name, file in weight_map.items() if name not in header or header[name].file.name != file
    ]
    wrong += [name for name in header if name not in weight_map]
    if wrong:
        raise WeightsError(str(path), "not in the file where the index says: " + ", ".join(sorted(wrong)))


def _read_file_header(path: Path) -> dict[str, TensorHeader]:
    text, data_bytes = _read_header_text(path)
    data_begins = _LENGTH_BYTES + len(text)
    try:
        header = parse_json(text)
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
        tensor = TensorHeader(entry["dtype"], tuple(entry["shape"]), path, data_begins + begin_bytes)
        if end_bytes - begin_bytes != tensor.size_bytes:
            raise WeightsError(str(path), f"the header entry of {name} is malformed")
        needed_bytes = max(needed_bytes, end_bytes)
        tensors[name] = tensor
    if needed_bytes > data_bytes:
        raise WeightsError(str(path), f"truncated: {needed_bytes - data_bytes} bytes are missing at its end")
    return tensors


def _read_header_text(path: Path) -> tuple[bytes, int]:
    """The JSON at the start of a file, and how many bytes follow it."""
    try:
        with path.open("rb") as file:
            size_bytes = path.stat().st_size
            header_bytes = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            data_bytes = size_bytes - _LENGTH_BYTES - header_bytes
            if size_bytes < _LENGTH_BYTES or header_bytes > _HEADER_LIMIT_BYTES:
                raise WeightsError(str(path), "not a safetensors file")
            if data_bytes < 0:
                raise WeightsError(str(path), "truncated safetensors file, or not one")
            return file.read(header_bytes), data_bytes
    except OSError as error:
        raise WeightsError(str(path), error.strerror or "cannot be read") from error


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
