"""Which device to compute on, and in which dtype."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from selfdistill.models import device as device_module
from selfdistill.models.device import (
    ALLOCATOR_FUNCTIONS,
    ALLOCATOR_VARIABLES,
    compute_dtype,
    default_device,
    device_named,
    prepare_device,
)
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


@pytest.mark.parametrize("name", ["cuda", "xpu"])
@pytest.mark.parametrize(("support", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_dtype_of_a_gpu(name: str, support: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    module = torch.get_device_module(name)
    monkeypatch.setattr(module, "is_bf16_supported", lambda including_emulation=True: support or including_emulation)
    assert compute_dtype("auto", torch.device(name)) == expected
    assert compute_dtype("auto", torch.device("mps")) == torch.float32


def test_bad_dtype():
    message = mistake(compute_dtype, "fp99", torch.device("cpu"))
    assert "fp99" in message
    assert "bfloat16" in message


@pytest.mark.parametrize("here", [(), ("cuda",), ("xpu",), ("mps",), ("cuda", "xpu", "mps"), ("xpu", "mps")], ids=str)
def test_default_device(here: tuple[str, ...], monkeypatch: pytest.MonkeyPatch):
    for name, backend in (("cuda", torch.cuda), ("xpu", torch.xpu), ("mps", torch.backends.mps)):
        monkeypatch.setattr(backend, "is_available", lambda name=name: name in here)
    assert default_device() == torch.device(here[0] if here else "cpu")


def test_a_named_device_is_taken_and_without_a_name_the_default(monkeypatch: pytest.MonkeyPatch):
    assert device_named("cpu") == torch.device("cpu")
    assert device_named("meta") == torch.device("meta")
    assert device_named(None) == default_device()


def test_a_device_that_is_not_here(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.xpu, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert mistake(device_named, "zork") == "Device zork is not available here; this machine has cpu."


# -- what a process sets -----------------------------------------------------------------------------------------------


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment variables of a Linux machine whose user has set none and where CUDA is not initialised yet."""
    found: dict[str, str] = {}
    monkeypatch.setattr(device_module, "os", SimpleNamespace(environ=found))
    monkeypatch.setattr(device_module, "sys", SimpleNamespace(platform="linux"))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(device_module, "prepare_cpu", lambda: found.update(prepared="for a CPU"))
    return found


GROWING = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cuda", GROWING),
        ("cuda:1", GROWING),
        ("cpu", {"prepared": "for a CPU"}),
        ("mps", {}),
        ("xpu", {}),
        ("meta", {}),
    ],
)
def test_each_device_is_prepared_for_in_its_own_way(name: str, expected: dict[str, str], environment: dict[str, str]):
    prepare_device(torch.device(name))
    assert environment == expected


@pytest.mark.parametrize("name", ALLOCATOR_VARIABLES)
def test_what_the_user_says_about_gpu_memory_holds(name: str, environment: dict[str, str]):
    environment[name] = "max_split_size_mb:64"
    prepare_device(torch.device("cuda"))
    assert environment == {name: "max_split_size_mb:64"}


def test_gpu_memory_grows_also_where_a_library_was_faster(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    told: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)  # as importing bitsandbytes leaves it
    place, name = (
        (torch._C, newer)
        if hasattr(torch._C, newer := ALLOCATOR_FUNCTIONS[0])
        else (torch.cuda.memory, ALLOCATOR_FUNCTIONS[1])
    )
    monkeypatch.setattr(place, name, told.append)
    for _ in range(2):
        prepare_device(torch.device("cuda"))
    assert told == ["expandable_segments:True"]
    assert environment == GROWING


def test_gpu_memory_is_not_set_where_that_has_no_effect(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(device_module, "sys", SimpleNamespace(platform="win32"))
    prepare_device(torch.device("cuda"))
    assert environment == {}


def test_a_device_is_prepared_for_before_it_is_touched(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    set_when_touched: list[dict[str, str]] = []
    monkeypatch.setattr(torch, "empty", lambda *_, device: set_when_touched.append(dict(environment)))
    assert device_named("cuda:0") == torch.device("cuda:0")
    assert set_when_touched == [GROWING]
    environment.clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_named(None) == torch.device("cuda")
    assert environment == GROWING
