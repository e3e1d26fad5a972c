"""Science: multiple-choice questions in chemistry, level 3 (SciKnowEval)."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from selfdistill.data.readers import load_split
from selfdistill.tasks.task import Task
from selfdistill.types import Example


def extracted_answer(completion: str) -> str:
    """The text from the last ``<answer>`` to the ``</answer>`` that follows, stripped. Without the first tag it begins
    where the completion does, without the second it ends where the completion does."""
    return completion.rpartition("<answer>")[2].partition("</answer>")[0].strip()


def reference_score(completion: str, answer: str) -> bool:
    """True if the extracted answer equals ``answer``, including its case. Never raises."""
    return extracted_answer(completion) == answer


def _reference(completion: str, example: Example) -> float | None:
    if not isinstance(example.reference, str):
        return None
    return float(reference_score(completion, example.reference))


def _load_train(data_dir: Path | None) -> Sequence[Example]:
    examples = load_split(data_dir, "science_data/train_data", prefix="science/train")
    # Training rows carry their letter only inside the demonstration.
    return [replace(example, reference=extracted_answer(example.demonstration_text)) for example in examples]


def _load_eval(data_dir: Path | None) -> Sequence[Example]:
    return load_split(data_dir, "science_data/eval_data", prefix="science/eval", reference="answer")


TASK = Task(
    name="science",
    description="Answer four-way chemistry questions with reasoning and a letter.",
    source="SciKnowEval (chemistry, L3), as prepared by the reference implementation of the paper",
    licence="Apache-2.0",
    revision="1",
    load_train=_load_train,
    load_eval=_load_eval,
    scorers={"reference": _reference},
    max_new_tokens=1024,
    extract=extracted_answer,
    format_probe=lambda text: text.lstrip().startswith("<reasoning>"),
)
