"""Checks that every figure comes from the run folders: python -m evidence.check RUNS PAGE

Scores every row's answer again and recomputes from the scores what eval/*.json, base.json, cell.json, stage.json,
compare.json and continual.json say; renders the report's tables and the page's block again and compares the text.
Exits with 1 and names the first figure that differs.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.common import BEGIN, END
from evidence.page import render
from selfdistill import run_folder
from selfdistill.evaluate.run import summary
from selfdistill.report.collect import collect
from selfdistill.report.render import MARKDOWN, TABLES, to_markdown
from selfdistill.report.tables import all_tables, to_csv
from selfdistill.stats import scores as metrics
from selfdistill.studies.analysis import equal_skill, paired_tests
from selfdistill.tasks.scorers import scorer_from
from selfdistill.types import EvalResult, Example, ScoredSample

NUMBERS = ("accuracy", "interval", "num_correct", "num_total")
SUMMARIES = (
    "average_accuracy",
    "average_incremental_accuracy",
    "learning_accuracy",
    "backward_transfer",
    "forgetting",
)


def problems(runs: Path, page: Path) -> Iterator[str]:
    """Every figure that differs from what the run folders give, with its file: none where all is well."""
    for folder in sorted(path.parent for path in runs.glob("*/compare.json")):
        yield from _compare(folder)
        yield from _report(folder)
    for folder in sorted(path.parent for path in runs.glob("*/continual.json")):
        yield from _continual(folder)
        yield from _report(folder)
    yield from _page(runs, page)


def _compare(folder: Path) -> Iterator[str]:
    """compare.json against base.json and cell.json, and these against the answers."""
    found = _read(folder / "compare.json")
    study, task = _settings(folder), found["dataset"]
    yield from _measured(folder / "eval-before", _read(folder / "base.json"), study, folder / "base.json")
    base = _read(folder / "base.json")
    same = {"new_task": base["tasks"][task], "prior": base["prior"], "drift": base["drift"]}
    yield from _differences(found["base"], same, f"{folder / 'compare.json'}: base")
    entries: list[dict[str, Any]] = []
    scores: dict[str, dict[int, list[float | None]]] = {arm["name"]: {} for arm in found["arms"]}
    places = dict.fromkeys(entry["run"] for entry in found["entries"])
    for place in places:
        cell = _read(folder / place / "cell.json")
        last = cell["entries"][-1]
        whole = {"tasks": {task: last["new_task"]}, "prior": last["prior"], "drift": last["drift"]}
        yield from _measured(folder / place / "eval", whole, study, folder / place / "cell.json")
        rates = {arm["name"]: arm["learning_rate"] for arm in found["arms"]}
        chosen = cell["learning_rate"] == rates[cell["method"]]
        more = {"chosen": chosen, "validation": cell["validation"], "run": place}
        entries += [entry | more for entry in cell["entries"]]
        if chosen:
            rows = run_folder.read_jsonl(folder / place / "eval" / f"{task}.samples.jsonl")
            scores[cell["method"]][cell["seed"]] = [_score(row["scores"], found["metric"]) for row in rows]
    where = str(folder / "compare.json")
    yield from _differences(found["entries"], entries, f"{where}: entries")
    yield from _differences(found["tests"], paired_tests(scores), f"{where}: tests")
    ran: dict[str, dict[int, list[dict[str, Any]]]] = {arm["name"]: {} for arm in found["arms"]}
    for entry in (entry for entry in entries if entry["chosen"]):
        ran[entry["method"]].setdefault(entry["seed"], []).append(entry)
    yield from _differences(found["equal_skill"], equal_skill(found["base"], ran), f"{where}: equal_skill")


def _continual(folder: Path) -> Iterator[str]:
    """continual.json against base.json and stage.json, and these against the answers."""
    study, base = _settings(folder), _read(folder / "base.json")
    yield from _measured(folder / "eval-before", base, study, folder / "base.json")
    for run in _read(folder / "continual.json")["runs"]:
        where = f"{folder / 'continual.json'}: {run['method']}"
        stages: list[dict[str, Any]] = []
        for number, task in enumerate(run["tasks"], start=1):
            place = folder / run["method"] / f"stage-{number}-{task}"
            stages.append(_read(place / "stage.json"))
            yield from _measured(place / "eval", stages[-1], study, place / "stage.json")
        matrix = [[stage["tasks"][task]["accuracy"] for task in run["tasks"]] for stage in stages]
        start = [base["tasks"][task]["accuracy"] for task in run["tasks"]]
        same = {name: getattr(metrics, name)(matrix) for name in SUMMARIES}
        same |= {name: getattr(metrics, name)(matrix, start) for name in ("forward_transfer", "normalized")}
        same |= {"accuracy_matrix": matrix, "base": start, "stages": stages}
        same["before"] = {name: base[name] for name in ("tasks", "prior", "drift")}
        yield from _differences(run, same, where)


def _measured(folder: Path, entry: Mapping[str, Any], study: Mapping[str, Any], file: Path) -> Iterator[str]:
    """A model's numbers in ``entry``, which ``file`` holds, against the answers in an evaluation folder."""
    for task, numbers in entry["tasks"].items():
        written = _read(folder / f"{task}.json")
        result = _scored(folder / f"{task}.samples.jsonl", written, study)
        counted = summary(result)
        yield from _differences(
            {name: written[name] for name in (*NUMBERS, "parts", "per_sample_scores")},
            {name: counted[name] for name in (*NUMBERS, "parts", "per_sample_scores")},
            str(folder / f"{task}.json"),
        )
        same: dict[str, Any] = {name: counted[name] for name in NUMBERS}
        if "parts" in numbers or counted["parts"]:
            same["parts"] = {part: {n: values[n] for n in NUMBERS} for part, values in counted["parts"].items()}
        yield from _differences(numbers, same, f"{file}: {task}")
    if entry["drift"]:
        rows = list(run_folder.read_jsonl(folder / "drift.samples.jsonl"))
        leaks = {"format_leak_rate": metrics.mean([float(row["leaks"]) for row in rows]), "num_prompts": len(rows)}
        same = _read(folder / "drift.json") | leaks
        yield from _differences(entry["drift"], same, f"{file}: drift")


