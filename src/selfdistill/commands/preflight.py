"""``selfdistill preflight``, and what ``train --template auto`` does with it."""

import json
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from selfdistill.commands import train as train_command
from selfdistill.settings.commands import PreflightOptions, TrainOptions
from selfdistill.settings.method import MethodConfig
from selfdistill.tasks.task import Task
from selfdistill.types import Example, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from selfdistill.evaluate.preflight import Preflight


def run(options: PreflightOptions, console: Console) -> None:
    """Runs the preflight and prints its table and verdict, or one JSON object.

    Raises:
        UserError: anything the user can mend.
    """
    options.check()
    settings = TrainOptions(**options.train_settings(), dry_run=True)
    settings.check()
    task, examples = train_command.training_examples(settings)

    from selfdistill.method.memory import estimate_for, shortage
    from selfdistill.method.prompts import make_renderer
    from selfdistill.models import loading

    loading.quiet_libraries()
    tokenizer = loading.load_tokenizer(options.model_name)
    loading.require_chat_template(tokenizer, options.model_name)
    model = loading.load_model(options.model_name, dtype=options.dtype)
    args = train_command.trainer_config(settings, task, examples, tokenizer)
    found = look(model, tokenizer, task, examples, args, options.num_rows, console, quiet=options.json)
    renderer = make_renderer(examples, _with(args, found), tokenizer)
    pairs = [renderer.render(example) for example in examples]
    memory = estimate_for(model.config, _with(args, found), pairs, dtype=options.dtype, lora_r=options.lora_r)
    lacking = shortage(model.config, _with(args, found), pairs, dtype=options.dtype, lora_r=options.lora_r)
    if options.json:
        lengths = {"student": [len(p.student_ids) for p in pairs], "teacher": [len(p.teacher_ids) for p in pairs]}
        table = {role: {"median": sorted(n)[len(n) // 2], "longest": max(n)} for role, n in lengths.items()}
        print(
            json.dumps(
                found.as_dict() | {"prompt_tokens": table, "peak_memory_bytes": memory.peak, "fits": not lacking}
            )
        )
        return
    show(found, console)
    console.print(f"Memory a training run would take, estimated: {memory.peak / 2**30:.1f} GiB")
    if lacking:
        console.print(f"[yellow]{escape(lacking)}[/yellow]")


def choose_template(
    options: TrainOptions,
    args: MethodConfig,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    task: Task,
    examples: list[Example],
    console: Console,
) -> tuple[str, int]:
    """Template and repeat for ``--template auto``.

    Raises:
        UserError: the teacher is no better than the student, whichever way it is shown the demonstration.
    """
    console.print("Preflight: which way of showing the demonstration makes the better teacher?")
    found = look(model, tokenizer, task, examples, args, options.preflight_rows, console)
    show(found, console)
    if found.tells and (found.best.accuracy or 0) <= (found.base_accuracy or 0):
        raise UserError(f"preflight: {found.verdict}. To train all the same, name a --template.")
    if not found.go:
        console.print("[yellow]Training goes on, but nothing shows yet that this teacher can teach.[/yellow]")
    return found.best.template, found.best.repeat


def look(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    task: Task,
    examples: list[Example],
    args: MethodConfig,
    num_rows: int,
    console: Console,
    *,
    quiet: bool = False,
) -> "Preflight":
    """Runs the preflight, saying what is being tried."""
    from selfdistill.evaluate.preflight import preflight

    def progress(what: str) -> None:
        if not quiet:
            console.print(f"[dim]  trying {escape(what)} ...[/dim]")

    return preflight(model, tokenizer, task, examples, args, num_rows=num_rows, progress=progress)


def show(found: "Preflight", console: Console) -> None:
    """The table of templates, the verdict, and which method to take."""
    table = Table(title=f"preflight on {len(found.base_scores)} training rows", title_justify="left")
    table.add_column("demonstration shown as")
    for name in ("accuracy", "KL per token", "prompts over the limit", "longest prompt"):
        table.add_column(name, justify="right")
    share = found.student_truncated_share
    table.add_row("(not shown: the student)", _percent(found.base_accuracy), "", f"{share:.0%}", "")
    for result in found.templates:
        style = "bold" if result is found.best else ""
        cells = (_percent(result.accuracy), f"{result.kl_per_token:.2f}", f"{result.truncated_share:.0%}")
        table.add_row(result.name, *cells, f"{result.prompt_tokens:,}", style=style)
    console.print(table)
    console.print(f"[bold]{escape(found.verdict)}[/bold]")
    console.print(escape(found.advice))


def _percent(share: float | None) -> str:
    return "unscored" if share is None else f"{share:.0%}"


def _with(args: Any, found: "Preflight") -> MethodConfig:
    from selfdistill.evaluate.preflight import replace_template

    return replace_template(args, found.best.template, found.best.repeat)
