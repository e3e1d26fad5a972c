"""What there is to say about a person's rows, found in one pass that keeps no row."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from selfdistill.data.columns import check_column_map, renamed
from selfdistill.data.files import RawRow
from selfdistill.data.folders import EVAL_SPLITS, TRAIN
from selfdistill.data.formats import format_of
from selfdistill.data.own import files_of, own_evaluation
from selfdistill.data.prompts import is_held_out, normalized_prompt, uniform
from selfdistill.data.readers import read_rows
from selfdistill.data.rows import example_from_row
from selfdistill.errors import EmptyRowError, UserError
from selfdistill.settings.rows import RowOptions
from selfdistill.types import Example, message_text

MOST_BAD_ROWS = 10
"""Bad rows that are described; the others are counted."""
_BATCH = 1_000
"""Rows whose texts are measured together."""
ALL_MEASURED, ONE_IN = 5_000, 64
"""A sample: of the first so many rows all, of the later ones one in so many and those with more characters than any
before. To count the tokens of hundreds of thousands of rows takes minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """How texts are measured."""

    unit: str = "characters"
    lengths: Callable[[Sequence[str]], Sequence[int]] = lambda texts: [len(text) for text in texts]
    """The length of each text in ``unit``."""
    every: bool = True
    """Whether all rows are measured, or a sample."""
    special_tokens: Sequence[str] = ()
    """Texts that the tokenizer takes for control tokens."""


@dataclass(slots=True, kw_only=True)
class Inspection:
    """What was found."""

    unit: str
    """Of the lengths: tokens or characters."""
    formats: Counter[str] = field(default_factory=Counter[str])
    """Number of usable rows of each format."""
    num_rows: int = 0
    num_bad: int = 0
    """Rows that can't be used."""
    num_empty: int = 0
    """Bad rows whose prompt or demonstration is empty."""
    bad_rows: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """File, line (or row, in files that have no lines) and error of the first MOST_BAD_ROWS bad rows."""
    num_without_demonstration: int = 0
    """Usable rows that only have a reference answer, so that they can be evaluated on and not trained on."""
    duplicates: int = 0
    """Usable rows with the prompt, demonstration and reference answer of an earlier one."""
    same_prompts: int = 0
    """Usable rows with the prompt of an earlier one, in normalised form."""
    num_held_out: int | None = None
    """Rows that ``eval_share`` holds out; None without one."""
    prompt_lengths: list[int] = field(default_factory=list[int])
    """Of the rows that were measured."""
    demonstration_lengths: list[int] = field(default_factory=list[int])
    num_measured: int = 0
    """Rows whose lengths were measured."""
    prompt_characters: list[int] = field(default_factory=list[int])
    """Of all usable rows, as are ``demonstration_characters``."""
    demonstration_characters: list[int] = field(default_factory=list[int])
    num_special: int = 0
    """Usable rows with the text of a control token in them."""
    first_special: str | None = None
    """Place of the first of these, and the token."""
    evaluation: "Inspection | None" = None
    """What was found of the evaluation rows."""
    overlap: int | None = None
    """Evaluation rows whose normalised prompt is also that of one of the rows; None without evaluation rows."""
    example: Example | None = None
    """The first usable row."""

    @property
    def num_usable(self) -> int:
        """Rows that can be used."""
        return self.num_rows - self.num_bad

    def as_dict(self) -> dict[str, Any]:
        """For ``data --json``."""
        evaluation = self.evaluation
        named = (
            "num_rows",
            "num_usable",
            "num_bad",
            "num_empty",
            "bad_rows",
            "num_without_demonstration",
            "duplicates",
            "same_prompts",
            "num_held_out",
            "num_special",
            "first_special",
        )
        return {
            "format": next(iter(self.formats), None) if len(self.formats) < 2 else "mixed",
            "formats": dict(self.formats),
            **{name: getattr(self, name) for name in named},
            "lengths": {
                "unit": self.unit,
                "num_measured": self.num_measured,
                "prompt": length_summary(self.prompt_lengths),
                "demonstration": length_summary(self.demonstration_lengths),
                "characters": {
                    "prompt": length_summary(self.prompt_characters),
                    "demonstration": length_summary(self.demonstration_characters),
                },
            },
            "evaluation": None if evaluation is None else evaluation.as_dict() | {"overlap": self.overlap},
        }


def inspect_rows(
    named: Sequence[str], rows: RowOptions, measure: Measure, *, eval_path: str | None = None
) -> Inspection:
    """Reads all rows once.

    Args:
        named: what is read, each as ``--dataset_path`` takes it.
        rows: how it is read.
        measure: how texts are measured.
        eval_path: evaluation rows; by default those of the evaluation splits, if every source is a folder with one.

    Raises:
        UserError: there is no such data, a file can't be read as a whole, or a row can't be used and ``on_bad_row`` is
            error.
    """
    check_column_map(rows.column_map())
    usual = (TRAIN,) if rows.split is None else (rows.split,)
    names = [name for each in named for name in files_of(each)]
    inspector = _Inspector(rows, measure)
    found = inspector.inspect(row for name in names for row in read_rows(name, usual, asked=rows.split is not None))
    if eval_path is not None:
        eval_names = files_of(eval_path)
    elif rows.split is None and all(map(own_evaluation, named)):
        eval_names = names
    else:
        return found
    other = _Inspector(rows, measure, may_lack_all=True)
    found.evaluation = other.inspect(row for name in eval_names for row in read_rows(name, EVAL_SPLITS))
    found.overlap = sum(count for prompt, count in other.prompts.items() if prompt in inspector.prompts)
    return found


