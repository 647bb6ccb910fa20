"""Writes a safetensors file, which appears only when it is complete.

The header is at the start of the file and is written first; the tensors then follow one at a
time, in any order. Reading: `safetensors_header`, `loading`. Used by `random_init` and
`quantization`.
Format: https://huggingface.co/docs/safetensors/index#format
"""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pipeline.models.checkpoint.safetensors_header import TensorHeader

_ALIGNMENT_BYTES = 8


class Writer:
    """An open safetensors file whose header has been written."""

    def __init__(
        self, file: IO[bytes], tensors: Mapping[str, TensorHeader], metadata: Mapping[str, str]
    ) -> None:
        header: dict[str, object] = {"__metadata__": dict(metadata)}
        self._begins: dict[str, int] = {}
        self.size_bytes = 0
        for name, tensor in tensors.items():
            begin, end = self.size_bytes, self.size_bytes + tensor.size_bytes
            header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
            self._begins[name] = begin
            self.size_bytes = end
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % _ALIGNMENT_BYTES)  # the format requires aligned data
        file.write(len(text).to_bytes(8, "little") + text)
        self._start = file.tell()
        self._file = file

    def put(self, name: str, data: bytes) -> None:
        """Write all bytes of the tensor `name`, little endian."""
        self._file.seek(self._start + self._begins[name])
        self._file.write(data)


@contextmanager
def new_checkpoint(
    path: Path, tensors: Mapping[str, TensorHeader], metadata: Mapping[str, str]
) -> Iterator[Writer]:
    """Write a temporary file and rename it to `path` at the end; after an exception there is no file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            yield Writer(file, tensors, metadata)
            file.close()
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
