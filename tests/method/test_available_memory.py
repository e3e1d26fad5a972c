"""How much memory a run may have on an accelerator."""

from types import SimpleNamespace

import pytest
import torch

from selfdistill.method import memory
from selfdistill.method.memory import available


@pytest.mark.parametrize("name", ["cuda", "xpu"])
def test_a_card_gives_what_others_leave_of_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others have 20 of its 80 GiB; 45 are free, and this process has reserved 15, which it may use as well."""
    device, card = torch.device(name, 1), torch.get_device_module(name)
    free = {device: (45 * 2**30, 80 * 2**30)}
    monkeypatch.setattr(card, "mem_get_info", lambda asked: free[asked])
    monkeypatch.setattr(card, "memory_reserved", lambda asked: {device: 15 * 2**30}[asked])
    assert available(device) == 60 * 2**30


@pytest.mark.parametrize(("recommended", "expected"), [(10, 10), (40, 25)])
def test_apples_gpu_has_a_part_of_the_hosts_memory(
    recommended: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=5))
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: recommended)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=20))
    monkeypatch.setattr(memory.psutil, "Process", lambda: process)
    assert available(torch.device("mps")) == expected
