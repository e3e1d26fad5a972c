"""What a preflight prints."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from selfdistill.evaluate.preflight import Preflight


def show_preflight(found: Preflight, console: Console) -> None:
    """The table of templates, the verdict, and which method to take."""
    table = Table(title=f"preflight on {len(found.base_scores)} training rows", title_justify="left")
    table.add_column("demonstration shown as")
    for name in ("accuracy", "KL per token", "prompts over the limit", "longest prompt"):
        table.add_column(name, justify="right")
    share = found.student_truncated_share
    table.add_row("(not shown: the student)", _percent(found.base_accuracy), "", f"{share:.0%}", "")
    for result in found.templates:
        if result.refused:
            table.add_row(result.name, "refused", "", "", "")
            continue
        style = "bold" if result is found.best else ""
        cells = (_percent(result.accuracy), f"{result.kl_per_token:.2f}", f"{result.truncated_share:.0%}")
        table.add_row(result.name, *cells, f"{result.prompt_tokens:,}", style=style)
    console.print(table)
    for result in found.templates:
        if result.refused:
            console.print(f"[dim]{escape(result.name)}: {escape(result.refused)}[/dim]")
    console.print(f"[bold]{escape(found.verdict)}[/bold]")
    console.print(escape(found.advice))


def _percent(share: float | None) -> str:
    return "unscored" if share is None else f"{share:.0%}"
