"""Folders of studies as the evidence has them, small, with numbers made up and consistent down to the answers."""

from pathlib import Path
from typing import Any

import evidence.scorer
from selfdistill import run_folder
from selfdistill.evaluate.results import write_evaluation, write_records
from selfdistill.records.evaluations import DriftRecord, DriftSample
from selfdistill.records.studies import (
    ArmRecord,
    BaseRecord,
    CellRecord,
    Checkpoint,
    ContinualRecord,
    Measurements,
    StageRecord,
    StudyRecord,
)
from selfdistill.report.collect import collect
from selfdistill.report.render import to_markdown
from selfdistill.report.tables import all_tables, to_csv
from selfdistill.studies import compare, continual
from selfdistill.studies.budget import Spent
from selfdistill.studies.measures import task_score
from selfdistill.tasks.scorers import scorer_from
from selfdistill.types import EvalConfig, EvalResult, Example, ScoredSample
from tests.support.study_records import drift, score, stage

SCORER = f"{evidence.scorer.__file__}:same_answer"
METRIC, SCORE = scorer_from(SCORER)
SETTINGS = {
    "scorer": SCORER,
    "method": "sdft",
    "anchor_share": 0.0,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "model_name": "smollm2-135m",
}
MACHINE = {
    "cpu": "Some CPU",
    "bf16_unit": None,
    "cores": 2,
    "memory_gib": 8.0,
    "versions": {"torch": "2.13.0"},
    "date": "2026-01-02",
}
SEEDS = (0, 1, 2)


def moved(kl: float) -> DriftRecord:
    """A drift over 2 general prompts, of which ``write_answers`` lets one leak."""
    return drift(kl, leak=0.5)


def write_answers(folder: Path, right: dict[str, int], kl: float) -> Measurements:
    """An evaluation folder of 10 answers to each task, so many of them right; what a study keeps of it."""
    tasks = {name: task_score(write_evaluation(folder, answered(name, count))) for name, count in right.items()}
    leaks = [
        DriftSample(id=f"general/{leaks}", prompt="?", base_answer="", answer="", kl_per_token=kl, leaks=leaks)
        for leaks in (True, False)
    ]
    write_records(folder, run_folder.DRIFT, moved(kl), leaks)
    return Measurements(tasks=tasks, drift=moved(kl))


def answered(task: str, right: int) -> EvalResult:
    """10 rows of a task, the first ``right`` of them answered as they should be."""
    samples: list[ScoredSample] = []
    for row in range(10):
        example = Example(id=f"{task}/eval/{row}", prompt=({"role": "user", "content": "?"},), reference="yes")
        text = "yes" if row < right else "no"
        scores = {METRIC: SCORE(text, example)}
        samples.append(
            ScoredSample(example=example, completion=text, num_tokens=2, finish_reason="stop", scores=scores)
        )
    config = EvalConfig(task=task, revision="1", metric=METRIC, num_rows=10, prompt="chat")
    return EvalResult(samples=tuple(samples), config=config)


def write_study(folder: Path, command: str, **settings: Any) -> None:
    """study.json."""
    record = StudyRecord(command=command, settings=SETTINGS | settings, data={}, arms={}, versions={})
    run_folder.write_json(folder / run_folder.STUDY, record)


def write_compare(folder: Path, drifts: dict[str, float], seeds: tuple[int, ...] = SEEDS) -> None:
    """A comparison in which all arms have 5 and then 8 rows right, an arm of a drift of d moving by d and then 2 d."""
    base = write_answers(folder / run_folder.EVAL_BEFORE, {"toy": 0}, 0.0)
    run_folder.write_json(folder / run_folder.BASE, BaseRecord(measured=base))
    write_study(folder, "compare", checkpoints=2)
    cells = [write_cell(folder, arm, kl, seed) for arm, kl in drifts.items() for seed in seeds]
    arms = [
        ArmRecord(name=arm, settings={"method": arm}, learning_rate=1e-4, distils=arm == "sdft", anchor_share=0.0)
        for arm in drifts
    ]
    found = compare.conclude(
        folder,
        cells,
        arms,
        base=compare.checkpoint(base, "toy", "", Spent(step=0, tokens=0, seconds=0.0)),
        dataset="toy",
        metric=METRIC,
        seeds=list(seeds),
        budget=("steps", 4),
    )
    run_folder.write_json(folder / run_folder.COMPARE, found)
    write_report(folder)


