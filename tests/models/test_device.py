"""Which device to compute on, and in which dtype."""

from typing import Any

import pytest
import torch

from selfdistill.models.device import compute_dtype, default_device, device_named
from tests.support.mistakes import mistake


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_named_dtype(name: str):
    assert compute_dtype(name, torch.device("cpu")) == getattr(torch, name)


@pytest.mark.parametrize(
    ("units", "expected"),
    [
        ({"amx_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"architecture": "aarch64", "bf16": True}, torch.bfloat16),
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False}, torch.float32),
        ({"amx_tile": True}, torch.float32),
    ],
)
def test_auto_dtype_of_a_cpu(units: dict[str, Any], expected: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units, raising=False)
    assert compute_dtype("auto", torch.device("cpu")) == expected
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert compute_dtype("auto", torch.device("cpu")) == torch.float32


@pytest.mark.parametrize("units", [True, False])
def test_auto_dtype_where_torch_lists_no_units(units: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: units)
    expected = torch.bfloat16 if units else torch.float32
    assert compute_dtype("auto", torch.device("cpu")) == expected


@pytest.mark.parametrize(("support", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_dtype_of_a_gpu(support: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: support)
    assert compute_dtype("auto", torch.device("cuda")) == expected
    assert compute_dtype("auto", torch.device("mps")) == torch.float32


def test_bad_dtype():
    message = mistake(compute_dtype, "fp99", torch.device("cpu"))
    assert "fp99" in message
    assert "bfloat16" in message


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_default_device(cuda: bool, mps: bool, expected: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert default_device() == torch.device(expected)


def test_a_named_device_is_taken_and_without_a_name_the_default(monkeypatch: pytest.MonkeyPatch):
    assert device_named("cpu") == torch.device("cpu")
    assert device_named("meta") == torch.device("meta")
    assert device_named(None) == default_device()


def test_a_device_that_is_not_here(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert mistake(device_named, "zork") == "Device zork is not available here; this machine has cpu."
