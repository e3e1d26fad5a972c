"""Folders of studies as the evidence has them, small, with numbers made up and consistent down to the answers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import evidence.scorer
from selfdistill import run_folder
from selfdistill.commands.eval import write_into_run
from selfdistill.evaluate.run import result_of, summary
from selfdistill.report.collect import collect
from selfdistill.report.render import to_markdown
from selfdistill.report.tables import all_tables, to_csv
from selfdistill.stats import scores as metrics
from selfdistill.studies.analysis import equal_skill, paired_tests
from selfdistill.tasks import get_task
from selfdistill.tasks.scorers import scorer_from
from selfdistill.types import Example, ScoredSample

SCORER = f"{evidence.scorer.__file__}:same_answer"
METRIC, SCORE = scorer_from(SCORER)
NUMBERS = ("accuracy", "interval", "num_correct", "num_total")
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


def numbers(right: int) -> dict[str, Any]:
    """A checkpoint's numbers of 10 rows."""
    low, high = metrics.wilson_interval(right, 10)
    return {"accuracy": right / 10, "interval": [low, high], "num_correct": right, "num_total": 10}


def moved(kl: float) -> dict[str, Any]:
    """What drift.json holds of 2 general prompts."""
    return {"kl_per_token": kl, "reference_nll": 2.9 + kl, "format_leak_rate": 0.5, "num_prompts": 2}


def write_answers(folder: Path, right: dict[str, int], kl: float) -> dict[str, Any]:
    """An evaluation folder of 10 answers to each task, so many of them right; its ``tasks``, ``prior``, ``drift``."""
    tasks: dict[str, Any] = {}
    for name, count in right.items():
        samples: list[ScoredSample] = []
        for row in range(10):
            example = Example(id=f"{name}/eval/{row}", prompt=({"role": "user", "content": "?"},), reference="yes")
            text = "yes" if row < count else "no"
            scores = {METRIC: SCORE(text, example)}
            samples.append(
                ScoredSample(example=example, completion=text, num_tokens=2, finish_reason="stop", scores=scores)
            )
        task = replace(get_task("assistant-tools"), name=name, scorers={METRIC: SCORE})
        result = result_of(task, tuple(samples), {})
        write_into_run(result, folder)
        tasks[name] = {key: summary(result)[key] for key in NUMBERS}
    run_folder.write_json(folder / "drift.json", moved(kl))
    run_folder.write_jsonl(folder / "drift.samples.jsonl", [{"leaks": True}, {"leaks": False}])
    return {"tasks": tasks, "prior": {}, "drift": moved(kl)}


def write_compare(folder: Path, drift: dict[str, float], seeds: tuple[int, ...] = SEEDS) -> None:
    """A comparison in which all arms have 5 and then 8 rows right, an arm of a drift of d moving by d and then 2 d."""
    base = write_answers(folder / "eval-before", {"toy": 0}, 0.0)
    run_folder.write_json(folder / "base.json", base | {"templates": {}})
    run_folder.write_json(folder / "study.json", {"settings": SETTINGS | {"checkpoints": 2}})
    entries: list[dict[str, Any]] = []
    runs: dict[str, dict[int, list[dict[str, Any]]]] = {arm: {} for arm in drift}
    for arm, kl in drift.items():
        for seed in seeds:
            place = f"{arm}/lr-0.0001/seed-{seed}"
            facts = {"method": arm, "learning_rate": 1e-4, "seed": seed}
            kls = [kl + 0.001 * seed, 2 * kl + 0.001 * seed]
            last = write_answers(folder / place / "eval", {"toy": 8}, kls[1])
            own = [
                facts
                | {"step": step, "new_task": found, "prior": {}, "drift": moved(value), "tokens": 9, "wall_s": 5.0}
                for step, found, value in ((2, numbers(5), kls[0]), (4, last["tasks"]["toy"], kls[1]))
            ]
            cell = facts | {"run": place, "num_rows": 9, "validation": None, "entries": own}
            run_folder.write_json(folder / place / "cell.json", cell)
            runs[arm][seed] = own
            entries += [entry | {"chosen": True, "validation": None, "run": place} for entry in own]
    start = {"new_task": base["tasks"]["toy"], "prior": {}, "drift": base["drift"], "step": 0, "tokens": 0, "wall_s": 0}
    scores = {arm: {seed: [1.0] * 8 + [0.0] * 2 for seed in seeds} for arm in drift}
    arms = [{"name": arm, "settings": {"method": arm}, "learning_rate": 1e-4} for arm in drift]
    found = {"dataset": "toy", "metric": METRIC, "arms": arms, "seeds": list(seeds)}
    found |= {"budget": {"of": "steps", "amount": 4}, "base": start, "entries": entries}
    found |= {"tests": paired_tests(scores), "equal_skill": equal_skill(start, runs)}
    run_folder.write_json(folder / "compare.json", found)
    write_report(folder)


