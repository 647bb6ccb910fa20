"""The one place that chooses what a trainer computes on, and how."""

import ctypes
import os
from contextlib import AbstractContextManager
from typing import Final

import torch

# Of mallopt, in malloc.h.
_TRIM_THRESHOLD: Final = -1
_MMAP_MAX: Final = -4
_CPU_BF16: Final = ("avx512_bf16", "amx_bf16")


def choose() -> torch.device:
    """CUDA where there is a card, else the CPU; `PACKET_VOICE_DEVICE` overrides.

    On a CPU, numbers too small to be normal are flushed to zero: an optimizer is full of
    them, and each costs a hundred times a normal one.
    """
    torch.set_flush_denormal(True)
    _keep_memory()
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    asked = os.environ.get("PACKET_VOICE_DEVICE")
    return torch.device(asked or ("cuda" if torch.cuda.is_available() else "cpu"))


def _keep_memory() -> None:
    """Let the C library keep what is freed, instead of giving it back and asking for it again.

    A layer's output is tens of megabytes, for which glibc asks the system each time, and which the
    system clears page by page: half of the time of encoding.
    """
    try:
        tune = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return  # another C library
    tune(_MMAP_MAX, 0)
    tune(_TRIM_THRESHOLD, 2**31 - 1)


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    try:
        with open("/proc/cpuinfo", encoding="ascii") as file:  # noqa: PTH123 - read to its first flags only
            flags = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return False
    return any(flag in flags for flag in _CPU_BF16)


def half(device: torch.device) -> AbstractContextManager[None]:
    """bfloat16 products, where the machine is faster at them than at float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=_has_bf16(device))
