"""Prints the outcome of a preflight."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from selfdistill.evaluate.preflight import Preflight


def show_preflight(outcome: Preflight, console: Console) -> None:
    """Prints the table of templates, the verdict, and which method to use."""
    table = Table(title=f"preflight on {len(outcome.base_scores)} training rows", title_justify="left")
    table.add_column("demonstration shown as")
    for name in ("accuracy", "KL per token", "answers cut", "prompts over the limit", "longest prompt"):
        table.add_column(name, justify="right")
    share = outcome.student_truncated_share
    cut = f"{outcome.student_cut_share:.0%}"
    table.add_row("(not shown: the student)", _percent(outcome.base_accuracy), "", cut, f"{share:.0%}", "")
    for result in outcome.templates:
        if result.refused:
            table.add_row(result.name, "refused", "", "", "", "")
            continue
        style = "bold" if result is outcome.best else ""
        shares = (f"{result.cut_share:.0%}", f"{result.truncated_share:.0%}")
        cells = (_percent(result.accuracy), f"{result.kl_per_token:.2f}", *shares, f"{result.prompt_tokens:,}")
        table.add_row(result.name, *cells, style=style)
    console.print(table)
    for result in outcome.templates:
        if result.refused:
            console.print(f"[dim]{escape(result.name)}: {escape(result.refused)}[/dim]")
    if outcome.cut:
        console.print(f"[yellow]{escape(outcome.cut)}[/yellow]")
    console.print(f"[bold]{escape(outcome.verdict)}[/bold]")
    console.print(escape(outcome.advice))


def _percent(share: float | None) -> str:
    return "unscored" if share is None else f"{share:.0%}"
