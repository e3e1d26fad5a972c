"""Medical: open questions from exams, answered with reasoning (HuatuoGPT-o1).

``selfdistill build medical`` writes the data. The demonstration is the reasoning, a blank line and the
answer; the reference is the ground truth. The headline is a judge's verdict on whether the answer's
conclusion is the ground truth; without a judge it is unscored. ``contains_answer`` needs no judge: it looks for the
ground truth's words in the completion, so it misses other wordings, and accepts an answer that the completion rejects.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfdistill.data.readers import load_split
from selfdistill.errors import UserError
from selfdistill.tasks.task import Task, unscored
from selfdistill.types import Example

COLUMNS = ("question", "complex_cot", "response", "ground_truth")
"""Columns of ``medical_data/train_data`` and ``medical_data/eval_data``, all of them text."""


def contains_answer(completion: str, example: Example) -> float | None:
    """1.0 if the ground truth's words occur in the completion, in a row, whatever the case and punctuation; else 0.0.

    None if the ground truth is not text or has no words.
    """
    wanted = _words(example.reference) if isinstance(example.reference, str) else ""
    return float(f" {wanted} " in f" {_words(completion)} ") if wanted else None


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))


def _train_columns(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    values = [_text(row, name, where) for name in COLUMNS]
    return {"prompt": values[0], "demonstration": f"{values[1]}\n\n{values[2]}", "answer": values[3]}


def _eval_columns(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    return {"prompt": _text(row, "question", where), "answer": _text(row, "ground_truth", where)}


def _text(row: Mapping[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where} has no text in {name}. Write the data again with selfdistill build medical.")
    return value.strip()


def _load_train(data_dir: Path | None) -> Sequence[Example]:
    return load_split(data_dir, "medical_data/train_data", prefix="medical/train", convert=_train_columns)


def _load_eval(data_dir: Path | None) -> Sequence[Example]:
    return load_split(
        data_dir, "medical_data/eval_data", prefix="medical/eval", reference="ground_truth", convert=_eval_columns
    )


TASK = Task(
    name="medical",
    description="Answer open medical questions with reasoning.",
    source="HuatuoGPT-o1 (medical-o1-reasoning-SFT, medical-o1-verifiable-problem), by selfdistill build medical",
    licence="Apache-2.0",
    revision="1",
    load_train=_load_train,
    load_eval=_load_eval,
    scorers={"judge": unscored, "contains_answer": contains_answer},
    judged={"judge": "correct"},
    max_new_tokens=1024,
)
