"""What a study measures of every model it makes, in memory and always in the same way."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from transformers import PreTrainedModel

from selfdistill.data.general import drift_examples
from selfdistill.errors import UserError
from selfdistill.evaluate.drift import Drift, DriftProbe
from selfdistill.evaluate.harness import evaluate_prior, require_harness
from selfdistill.evaluate.prior import FOLDER, evaluate_prior_quick, load_questions
from selfdistill.evaluate.results import eval_record, write_evaluation, write_records
from selfdistill.evaluate.scorer_choice import TaskRows
from selfdistill.evaluate.task_rows import score_rows
from selfdistill.models import loading
from selfdistill.models.mode import evaluating
from selfdistill.records.evaluations import EvalRecord
from selfdistill.records.studies import Measurements, TaskScore
from selfdistill.run_folder import DRIFT
from selfdistill.settings.evaluate import PRIOR, PRIOR_QUICK
from selfdistill.settings.study import MeasureOptions, decoding_of
from selfdistill.settings.train import Recipe
from selfdistill.tasks import resolve_data_dir
from selfdistill.training.prepare import ModelFiles
from selfdistill.types import EvalResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A model's scores, with every completion behind them."""

    tasks: dict[str, EvalResult]
    """By task, in the order of the study."""
    prior: EvalResult | None
    drift: Drift | None

    def numbers(self) -> Measurements:
        """What the study's files hold of them."""
        prior = eval_record(self.prior).parts if self.prior else {}
        return Measurements(
            tasks={name: task_score(eval_record(result)) for name, result in self.tasks.items()},
            prior={part: score.accuracy for part, score in prior.items() if score.accuracy is not None},
            drift=self.drift.record if self.drift else None,
        )

    def write(self, folder: Path) -> None:
        """Results and samples of everything, in an evaluation folder, which is emptied first."""
        shutil.rmtree(folder, ignore_errors=True)
        for result in (*self.tasks.values(), *([self.prior] if self.prior else ())):
            write_evaluation(folder, result)
        if self.drift:
            write_records(folder, DRIFT, self.drift.record, self.drift.samples)


class Meter:
    """Measures models of one family against their base.

    Args:
        tests: tasks and the rows of each that are scored.
        options: says what else is measured.
        recipe: names the base model, and how its chats are rendered.
        console: for progress bars.

    Raises:
        UserError: prior benchmarks are asked for and not at hand, or the model's tokenizer is not.
    """

    def __init__(self, tests: Sequence[TaskRows], options: MeasureOptions, recipe: Recipe, console: Console) -> None:
        self.files = ModelFiles(recipe.model.model_name)
        self._tests = tests
        self._options = options
        self._model = recipe.model
        self._decoding = decoding_of(options, recipe)
        self._console = console
        self._probe: DriftProbe | None = None
        prior, data_dir = options.prior, resolve_data_dir(recipe.data.data_dir)
        if prior == "auto":
            prior = PRIOR_QUICK if data_dir and any((data_dir / FOLDER).glob("*.jsonl")) else "none"
        self._harness = prior == PRIOR
        if self._harness:
            require_harness()
        self._questions = load_questions(data_dir, options.prior_limit) if prior == PRIOR_QUICK else []

    def load_base(self) -> PreTrainedModel:
        """A fresh copy of the base model."""
        return loading.load_model(self._model.model_name, dtype=self._model.dtype)

    def prepare(self, base: PreTrainedModel | None = None) -> None:
        """Lets the base answer what drift is measured on, once; it is loaded for that unless given, and freed again."""
        count = self._options.drift_prompts
        if self._probe is not None or not count:
            return
        only = self._tests[0].task if len(self._tests) == 1 else None
        self._probe = DriftProbe(
            base or self.load_base(),
            self.files.tokenizer,
            drift_examples()[:count],
            format_probe=only.format_probe if only else None,
            engine=self._decoding.rollout_engine,
            chat_template_kwargs=self._decoding.chat_template_kwargs,
        )

    def measure(self, model: PreTrainedModel, *, is_base: bool = False) -> Measured:
        """Scores a model; torch's random numbers go on afterwards as if nothing had happened, and so may training.

        ``is_base``: the model is the base itself, as loaded.

        Raises:
            UserError: no row of a task could be scored.
        """
        self.prepare(model if is_base else None)
        with torch.random.fork_rng(), evaluating(model):
            tasks = {test.task.name: self._score(model, test) for test in self._tests}
            drift = None
            if self._probe is not None:
                drift = self._probe.base if is_base else self._probe.measure(model)
            return Measured(tasks=tasks, prior=self._prior(model), drift=drift)

    def accuracy(self, model: PreTrainedModel, test: TaskRows) -> float:
        """Accuracy on other rows of a task, such as those that choose the learning rate; as ``measure`` does it."""
        with torch.random.fork_rng(), evaluating(model):
            return self._score(model, test).accuracy

    def _score(self, model: PreTrainedModel, test: TaskRows) -> EvalResult:
        result = score_rows(model, self.files.tokenizer, test, self._decoding, self._console)
        if not result.scores:
            raise UserError(
                f"{test.task.name}: no row could be scored by {result.metric}. Name another --scorer, or a judge."
            )
        return result

    def _prior(self, model: PreTrainedModel) -> EvalResult | None:
        if self._questions:
            return evaluate_prior_quick(model, self.files.tokenizer, self._questions)
        if self._harness:
            return evaluate_prior(model, self.files.tokenizer, limit=self._options.prior_limit)
        return None


def in_words(measured: Measurements) -> str:
    """``assistant-tools 62.5%, prior 43.1%, KL 0.061`` of a model's scores."""
    texts = [f"{name} {score.accuracy:.1%}" for name, score in measured.tasks.items()]
    if measured.prior_mean is not None:
        texts.append(f"prior {measured.prior_mean:.1%}")
    if measured.drift is not None:
        texts.append(f"KL {measured.drift.kl_per_token:.3f}")
    return escape(", ".join(texts))


def task_score(record: EvalRecord) -> TaskScore:
    """The headline of an evaluation, and its parts."""
    return TaskScore(
        accuracy=record.accuracy,
        interval=record.interval,
        num_correct=record.num_correct,
        num_total=record.num_total,
        parts=record.parts,
    )
