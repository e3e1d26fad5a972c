"""What a measurement leaves as it was."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from selfdistill.studies.measures import _same_random_state


@pytest.mark.parametrize("name", ["cuda:3", "xpu:1", "mps:0"])
def test_the_random_state_of_the_models_device_is_restored_and_no_other_touched(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = torch.device(name)
    states: dict[Any, str] = {device: "before"}
    module = torch.get_device_module(device.type)
    monkeypatch.setattr(module, "get_rng_state", lambda asked: states[asked])
    monkeypatch.setattr(module, "set_rng_state", lambda state, asked: states.update({asked: state}))
    monkeypatch.setattr(module, "device_count", lambda: pytest.fail("the other devices are counted"))
    of_the_cpu = torch.get_rng_state()
    model: Any = SimpleNamespace(device=device)
    with _same_random_state(model):
        states[device] = "after sampling"
        torch.rand(3)
    assert states == {device: "before"}
    assert torch.equal(torch.get_rng_state(), of_the_cpu)


def test_on_a_cpu_no_other_device_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("get_rng_state", "set_rng_state", "device_count"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: pytest.fail("a GPU is touched"))
    of_the_cpu = torch.get_rng_state()
    model: Any = SimpleNamespace(device=torch.device("cpu"))
    with _same_random_state(model):
        torch.rand(3)
    assert torch.equal(torch.get_rng_state(), of_the_cpu)
