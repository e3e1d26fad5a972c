"""What ``learn`` prints of the gate."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from selfdistill import run_folder
from selfdistill.ledger.folder import Verdict, Version
from selfdistill.types import EvalResult, message_text

NUM_EXAMPLES = 3
"""Lost items shown of each skill."""


def show_verdicts(version: Version, console: Console) -> None:
    """A row a skill: scores then and now, the test, and what it could have seen; then what to know about it."""
    table = Table(
        title=f"Gate: refuse if {version.confidence:.0%} sure of a loss above {100 * version.max_forgetting:g} points",
        title_justify="left",
    )
    table.add_column("skill", overflow="fold")
    for name in ("against", "items", "then", "now", "change", "at most", "sees from", "verdict"):
        table.add_column(name, justify="right")
    for verdict in version.verdicts:
        sees = "nothing" if verdict.smallest_loss is None else f"{-100 * verdict.smallest_loss:.1f}"
        table.add_row(
            escape(verdict.skill),
            f"version {verdict.compared_with}" if verdict.compared_with else "base",
            str(verdict.num_items),
            f"{verdict.then:.1%}",
            f"{verdict.now:.1%}",
            f"{100 * verdict.change:+.1f}",
            f"{100 * verdict.bound:+.1f}",
            sees,
            "[red]lost[/red]" if verdict.refused else "new" if verdict == version.verdicts[-1] else "kept",
        )
    console.print(table)
    for warning in blind_spots(version):
        console.print(f"[yellow]Warning:[/yellow] {escape(warning)}")


def blind_spots(version: Version) -> list[str]:
    """Skills that were so weak that no loss of them could be seen, and a new one that was not learned."""
    *earlier, new = version.verdicts
    found = [
        f"{verdict.skill} scored {verdict.then:.1%} when learned: too little for a loss to be seen."
        for verdict in earlier
        if verdict.smallest_loss is None or verdict.then < verdict.smallest_loss
    ]
    if new.change <= 0:
        found.append(f"{new.skill} gained nothing: {new.then:.1%} before, {new.now:.1%} after training.")
    return found


def show_lost(verdict: Verdict, after: EvalResult, before: Path, console: Console) -> None:
    """A few items whose score fell: prompt, the answer then, the answer now.

    ``before``: folder with the earlier answers, as in a run folder.
    """
    rows = {row["id"]: row for row in run_folder.read_jsonl(before / f"{verdict.skill}.samples.jsonl")}
    shown = 0
    for sample in after.samples:
        row = rows[sample.example.id]
        if (sample.scores[after.metric] or 0.0) >= (row["scores"][after.metric] or 0.0) or shown == NUM_EXAMPLES:
            continue
        shown += 1
        prompt = "\n".join(message_text(turn) for turn in sample.example.prompt)
        text = f"{prompt}\n\nthen: {row['completion'].strip()}\n\nnow:  {sample.completion.strip()}"
        console.print(Panel(escape(text), title=f"lost: {escape(sample.example.id)}", title_align="left"))
