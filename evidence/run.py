"""Runs the studies of evidence/studies.yaml, from the repository's root: python -m evidence.run --size quick

Started again, it resumes where it stopped; started several times, on one folder, the processes share the studies' runs
out, and so do those that --workers starts: for a GPU that one run does not fill. It ends with the first study that
fails, and with its exit code; with --workers the others go on.
"""

import argparse
import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from ruamel.yaml import YAML

from benchmarks.common import machine
from evidence.crew import Crew, Errand
from selfdistill import run_folder
from selfdistill.signals import handled

STUDIES = Path(__file__).with_name("studies.yaml")
FACTS = "evidence.json"
TEACHERS = "teachers"
"""Folder with what preflights found, a file for each task."""
LOGS = "logs"
"""Folder with what workers print, a file for each."""
FOLDERS = {
    "quick": "runs/evidence-quick",
    "wide": "runs/evidence-wide",
    "full": "runs/evidence",
    "gpu": "runs/evidence-gpu",
}
"""Where the studies of a size are, unless --output_dir says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A selfdistill command with its options."""

    name: str
    command: str
    options: dict[str, Any]

    def arguments(self, folder: Path, *more: str) -> list[str]:
        """The command line's arguments, ``more`` among them; the study's folder is the subfolder of its name."""
        place = [] if self.command == "preflight" else ["--output_dir", str(folder / self.name)]
        found = [self.command, *place, *more]
        for name, value in self.options.items():
            for one in value if isinstance(value, list) else [] if value is None else [value]:
                found += [f"--{name}", str(one)]
        return found


def read_studies(size: str) -> Iterator[Study]:
    """The studies of a size, in order; an entry with several seeds is one study for each seed."""
    found = YAML(typ="safe").load(STUDIES.read_text(encoding="utf-8"))[size]
    for entry in found["studies"]:
        options = {**found["shared"], **entry["options"]}
        for seed in entry.get("seeds", [None]):
            own = {} if seed is None else {"seed": seed}
            name = entry["name"] if seed is None else f"{entry['name']}-{seed}"
            yield Study(name=name, command=entry["command"], options=options | own)


def read_teachers(size: str) -> Iterator[Study]:
    """The preflights of a size: how right is the untrained model with a demonstration in sight?"""
    found = YAML(typ="safe").load(STUDIES.read_text(encoding="utf-8"))[size]
    for entry in found.get("teachers", []):
        yield Study(name=entry["name"], command="preflight", options=entry["options"])


def measure_teacher(teacher: Study, folder: Path, log: TextIO | None = None) -> int:
    """Writes what a preflight finds to the file of its name in TEACHERS, unless it is there. Returns the exit code."""
    file = folder / TEACHERS / f"{teacher.name}.json"
    if file.is_file():
        return 0
    command = [sys.executable, "-m", "selfdistill", *teacher.arguments(folder, "--json")]
    print(f"\n{teacher.name}: selfdistill {shlex.join(command[3:])}", file=log, flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, text=True, check=False)
    if done.returncode == 0:
        run_folder.write_json(file, json.loads(done.stdout))
    return done.returncode


def run_study(study: Study, folder: Path, where: Sequence[str], log: TextIO | None = None) -> int:
    """Runs what is left of a study and deletes its models' weights. Returns the exit code.

    Args:
        study: to run; ``where`` are its arguments that say on which machines.
        folder: of all studies.
        log: of what it prints; None for the screen.
    """
    command = [sys.executable, "-m", "selfdistill", *study.arguments(folder, *where)]
    print(f"\n{study.name}: selfdistill {shlex.join(command[3:])}", file=log, flush=True)
    if code := run(command, log):
        return code
    for weights in (folder / study.name).rglob("*.safetensors"):  # a finished study needs none of them
        weights.unlink(missing_ok=True)
    return 0


def begin(folder: Path, size: str) -> None:
    """Writes the command, date and machine for the page on the first start, and every other machine that goes on.

    Raises:
        SystemExit: the folder holds studies of another size.
    """
    here = machine()
    if not (folder / FACTS).is_file():
        command = f"python -m evidence.run --size {size}"
        run_folder.write_json(folder / FACTS, {"size": size, "command": command, "machine": here})
        return
    before = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    if before["size"] != size:
        sys.exit(f"{folder} holds the {before['size']} size. Name another --output_dir.")
    others = before.get("continued_on", [])
    if all(here | {"date": one["date"]} != one for one in (before["machine"], *others)):
        run_folder.write_json(folder / FACTS, before | {"continued_on": [*others, here]})


def main() -> None:
    """Runs every study, or those whose name begins with --only."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=tuple(FOLDERS), default="quick")
    parser.add_argument("--output_dir", type=Path)
    parser.add_argument("--only", default="", help="only the studies whose name begins like this")
    parser.add_argument("--workers", type=int, default=1, help="processes that share the runs out on this machine")
    parser.add_argument(
        "--executor", choices=("process", "ray"), default="process", help="as compare and continual take it"
    )
    parser.add_argument("--ray_address", help="of a Ray cluster: as compare and continual take it")
    arguments = parser.parse_args()
    if arguments.workers < 1:
        parser.error(f"--workers {arguments.workers}: name 1 or more.")
    folder = arguments.output_dir or Path(FOLDERS[arguments.size])
    studies = [study for study in read_studies(arguments.size) if study.name.startswith(arguments.only)]
    if not studies:
        sys.exit(f"--only {arguments.only}: no study begins like this.")
    begin(folder, arguments.size)
    where = ["--executor", arguments.executor] if arguments.executor != "process" else []
    where += ["--ray_address", arguments.ray_address] if arguments.ray_address else []
    errands = [
        Errand(f"{TEACHERS}/{teacher.name}", partial(measure_teacher, teacher, folder), several=False)
        for teacher in read_teachers(arguments.size)
    ]
    errands += [Errand(study.name, partial(run_study, study, folder, where), several=True) for study in studies]
    if arguments.workers > 1:
        crew = Crew(errands, folder / LOGS)
        with handled(lambda number, frame: crew.stop(), signal.SIGTERM):
            sys.exit(crew.work(arguments.workers))
    for errand in errands:
        if code := errand.do(None):
            sys.exit(code)


def run(command: list[str], log: TextIO | None = None) -> int:
    """Runs a command and returns its exit code; ``log`` takes what it prints. SIGTERM is passed on to it, so that it
    gives back what it has taken."""
    with (
        handled(lambda number, frame: process.send_signal(number), signal.SIGTERM),
        subprocess.Popen(command, stdout=log, stderr=log) as process,
    ):
        return process.wait()


if __name__ == "__main__":
    main()