def length_summary(lengths: Sequence[int]) -> dict[str, int]:
    """Median, 95th percentile and longest, and how many are exactly as long as the longest; empty without any."""
    ordered = sorted(lengths)
    if not ordered:
        return {}
    return {
        "median": ordered[len(ordered) // 2],
        "percentile_95": ordered[int(0.95 * (len(ordered) - 1))],
        "longest": ordered[-1],
        "num_as_long_as_longest": ordered.count(ordered[-1]),
    }


class ControlTokens:
    """Finds a tokenizer's control tokens in the texts of rows, where they are read as control tokens, too."""

    def __init__(self, tokens: Sequence[str]) -> None:
        words = sorted((token for token in tokens if len(token) > 1), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, words))) if words else None

    def first_in(self, example: Example) -> str | None:
        """The first control token in prompt or demonstration; None if there is none."""
        if self._pattern is None:
            return None
        texts = (message_text(turn) for turn in (*example.prompt, *example.demonstration))
        return next((match[0] for text in texts if (match := self._pattern.search(text))), None)


class _Inspector:
    """Inspects rows. Of a prompt it keeps a hash, and how often there is one."""

    def __init__(self, rows: RowOptions, measure: Measure, *, may_lack_all: bool = False) -> None:
        self.rows, self.measure, self.may_lack_all = rows, measure, may_lack_all
        self.columns = rows.column_map()
        self.prompts: Counter[float] = Counter()
        self.wholes: set[float] = set()
        self.num_seen = self.most_characters = 0
        self.tokens = ControlTokens(measure.special_tokens)
        self.found = Inspection(unit=measure.unit, num_held_out=None if rows.eval_share is None else 0)

    def inspect(self, raw_rows: Iterator[RawRow]) -> Inspection:
        """What is found in the rows. Raises UserError as ``inspect_rows``."""
        while batch := list(islice(raw_rows, _BATCH)):
            examples: list[Example] = []
            for raw in batch:
                example = self._example(raw)
                if example is not None:
                    examples.append(example)
                    self._look_at(example, raw)
            self._measure(examples)
            self.found.example = self.found.example or next(iter(examples), None)
        return self.found

    def _measure(self, examples: Sequence[Example]) -> None:
        asked: list[str] = []
        shown: list[str] = []
        for example in examples:
            prompt, demonstration = "\n".join(map(message_text, example.prompt)), example.demonstration_text
            self.num_seen += 1
            self.found.prompt_characters += [len(prompt)] * bool(example.prompt)
            self.found.demonstration_characters += [len(demonstration)] * bool(example.demonstration)
            size = len(prompt) + len(demonstration)
            chosen = self.num_seen <= ALL_MEASURED or size > self.most_characters or self.num_seen % ONE_IN == 0
            if self.measure.every or chosen:
                self.found.num_measured += 1
                asked += [prompt] * bool(example.prompt)
                shown += [demonstration] * bool(example.demonstration)
            self.most_characters = max(size, self.most_characters)
        self.found.prompt_lengths.extend(self.measure.lengths(asked))
        self.found.demonstration_lengths.extend(self.measure.lengths(shown))

    def _example(self, raw: RawRow) -> Example | None:
        """The row as an Example; None if it can't be used."""
        found = self.found
        found.num_rows += 1
        try:
            if raw.error is not None:
                raise raw.error
            example = self._read(raw, need_demonstration=False)
            if not example.demonstration and example.reference is None and not self.may_lack_all:
                example = self._read(raw, need_demonstration=True)  # says what is missing
        except UserError as error:
            if self.rows.on_bad_row == "error":
                raise
            found.num_bad += 1
            found.num_empty += isinstance(error, EmptyRowError)
            if len(found.bad_rows) < MOST_BAD_ROWS:
                found.bad_rows.append({"file": raw.file, "line": raw.number, "error": str(error)})
            return None
        form = format_of({n: v for n, v in renamed(raw.columns, self.columns, raw.where).items() if v is not None})
        assert form is not None  # the row could be read
        found.formats[form.name] += 1
        return example

    def _read(self, raw: RawRow, *, need_demonstration: bool) -> Example:
        return example_from_row(
            raw.columns,
            where=raw.where,
            id=raw.where,
            need_demonstration=need_demonstration,
            raw_text=True,
            columns=self.columns,
        )

    def _look_at(self, example: Example, raw: RawRow) -> None:
        found, prompt = self.found, normalized_prompt(example)
        key = uniform(prompt)
        whole = uniform(f"{example.prompt}{example.demonstration}{example.reference}")
        found.same_prompts += key in self.prompts
        found.duplicates += whole in self.wholes
        self.prompts[key] += 1
        self.wholes.add(whole)
        found.num_without_demonstration += not example.demonstration
        if self.rows.eval_share is not None and found.num_held_out is not None:
            found.num_held_out += is_held_out(example, self.rows.eval_share)
        if token := self.tokens.first_in(example):
            found.num_special += 1
            found.first_special = found.first_special or f"{raw.where}: {token}"
