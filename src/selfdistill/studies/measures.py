"""What a study measures of every model it makes, in memory and always in the same way."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfdistill.commands.eval import (
    PRIOR,
    PRIOR_QUICK,
    TaskRows,
    evaluate_model,
    write_drift_into_run,
    write_into_run,
)
from selfdistill.data.general import drift_examples
from selfdistill.evaluate.drift import Drift, DriftProbe
from selfdistill.evaluate.harness import evaluate_prior, require_harness
from selfdistill.evaluate.prior import FOLDER, evaluate_prior_quick, load_questions
from selfdistill.evaluate.run import summary
from selfdistill.models import loading
from selfdistill.models.mode import evaluating
from selfdistill.settings.study import StudyOptions
from selfdistill.tasks import resolve_data_dir
from selfdistill.types import EvalResult, UserError

NUMBERS = ("accuracy", "interval", "num_correct", "num_total")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A model's scores."""

    tasks: dict[str, EvalResult]
    """By task, in the order of the study."""
    prior: EvalResult | None
    drift: Drift | None

    def entry(self) -> dict[str, Any]:
        """``tasks`` (accuracy, interval, num_correct, num_total and, where there are any, parts of each),
        ``prior`` (accuracy by benchmark) and ``drift``, as the study's files hold them."""
        return {
            "tasks": {name: _numbers(result) for name, result in self.tasks.items()},
            "prior": {part: values["accuracy"] for part, values in summary(self.prior)["parts"].items()}
            if self.prior
            else {},
            "drift": self.drift.summary() if self.drift else {},
        }

    def write(self, folder: Path) -> None:
        """Results and samples of everything, in a run folder's ``eval`` or ``eval-before``, which is emptied first."""
        shutil.rmtree(folder, ignore_errors=True)
        for result in (*self.tasks.values(), *([self.prior] if self.prior else ())):
            write_into_run(result, folder)
        if self.drift:
            write_drift_into_run(self.drift, folder)


class Measures:
    """Measures models of one family against their base.

    Args:
        tests: tasks and the rows of each that are scored.
        options: says what else is measured, and the base model.
        console: for progress bars.

    Raises:
        UserError: prior benchmarks are asked for and not at hand.
    """

    def __init__(self, tests: Sequence[TaskRows], options: StudyOptions, console: Console) -> None:
        self.model_name = options.model_name
        self._tests = tests
        self._options = options
        self._console = console
        self._probe: DriftProbe | None = None
        prior = options.prior
        data_dir = resolve_data_dir(options.data_dir)
        if prior == "auto":
            prior = PRIOR_QUICK if data_dir and any((data_dir / FOLDER).glob("*.jsonl")) else "none"
        self._harness = prior == PRIOR
        if self._harness:
            require_harness()
        self._questions = load_questions(data_dir, options.prior_limit) if prior == PRIOR_QUICK else []

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base model's. Raises UserError where it has no chat template."""
        tokenizer = loading.load_tokenizer(self._options.model_name)
        loading.require_chat_template(tokenizer, self._options.model_name)
        return tokenizer

    def load_base(self) -> PreTrainedModel:
        """A fresh copy of the base model."""
        return loading.load_model(self._options.model_name, dtype=self._options.dtype)

    def prepare(self, base: PreTrainedModel | None = None) -> None:
        """Lets the base answer what drift is measured on, once; it is loaded for that unless given, and freed again."""
        count = self._options.drift_prompts
        if self._probe is None and count:
            task = self._tests[0].task if len(self._tests) == 1 else None
            probe = task and task.format_probe
            base = base or self.load_base()
            self._probe = DriftProbe(base, self.tokenizer, drift_examples()[:count], format_probe=probe)

    def measure(self, model: PreTrainedModel, *, is_base: bool = False) -> Measured:
        """Scores a model; torch's random numbers go on afterwards as if nothing had happened, and so may training.

        ``is_base``: the model is the base itself, as loaded.

        Raises:
            UserError: no row of a task could be scored.
        """
        self.prepare(model if is_base else None)
        with torch.random.fork_rng(), evaluating(model):
            tasks = {test.task.name: self._score(model, test) for test in self._tests}
            drift = self._probe and (self._probe.base if is_base else self._probe.measure(model))
            return Measured(tasks=tasks, prior=self._prior(model), drift=drift)

    def accuracy(self, model: PreTrainedModel, test: TaskRows) -> float:
        """Accuracy on other rows of a task, such as those that choose the learning rate; as ``measure`` does it."""
        with torch.random.fork_rng(), evaluating(model):
            return self._score(model, test).accuracy

    def _score(self, model: PreTrainedModel, test: TaskRows) -> EvalResult:
        options = self._options.evaluation()
        result = evaluate_model(model, self.tokenizer, test.task, test.examples, options, self._console)
        if result.accuracy != result.accuracy:  # NaN: nothing was scored
            raise UserError(
                f"{test.task.name}: no row could be scored by {result.metric}. Name another --scorer, or a judge."
            )
        return result

    def _prior(self, model: PreTrainedModel) -> EvalResult | None:
        if self._questions:
            return evaluate_prior_quick(model, self.tokenizer, self._questions)
        if self._harness:
            return evaluate_prior(model, self.tokenizer, limit=self._options.prior_limit)
        return None


def _numbers(result: EvalResult) -> dict[str, Any]:
    numbers = summary(result)
    parts = {part: {name: values[name] for name in NUMBERS} for part, values in numbers["parts"].items()}
    return {name: numbers[name] for name in NUMBERS} | ({"parts": parts} if parts else {})
