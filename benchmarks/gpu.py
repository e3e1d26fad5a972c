"""Is this package right on the device at hand, do runs fit there as estimated, and how fast are they?

For whoever has a GPU: one command, without network or model files (weights are random), of at most --seconds. Sections
run one after the other in a process of their own. Each has a budget; one that fails, hangs or finds no time says so,
and the rest go on. With a CPU only --quick makes sense, whose figures mean nothing.

right  losses, gradients, whole steps of every method and teacher against the CPU in fp32; teachers on the host, masters
       and resumed runs against what they must equal; completions against transformers' generate
fits   three training steps in the paper's settings with models of 0.5B, 1.5B and 7B: peak memory against our estimate;
       the first of these settings that fits is taken: all weights, moments in 8 bits, LoRA
fast   seconds of these steps by phase; tokens per second while sampling; the loss at a vocabulary of 152k; TRL's step

Results are in --output_dir as soon as there are any: a JSON file for each section, and gpu.json with all. A section is
ok, skipped (for want of time, memory or a package), stopped (its time ran out), failed (something raised an error) or
wrong (a result is).
The exit code is 1 if one failed or is wrong.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

from common import make_parser
from gpu_check import packages

packages.find_selfdistill()

from gpu_check.report import Report, Section  # noqa: E402
from gpu_check.worker import LOG, StartError, Worker, chosen, run_section  # noqa: E402
from selfdistill.run_folder import write_json  # noqa: E402

RESULT = "gpu.json"
SECONDS = 420.0
DEVICES = ("cpu", "cuda", "mps", "xpu")
_STEP = "gpu_check.steps:training_step"


def _section(name: str, seconds: float, function: str, *arguments: Any, groups: tuple[str, ...] = ()) -> Section:
    return Section(
        name=name,
        groups=groups or (name.partition("-")[0],),
        seconds=seconds,
        function=function,
        arguments=arguments,
    )


SECTIONS = (
    _section("machine", 20, "gpu_check.machine:machine", groups=("right", "fits", "fast")),
    _section("right-losses", 15, "gpu_check.right:divergences"),
    _section("right-steps", 20, "gpu_check.runs:steps"),
    _section("right-teachers", 15, "gpu_check.right:teachers"),
    _section("right-masters", 5, "gpu_check.right:masters"),
    _section("right-sampling", 5, "gpu_check.right:sampling"),
    _section("right-resume", 15, "gpu_check.runs:resume"),
    _section("fits-0.5B", 40, _STEP, "0.5B", groups=("fits", "fast")),
    _section("fits-1.5B", 45, _STEP, "1.5B", groups=("fits", "fast")),
    _section("fast-loss", 15, "gpu_check.fast:loss"),
    _section("fast-decode", 40, "gpu_check.fast:decode"),
    _section("fits-7B", 125, _STEP, "7B", groups=("fits", "fast")),
    _section("fast-trl", 40, "gpu_check.fast:against_trl"),
)
"""In the order in which they run, each with its budget in seconds."""


def check(
    sections: tuple[Section, ...] | list[Section], *, seconds: float, device: str | None, quick: bool, folder: Path
) -> dict[str, Any]:
    """Runs sections one after the other, prints what they find and keeps it in the folder. Returns all of it.

    Args:
        sections: what to run.
        seconds: for everything, the start included.
        device: name of the device; None for the default.
        quick: whether sizes are tiny.
        folder: where results are written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in (RESULT, LOG, *(f"{section.name}.json" for section in SECTIONS)):
        (folder / name).unlink(missing_ok=True)
    deadline = time.monotonic() + seconds
    result: dict[str, Any] = {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "seconds": seconds,
        "quick": quick,
        "device": None,
        "missing": packages.missing(packages.OPTIONAL),
        "sections": {},
    }
    print(packages.missing_text(result["missing"]), flush=True)
    worker: Worker | None = None
    broken = ""
    try:
        for section in sections:
            if broken:
                found = Report(folder, section.name, 0.0).end("skipped", broken)
            else:
                try:
                    found, worker = run_section(
                        section, worker, deadline=deadline, device=device, quick=quick, folder=folder
                    )
                except StartError as error:
                    broken = "what runs the sections did not start"
                    found = Report(folder, section.name, 0.0).end("failed", f"{broken}: {error}")
            result["device"] = worker.device if worker else result["device"]
            result["sections"][section.name] = found
            write_json(folder / RESULT, result)
            print(row(found), flush=True)
    finally:
        if worker is not None:
            worker.stop()
    return result


def row(found: dict[str, Any]) -> str:
    """A section as lines of the table on the screen."""
    lines = found["summary"] or [""]
    first = f"{found['section']:<15} {found['status']:<8} {found['seconds']:>6.1f} s  {lines[0]}"
    return "\n".join([first.rstrip(), *(" " * 35 + line for line in lines[1:])])


def _arguments() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--output_dir", type=Path, required=True, help="folder of the results; it replaces earlier ones"
    )
    parser.add_argument("--seconds", type=float, default=SECONDS, help="most time for everything")
    parser.add_argument("--device", choices=DEVICES, help="by default the machine's; CUDA_VISIBLE_DEVICES picks a GPU")
    parser.add_argument("--only", default="", help="groups (right, fits, fast) or sections, with commas between them")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does everything run?")
    arguments = parser.parse_args()
    try:
        arguments.sections = chosen(SECTIONS, [name for name in arguments.only.split(",") if name])
    except ValueError as error:
        parser.error(str(error))
    return arguments


def main() -> int:
    """Runs the check; returns the exit code."""
    arguments = _arguments()
    if lacking := packages.missing(packages.NEEDED):
        print(f"Not installed, and needed: {', '.join(lacking)}.", file=sys.stderr)
        return 1
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        os.environ[name] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # libraries would spread a run over all that they see
    result = check(
        arguments.sections,
        seconds=arguments.seconds,
        device=arguments.device,
        quick=arguments.quick,
        folder=arguments.output_dir,
    )
    bad = [name for name, found in result["sections"].items() if found["status"] in ("failed", "wrong")]
    verdict = f"Not right: {', '.join(bad)}." if bad else "Nothing is wrong."
    print(f"{verdict} Everything is in {arguments.output_dir / RESULT}.")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
