"""How much of the demo is done here: all of it, or on a slow machine what fits the time."""

from dataclasses import dataclass

from transformers import PreTrainedModel

from selfdistill.evaluate.scorer_choice import TaskRows
from selfdistill.settings.train import DemoOptions
from selfdistill.training import duration
from selfdistill.training.prepare import Prepared

MINUTES, MINUTES_WITHOUT_UNITS = 6.0, 12.0
"""Longest time by default, on a device with bf16 units and on one without."""
SHARES = ((1, 1), (0.5, 1), (0.25, 1), (0.25, 0.75), (0.25, 0.5), (0.25, 0.25))
"""Shares of evaluation rows and of steps, from all to the least that still shows something."""
ANSWER_TOKENS = 64
"""Longest answer of the drift probe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is done."""

    rows: int
    """Evaluation rows."""
    steps: int
    """Steps of the training; -1 if epochs decide."""
    said: str
    """For people: how long it takes, and what is left out."""


def demo_size(options: DemoOptions, prepared: Prepared, model: PreTrainedModel, rows: TaskRows) -> Size:
    """The largest size whose estimated time on this machine fits ``--minutes``; the smallest, if none does.

    Rows and steps that a flag gives stay as they are.

    Args:
        options: the command's.
        prepared: the run; its template is settled.
        model: the loaded model, whose speed is measured.
        rows: the evaluation rows.
    """
    most_rows, most_steps = len(rows.examples), prepared.config.max_steps
    sizes = [
        (
            most_rows if options.limit is not None else _part(of_rows, most_rows),
            most_steps if options.max_steps is not None else _part(of_steps, most_steps),
        )
        for of_rows, of_steps in SHARES
    ]
    works = [_work(prepared.with_steps(steps), count, rows, options.drift_prompts) for count, steps in sizes]
    speed = duration.measured(model, sorted({count for work in works for count in work.decoding}))
    taken = [duration.seconds(work, speed) for work in works]
    minutes = options.minutes or (MINUTES if duration.has_bf16_units(model.device) else MINUTES_WITHOUT_UNITS)
    chosen = next((number for number, seconds in enumerate(taken) if seconds <= 60 * minutes), len(sizes) - 1)

    said = f"This takes {duration.in_words(taken[chosen])} on this machine ({duration.machine(model.device)})."
    count, steps = sizes[chosen]
    left = [f"{count} of {most_rows} evaluation rows"] if count < most_rows else []
    left += [f"{steps} of {most_steps} steps"] if steps < most_steps else []
    if left:
        said += f" It takes {' and '.join(left)}: all would take {duration.in_words(taken[0])} (--minutes N)."
    return Size(rows=count, steps=steps, said=said)


def _part(share: float, whole: int) -> int:
    """The share of a number, at least 1; a number below 1, which means no limit, stays as it is."""
    return max(1, round(share * whole)) if whole > 0 else whole


def _work(prepared: Prepared, num_rows: int, rows: TaskRows, drift_prompts: int) -> duration.Work:
    """Scoring, training and scoring again, and answering general prompts twice."""
    scoring = duration.scoring_work(prepared, num_rows, rows.task.max_new_tokens)
    drift = [duration.scoring_work(prepared, drift_prompts, ANSWER_TOKENS)] * (2 if drift_prompts else 0)
    return duration.total([scoring, duration.training_work(prepared), scoring, *drift])
