"""``humaneval-quick``: HumanEval from a local file; its programs run in a sandbox (``evaluate.sandbox``)."""

from pathlib import Path

from selfdistill.data.readers import load_rows
from selfdistill.errors import MissingDataError, UserError
from selfdistill.tasks.task import Program, Task, unscored
from selfdistill.types import Example

FILE = "prior/humaneval.jsonl"
COLUMNS = ("task_id", "prompt", "test", "entry_point")
"""Columns of the file that are used, all of them text."""
STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
"""Texts at which a completion ends, as in lm-evaluation-harness."""


def until_stop(completion: str) -> str:
    """The completion up to the first of STOPS."""
    return completion[: min((at for stop in STOPS if (at := completion.find(stop)) >= 0), default=None)]


def program(completion: str, example: Example) -> Program:
    """Prompt and completion as a program. Its tests may use the functions that the prompt defines in full."""
    row = example.reference
    return Program(
        source=f"{row['prompt']}{until_stop(completion)}\n",
        setup=f"{row['prompt']}\n    pass\n",
        tests=f"{row['test']}\ncheck({row['entry_point']})\n",
        entry_point=row["entry_point"],
    )


def _load(data_dir: Path | None) -> list[Example]:
    path = (data_dir or Path()) / FILE
    if data_dir is None or not path.is_file():
        raise MissingDataError(
            f"humaneval-quick: there is no file {path}. Name the folder that holds prior/ with --data_dir or "
            "SELFDISTILL_DATA."
        )
    examples: list[Example] = []
    rows, source = load_rows(str(path))
    for number, row in enumerate(rows, start=1):
        missing = next((name for name in COLUMNS if not isinstance(row.get(name), str)), None)
        if missing is not None:
            raise UserError(f"{source} row {number} is not a HumanEval problem: it has no text in {missing}.")
        prompt = ({"role": "user", "content": row["prompt"]},)
        examples.append(Example(id=row["task_id"], prompt=prompt, reference={name: row[name] for name in COLUMNS[1:]}))
    return examples


TASK = Task(
    name="humaneval-quick",
    description="Python functions completed from their docstrings, run against tests.",
    source="HumanEval, local file prior/humaneval.jsonl in the data folder",
    licence="MIT",
    revision="2",
    load_train=lambda _: [],
    load_eval=_load,
    scorers={"pass@1": unscored},
    programs={"pass@1": program},
    prompt="plain text",
    max_new_tokens=512,
    extract=until_stop,
)
