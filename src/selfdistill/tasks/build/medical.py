"""Makes the medical task's data from HuatuoGPT-o1's public rows."""

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from selfdistill.data.prompts import normalized
from selfdistill.data.readers import load_rows
from selfdistill.errors import UserError
from selfdistill.settings.build import BuildOptions
from selfdistill.tasks.build.rows import Ask, Row, Say
from selfdistill.tasks.medical import COLUMNS

NAMES: dict[str, tuple[str, ...]] = {
    "question": ("question", "openendedverifiablequestion"),
    "complex_cot": ("complexcot",),
    "response": ("response",),
    "ground_truth": ("groundtrueanswer", "groundtruth", "answer"),
}
"""Names of our columns in the public data sets, in lower case without punctuation: ``Question``, ``Complex_CoT`` and
``Response`` of medical-o1-reasoning-SFT, ``Open-ended Verifiable Question`` and ``Ground-True Answer`` of
medical-o1-verifiable-problem."""


def build(options: BuildOptions, ask: Ask, say: Say) -> tuple[list[Row], list[Row]]:
    """Training and evaluation rows from public ones. Raises UserError if those can't be read, or none is usable."""
    given = options.medical
    rows, source = load_rows(str(given.source))
    answers, answers_source = load_rows(given.answers) if given.answers else ([], "")
    kept = medical_rows(rows, source, answers, answers_source)
    say(f"{source}: {len(kept):,} of {len(rows):,} rows have all columns and a question of their own.")
    return split_rows(kept[: options.limit], options.num_eval, options.seed)


def medical_rows(
    rows: Iterable[Mapping[str, Any]], source: str, answers: Iterable[Mapping[str, Any]] = (), answers_source: str = ""
) -> list[Row]:
    """The rows that have all of COLUMNS, in order, each question once.

    ``answers`` gives the ground truth of questions whose rows have none; questions are compared in normalised form.

    Raises:
        UserError: no row is left; the message names the column that is missing.
    """
    known = [row for row in map(_known, answers) if {"question", "ground_truth"} <= row.keys()]
    truths = {normalized(row["question"]): row["ground_truth"] for row in known}
    if answers_source and not truths:
        raise UserError(
            f"--answers {answers_source} has no row with a question and a ground truth. "
            "Give medical-o1-verifiable-problem, or rows with question and ground_truth."
        )
    kept: dict[str, Row] = {}
    missing = ""
    for row in map(_known, rows):
        key = normalized(row.get("question", ""))
        if "ground_truth" not in row and key in truths:
            row["ground_truth"] = truths[key]
        lacking = next((name for name in COLUMNS if name not in row), None)
        if lacking:
            missing = missing or lacking
        else:
            kept.setdefault(key, row)
    if kept:
        return list(kept.values())
    if missing == "ground_truth":
        raise UserError(
            f"No row of {source} has a ground truth: give --answers, such as "
            "FreedomIntelligence/medical-o1-verifiable-problem, whose questions match."
        )
    raise UserError(f"No row of {source} has text in {missing or 'any column'}: {', '.join(COLUMNS)} are needed.")


def split_rows(rows: Sequence[Any], num_eval: int | None, seed: int) -> tuple[list[Any], list[Any]]:
    """Splits rows at random into training and evaluation rows; by default a tenth, at most 1,000, is held out.

    Raises:
        UserError: no row would be left to train on.
    """
    count = min(1000, len(rows) // 10 or 1) if num_eval is None else num_eval
    if count >= len(rows):
        raise UserError(f"{len(rows)} rows are too few to hold out {count} and train on the rest. Lower --num_eval.")
    held_out = set(random.Random(seed).sample(range(len(rows)), count))
    return (
        [row for index, row in enumerate(rows) if index not in held_out],
        [row for index, row in enumerate(rows) if index in held_out],
    )


def _known(row: Mapping[str, Any]) -> Row:
    """Those of our columns for which a public row has text, stripped."""
    values = {re.sub(r"\W|_", "", str(name)).casefold(): value for name, value in row.items()}
    known: Row = {}
    for name, aliases in NAMES.items():
        value = next((values[alias] for alias in aliases if values.get(alias)), None)
        if isinstance(value, str) and value.strip():
            known[name] = value.strip()
    return known
