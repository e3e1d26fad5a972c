"""What the machine is: names, versions, and how fast it multiplies and copies."""

import os
from pathlib import Path
from typing import Any

import torch

from common import machine as host
from gpu_check.models import GIB, seconds_of, taken
from gpu_check.report import Report, earlier
from selfdistill.method.memory import available
from selfdistill.models.device import compute_dtype

NAME = "machine"
"""The section's name."""
CPU_FACTS = Path("/proc/cpuinfo")
"""What only Linux has."""
SETTINGS = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "CUDA_VISIBLE_DEVICES")
"""Environment variables that figures depend on."""


def machine(report: Report) -> None:
    """Facts about host and device, and their speeds."""
    if CPU_FACTS.exists():
        report.part("host", host)
    else:
        report.skip("host", f"there is no {CPU_FACTS}")
    device = report.part("device", lambda: _device(report.device)) or {}
    report.say(f"{device.get('name')}, {device.get('available_gib')} GiB available, torch {torch.__version__}")
    size = 256 if report.quick else 8192
    product = report.part("matrix products", lambda: _products(report.device, size), needs=5)
    if product:
        report.say(f"{product['dtype']} products of {size} x {size}: {product['tflops']:.1f} TFLOP/s")
    if report.device.type == "cuda":
        report.part("copies", lambda: _copies(report.device), needs=5)
        report.part("launch", lambda: {"microseconds": _launch(report.device)}, needs=5)


def peak_flops(report: Report) -> float | None:
    """FLOP/s of matrix products that the section has measured; None if it has not run."""
    parts = (earlier(report.folder, NAME) or {}).get("parts", {})
    return parts["matrix products"]["tflops"] * 1e12 if "matrix products" in parts else None


def _device(device: torch.device) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "type": device.type,
        "name": device.type,
        "available_gib": round(available(device) / GIB, 1),
        "environment": {name: os.environ[name] for name in SETTINGS if name in os.environ},
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        in_use = taken(device)
        facts |= {
            "name": properties.name,
            "total_gib": round(properties.total_memory / GIB, 1),
            "in_use_at_first_gib": None if in_use is None else round(in_use / GIB, 2),
            "capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
            "tf32": torch.backends.cuda.matmul.allow_tf32,
        }
    return facts


def _products(device: torch.device, size: int) -> dict[str, Any]:
    dtype = compute_dtype("auto", device)
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = seconds_of(lambda: left @ right, device, repeats=10, warmup=3)
    return {"dtype": str(dtype).removeprefix("torch."), "tflops": 2 * size**3 / seconds / 1e12}


def _copies(device: torch.device) -> dict[str, float]:
    """GB/s, where a copy on the device counts what it reads and what it writes."""
    there, other = (torch.empty(GIB, device=device, dtype=torch.int8) for _ in range(2))
    here = torch.empty(GIB, dtype=torch.int8, pin_memory=True)
    return {
        "on_device": 2 * GIB / seconds_of(lambda: other.copy_(there), device) / 1e9,
        "to_device": GIB / seconds_of(lambda: there.copy_(here, non_blocking=True), device) / 1e9,
        "to_host": GIB / seconds_of(lambda: here.copy_(there, non_blocking=True), device) / 1e9,
    }


def _launch(device: torch.device) -> float:
    """Microseconds to launch a kernel."""
    small, count = torch.ones(64, device=device), 2000

    def many() -> None:
        for _ in range(count):
            small.add_(1)

    return seconds_of(many, device) / count * 1e6
