"""Rows whose completions are scored, and a step that shows the teacher what came of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selfdistill.method.batch import Sample
from selfdistill.method.rows import training_pairs
from selfdistill.method.step import Step
from selfdistill.types import Example, NamedScorer, Rollout
from tests.support.engines import Scripted
from tests.support.tiny import byte_tokenizer
from tests.support.training import make_config, student

ROWS: list[dict[str, str]] = [
    {"prompt": "Say A", "demonstration": "row A"},
    {"prompt": "Say B", "demonstration": "row B"},
    {"prompt": "Say C", "answer": "any"},
    {"prompt": "Say D", "demonstration": "row D"},
]
SAID = ["no", "ok 1", "ok 2", "no", "no", "no", "no", "no", "no", "no", "ok 3", "no"]
"""Three completions of each row: A has two that are right, B and C none, D one."""
OWN: dict[str, Any] = {"demonstration_from": "own_success", "num_rollouts": 3}
TOKENIZER = byte_tokenizer()


def right(completion: str, example: Example) -> float | None:
    """Half right is not right; a completion of row C that is wrong can't be graded."""
    if completion.startswith("ok"):
        return 1.0
    return None if example.prompt[0]["content"] == "Say C" else 0.5


SCORER: NamedScorer = ("right", right)


class Says(Scripted):
    """Gives the texts one after the other, whatever the prompt, from the start again when they are over."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.told = 0

        def script(prompt: Sequence[int]) -> Rollout:
            text = texts[self.told % len(texts)]
            self.told += 1
            return Rollout(completion_ids=tuple(TOKENIZER(f"{text}<|end|>")["input_ids"]), finish_reason="stop")

        super().__init__(script)


def rolled_out(
    folder: Path, *, rows: Any = ROWS, said: Sequence[str] = SAID, scorer: Any = SCORER, **settings: Any
) -> tuple[Step, list[Sample]]:
    """A step, and its samples."""
    model, config = student(), make_config(folder, **{"max_completion_length": 64, **settings})
    pairs = training_pairs(rows, config, TOKENIZER, model.config)
    step = Step(model, TOKENIZER, config, rows=pairs, scorer=scorer, engine=Says(said))
    return step, step.rollout(pairs, 0)


def taught(sample: Sample) -> str:
    return str(TOKENIZER.decode(list(sample.teacher_ids)))


def shown_as(question: str, demonstration: str) -> str:
    asked = f"[user] {question}<|end|>\n[assistant] "
    return f"{asked}{demonstration}<|end|>\n{asked}" if demonstration else asked
