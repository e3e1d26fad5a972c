"""The device to compute on, and the dtype to compute in."""

import torch

from selfdistill.errors import UserError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def default_device() -> torch.device:
    """Returns CUDA if available, otherwise Apple's GPU, otherwise the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def device_named(name: str | None) -> torch.device:
    """Returns the device ``name``, or the default for None. Raises UserError if it is not available here."""
    if name is None:
        return default_device()
    try:
        torch.empty(0, device=name)  # fails if this machine or build lacks the device
        return torch.device(name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"Device {name} is not available here; this machine has {default_device().type}.") from error


def compute_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Returns the dtype to compute in on ``device``, for ``auto``, ``float32``, ``bfloat16`` or ``float16``.

    ``auto`` is bfloat16 if the hardware multiplies it faster than float32: CUDA cards with bf16, and CPUs with AMX or
    AVX-512 bf16 units or ARM's bf16 extension. Otherwise it is float32, also on Apple's GPUs, whose float32 is about as
    fast and whose bf16 depends on the system's version.

    Raises:
        UserError: ``dtype`` is none of the four.
    """
    if dtype in _DTYPES:
        return _DTYPES[dtype]
    if dtype != "auto":
        raise UserError(f"dtype {dtype} is unknown; choose auto, {', '.join(_DTYPES)}.")
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
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
