"""The measurements that a study makes of every model: in memory, and always in the same way."""

import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from torch import Tensor
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
    """A model's measurements, with every completion behind them."""

    tasks: dict[str, EvalResult]
    """Results by task, in the order of the study."""
    prior: EvalResult | None
    """Prior benchmarks; None if they were not measured."""
    drift: Drift | None
    """Drift from the base model; None if it was not measured."""

    def numbers(self) -> Measurements:
        """The numbers without the completions, as the study's files hold them."""
        prior = eval_record(self.prior).parts if self.prior else {}
        return Measurements(
            tasks={name: task_score(eval_record(result)) for name, result in self.tasks.items()},
            prior={part: score.accuracy for part, score in prior.items() if score.accuracy is not None},
            drift=self.drift.record if self.drift else None,
        )

    def write(self, folder: Path) -> None:
        """Empties an evaluation folder, then writes all results and samples into it."""
        shutil.rmtree(folder, ignore_errors=True)
        for result in (*self.tasks.values(), *([self.prior] if self.prior else ())):
            write_evaluation(folder, result)
        if self.drift:
            write_records(folder, DRIFT, self.drift.record, self.drift.samples)


class Meter:
    """Measures models that were trained from the same base model.

    Args:
        tests: tasks, each with the rows that are scored.
        options: which other measurements are made.
        recipe: the base model, and how chats are rendered and decoded.
        console: for progress bars.

    Raises:
        UserError: the tokenizer or the prior benchmarks asked for are not available.
    """

    device: str | None = None
    """Device that base models are loaded on; None for the default one."""

    def __init__(self, tests: Sequence[TaskRows], options: MeasureOptions, recipe: Recipe, console: Console) -> None:
        self.files = ModelFiles(recipe.model.model_name, recipe)
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

    @property
    def num_questions(self) -> int:
        """Number of the questions of prior-quick that are asked."""
        return len(self._questions)

    def load_base(self) -> PreTrainedModel:
        """A fresh copy of the base model."""
        model = self._model
        return loading.load_model(model.model_name, dtype=model.dtype, device=self.device, quantize=model.quantize)

    def base_weights(self) -> dict[str, Tensor]:
        """The base model's weights by parameter name, in the host's memory."""
        return loading.load_weights(self._model.model_name, dtype=self._model.dtype, device=self.device)

    def prepare(self, base: PreTrainedModel | None = None) -> None:
        """Records the base model's answers that drift is measured against; does nothing if that was done before.

        ``base``: the base model in memory; by default it is loaded, and freed afterwards.
        """
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
        """Measures a model in memory. Torch's random state is the same afterwards, so training may go on.

        ``is_base``: True for the base model itself, as it was loaded.

        Raises:
            UserError: no row of a task could be scored.
        """
        self.prepare(model if is_base else None)
        with _same_random_state(model), evaluating(model):
            tasks = {test.task.name: self._score(model, test) for test in self._tests}
            drift = None
            if self._probe is not None:
                drift = self._probe.base if is_base else self._probe.measure(model)
            return Measured(tasks=tasks, prior=self._prior(model), drift=drift)

    def accuracy(self, model: PreTrainedModel, test: TaskRows) -> float:
        """Accuracy of a model in memory on other rows, such as those that choose the learning rate, in [0, 1].

        Raises:
            UserError: no row could be scored.
        """
        with _same_random_state(model), evaluating(model):
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


def _same_random_state(model: PreTrainedModel) -> AbstractContextManager[None]:
    """Restores torch's random state at the end: that of the CPU, and of the model's device if it is another.

    Without a list of devices torch would open a context on every GPU of the machine.
    """
    if model.device.type == "cpu":
        return torch.random.fork_rng(devices=[])
    return torch.random.fork_rng(devices=[model.device], device_type=model.device.type)


def in_words(measured: Measurements) -> str:
    """The measurements as a console line, such as ``assistant-tools 62.5%, prior 43.1%, KL 0.061``; markup escaped."""
    texts = [f"{name} {score.accuracy:.1%}" for name, score in measured.tasks.items()]
    if measured.prior_mean is not None:
        texts.append(f"prior {measured.prior_mean:.1%}")
    if measured.drift is not None:
        texts.append(f"KL {measured.drift.kl_per_token:.3f}")
    return escape(", ".join(texts))


def task_score(record: EvalRecord) -> TaskScore:
    """The headline score of an evaluation, overall and for each part of the evaluation set."""
    return TaskScore(
        accuracy=record.accuracy,
        interval=record.interval,
        num_correct=record.num_correct,
        num_total=record.num_total,
        parts=record.parts,
    )
