"""Console output of the ledger's commands: versions and skills, the gate's verdicts, lost items."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from selfdistill import run_folder
from selfdistill.ledger.folder import BASE, Ledger
from selfdistill.ledger.forgetting_test import smallest_loss_refused
from selfdistill.records.evaluations import SampleRecord
from selfdistill.records.ledger import GateVerdict, Version
from selfdistill.types import EvalResult, ScoredSample, message_text

NUM_EXAMPLES = 3
"""Number of lost items that are shown for each skill."""


def show_ledger(book: Ledger, console: Console) -> None:
    """Prints the versions with their parents, the skills held with their scores, and the current model's place.

    Raises:
        UserError: the current version's weights are gone.
    """
    console.print(_versions(book))
    if book.lineage():
        console.print(_skills(book))
    for path in book.unrecorded():
        console.print(
            f"[dim]{escape(str(path))} is not a recorded version; an interrupted learn may have left it. It may be "
            "deleted.[/dim]"
        )
    console.print(f"Current model: {escape(book.model_name(book.current))}")


def _versions(book: Ledger) -> Table:
    table = Table(title=f"versions in {escape(str(book.folder))}", title_justify="left")
    for name in ("version", "from", "status", "skill", "rows", "method", "created"):
        table.add_column(name, justify="right" if name in ("version", "from", "rows") else "left", overflow="fold")
    table.add_row(str(BASE), "", book.status(BASE), f"[dim]base: {escape(book.base)}[/dim]")
    for version in book.versions:
        status = book.status(version.number)
        table.add_row(
            str(version.number),
            str(version.parent),
            f"[bold]{status}[/bold]" if status == "current" else status,
            escape(version.skill.name),
            f"{version.skill.num_rows:,}",
            f"{version.method.get('method')}, lr {version.method.get('learning_rate')}",
            version.created[:16].replace("T", " "),
        )
    return table


def _skills(book: Ledger) -> Table:
    """A table of the skills held: version, scorer, scores before and after learning and now, smallest visible loss."""
    table = Table(title="skills held", title_justify="left")
    for name in ("skill", "since", "scorer", "items", "before", "learned", "now", "gate sees from"):
        table.add_column(name, justify="left" if name in ("skill", "scorer") else "right", overflow="fold")
    lineage = book.lineage()
    current = lineage[-1]
    latest = {verdict.skill: verdict for verdict in current.verdicts}
    for version in lineage:
        learned: GateVerdict = version.verdicts[-1]
        sees = smallest_loss_refused(learned.num_items, current.max_forgetting, current.confidence)
        table.add_row(
            escape(version.skill.name),
            str(version.number),
            escape(version.skill.metric),
            str(learned.num_items),
            f"{learned.then:.1%}",
            f"{learned.now:.1%}",
            f"{latest[version.skill.name].now:.1%}",
            "nothing" if sees is None else f"{-100 * sees:.1f} points",
        )
    return table


def show_verdicts(version: Version, console: Console) -> None:
    """Prints one row for each skill (scores then and now, the test, the smallest loss it could see), then warnings."""
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
    """Warnings: skills so weak that their loss could not be seen, and a new skill that gained nothing."""
    *earlier, new = version.verdicts
    warnings = [
        f"{verdict.skill} scored {verdict.then:.1%} when learned: too little for a loss to be seen."
        for verdict in earlier
        if verdict.smallest_loss is None or verdict.then < verdict.smallest_loss
    ]
    if new.change <= 0:
        warnings.append(f"{new.skill} gained nothing: {new.then:.1%} before, {new.now:.1%} after training.")
    return warnings


def show_lost(verdict: GateVerdict, after: EvalResult, before: Path, console: Console) -> None:
    """Prints up to NUM_EXAMPLES items whose score fell: the prompt, the answer then, the answer now.

    Args:
        verdict: of the skill.
        after: the candidate's answers.
        before: evaluation folder that holds the earlier answers.
        console: where to print.

    Raises:
        UserError: the earlier answers can't be read.
    """
    samples = run_folder.read_records(before / run_folder.samples_file(verdict.skill), SampleRecord)
    rows = {row.id: row for row in samples}

    def fell(sample: ScoredSample) -> bool:
        earlier = rows[sample.example.id].scores[after.metric]
        return (sample.scores[after.metric] or 0.0) < (earlier or 0.0)

    for sample in list(filter(fell, after.samples))[:NUM_EXAMPLES]:
        row = rows[sample.example.id]
        prompt = "\n".join(message_text(turn) for turn in sample.example.prompt)
        text = f"{prompt}\n\nthen: {row.completion.strip()}\n\nnow:  {sample.completion.strip()}"
        console.print(Panel(escape(text), title=f"lost: {escape(sample.example.id)}", title_align="left"))
