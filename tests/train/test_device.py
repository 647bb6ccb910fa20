"""What a trainer computes on."""

import os
import platform
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

from pipeline.train.runs import device  # noqa: E402 - after the skip

PAGE_BYTES = 4096
FLOATS = 8 * 2**20
# In a process of its own: in one with a past it takes longer.
STEPS = f"""
import resource
import torch
from pipeline.train.runs import device
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
assert device.choose() == torch.device("cpu")
for _ in range(20):  # until there is room between what lives longer
    torch.ones({FLOATS})
before = faults()
for _ in range(3):
    torch.ones({FLOATS})
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps memory in its own way")
def test_memory_is_kept_from_step_to_step():
    """Arrays as large as some that were freed cost no new pages of the system."""
    environment = {**os.environ, "PACKET_VOICE_DEVICE": "cpu"}
    faults = int(subprocess.check_output([sys.executable, "-c", STEPS], env=environment))
    assert faults < FLOATS * 4 // PAGE_BYTES // 4


def test_numbers_too_small_to_be_normal_are_zero():
    """Each would cost a hundred times a normal one."""
    device.choose()
    assert (torch.tensor([1e-30]) * 1e-15).item() == 0
