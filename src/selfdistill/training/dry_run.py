"""``train --dry_run``: prints what a run would do, without training."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from selfdistill.errors import UserError
from selfdistill.method.lengths import Limit, length_limits, most_teacher_tokens
from selfdistill.method.memory import MemoryEstimate
from selfdistill.method.methods import METHODS
from selfdistill.method.needs import counts, deviations
from selfdistill.method.prompts import make_renderer
from selfdistill.settings import flat
from selfdistill.settings.method import MethodConfig, method_settings
from selfdistill.settings.train import TrainOptions
from selfdistill.training.prepare import Prepared
from selfdistill.training.run import prepared_run


def dry_run(options: TrainOptions, console: Console) -> None:
    """Prints the resolved settings, both prompts of the first row, lengths in tokens, and the estimated memory.

    Raises:
        UserError: for whatever the run itself would refuse, except rows over a length limit and a lack of memory, which
            are printed.
    """
    prepared = prepared_run(flat.changed(options, {"overlong": "drop"}), console)
    prepared.config.overlong = options.recipe.prompts.overlong
    config, tokenizer = prepared.config, prepared.files.tokenizer
    if prepared.needs_template:
        console.print(f"[dim]template auto: a preflight picks the template; {config.template} is shown here.[/dim]")
    first = prepared.pairs[0].example
    renderer = make_renderer(prepared.rows.examples, config, tokenizer)
    console.print(_settings(config))
    console.rule("student prompt")
    console.print(Text(str(tokenizer.decode(list(prepared.pairs[0].student_ids)))))
    if METHODS[config.method].shows_demonstration:
        console.rule("teacher prompt, demonstration marked")
        console.print(_marked(renderer.teacher_text(first), first.shown_text))
    if answer := prepared.pairs[0].demonstration_ids:
        console.rule("completion ids of the demonstration")
        console.print(str(list(answer)))
    console.print(_lengths(prepared))
    if prepared.needs_template and (refusal := _tried_refusal(prepared)):
        console.print(f"[yellow]{escape(refusal)}[/yellow]")
    console.print(_memory(prepared.memory))
    if prepared.shortage:
        console.print(f"[yellow]{escape(prepared.shortage)}[/yellow]")


def _tried_refusal(prepared: Prepared) -> str | None:
    """Why a row is too long for a template that the preflight of ``--template auto`` tries; None if all rows fit."""
    try:
        prepared.rows.check_tried(prepared.config, prepared.files.config)
    except UserError as error:
        return str(error)
    return None


def _settings(config: MethodConfig) -> Table:
    table = Table(title="settings (the paper's where they differ)", title_justify="left")
    for name in ("setting", "value", "paper"):
        table.add_column(name)
    differing = deviations(config)
    for name, value in method_settings(config).items():
        if counts(config, name):
            table.add_row(name, escape(str(value)), str(differing[name][1]) if name in differing else "")
    return table


def _marked(text: str, demonstration: str) -> Text:
    """The teacher's prompt with the demonstration in reverse video and in double brackets."""
    shown = Text()
    pieces = text.split(demonstration) if demonstration else [text]
    for index, piece in enumerate(pieces):
        if index:
            shown.append("[[", style="dim").append(demonstration, style="reverse").append("]]", style="dim")
        shown.append(piece)
    return shown


def _lengths(prepared: Prepared) -> Table:
    """Lengths in tokens of the rows within the limits, and how many rows are over one."""
    limits = length_limits(prepared.config, prepared.files.config)
    pairs, dropped = prepared.pairs, len(prepared.rows.examples) - len(prepared.pairs)
    fitting = {pair.example.id for pair in pairs}
    measured = zip(prepared.rows.examples, prepared.rows.demonstration_lengths(prepared.config), strict=True)
    becomes = "are dropped" if prepared.config.overlong == "drop" else "stop the run (--overlong drop drops them)"
    left_out = f"; {dropped:,} over a limit {becomes}" if dropped else ""
    table = Table(title=f"tokens of {len(pairs):,} rows that fit{left_out}", title_justify="left")
    for name in ("", "median", "95%", "longest", "limit"):
        table.add_column(name, justify="right" if name else "left")
    scored = prepared.config.demonstration_from == "own_success"
    own_success = [most_teacher_tokens(pair, prepared.config, limits) for pair in pairs if scored]
    rows: list[tuple[str, Sequence[int], Limit | None]] = [
        ("student prompt", [len(pair.student_ids) for pair in pairs], limits.prompt),
        ("teacher prompt", [len(pair.teacher_ids or ()) for pair in pairs], limits.teacher_prompt),
        ("with an own success, at most", own_success, limits.teacher_prompt),
        ("demonstration", [tokens for example, tokens in measured if example.id in fitting], limits.demonstration),
    ]
    for name, lengths, limit in rows:
        if not any(lengths):
            continue
        ordered = sorted(lengths)
        cells = (ordered[len(ordered) // 2], ordered[int(0.95 * (len(ordered) - 1))], ordered[-1])
        table.add_row(name, *(f"{cell:,}" for cell in cells), f"{limit.tokens:,}" if limit else "")
    return table


def _memory(estimate: MemoryEstimate) -> Table:
    table = Table(title="memory, estimated", title_justify="left")
    table.add_column("for")
    table.add_column("GiB", justify="right")
    for name, size in estimate.as_dict().items():
        table.add_row(name.replace("_", " "), f"{size / 2**30:.2f}", style="bold" if name == "peak" else "")
    return table
