"""``selfdistill train --dry_run``: what would be run, without running it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from selfdistill.method.prompts import length_limits, make_renderer
from selfdistill.settings.commands import TrainOptions
from selfdistill.settings.method import MethodConfig, deviations_from_paper
from selfdistill.types import Example, PromptPair

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def show(
    options: TrainOptions,
    args: MethodConfig,
    examples: list[Example],
    tokenizer: "PreTrainedTokenizerBase",
    console: Console,
) -> None:
    """Prints the resolved settings, both prompts of the first row, lengths, and peak memory."""
    from selfdistill.method.memory import shortage
    from selfdistill.models import loading

    config = loading.load_config(options.model_name)
    if args.template == "auto":
        console.print("[dim]template auto: a preflight picks the template; prior_turn is shown here.[/dim]")
        args.template = "prior_turn"
    renderer = make_renderer(examples, args, tokenizer)
    pairs = [renderer.render(example) for example in examples]
    limits = length_limits(args, config)

    console.print(_settings(args))
    first = examples[0]
    console.rule("student prompt")
    console.print(Text(renderer.text(first.prompt)))
    console.rule("teacher prompt, demonstration marked")
    console.print(_marked(renderer.teacher_text(first), first.demonstration_text))
    console.rule("completion ids of the demonstration")
    console.print(str(list(pairs[0].demonstration_ids)))
    console.print(_lengths(pairs, limits))
    console.print(_memory(options, args, config, pairs))
    if lacking := shortage(config, args, pairs, dtype=options.dtype, lora_r=options.lora_r):
        console.print(f"[yellow]{escape(lacking)}[/yellow]")


def _settings(args: MethodConfig) -> Table:
    from dataclasses import fields

    table = Table(title="settings (the paper's where they differ)", title_justify="left")
    for name in ("setting", "value", "paper"):
        table.add_column(name)
    settings = {f.name: getattr(args, f.name) for f in fields(MethodConfig)}
    settings["lr_scheduler_type"] = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
    deviations = deviations_from_paper(settings)
    for name, value in settings.items():
        table.add_row(name, str(value), str(deviations[name][1]) if name in deviations else "")
    return table


def _marked(text: str, demonstration: str) -> Text:
    """The teacher's prompt; the demonstration stands out in colour and, where there is none, in brackets."""
    shown = Text()
    pieces = text.split(demonstration) if demonstration else [text]
    for index, piece in enumerate(pieces):
        if index:
            shown.append("[[", style="dim").append(demonstration, style="reverse").append("]]", style="dim")
        shown.append(piece)
    return shown


def _lengths(pairs: Sequence[PromptPair], limits: dict[str, int]) -> Table:
    table = Table(title=f"tokens of {len(pairs):,} rows", title_justify="left")
    for name in ("", "median", "95%", "longest", "limit", "over the limit"):
        table.add_column(name, justify="right" if name else "left")
    rows = {
        "student prompt": ([len(p.student_ids) for p in pairs], limits["max_prompt_length"]),
        "teacher prompt": ([len(p.teacher_ids) for p in pairs], limits["max_teacher_prompt_length"]),
        "demonstration": ([len(p.demonstration_ids) for p in pairs], limits["max_completion_length"]),
    }
    for name, (lengths, limit) in rows.items():
        ordered = sorted(lengths)
        over = sum(length > limit for length in lengths) / len(lengths)
        cells = (ordered[len(ordered) // 2], ordered[int(0.95 * (len(ordered) - 1))], ordered[-1], limit)
        table.add_row(name, *(f"{cell:,}" for cell in cells), f"{over:.1%}")
    return table


def _memory(options: TrainOptions, args: MethodConfig, config: Any, pairs: Sequence[PromptPair]) -> Table:
    from selfdistill.method.memory import estimate_for

    numbers = estimate_for(config, args, pairs, dtype=options.dtype, lora_r=options.lora_r).as_dict()
    table = Table(title="memory, estimated", title_justify="left")
    table.add_column("for")
    table.add_column("GiB", justify="right")
    for name, size in numbers.items():
        table.add_row(name.replace("_", " "), f"{size / 2**30:.2f}", style="bold" if name == "peak" else "")
    return table
