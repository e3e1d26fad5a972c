"""``--template auto``: a preflight chooses how the teacher is shown the demonstration."""

from functools import partial

from rich.console import Console
from rich.markup import escape
from transformers import PreTrainedModel

from selfdistill.errors import UserError
from selfdistill.evaluate.preflight import Preflight, preflight
from selfdistill.evaluate.preflight_table import show_preflight
from selfdistill.method.needs import counts
from selfdistill.method.templates import next_templates, tried_templates
from selfdistill.training.prepare import Prepared
from selfdistill.types import Template


def choose_template(prepared: Prepared, model: PreTrainedModel, console: Console) -> tuple[Template, int]:
    """Runs a preflight on rows of the run and prints its table.

    Returns:
        The best template, and its ``template_repeat``.

    Raises:
        UserError: with no template the teacher is better than the student.
    """
    console.print("Preflight: which way of showing the demonstration makes the better teacher?")
    result = run_preflight(prepared, model, prepared.options.recipe.trainer.preflight_rows, console)
    show_preflight(result, console)
    if result.tells and (result.best.accuracy or 0) <= (result.base_accuracy or 0):
        raise UserError(f"preflight: {result.verdict}. To train all the same, name a --template.")
    if not result.go:
        console.print("[yellow]Training continues, but there is no evidence yet that this teacher can teach.[/yellow]")
    return result.best.template, result.best.repeat


def run_preflight(
    prepared: Prepared, model: PreTrainedModel, num_rows: int, console: Console, *, quiet: bool = False
) -> Preflight:
    """Runs the preflight on at most ``num_rows`` of the run's rows; prints what is being tried unless ``quiet``.

    A template that the options name is tried, too; of the higher repeats only those with which every row fits.

    Raises:
        UserError: as ``evaluate.preflight.preflight`` raises it.
    """

    def progress(what: str) -> None:
        if not quiet:
            console.print(f"[dim]  trying {escape(what)} ...[/dim]")

    templates, config = tried_templates(), prepared.config
    named = config.template, config.template_repeat
    if named not in templates and counts(config, "template") and not prepared.needs_template:
        templates = [*templates, named]
    fits = partial(prepared.rows.fits_prior_turn, config, prepared.files.config)
    then = [pair for pair in next_templates() if pair not in templates and fits(pair[1])]
    return preflight(
        model,
        prepared.files.tokenizer,
        prepared.task,
        prepared.rows.examples,
        config,
        num_rows=num_rows,
        templates=templates,
        then=then,
        progress=progress,
    )
