"""``humaneval-quick``: HumanEval from a local file, its programs run in a sandbox (``evaluate.sandbox``)."""

import json
from pathlib import Path

from selfdistill.errors import MissingDataError, UserError
from selfdistill.tasks.task import Task, unscored
from selfdistill.types import Example

FILE = "prior/humaneval.jsonl"
STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
"""Where a completion ends, as in lm-evaluation-harness."""


def until_stop(completion: str) -> str:
    """The completion up to the first of STOPS."""
    return completion[: min((at for stop in STOPS if (at := completion.find(stop)) >= 0), default=None)]


def program(completion: str, example: Example) -> str:
    """The whole program that runs to its end if the completion is right: prompt, completion, tests."""
    row = example.reference
    return f"{row['prompt']}{until_stop(completion)}\n{row['test']}\ncheck({row['entry_point']})\n"


def _load(data_dir: Path | None) -> list[Example]:
    path = (data_dir or Path()) / FILE
    if data_dir is None or not path.is_file():
        raise MissingDataError(
            f"humaneval-quick: there is no file {path}. Name the folder that holds prior/ with --data_dir or "
            "SELFDISTILL_DATA."
        )
    examples: list[Example] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            reference = {name: row[name] for name in ("prompt", "test", "entry_point")}
            prompt = ({"role": "user", "content": row["prompt"]},)
            examples.append(Example(id=row["task_id"], prompt=prompt, reference=reference))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} row {number} is no HumanEval problem: {error!r}. Mend the row.") from error
    return examples


TASK = Task(
    name="humaneval-quick",
    description="Python functions completed from their docstrings, run against tests.",
    source="HumanEval, local file prior/humaneval.jsonl in the data folder",
    licence="MIT",
    revision="1",
    load_train=lambda _: [],
    load_eval=_load,
    scorers={"pass@1": unscored},
    programs={"pass@1": program},
    prompt="plain text",
    max_new_tokens=512,
    extract=until_stop,
)
