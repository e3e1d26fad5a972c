"""The device to compute on, what a process sets for it, and the dtype to compute in."""

import os
import sys
from importlib import import_module

import torch

from selfdistill.errors import UserError
from selfdistill.models.cpu import prepare_cpu

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
GROWING = "expandable_segments:True"
"""What ALLOCATOR_VARIABLES says of memory that can grow."""
ALLOCATOR_FUNCTIONS = ("_accelerator_setAllocatorSettings", "_set_allocator_settings")
"""What changes them after torch has read them: in torch._C, and in torch.cuda.memory of older versions."""
ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
"""Environment variables that torch reads the settings of its GPU memory from."""


def default_device() -> torch.device:
    """Returns CUDA if available, otherwise Intel's GPU (XPU), otherwise Apple's (MPS), otherwise the CPU.

    The devices are not initialised by that.
    """
    found = (("cuda", torch.cuda), ("xpu", torch.xpu), ("mps", torch.backends.mps))
    return torch.device(next((name for name, backend in found if backend.is_available()), "cpu"))


def device_named(name: str | None) -> torch.device:
    """Returns the device ``name``, or the default for None, and prepares the process for it (``prepare_device``).

    Raises:
        UserError: the device is not available here.
    """
    if name is None:
        prepare_device(device := default_device())
        return device
    try:
        prepare_device(device := torch.device(name))
        torch.empty(0, device=device)  # fails if this machine or build lacks the device
        return device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"Device {name} is not available here; this machine has {default_device().type}.") from error


def prepare_device(device: torch.device) -> None:
    """Sets what a process that computes on ``device`` needs; call it before the first computation.

    For a CPU see ``prepare_cpu``. On CUDA the pieces that memory is taken in can grow (expandable segments): rollouts
    differ in length from step to step, and pieces of fixed sizes would leave holes. torch supports that on Linux. May
    be called more than once. Environment variables that are already set take precedence.
    """
    if device.type == "cpu":
        prepare_cpu()
    elif device.type == "cuda":
        _let_memory_grow()


def _let_memory_grow() -> None:
    if sys.platform == "linux" and not any(name in os.environ for name in ALLOCATOR_VARIABLES):
        # the older name, because vLLM's sleep mode looks for the setting there only
        os.environ["PYTORCH_CUDA_ALLOC_CONF"] = GROWING
        if torch.cuda.is_initialized():  # torch has read the variable; importing bitsandbytes initialises CUDA
            _set_allocator(GROWING)


def _set_allocator(setting: str) -> None:
    """Changes how torch takes GPU memory. No public function does; the older one warns in newer versions of torch."""
    newer = getattr(import_module("torch._C"), ALLOCATOR_FUNCTIONS[0], None)
    (newer or getattr(torch.cuda.memory, ALLOCATOR_FUNCTIONS[1]))(setting)


def compute_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Returns the dtype to compute in on ``device``, for ``auto``, ``float32``, ``bfloat16`` or ``float16``.

    ``auto`` is bfloat16 if the hardware multiplies it faster than float32: CUDA cards and Intel's GPUs with bf16, and
    CPUs with AMX or AVX-512 bf16 units or ARM's bf16 extension. Otherwise it is float32, also on Apple's GPUs, whose
    float32 is about as fast and whose bf16 depends on the system's version.

    Raises:
        UserError: ``dtype`` is none of the four.
    """
    if dtype in _DTYPES:
        return _DTYPES[dtype]
    if dtype != "auto":
        raise UserError(f"dtype {dtype} is unknown; choose auto, {', '.join(_DTYPES)}.")
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "xpu":
        fast = torch.xpu.is_bf16_supported(including_emulation=False)
    else:
        fast = device.type == "cpu" and _cpu_has_bf16()
    return torch.bfloat16 if fast else torch.float32


def _cpu_has_bf16() -> bool:
    if not torch.backends.mkldnn.is_available():  # the library that uses these units
        return False
    if hasattr(torch.cpu, "get_capabilities"):
        has = torch.cpu.get_capabilities()
        return any(has.get(unit) for unit in ("amx_bf16", "avx512_bf16", "bf16"))
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, check, bool)() for check in checks)
