"""A checkpoint appears whole, or not at all.

The header comes first in a safetensors file, so everything in it is known before a number
is; the numbers are then written one tensor at a time, in any order. Reading: `headers`,
`checkpoint`. Who writes: `untrained`, `quantization`.
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
    """An open safetensors file that waits for its tensors' bytes."""

    def __init__(
        self, file: IO[bytes], tensors: Mapping[str, TensorHeader], about: Mapping[str, str]
    ) -> None:
        header: dict[str, object] = {"__metadata__": dict(about)}
        self._begins: dict[str, int] = {}
        self.size_bytes = 0
        for name, tensor in tensors.items():
            begin, end = self.size_bytes, self.size_bytes + tensor.size_bytes
            header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
            self._begins[name] = begin
            self.size_bytes = end
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % _ALIGNMENT_BYTES)  # the format asks for aligned data
        file.write(len(text).to_bytes(8, "little") + text)
        self._start = file.tell()
        self._file = file

    def put(self, name: str, data: bytes) -> None:
        """Write all bytes of the tensor `name`, little endian."""
        self._file.seek(self._start + self._begins[name])
        self._file.write(data)


@contextmanager
def new_checkpoint(
    path: Path, tensors: Mapping[str, TensorHeader], about: Mapping[str, str]
) -> Iterator[Writer]:
    """Write `path` beside itself and put it in place at the end; after an exception there is nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            yield Writer(file, tensors, about)
            file.close()
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