def _scored(path: Path, written: Mapping[str, Any], study: Mapping[str, Any]) -> EvalResult:
    """The answers in a file, scored again by the study's scorer."""
    metric, scorer = scorer_from(study["scorer"])
    samples: list[ScoredSample] = []
    for row in run_folder.read_jsonl(path):
        example = Example(id=row["id"], prompt=tuple(row["prompt"]), reference=row["reference"], part=row["part"])
        samples.append(
            ScoredSample(
                example=example,
                completion=row["completion"],
                num_tokens=row["num_tokens"],
                finish_reason=row["finish_reason"],
                scores={metric: scorer(row["completion"], example)},
            )
        )
    scores = [score for sample in samples if (score := sample.scores[metric]) is not None]
    interval = metrics.wilson_interval(sum(scores), len(scores))
    return EvalResult(
        task=written["config"]["task"],
        metric=metric,
        accuracy=metrics.mean(scores),
        interval=interval,
        samples=tuple(samples),
        config={},
    )


def _report(folder: Path) -> Iterator[str]:
    """A study's tables/*.csv and report.md against what its folder gives now."""
    results = collect(folder)
    wanted = {f"{TABLES}/{table.name}.csv": to_csv(table) for table in all_tables(results)}
    for place in sorted({*wanted, *(path.relative_to(folder).as_posix() for path in folder.glob(f"{TABLES}/*.csv"))}):
        yield from _text(folder / place, wanted.get(place, ""))
    written = _read(folder / "results.json")["written"]
    wanted_page = to_markdown(results).replace(results.written, written)
    yield from _text(folder / MARKDOWN, wanted_page)


def _page(runs: Path, page: Path) -> Iterator[str]:
    text = page.read_text(encoding="utf-8")
    block = text.partition(f"{BEGIN}\n")[2].partition(f"\n{END}")[0]
    yield from _lines(str(page), block, render(runs))


def _text(path: Path, wanted: str) -> Iterator[str]:
    yield from _lines(str(path), path.read_text(encoding="utf-8") if path.is_file() else "", wanted)


def _lines(where: str, found: str, wanted: str) -> Iterator[str]:
    ours, theirs = found.splitlines(), wanted.splitlines()
    for number in range(max(len(ours), len(theirs))):
        old, new = (lines[number] if number < len(lines) else "(nothing)" for lines in (ours, theirs))
        if old != new:
            yield f"{where}, line {number + 1}: {old!r}, the run folders give {new!r}"


def _differences(found: Any, wanted: Any, where: str) -> Iterator[str]:
    """Where ``found`` is not ``wanted``; of mappings only the keys of ``wanted`` are looked at."""
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        for name, value in wanted.items():
            yield from _differences(found.get(name), value, f"{where}.{name}")
    elif isinstance(wanted, list | tuple) and isinstance(found, list) and len(found) == len(wanted):
        for number, (old, new) in enumerate(zip(found, wanted, strict=True)):
            yield from _differences(old, new, f"{where}[{number}]")
    elif isinstance(wanted, float) and isinstance(found, float | int):
        if not math.isclose(found, wanted, rel_tol=1e-9, abs_tol=1e-12):
            yield f"{where}: {found}, the run folders give {wanted}"
    elif found != wanted:
        yield f"{where}: {str(found)[:200]}, the run folders give {str(wanted)[:200]}"


def _score(scores: Mapping[str, float], metric: str) -> float:
    """An answer's score by a scorer; what follows @ is a version of its file, and a study that grew has several."""
    (score,) = (value for name, value in scores.items() if name.partition("@")[0] == metric.partition("@")[0])
    return score


def _settings(folder: Path) -> dict[str, Any]:
    return _read(folder / "study.json")["settings"]


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def main() -> None:
    """Says whether all figures come from the folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("page", type=Path)
    arguments = parser.parse_args()
    if (first := next(problems(arguments.runs, arguments.page), None)) is not None:
        sys.exit(first)
    print(f"Every figure of {arguments.page} and of the reports comes from {arguments.runs}.")


if __name__ == "__main__":
    main()
