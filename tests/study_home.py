"""What a study needs: a tiny model saved to disk, rows of three tasks, a scorer that tells models apart."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

SCORER = "def parity(completion, example):\n    return float((sum(map(ord, completion)) + len(example.id)) % 2)\n"
"""Random models are right nowhere, so being right is a coin toss on what they say."""


def make_home(folder: Path, model: Any, tokenizer: Any) -> Path:
    """A folder with ``model``, ``one.jsonl`` to ``three.jsonl`` of 30 rows each, and ``scorer.py``."""
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    for name in ("one", "two", "three"):
        rows = ({"prompt": f"{name} {n}?", "demonstration": f"{name * 2} {n}."} for n in range(30))
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "scorer.py").write_text(SCORER)
    return folder


def settings(home: Path, name: str) -> dict[str, Any]:
    """Options for a study of a few seconds, into the folder ``name``."""
    return {
        "output_dir": str(home / name),
        "model_name": str(home / "model"),
        "scorer": f"{home / 'scorer.py'}:parity",
        "template": "prior_turn",
        "prior": "none",
        "dtype": "float32",
        "drift_prompts": 2,
        "max_new_tokens": 4,
        "max_completion_length": 20,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "learning_rate": 1e-2,
        "warmup_steps": 0,
        "rollouts_logged_per_step": None,
    }


def printed(run: Callable[..., Any], options: Any) -> str:
    """What a command prints."""
    console = Console(file=io.StringIO(), width=200)
    run(options, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def read(*names: Any) -> Any:
    """The value of a JSON file."""
    return json.loads(Path(*names).read_text())
