"""Run and study folders as the commands write them, with made-up numbers."""

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from selfdistill import run_folder
from selfdistill.evaluate.results import write_evaluation
from selfdistill.records.runs import RolloutRecord, RunConfig
from selfdistill.records.studies import (
    ArmRecord,
    BaseRecord,
    Checkpoint,
    CompareRecord,
    ContinualRecord,
    SequenceRecord,
)
from selfdistill.report.contents import Results
from selfdistill.report.table import Table
from selfdistill.report.tables import all_tables
from selfdistill.studies import continual
from selfdistill.types import EvalConfig, EvalResult, Example, ScoredSample
from tests.support.study_records import checkpoint, drift, measured, stage

SCRIPT = "<script>window.injected = true</script><img src=x onerror='window.injected = true'>"
PARTS = ("new combinations", "new phrasings", "new tools")
TASK = "assistant-tools"
SCORER = "exact"


# -- evaluations and runs ------------------------------------------------------------------------------------------


def answers(
    scores: Sequence[float | None], dataset: str = TASK, *, right: str = "call Ann", wrong: str = "Sure!"
) -> list[ScoredSample]:
    """Answered rows with the given scores, in three parts."""
    found: list[ScoredSample] = []
    for index, value in enumerate(scores):
        example = Example(
            id=f"{dataset}/eval/{index}",
            prompt=({"role": "user", "content": "Which tool fits?"},),
            reference={"tool": "call", "arguments": {"person": "Ann"}},
            part=PARTS[index * len(PARTS) // len(scores)],
        )
        text = right if value == 1 else wrong
        found.append(
            ScoredSample(example=example, completion=text, num_tokens=12, finish_reason="stop", scores={SCORER: value})
        )
    return found


def write_eval(folder: Path, samples: Sequence[ScoredSample], dataset: str = TASK, **config: Any) -> None:
    """An evaluation of a data set; ``config`` are fields of EvalConfig."""
    made: dict[str, Any] = {"task": dataset, "revision": "1", "metric": SCORER, "prompt": "chat", "temperature": 0.0}
    made["num_rows"] = len(samples)
    settings = EvalConfig(**made | config)
    write_evaluation(folder, EvalResult(samples=tuple(samples), config=settings))


def write_drift(folder: Path, kl: float, nll: float, leak: float) -> None:
    """The numbers of a drift in an evaluation folder."""
    run_folder.write_json(
        folder / run_folder.results_file(run_folder.DRIFT), replace(drift(kl, leak), reference_nll=nll)
    )


def rollout(step: int, **more: Any) -> RolloutRecord:
    """A completion of three tokens, the last two of which carry loss; ``more`` are other fields of it."""
    plain: dict[str, Any] = {
        "step": step,
        "id": f"{TASK}/train/{step}",
        "target": "teacher",
        "student_prompt": "Call Ann.",
        "teacher_prompt": "Call Bob. <answer> call Bob. Call Ann.",
        "completion": "call Ann now",
        "completion_ids": [1, 2, 3],
        "tokens": ["call", " Ann", " now"],
        "finish_reason": "stop",
        "loss_positions": [1, 2],
        "per_token_kl": [2.0 / step, 0.1],
    }
    return RolloutRecord(**plain | more)


def write_training(folder: Path, method: str = "sdft", num_steps: int = 6) -> None:
    """run_config.json, metrics.jsonl and rollouts.jsonl of a run with one rollout a step."""
    config = RunConfig(
        model_name="tiny",
        num_training_rows=9,
        versions={"python": "3.11"},
        settings={"method": method, "learning_rate": 1e-4, "output_dir": str(folder)},
        deviations_from_paper={"template": ("prior_turn", "paper")},
        task=TASK,
        dataset=TASK,
    )
    run_folder.write_json(folder / run_folder.RUN_CONFIG, config)
    noise = random.Random(method)
    run_folder.write_jsonl(
        folder / run_folder.METRICS,
        (
            {
                "step": step,
                "loss": 0.6 / step + noise.random() / 20,
                "divergence": 0.6 / step,
                "completion_tokens": 30.0,
                "truncated_share": 0.5 / step,
                "tokens_seen": 5000 * step,
                "wall_seconds": 7.5 * step,
                "seconds/rollout": 3.0,
                "seconds/backward": 1.0,
                "format": run_folder.FORMAT,
            }
            for step in range(1, num_steps + 1)
        ),
    )
    run_folder.write_jsonl(folder / run_folder.ROLLOUTS, (rollout(step) for step in range(1, num_steps + 1)))


def write_run(folder: Path, before: list[float], after: list[float], method: str = "sdft", **texts: str) -> Path:
    """A whole run folder with the given scores before and after."""
    write_training(folder, method)
    write_eval(folder / run_folder.EVAL_BEFORE, answers(before))
    write_eval(folder / run_folder.EVAL, answers(after, **texts))
    return folder


# -- studies -------------------------------------------------------------------------------------------------------


def checkpoints() -> list[Checkpoint]:
    """Of two arms, two learning rates, two seeds and three steps."""
    noise = random.Random(0)
    found: list[Checkpoint] = []
    for arm, gain, cost in (("sdft", 0.26, 0.05), ("sft", 0.3, 0.15)):
        for rate in (3e-5, 1e-4):
            for seed in (0, 1):
                for step in (20, 40, 60):
                    share = min(0.98, gain * step / 20 * (0.8 + 2000 * rate) + noise.uniform(-0.04, 0.04))
                    moved = cost * step / 20 * (0.6 + 8000 * rate) * noise.uniform(0.9, 1.1)
                    found.append(
                        checkpoint(
                            round(200 * share) / 200,
                            moved,
                            arm=arm,
                            learning_rate=rate,
                            seed=seed,
                            step=step,
                            tokens=step * 5000,
                            seconds=step * 7.5,
                            prior={"hellaswag": 0.43 - moved / 6, "arc_easy": 0.44 - moved / 9},
                        )
                    )
    return found


def write_comparison(folder: Path, made: Sequence[Checkpoint] | None = None, **more: Any) -> CompareRecord:
    """compare.json of the checkpoints, by default ``checkpoints()``; ``more`` are other fields of it."""
    made = checkpoints() if made is None else made
    arms = {each.arm: each.learning_rate for each in made if each.chosen}
    plain: dict[str, Any] = {
        "dataset": TASK,
        "metric": SCORER,
        "arms": [
            ArmRecord(name=arm, settings={"method": arm}, learning_rate=rate, distils=arm == "sdft", anchor_share=0.0)
            for arm, rate in arms.items()
        ],
        "seeds": list(dict.fromkeys(each.seed for each in made)),
        "budget": "steps",
        "budget_amount": 60,
        "base": checkpoint(0.1, arm="", step=0, learning_rate=0.0),
        "checkpoints": list(made),
        "tests": [],
        "equal_skill": [],
        "fronts": [],
        "verdict": "Not measured.",
    }
    record = CompareRecord(**plain | more)
    run_folder.write_json(folder / run_folder.COMPARE, record)
    return record


def sequence(arm: str = "sdft", **prior: float) -> SequenceRecord:
    """An arm's sequence of three tasks; ``prior`` are scores on prior benchmarks that every model has."""
    tasks = ["tooluse", "science", TASK]
    matrix = [[0.7, 0.3, 0.1], [0.6, 0.6, 0.1], [0.5, 0.6, 0.8]]
    stages = [
        stage(number, task, measured(dict(zip(tasks, row, strict=True)), 0.1 * number, **prior))
        for number, (task, row) in enumerate(zip(tasks, matrix, strict=True), start=1)
    ]
    base = BaseRecord(measured=measured(dict(zip(tasks, [0.4, 0.3, 0.0], strict=True)), 0.0, **prior))
    own = {"settings": {"method": arm}, "distils": arm == "sdft", "anchor_share": 0.0, "learning_rate": 1e-4}
    return continual.conclude(tasks, stages, base, arm=arm, **own)


def write_sequences(folder: Path, *runs: SequenceRecord) -> None:
    """continual.json of the arms' sequences."""
    run_folder.write_json(folder / run_folder.CONTINUAL, ContinualRecord(runs=list(runs)))


def drawn_values(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that a plot draws."""
    return spec["datasets"][spec["data"]["name"]] if "name" in spec["data"] else spec["data"]["values"]


def table(results: Results, name: str) -> Table:
    """The report's table of that name."""
    return next(table for table in all_tables(results) if table.name == name)


def column(found: Table, title: str) -> list[Any]:
    """The values of a table's column."""
    place = [each.title for each in found.columns].index(title)
    return [row[place] for row in found.rows]


def as_json(path: Path) -> Any:
    """The value of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))
