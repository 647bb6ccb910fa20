"""What a trainer computes on."""

import platform
import resource

import pytest

torch = pytest.importorskip("torch")

from pipeline.train.runs import device  # noqa: E402 - after the skip

PAGE_BYTES = 4096
FLOATS = 8 * 2**20


def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps memory in its own way")
def test_memory_is_kept_from_step_to_step(monkeypatch):
    """Arrays as large as some that were freed cost no new pages of the system."""
    monkeypatch.setenv("PACKET_VOICE_DEVICE", "cpu")
    assert device.choose() == torch.device("cpu")
    for _ in range(6):  # until there is room between what lives longer
        torch.ones(FLOATS)
    before = faults()
    for _ in range(3):
        torch.ones(FLOATS)
    assert faults() - before < FLOATS * 4 // PAGE_BYTES // 4


def test_numbers_too_small_to_be_normal_are_zero():
    """Each would cost a hundred times a normal one."""
    device.choose()
    assert (torch.tensor([1e-30]) * 1e-15).item() == 0
