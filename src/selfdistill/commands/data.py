"""``selfdistill data``."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from selfdistill.data.inspection import Inspection, Measure, inspect_rows, length_summary
from selfdistill.errors import UserError
from selfdistill.models.cache import has_embedded_model
from selfdistill.settings.data import DataCommandOptions
from selfdistill.settings.groups import DEFAULT_MODEL
from selfdistill.types import Example, message_text

if TYPE_CHECKING:
    from selfdistill.training.shown_rows import RowTokenizer


LONG = 200
"""Length from which demonstrations of exactly one length are remarked on."""


def run(options: DataCommandOptions, console: Console) -> int:
    """Prints what is understood of the rows, or one JSON object.

    Returns:
        The exit code: 0, or 2 if no row can be used.

    Raises:
        UserError: an option is wrong, or a file can't be read.
    """
    options.check()
    tokenizer = _tokenizer(options.model_name or (DEFAULT_MODEL if has_embedded_model() else None))
    measure = Measure() if tokenizer is None else tokenizer.measure()
    found = inspect_rows(options.files, options.rows, measure, eval_path=options.eval_path)
    shown = {} if found.example is None else _shown(found.example, tokenizer)
    if options.json:
        print(json.dumps(found.as_dict() | {"example": shown}))
    else:
        _print(found, console)
        for title, text in shown.items():
            console.rule(title)
            console.print(Text(text))
    return 0 if found.num_usable else 2


def _tokenizer(name: str | None) -> "RowTokenizer | None":
    if name is None:
        return None
    from selfdistill.training.shown_rows import RowTokenizer  # loads torch

    return RowTokenizer(name)


def _shown(example: Example, tokenizer: "RowTokenizer | None") -> dict[str, str]:
    """An example as text by title: rendered for student and teacher, or else as plain text."""
    try:
        rendered = None if tokenizer is None else tokenizer.show(example)
    except UserError as error:
        return {"the chat template refuses the first row": str(error)}
    if rendered is not None:
        shown = {"student prompt": rendered.student}
        return shown | ({"teacher prompt": rendered.teacher} if example.demonstration else {})
    prompt = "\n".join(f"[{turn['role']}] {message_text(turn)}" for turn in example.prompt)
    parts = {"prompt": prompt, "demonstration": example.demonstration_text}
    return {title: text for title, text in parts.items() if text}


def _print(found: Inspection, console: Console) -> None:
    console.print(f"{_count(found)}, {_formats(found)}")
    if found.num_usable:
        of_some = found.num_measured < found.num_usable
        title = f"{found.unit} of {found.num_measured:,} rows" if of_some else found.unit
        console.print(_lengths(title, found.prompt_lengths, found.demonstration_lengths))
    if found.num_measured < found.num_usable:
        console.print(_lengths("characters of all rows", found.prompt_characters, found.demonstration_characters))
    for text in _remarks(found):
        console.print(escape(text))
    if found.evaluation is not None:
        console.print(
            f"evaluation: {_count(found.evaluation)}, {_formats(found.evaluation)}; {found.overlap:,} of their prompts "
            "are among the rows too"
        )
    bad = [*found.bad_rows, *(found.evaluation.bad_rows if found.evaluation else ())]
    for row in bad:
        console.print(f"[yellow]bad:[/yellow] {escape(str(row['error']))}")


def _count(found: Inspection) -> str:
    bad = f", {found.num_bad:,} of them bad ({found.num_empty:,} empty)" if found.num_bad else ""
    return f"{found.num_rows:,} rows{bad}"


def _formats(found: Inspection) -> str:
    if not found.formats:
        return "no known format"
    if len(found.formats) == 1:
        return f"format {next(iter(found.formats))}"
    return "formats " + ", ".join(f"{name} ({count:,})" for name, count in found.formats.most_common())


def _remarks(found: Inspection) -> list[str]:
    usable, remarks = found.num_usable, list[str]()
    if found.num_without_demonstration:
        remarks.append(
            f"{found.num_without_demonstration:,} of {usable:,} rows have an answer and no demonstration: eval takes "
            "them, train only with --demonstration_from own_success"
        )
    remarks.append(f"{found.duplicates:,} duplicates; {found.same_prompts:,} rows have the prompt of an earlier row")
    if found.num_held_out is not None:
        remarks.append(f"{found.num_held_out:,} rows are held out for evaluation")
    longest = length_summary(found.demonstration_lengths)
    if longest and longest["longest"] >= LONG and longest["num_as_long_as_longest"] > max(1, found.num_measured // 100):
        remarks.append(
            f"{longest['num_as_long_as_longest']:,} demonstrations have exactly {longest['longest']:,} {found.unit}, "
            "the most there are: perhaps they were cut"
        )
    if found.num_special:
        remarks.append(f"{found.num_special:,} rows hold the text of a control token; the first: {found.first_special}")
    return remarks


def _lengths(title: str, prompts: Sequence[int], demonstrations: Sequence[int]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in ("", "median", "95%", "longest"):
        table.add_column(name, justify="right" if name else "left")
    for name, lengths in (("prompt", prompts), ("demonstration", demonstrations)):
        if of := length_summary(lengths):
            table.add_row(name, *(f"{of[key]:,}" for key in ("median", "percentile_95", "longest")))
    return table
