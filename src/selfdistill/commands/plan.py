"""``selfdistill plan``."""

import json

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from selfdistill.settings.plan import PlanOptions

SHOWN = 12
"""Rows of the table."""


def run(options: PlanOptions, console: Console) -> None:
    """Prints which settings fit a GPU as a table and the mildest one's command, or everything as one JSON object.

    Raises:
        UserError: an option is wrong, or the model has no config.json.
    """
    options.check()

    from selfdistill.models.loading import load_config, quiet_libraries  # loads torch
    from selfdistill.training.cards import HERE, card_named
    from selfdistill.training.plan import Candidate, candidates

    quiet_libraries()
    card = card_named(options.gpu)
    found = candidates(options, load_config(options.model_name), card)
    if options.json:
        settings = [candidate.as_dict() | _length(options, candidate.seconds_per_step) for candidate in found]
        print(
            json.dumps(
                {
                    "settings": settings,
                    "card_bytes": round(card.memory * 2**30),
                    "gpu": options.gpu,
                    "gpus": options.gpus,
                }
            )
        )
        return
    number = "one" if options.gpus == 1 else str(options.gpus)
    title = f"{escape(options.model_name)} on {number} {options.gpu}, {card.memory:.4g} GiB"
    table = Table(title=title, title_justify="left")
    for name in ("fits", "settings", "peak GiB", "s per step", *(["hours"] if options.steps else [])):
        table.add_column(name, justify="left" if name in ("fits", "settings") else "right")
    for candidate in found[:SHOWN]:
        cells = ["yes" if candidate.fits else "no", candidate.name, f"{candidate.parts.peak / 2**30:.1f}"]
        cells.append(f"{candidate.seconds_per_step:.1f}")
        cells += [f"{_length(options, candidate.seconds_per_step)['hours']:.1f}"] if options.steps else []
        table.add_row(*cells)
    console.print(table)
    source = "from a product and a copy measured now" if options.gpu in HERE else "nothing of it was measured"
    console.print(f"Seconds are arithmetic with every completion as long as allowed; {source}.")
    best: Candidate = found[0]
    if not best.fits:
        console.print("Nothing fits: take a smaller model, shorter prompts and completions, or a larger GPU.")
        return
    console.print(f"The mildest setting that fits, {best.name}:")
    console.print(escape(best.command), soft_wrap=True)
    if best.parts.host:
        each = " for each GPU" if options.gpus > 1 else ""
        console.print(f"It takes {best.parts.host / 2**30:.1f} GiB of the host's memory{each}.")
    if options.price is not None:
        console.print(f"Cost of the run: {_length(options, best.seconds_per_step)['cost']:.2f}")


def _length(options: PlanOptions, seconds_per_step: float) -> dict[str, float]:
    """Hours and cost of the run, where they are asked for."""
    if options.steps is None:
        return {}
    hours = seconds_per_step * options.steps / 3600
    return {"hours": round(hours, 2)} | (
        {} if options.price is None else {"cost": round(hours * options.price * options.gpus, 2)}
    )
