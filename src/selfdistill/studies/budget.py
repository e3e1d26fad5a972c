"""Budgets of training runs, and looks at the model at equal shares of them."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback

from selfdistill.method.trainer import SDFTTrainer
from selfdistill.settings.study import Budget
from selfdistill.training.progress import TrainingProgress


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What a run has used up."""

    step: int
    """Optimizer steps."""
    tokens: int
    """Tokens that passed through the student in training."""
    seconds: float
    """Of training; looks at the model don't count."""


def spent_by(trainer: SDFTTrainer) -> Spent:
    """What a run has used up so far."""
    log = trainer.run_log
    return Spent(step=trainer.state.global_step, tokens=log.tokens_seen, seconds=log.wall_seconds)


class BudgetCallback(TrainerCallback):
    """Calls ``look`` at ``count`` equal shares of a budget, between two steps, and ends the run with the budget.

    Args:
        trainer: the run's trainer; add this to its callbacks last.
        budget: what is counted.
        amount: how much of it there is; None for the steps that the trainer means to make.
        count: how many looks; of several that fall on one step there is one.
        look: takes what was spent, and whether this is the last look.
    """

    def __init__(
        self,
        trainer: SDFTTrainer,
        budget: Budget,
        amount: float | None,
        count: int,
        look: Callable[[Spent, bool], None],
    ) -> None:
        self._trainer = trainer
        self._budget = budget
        self._amount = amount
        self._count = count
        self._look = look
        self._passed = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        spent = spent_by(self._trainer)
        used = {"steps": spent.step, "tokens": spent.tokens, "seconds": spent.seconds}[self._budget]
        amount = self._amount or state.max_steps
        shares = min(self._count, int(used * self._count // amount))
        if shares == self._passed:
            return
        self._passed = shares
        last = shares == self._count
        with ExitStack() as stack:
            stack.enter_context(self._trainer.run_log.left_out())
            for callback in self._trainer.callback_handler.callbacks:
                if isinstance(callback, TrainingProgress):
                    stack.enter_context(callback.paused())
            self._look(spent, last)
        if last:
            control.should_training_stop = True
