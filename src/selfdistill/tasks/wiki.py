"""Wiki: facts of articles that the model has not read.

``selfdistill build wiki`` writes the data from any folder of articles. The student sees only a question.
The demonstration is the passage that holds the answer, a blank line and the answer, in one assistant turn: the
teacher reads the passage and answers in its own words, and methods that imitate demonstrations or
read them as a corpus (SFT, CPT) see the passage too. Held-out questions ask directly (part
``direct``) or need the fact without asking for it (part ``ood``); a judge scores both strictly (all
details right) and leniently (what is asked for right, nothing false). Without a judge they are unscored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from selfdistill.data.readers import load_split
from selfdistill.errors import UserError
from selfdistill.tasks.task import Task, unscored
from selfdistill.types import Example

COLUMNS = ("article", "passage", "question", "answer", "part")
"""Columns of ``wiki_data/train_data`` and ``wiki_data/eval_data``, all text; ``part`` is empty in training rows."""


def demonstration(article: str, passage: str, answer: str) -> str:
    """What the teacher sees: the passage under its article's name, and the answer."""
    return f"{article}: {passage}\n\nAnswer: {answer}"


def _columns(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    for name in COLUMNS[:-1]:
        if not isinstance(row.get(name), str) or not row[name].strip():
            raise UserError(f"{where} has no text in {name}. Write the data again with selfdistill build wiki.")
    return {
        "prompt": row["question"],
        "demonstration": demonstration(row["article"], row["passage"], row["answer"]),
        "answer": row["answer"],
    }


def _load_train(data_dir: Path | None) -> Sequence[Example]:
    return load_split(data_dir, "wiki_data/train_data", prefix="wiki/train", convert=_columns)


def _load_eval(data_dir: Path | None) -> Sequence[Example]:
    parts: list[str] = []

    def columns(row: Mapping[str, Any], where: str) -> dict[str, Any]:
        parts.append(str(row.get("part") or ""))
        return _columns(row, where)

    examples = load_split(data_dir, "wiki_data/eval_data", prefix="wiki/eval", reference="answer", convert=columns)
    return [replace(example, demonstration=(), part=part) for example, part in zip(examples, parts, strict=True)]


TASK = Task(
    name="wiki",
    description="Know the facts of new articles.",
    source="a folder of articles, by selfdistill build wiki",
    licence="the articles' own",
    revision="1",
    load_train=_load_train,
    load_eval=_load_eval,
    scorers={"strict": unscored, "lenient": unscored},
    judged={"strict": "all_details", "lenient": "nothing_false"},
    max_new_tokens=256,
)
