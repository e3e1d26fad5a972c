"""Puts what came of the studies into docs/evidence.md, between two markers: python -m evidence.page RUNS

Reads evidence.json and of every study compare.json or continual.json, and study.json; nothing else.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.common import machine_text, put
from evidence.compare_part import compare_part
from evidence.continual_part import continual_part
from evidence.run import FACTS

PAGE = Path("docs/evidence.md")


def render(runs: Path) -> str:
    """The measured block of a folder of studies.

    Raises:
        SystemExit: the folder holds no finished study.
    """
    compares = sorted(path.parent for path in runs.glob("*/compare.json"))
    sequences = sorted(path.parent for path in runs.glob("*/continual.json"))
    if not compares and not sequences:
        raise SystemExit(f"{runs} holds no finished study: start evidence.run.")
    facts = _read(runs / FACTS)
    size = " (too small to tell anything: it shows that the parts work)" if facts["size"] == "quick" else ""
    lines = [f"`{facts['command']}`{size}, begun on {machine_text(facts['machine'])}"]
    for folder in compares:
        lines += ["", *compare_part(folder.name, _read(folder / "compare.json"), _settings(folder))]
    if sequences:
        found = {_settings(folder)["seed"]: _read(folder / "continual.json")["runs"] for folder in sequences}
        lines += ["", *continual_part(found, _settings(sequences[0]))]
    return "\n".join(lines)


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _settings(folder: Path) -> dict[str, Any]:
    return _read(folder / "study.json")["settings"]


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


if __name__ == "__main__":
    main()
