"""``--template auto``: a preflight says how the teacher is shown the demonstration."""

from rich.console import Console
from rich.markup import escape
from transformers import PreTrainedModel

from selfdistill.errors import UserError
from selfdistill.evaluate.preflight import Preflight, preflight
from selfdistill.evaluate.preflight_table import show_preflight
from selfdistill.training.prepare import Prepared
from selfdistill.types import Template


def choose_template(prepared: Prepared, model: PreTrainedModel, console: Console) -> tuple[Template, int]:
    """Template and repeat for a run whose options leave it to a preflight.

    Raises:
        UserError: the teacher is no better than the student, whichever way it is shown the demonstration.
    """
    console.print("Preflight: which way of showing the demonstration makes the better teacher?")
    found = look(prepared, model, prepared.options.recipe.trainer.preflight_rows, console)
    show_preflight(found, console)
    if found.tells and (found.best.accuracy or 0) <= (found.base_accuracy or 0):
        raise UserError(f"preflight: {found.verdict}. To train all the same, name a --template.")
    if not found.go:
        console.print("[yellow]Training goes on, but nothing shows yet that this teacher can teach.[/yellow]")
    return found.best.template, found.best.repeat


def look(
    prepared: Prepared, model: PreTrainedModel, num_rows: int, console: Console, *, quiet: bool = False
) -> Preflight:
    """Runs the preflight on ``num_rows`` of the run's rows; says what is being tried unless ``quiet``."""

    def progress(what: str) -> None:
        if not quiet:
            console.print(f"[dim]  trying {escape(what)} ...[/dim]")

    return preflight(
        model,
        prepared.files.tokenizer,
        prepared.task,
        prepared.rows.examples,
        prepared.config,
        num_rows=num_rows,
        progress=progress,
    )
