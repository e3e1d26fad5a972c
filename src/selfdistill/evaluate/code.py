"""``humaneval-quick``: HumanEval from a local file, its programs run in the sandbox."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from selfdistill.evaluate.sandbox import run_python
from selfdistill.tasks.task import Task
from selfdistill.types import Example, PromptPair, UserError, message_text

FILE = "prior/humaneval.jsonl"
STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
"""Where a completion ends, as in lm-evaluation-harness."""


class PlainText:
    """Renders a prompt as it is, without a chat template, as lm-evaluation-harness does."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.chat_template_kwargs: dict[str, Any] = {}

    def render(self, example: Example) -> PromptPair:
        """The text of the last turn as ids, with the special tokens that the tokenizer adds by itself."""
        ids = tuple(self.tokenizer(message_text(example.prompt[-1]))["input_ids"])
        return PromptPair(example=example, student_ids=ids, teacher_ids=ids)

    def completion_text(self, completion_ids: Sequence[int]) -> str:
        """A completion as text, special tokens left out."""
        text = self.tokenizer.decode(list(completion_ids), skip_special_tokens=True)
        assert isinstance(text, str)
        return text


def until_stop(completion: str) -> str:
    """The completion up to the first of STOPS."""
    return completion[: min((at for stop in STOPS if (at := completion.find(stop)) >= 0), default=None)]


def program(completion: str, row: dict[str, Any]) -> str:
    """The whole program that passes if the completion is right: prompt, completion, tests."""
    return f"{row['prompt']}{until_stop(completion)}\n{row['test']}\ncheck({row['entry_point']})\n"


def passes(completion: str, example: Example) -> float:
    """1.0 where the program runs to its end in the sandbox, else 0.0."""
    return float(run_python(program(completion, example.reference)).passed)


def _load(data_dir: Path | None) -> list[Example]:
    path = (data_dir or Path()) / FILE
    if data_dir is None or not path.is_file():
        raise UserError(
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
    source="HumanEval, local file <data_dir>/prior/humaneval.jsonl",
    licence="MIT",
    revision="1",
    load_train=lambda _: [],
    load_eval=_load,
    scorers={"pass@1": passes},
    max_new_tokens=512,
    extract=until_stop,
)
