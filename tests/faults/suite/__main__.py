"""Kills, crashes and damages training runs, and says whether anything was lost: the last line is one JSON object.

kills, resumed_identical       SIGKILLs, and those after which the run ended as if uninterrupted
max_steps_lost                 finished steps after the newest whole checkpoint, at most; there is one after each step
corruptions, corruptions_detected
crash_images                   states of a folder that a power cut can leave
other_faults_total, other_faults_passed
fuzz_inputs                    mutated rows, settings, records and completions
violations                     whatever was not as it must be; each is printed with the arguments that replay it

The exit code is 1 if there are violations.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.faults.suite import corruptions, fuzz, images, kills, others
from tests.faults.suite.home import Home, Result, command

PARTS: dict[str, ModuleType] = {
    "others": others,
    "kills": kills,
    "images": images,
    "corruptions": corruptions,
    "fuzz": fuzz,
}
COUNTED = (
    "kills", "resumed_identical", "corruptions", "corruptions_detected", "crash_images",
    "other_faults_passed", "other_faults_total", "fuzz_inputs",
)  # fmt: skip


def main() -> int:
    """Runs the suite; returns the exit code."""
    arguments = _arguments()
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    home = _prepared(folder)
    counts, most_lost, violations = Counter[str](), 0, 0
    with ProcessPoolExecutor(arguments.workers, mp_context=get_context("fork")) as pool:
        for part in arguments.only or PARTS:
            cases = arguments.case or PARTS[part].plan(home, quick=arguments.quick)
            print(f"{part}: {len(cases)} cases", flush=True)
            for case, result in _results(pool, home, arguments.seed, part, cases):
                counts.update(result.counts)
                most_lost = max(most_lost, result.most_lost)
                violations += len(result.wrong)
                for wrong in result.wrong:
                    print(f"{part} {case}: {wrong}")
                if result.wrong:
                    replay = f"--seed {arguments.seed} --only {part} --case {case}"
                    print(f"  replay: python -m tests.faults.suite {replay}", flush=True)
    if violations:
        print(f"What was found is in {folder}.")
    else:
        shutil.rmtree(folder)
    found: dict[str, Any] = {name: counts[name] for name in COUNTED}
    found |= {"max_steps_lost": most_lost, "violations": violations}
    found |= {"seed": arguments.seed, "seconds": round(time.monotonic() - started)}
    print(json.dumps(found))
    return 1 if violations else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few cases of each kind")
    parser.add_argument("--seed", type=int, default=0, help="decides moments, operations and damages")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="parts to run")
    parser.add_argument("--case", nargs="+", help="names of cases of that part")
    parser.add_argument("--workers", type=int, default=2, help="cases at the same time")
    arguments = parser.parse_args()
    if arguments.case and len(arguments.only or ()) != 1:
        parser.error("--case: name the one part with --only")
    return arguments


def _prepared(folder: Path) -> Home:
    """The home; and everything a run imports is imported, so that forked processes need not."""
    import torch
    from tqdm import tqdm

    from selfdistill.cli import main as command_line

    tqdm.monitor_interval = 0  # no thread here, of which a fork would lose its locks
    torch.set_num_threads(1)
    os.environ |= {"HOME": str(folder / "home"), "COLUMNS": "250"}
    os.environ.pop("SELFDISTILL_DATA", None)
    home = Home(folder)
    home.make()
    os.chdir(home.trial("warm"))
    with open("said.txt", "w") as said:
        before, sys.stdout = sys.stdout, said
        try:
            for variant in ("lora", "anchors"):
                code = command_line([*command(variant), "--overwrite"])
                assert code == 0, code
        finally:
            sys.stdout = before
    os.chdir(folder)
    return home


def _results(
    pool: ProcessPoolExecutor, home: Home, seed: int, part: str, cases: Iterable[str]
) -> Iterator[tuple[str, Result]]:
    waiting = [(case, pool.submit(_run, home, seed, part, case)) for case in cases]
    for case, one in waiting:
        yield case, one.result()


def _run(home: Home, seed: int, part: str, case: str) -> Result:
    """Runs a case; an error of the suite itself is a violation, too."""
    try:
        result = PARTS[part].run_case(home, seed, case)
    except Exception:
        return Result(wrong=[traceback.format_exc()])
    if not result.wrong:
        shutil.rmtree(home.folder / "trials" / f"{part}-{case}", ignore_errors=True)
    return result


if __name__ == "__main__":
    sys.exit(main())
