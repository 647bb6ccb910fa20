"""Drives GGML, the library under llama.cpp and whisper.cpp: the products of a step by themselves.

Weights are kept where llama.cpp keeps them: those of 4 bits in the order that GGML's kernels for wide
products read (its `CPU_REPACK` buffer), others row by row.
"""

import ctypes
from typing import Any

import ggml
import numpy as np
from driving import drive_products, read_job, rows, weight

_FEATURES = ("avx2", "avx512", "avx512_vnni", "avx512_bf16", "amx_int8", "neon", "dotprod", "matmul_int8")
_REPACKED = {"Q4_0"}
_PER_BLOCK = 8  # rows that a repacked block has side by side


def _repacking_buffers(backend: Any) -> Any:
    """The type of buffer that arranges weights anew, if there is one for this processor."""
    registry = ggml.ggml_backend_cpu_reg()
    found = ggml.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_dev_get_extra_bufts")
    if not found:
        return None
    kinds = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)(found)(
        ggml.ggml_backend_get_device(backend)
    )
    number = 0
    while kinds[number]:
        if b"REPACK" in ggml.ggml_backend_buft_name(kinds[number]):
            return kinds[number]
        number += 1
    return None


def _context(tensors: int) -> Any:
    size = ggml.ggml_tensor_overhead() * tensors + ggml.ggml_graph_overhead_custom(tensors, False) + 4096
    return ggml.ggml_init(ggml.ggml_init_params(mem_size=size, mem_buffer=None, no_alloc=True))


class Products:
    def __init__(self, backend: Any, weights: list[Any], count: int) -> None:
        self._backend = backend
        context = _context(4 * len(weights))
        widths = {each.contents.ne[0] for each in weights}
        inputs = {w: ggml.ggml_new_tensor_2d(context, ggml.GGML_TYPE_F32, w, count) for w in widths}
        self._graph = ggml.ggml_new_graph_custom(context, 4 * len(weights), False)
        self._outputs = [ggml.ggml_mul_mat(context, each, inputs[each.contents.ne[0]]) for each in weights]
        for each in self._outputs:
            ggml.ggml_build_forward_expand(self._graph, each)
        ggml.ggml_backend_alloc_ctx_tensors(context, backend)
        for width, tensor in inputs.items():
            x = rows(width, count)
            ggml.ggml_backend_tensor_set(tensor, x.ctypes.data, 0, x.nbytes)

    def run(self) -> list[np.ndarray]:
        if ggml.ggml_backend_graph_compute(self._backend, self._graph) != 0:
            raise RuntimeError("GGML did not compute the graph")
        return [self._read(each) for each in self._outputs]

    @staticmethod
    def _read(tensor: Any) -> np.ndarray:
        wide, count = tensor.contents.ne[0], tensor.contents.ne[1]
        data = ctypes.cast(tensor.contents.data, ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(data, (count, wide))


class Driver:
    def __init__(self, job: dict[str, Any]) -> None:
        (kind,) = job["options"]
        sets = [name for name in _FEATURES if getattr(ggml, f"ggml_cpu_has_{name}")()]
        self.versions = {"ggml": f"{ggml.__version__} ({', '.join(sets)})"}
        self._backend = ggml.ggml_backend_cpu_init()
        ggml.ggml_backend_cpu_set_n_threads(self._backend, job["threads"])
        repacking = _repacking_buffers(self._backend) if kind in _REPACKED else None
        self._weights = []
        for number, shape in enumerate(job["products"]):
            context = _context(1)
            tensor = ggml.ggml_new_tensor_2d(context, getattr(ggml, f"GGML_TYPE_{kind}"), shape[1], shape[0])
            if repacking is not None and shape[0] % _PER_BLOCK == 0:
                ggml.ggml_backend_alloc_ctx_tensors_from_buft(context, repacking)
            else:
                ggml.ggml_backend_alloc_ctx_tensors(context, self._backend)
            self._fill(tensor, weight(number, shape))
            self._weights.append(tensor)

    @staticmethod
    def _fill(tensor: Any, numbers: np.ndarray) -> None:
        out, wide = numbers.shape
        stored = np.empty(ggml.ggml_nbytes(tensor), np.uint8)
        source = np.ascontiguousarray(numbers)
        ggml.ggml_quantize_chunk(
            tensor.contents.type,
            source.ctypes.data_as(ctypes.POINTER(ctypes.c_float)),
            stored.ctypes.data,
            0,
            out,
            wide,
            None,
        )
        ggml.ggml_backend_tensor_set(tensor, stored.ctypes.data, 0, stored.nbytes)

    def products(self, width: int) -> Products:
        return Products(self._backend, self._weights, width)


if __name__ == "__main__":
    drive_products(Driver, read_job())
