"""Run and study folders as the commands write them, with made-up numbers."""

import json
import random
from pathlib import Path
from typing import Any

from selfdistill import run_folder
from selfdistill.stats.scores import wilson_interval

SCRIPT = "<script>window.injected = true</script><img src=x onerror='window.injected = true'>"
PARTS = ("new combinations", "new phrasings", "new tools")


def numbers(scores: list[float]) -> dict[str, Any]:
    """Accuracy, interval and counts of a list of scores, as evaluation files have them."""
    return {
        "accuracy": sum(scores) / len(scores),
        "interval": list(wilson_interval(sum(scores), len(scores))),
        "num_correct": sum(scores),
        "num_total": len(scores),
    }


def write_eval(folder: Path, dataset: str, rows: list[dict[str, Any]], **config: Any) -> None:
    """``<dataset>.json`` and ``<dataset>.samples.jsonl`` of rows that have id, part, completion and score."""
    scores = [row["score"] for row in rows]
    parts = list(dict.fromkeys(row["part"] for row in rows if row["part"]))
    run_folder.write_json(
        folder / f"{dataset}.json",
        {
            **numbers(scores),
            "metrics": {"exact": numbers(scores)},
            "parts": {part: numbers([row["score"] for row in rows if row["part"] == part]) for part in parts},
            "per_sample_scores": scores,
            "config": {"task": dataset, "revision": "1", "metric": "exact", "temperature": 0.0, **config},
        },
    )
    run_folder.write_jsonl(
        folder / f"{dataset}.samples.jsonl",
        (
            {
                "id": row["id"],
                "part": row["part"],
                "prompt": [{"role": "user", "content": row.get("prompt", "Which tool fits?")}],
                "reference": row.get("reference", {"tool": "call", "arguments": {"person": "Ann"}}),
                "completion": row["completion"],
                "scores": {"exact": row["score"]},
                "num_tokens": 12,
                "finish_reason": "stop",
            }
            for row in rows
        ),
    )


def answers(dataset: str, scores: list[float], right: str = "call Ann", wrong: str = "Sure!") -> list[dict[str, Any]]:
    """Rows with the given scores, in three parts."""
    return [
        {
            "id": f"{dataset}/eval/{index}",
            "part": PARTS[index * len(PARTS) // len(scores)],
            "completion": right if score == 1 else wrong,
            "score": score,
        }
        for index, score in enumerate(scores)
    ]


def write_training(folder: Path, method: str = "sdft", num_steps: int = 6, task: str = "assistant-tools") -> None:
    """run_config.json, metrics.jsonl and rollouts.jsonl of a run with one rollout a step."""
    settings = {"method": method, "learning_rate": 1e-4, "output_dir": str(folder)}
    config = {
        "model_name": "tiny",
        "versions": {"python": "3.11"},
        "deviations_from_paper": {"template": ["prior_turn", "paper"]},
    }
    run_folder.write_json(folder / run_folder.CONFIG, {**config, "settings": settings})
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
            }
            for step in range(1, num_steps + 1)
        ),
    )
    run_folder.write_jsonl(
        folder / run_folder.ROLLOUTS,
        (
            {
                "step": step,
                "id": f"{task}/train/{step}",
                "target": "teacher",
                "student_prompt": "Call Ann.",
                "teacher_prompt": "Call Bob. <answer> call Bob. Call Ann.",
                "completion": "call Ann now",
                "completion_ids": [1, 2, 3],
                "tokens": ["call", " Ann", " now"],
                "loss_positions": [1, 2],
                "per_token_kl": [2.0 / step, 0.1],
                "finish_reason": "stop",
            }
            for step in range(1, num_steps + 1)
        ),
    )


def write_run(folder: Path, before: list[float], after: list[float], method: str = "sdft", **texts: str) -> Path:
    """A whole run folder with the given scores before and after."""
    write_training(folder, method)
    write_eval(folder / "eval-before", "assistant-tools", answers("assistant-tools", before))
    write_eval(folder / "eval", "assistant-tools", answers("assistant-tools", after, **texts))
    return folder


def write_drift(folder: Path, kl: float, nll: float, leak: float) -> None:
    """``drift.json`` of an evaluation folder."""
    run_folder.write_json(folder / "drift.json", {"kl_per_token": kl, "reference_nll": nll, "format_leak_rate": leak})


def compare_entries() -> list[dict[str, Any]]:
    """compare.json: two methods, two learning rates, two seeds, three checkpoints."""
    noise = random.Random(0)
    found: list[dict[str, Any]] = []
    for method, gain, cost in (("sdft", 0.26, 0.05), ("sft", 0.3, 0.15)):
        for rate in (3e-5, 1e-4):
            for seed in (0, 1):
                for step in (20, 40, 60):
                    share = min(0.98, gain * step / 20 * (0.8 + 2000 * rate) + noise.uniform(-0.04, 0.04))
                    moved = cost * step / 20 * (0.6 + 8000 * rate) * noise.uniform(0.9, 1.1)
                    skill = round(200 * share)
                    found.append(
                        {
                            "method": method,
                            "seed": seed,
                            "learning_rate": rate,
                            "step": step,
                            "new_task": numbers([1.0] * skill + [0.0] * (200 - skill)),
                            "prior": {"hellaswag": 0.43 - moved / 6, "arc_easy": 0.44 - moved / 9},
                            "drift": {
                                "kl_per_token": moved,
                                "reference_nll": 2.9 + moved,
                                "format_leak_rate": moved / 2,
                            },
                            "tokens": step * 5000,
                            "wall_s": step * 7.5,
                        }
                    )
    return found


def continual_run() -> dict[str, Any]:
    """continual.json of one method over three tasks; the summaries worked out by hand from the matrix."""
    return {
        "tasks": ["tooluse", "science", "assistant-tools"],
        "base": [0.4, 0.3, 0.0],
        "accuracy_matrix": [[0.7, 0.3, 0.1], [0.6, 0.6, 0.1], [0.5, 0.6, 0.8]],
        "average_accuracy": (0.5 + 0.6 + 0.8) / 3,
        "average_incremental_accuracy": (0.7 + 0.6 + 1.9 / 3) / 3,
        "backward_transfer": (-0.2 + 0.0) / 2,
        "forward_transfer": (0.0 + 0.1) / 2,
        "forgetting": (0.2 + 0.0) / 2,
        "learning_accuracy": (0.7 + 0.6 + 0.8) / 3,
    }


def as_json(path: Path) -> Any:
    """The value of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))
