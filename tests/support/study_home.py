"""What a study needs: a tiny model saved to disk, rows of three tasks, a scorer that tells models apart."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from selfdistill import run_folder
from selfdistill.commands import compare, continual
from selfdistill.settings import flat
from selfdistill.settings.study import CompareOptions, ContinualOptions
from selfdistill.studies.compare import Comparison
from selfdistill.studies.continual import Sequences

SCORER = "def parity(completion, example):\n    return float((sum(map(ord, completion)) + len(example.id)) % 2)\n"
"""Random models are right nowhere, so being right is a coin toss on what they say."""
TASKS = ("one", "two", "three")
QUIET = Console(quiet=True)
SHOWN: dict[str, Any] = {"template": "prior_turn"}
"""For studies with an arm that shows the demonstration: without it a preflight would choose the template."""


def make_home(folder: Path, model: Any, tokenizer: Any) -> Path:
    """A folder with ``model``, ``one.jsonl`` to ``three.jsonl`` of 30 rows each, and ``scorer.py``."""
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    for name in TASKS:
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
        "prior": "none",
        "dtype": "float32",
        "drift_prompts": 2,
        "max_new_tokens": 4,
        "max_completion_length": 20,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "learning_rate": 1e-2,
        "warmup_steps": 0.0,
        "rollouts_logged_per_step": None,
    }


def compare_options(home: Path, name: str = "out", **more: Any) -> CompareOptions:
    """A comparison on the rows of ``one``: one seed, 4 steps, 2 checkpoints; ``more`` are other settings by name."""
    own = {"dataset_path": str(home / "one.jsonl"), "seeds": "0", "max_steps": 4, "checkpoints": 2}
    return flat.build(CompareOptions, settings(home, name) | own | more)


def comparison(home: Path, name: str = "out", console: Console = QUIET, **more: Any) -> Comparison:
    """The comparison of ``compare_options``."""
    return Comparison(compare_options(home, name, **more), console)


def continual_options(home: Path, name: str = "out", **more: Any) -> ContinualOptions:
    """A sequence of all tasks, 3 steps for each; ``more`` are other settings by name."""
    own = {"stages": ",".join(str(home / f"{task}.jsonl") for task in TASKS), "max_steps": 3}
    return flat.build(ContinualOptions, settings(home, name) | own | more)


def sequences(home: Path, name: str = "out", console: Console = QUIET, **more: Any) -> Sequences:
    """The sequences of ``continual_options``."""
    return Sequences(continual_options(home, name, **more), console)


def command_line(home: Path, name: str, command: str, **more: Any) -> list[str]:
    """A command of ``compare`` or ``continual`` in another process; ``more`` are settings beside those of
    ``settings``."""
    flags = settings(home, name) | SHOWN | {"data_dir": str(home)} | more
    told = [text for key, value in flags.items() if value is not None for text in (f"--{key}", str(value))]
    return [sys.executable, "-m", "selfdistill", command, *told]


def printed(run: Callable[[Console], Any]) -> str:
    """What ``run`` prints to the console that it is given."""
    file = io.StringIO()
    run(Console(file=file, width=200))
    return file.getvalue()


def read(*names: Any) -> Any:
    """The value of a JSON file."""
    return json.loads(Path(*names).read_text())


def without_seconds(value: Any) -> Any:
    """A JSON value without what depends on how fast it went."""
    if isinstance(value, dict):
        return {name: without_seconds(inner) for name, inner in value.items() if name != "seconds"}
    return [without_seconds(inner) for inner in value] if isinstance(value, list) else value


def tables(folder: Path) -> dict[str, str]:
    """The report's tables but for times."""
    return {
        path.name: path.read_text()
        for path in (folder / run_folder.REPORT_TABLES).glob("*.csv")
        if "second" not in path.read_text() and "time" not in path.read_text()
    }


def alone(home: Path, command: str, **own: Any) -> float:
    """Makes the study in this process, and returns the seconds that it took once the base was scored."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if command == "compare":
            compare.run(compare_options(home, "alone", **SHOWN | own), QUIET)
        else:
            continual.run(continual_options(home, "alone", **SHOWN | own), QUIET)
    finally:
        torch.set_num_threads(threads)
    base, result = (home / "alone" / name for name in (run_folder.BASE, f"{command}.json"))
    return result.stat().st_mtime - base.stat().st_mtime
