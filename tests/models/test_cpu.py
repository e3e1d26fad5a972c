"""What a process sets before it computes on a CPU."""

import os
import platform
import subprocess
import sys

import pytest

from selfdistill.models.cpu import KERNELS_KEPT, prepare_cpu

FAULTS = """
import resource, torch
from selfdistill.models.cpu import prepare_cpu
prepare_cpu()
counts = []
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(1_000_000) for _ in range(25)]  # 4 MB each
    del tensors
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(counts[-1])
"""
PAGES = 100_000_000 // 4096


def faults(**environment: str) -> int:
    """Pages that the system had to give for the third 100 MB of tensors, the second having been freed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run([sys.executable, "-c", FAULTS], env=kept | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's heap has these settings")
def test_freed_memory_is_used_again_unless_the_environment_says_how():
    assert faults() < PAGES / 4
    assert faults(MALLOC_MMAP_THRESHOLD_="1000000") > PAGES * 3 / 4


def test_kernel_caches_are_bounded_unless_the_environment_says_how(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "7")
    monkeypatch.delenv("LRU_CACHE_CAPACITY", raising=False)
    prepare_cpu()
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "7"
    assert os.environ["LRU_CACHE_CAPACITY"] == KERNELS_KEPT