def write_continual(folder: Path, seed: int, right: dict[str, list[list[int]]]) -> None:
    """A sequence of the tasks a and b; of each arm how many rows of either are right after either stage."""
    base = write_answers(folder / "eval-before", {"a": 1, "b": 0}, 0.0)
    run_folder.write_json(folder / "base.json", base | {"templates": {}})
    own = {"seed": seed, "eval_limit": 10, "max_steps": 4, "learning_rate": 1e-4}
    run_folder.write_json(folder / "study.json", {"settings": SETTINGS | own})
    runs: list[dict[str, Any]] = []
    for arm, rows in right.items():
        stages: list[dict[str, Any]] = []
        for number, (task, row) in enumerate(zip("ab", rows, strict=True), start=1):
            place = folder / arm / f"stage-{number}-{task}"
            measured = write_answers(place / "eval", dict(zip("ab", row, strict=True)), 0.1 * number)
            stages.append({"stage": number, "task": task, **measured, "step": 4, "tokens": 9, "wall_s": 5.0})
            run_folder.write_json(place / "stage.json", stages[-1])
        matrix, start = [[count / 10 for count in row] for row in rows], [0.1, 0.0]
        run = {"method": arm, "settings": {"method": arm}, "tasks": ["a", "b"], "base": start}
        run |= {"accuracy_matrix": matrix, "stages": stages}
        run |= {"before": {name: base[name] for name in ("tasks", "prior", "drift")}}
        for name in ("average_accuracy", "average_incremental_accuracy", "learning_accuracy"):
            run[name] = getattr(metrics, name)(matrix)
        run |= {"backward_transfer": metrics.backward_transfer(matrix), "forgetting": metrics.forgetting(matrix)}
        run["forward_transfer"] = metrics.forward_transfer(matrix, start)
        runs.append(run | {"normalized": metrics.normalized(matrix, start)})
    run_folder.write_json(folder / "continual.json", runs[0] | {"runs": runs})
    write_report(folder)


def write_report(folder: Path) -> None:
    """What the report writes, the page itself left out."""
    results = collect(folder)
    run_folder.write_json(folder / "results.json", {"written": results.written})
    run_folder.write_text(folder / "report.md", to_markdown(results))
    for table in all_tables(results):
        run_folder.write_text(folder / "tables" / f"{table.name}.csv", to_csv(table))


def write_evidence(runs: Path) -> Path:
    """A comparison and a sequence of three seeds in ``runs``."""
    run_folder.write_json(runs / "evidence.json", {"size": "full", "command": "python x", "machine": MACHINE})
    write_compare(runs / "compare-toy", {"sft": 0.4, "sdft": 0.1})
    for seed in SEEDS:
        # forgetting: sft 9 - 3 rows, sdft 7 - 7; at the end sft (3 + 9) / 2, sdft (7 + 9) / 2, give or take a row
        right = {"sft": [[9, 0], [3 + seed % 2, 9]], "sdft": [[7, 0], [7, 9]]}
        write_continual(runs / f"continual-{seed}", seed, right)
    return runs
