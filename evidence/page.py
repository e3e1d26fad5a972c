"""Puts the results of the studies into docs/evidence.md, between two markers: python -m evidence.page RUNS

Reads evidence.json, teachers/*.json and, for every study, study.json and compare.json or continual.json; nothing else.
For docs/evidence.md it also writes which arms won, by which a preflight recommends a method.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.common import machine_text, put
from evidence.changes_part import changes_part
from evidence.compare_part import compare_part
from evidence.continual_part import continual_part
from evidence.measured import measured
from evidence.run import FACTS, TEACHERS
from evidence.teachers_part import teachers_part
from selfdistill import run_folder
from selfdistill.evaluate.advice import FILE, Measured
from selfdistill.records.studies import CompareRecord, ContinualRecord, StudyRecord

PAGE = Path("docs/evidence.md")


def render(runs: Path) -> str:
    """The measured block of a folder of studies.

    Raises:
        SystemExit: the folder holds no finished study.
    """
    compares = sorted(path.parent for path in runs.glob(f"*/{run_folder.COMPARE}"))
    sequences = sorted(path.parent for path in runs.glob(f"*/{run_folder.CONTINUAL}"))
    if not compares and not sequences:
        raise SystemExit(f"{runs} holds no finished study: start evidence.run.")
    facts = json.loads((runs / FACTS).read_text(encoding="utf-8"))
    size = " (too small to tell anything: it shows that the parts work)" if facts["size"] == "quick" else ""
    lines = [f"`{facts['command']}`{size}, begun on {machine_text(facts['machine'])}"]
    lines += [f"Continued on {machine_text(other)}" for other in facts.get("continued_on", [])]
    for folder in compares:
        found = run_folder.read_record(folder / run_folder.COMPARE, CompareRecord)
        part = changes_part if facts["size"] == "wide" else compare_part
        lines += ["", *part(folder.name, found, study_settings(folder))]
    if teachers := sorted(runs.glob(f"{TEACHERS}/*.json")):
        lines += ["", *teachers_part(teachers)]
    if sequences:
        by_seed = {
            study_settings(folder)["seed"]: run_folder.read_record(folder / run_folder.CONTINUAL, ContinualRecord).runs
            for folder in sequences
        }
        lines += ["", *continual_part(by_seed, study_settings(sequences[0]))]
    return "\n".join(lines)


def outcome(runs: Path) -> Measured:
    """Which arms won the comparisons in a folder of studies."""
    folders = sorted(path.parent for path in runs.glob(f"*/{run_folder.COMPARE}"))
    found = {folder.name: run_folder.read_record(folder / run_folder.COMPARE, CompareRecord) for folder in folders}
    return measured(study_settings(folders[0])["model_name"], found)


def study_settings(folder: Path) -> dict[str, Any]:
    """The settings in a study's folder."""
    return run_folder.read_record(folder / run_folder.STUDY, StudyRecord).settings


def main() -> None:
    """Rewrites the page; one that is not there begins as a copy of docs/evidence.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--output", type=Path, default=PAGE)
    arguments = parser.parse_args()
    page = arguments.output if arguments.output.is_file() else PAGE
    text = put(page.read_text(encoding="utf-8"), render(arguments.runs))
    arguments.output.write_text(text, encoding="utf-8")
    print(arguments.output)
    if arguments.output == PAGE:
        run_folder.write_json(FILE, outcome(arguments.runs))
        print(FILE)


if __name__ == "__main__":
    main()