def write_cell(folder: Path, arm: str, kl: float, seed: int) -> CellRecord:
    """A run of two checkpoints, the later one with answers."""
    place = f"{arm}/lr-0.0001/seed-{seed}"
    drifts = [kl + 0.001 * seed, 2 * kl + 0.001 * seed]
    last = write_answers(folder / place / run_folder.EVAL, {"toy": 8}, drifts[1])
    made = [
        Checkpoint(
            arm=arm, learning_rate=1e-4, seed=seed, step=step, tokens=9, seconds=5.0, skill=skill, drift=moved(value)
        )
        for step, skill, value in ((2, score(0.5), drifts[0]), (4, last.tasks["toy"], drifts[1]))
    ]
    facts: dict[str, Any] = {"arm": arm, "learning_rate": 1e-4, "seed": seed, "run": place}
    cell = CellRecord(**facts, num_rows=9, validation=None, checkpoints=made)
    run_folder.write_json(folder / place / run_folder.CELL, cell)
    return cell


def write_continual(folder: Path, seed: int, right: dict[str, list[list[int]]]) -> None:
    """A sequence of the tasks a and b; of each arm how many rows of either are right after either stage."""
    base = BaseRecord(measured=write_answers(folder / run_folder.EVAL_BEFORE, {"a": 1, "b": 0}, 0.0))
    run_folder.write_json(folder / run_folder.BASE, base)
    write_study(folder, "continual", seed=seed, eval_limit=10, max_steps=4, learning_rate=1e-4)
    runs = [
        continual.conclude(
            ["a", "b"],
            write_stages(folder / arm, rows),
            base,
            arm=arm,
            settings={"method": arm},
            distils=arm == "sdft",
            anchor_share=0.0,
            learning_rate=1e-4,
        )
        for arm, rows in right.items()
    ]
    run_folder.write_json(folder / run_folder.CONTINUAL, ContinualRecord(runs=runs))
    write_report(folder)


def write_stages(folder: Path, right: list[list[int]]) -> list[StageRecord]:
    """An arm's stages on the tasks a and b."""
    stages: list[StageRecord] = []
    for number, (task, row) in enumerate(zip("ab", right, strict=True), start=1):
        place = folder / f"stage-{number}-{task}"
        after = write_answers(place / run_folder.EVAL, dict(zip("ab", row, strict=True)), 0.1 * number)
        stages.append(stage(number, task, after))
        run_folder.write_json(place / run_folder.STAGE, stages[-1])
    return stages


def write_report(folder: Path) -> None:
    """What the report writes, the page itself left out."""
    results = collect(folder)
    run_folder.write_json(folder / run_folder.REPORT_RESULTS, results)
    run_folder.write_text(folder / run_folder.REPORT_TEXT, to_markdown(results))
    for table in all_tables(results):
        run_folder.write_text(folder / run_folder.REPORT_TABLES / f"{table.name}.csv", to_csv(table))


def write_evidence(runs: Path) -> Path:
    """A comparison and a sequence of three seeds in ``runs``."""
    run_folder.write_json(runs / "evidence.json", {"size": "full", "command": "python x", "machine": MACHINE})
    write_compare(runs / "compare-toy", {"sft": 0.4, "sdft": 0.1})
    for seed in SEEDS:
        # forgetting: sft 9 - 3 rows, sdft 7 - 7; at the end sft (3 + 9) / 2, sdft (7 + 9) / 2, give or take a row
        right = {"sft": [[9, 0], [3 + seed % 2, 9]], "sdft": [[7, 0], [7, 9]]}
        write_continual(runs / f"continual-{seed}", seed, right)
    return runs
