"""Shared by the benchmarks: facts about the machine, memory of a process, fresh child processes, the last line.

Memory is read from /proc, so the benchmarks run on Linux only.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "transformers", "trl", "peft", "vllm", "selfdistill")
MATRIX_UNITS = ("amx_bf16", "avx512_bf16", "bf16")
"""Names in /proc/cpuinfo of units that multiply bf16 matrices, the fastest first."""
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser that shows the module's docstring as it is written."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def machine() -> dict[str, Any]:
    """Facts that a figure depends on: processor, NVIDIA's GPU, cores, memory in GiB, versions, date."""
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    fields = dict(line.split(":", 1) for line in cpuinfo.splitlines() if ":" in line)
    described = {key.strip(): value.strip() for key, value in fields.items()}
    flags = (described.get("flags") or described.get("Features") or "").split()
    return {
        "cpu": described.get("model name", "unknown"),
        "bf16_unit": next((unit for unit in MATRIX_UNITS if unit in flags), None),
        "gpu": _gpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "versions": {name: found for name in LIBRARIES if (found := _version(name))},
        "date": date.today().isoformat(),
    }


def machine_text(facts: dict[str, Any]) -> str:
    """``machine`` in one line."""
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    unit = facts["bf16_unit"] or "no bf16 unit"
    gpu = f"{facts['gpu']}; " if facts.get("gpu") else ""
    where = f"{gpu}{facts['cpu']}, {facts['cores']} cores, {unit}, {facts['memory_gib']} GiB"
    return f"{where}; {versions}; {facts['date']}."


def _gpu() -> str | None:
    """Name and memory of NVIDIA's first GPU, as its driver's own program says."""
    if (program := shutil.which("nvidia-smi")) is None:
        return None
    command = [program, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    return next(iter(found.stdout.splitlines()), None) if found.returncode == 0 else None


def put(page: str, block: str) -> str:
    """The page with ``block`` between the markers. Raises ValueError if either marker is not there exactly once."""
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f"the page needs the lines {BEGIN} and {END} once each")
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{block}\n{END}{rest.split(END)[1]}"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def resident(field: str = "VmRSS", pid: int | str = "self") -> int:
    """Memory of a process in bytes: now (``VmRSS``) or its peak so far (``VmHWM``)."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/{pid}/status has no {field}")


def reset_peak() -> None:
    """Resets this process's ``VmHWM`` to what is in memory now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used so far, user and system."""
    after_name = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def in_child(function: Callable[..., Any], *arguments: Any) -> Any:
    """``function(*arguments)`` in a fresh process, so that its memory can be measured alone; the result is pickled.

    Raises:
        RuntimeError: the process ended without an answer.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_answer, args=(theirs, function, arguments))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"{function.__name__}{arguments} ended with exit code {process.exitcode}") from None
    finally:
        process.join()


def _answer(connection: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    connection.send(function(*arguments))


def matrix_peak(dtype: str, seconds: float = 2.0) -> float:
    """The highest FLOP/s of torch's matrix product here, over three square sizes, ``seconds`` for each."""
    import torch

    best = 0.0
    for size in (1024, 2048, 4096):
        left, right = (torch.randn(size, size).to(getattr(torch, dtype)) for _ in range(2))
        torch.mm(left, right)
        end = time.perf_counter() + seconds
        while (start := time.perf_counter()) < end:
            torch.mm(left, right)
            best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def finish(result: dict[str, Any]) -> None:
    """Prints the result, the command and the machine's facts as one JSON object: the last line of a benchmark."""
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    print(json.dumps(result | {"command": command, "machine": machine()}), flush=True)
