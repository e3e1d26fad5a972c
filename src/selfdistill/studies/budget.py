"""Budgets of training runs, and evaluations at equal shares of a budget."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback

from selfdistill.method.trainer import SDFTTrainer
from selfdistill.training.watch import between_steps
from selfdistill.types import Budget


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What a run has used up so far."""

    step: int
    """Optimizer steps."""
    tokens: int
    """Tokens that passed through the student in training."""
    seconds: float
    """Seconds of training, without the evaluations between steps."""


def spent_by(trainer: SDFTTrainer) -> Spent:
    """What a run has used up so far."""
    log = trainer.run_log
    return Spent(step=trainer.state.global_step, tokens=log.tokens_seen, seconds=log.wall_seconds)


class BudgetCallback(TrainerCallback):
    """Calls ``evaluate`` at ``count`` equal shares of a budget, between two steps, and stops training at its end.

    Args:
        trainer: the run's trainer; this must be the last of its callbacks.
        budget: the unit: steps, tokens or seconds.
        amount: the budget in that unit; None for the trainer's own number of steps.
        count: number of evaluations; if several fall on the same step, only one is made.
        evaluate: called with what was spent so far, and whether this is the last evaluation.
    """

    def __init__(
        self,
        trainer: SDFTTrainer,
        budget: Budget,
        amount: float | None,
        count: int,
        evaluate: Callable[[Spent, bool], None],
    ) -> None:
        self._trainer = trainer
        self._budget = budget
        self._amount = amount
        self._count = count
        self._evaluate = evaluate
        self._shares_done = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Evaluates if the step has reached a further share of the budget."""
        spent = spent_by(self._trainer)
        used = {"steps": spent.step, "tokens": spent.tokens, "seconds": spent.seconds}[self._budget]
        amount = self._amount or state.max_steps
        shares = min(self._count, int(used * self._count // amount))
        if shares == self._shares_done:
            return
        self._shares_done = shares
        last = shares == self._count
        with between_steps(self._trainer):
            self._evaluate(spent, last)
        if last:
            control.should_training_stop = True
