"""Evaluations of a run while it goes on: skill on held-out rows, drift from the start model, and which one is best."""

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from transformers import TrainerCallback

from selfdistill import run_folder
from selfdistill.checkpoints.manifest import DamagedError, verify
from selfdistill.data.general import drift_examples
from selfdistill.data.own import Reading, own_evaluation
from selfdistill.errors import DamagedFilesError, UserError
from selfdistill.evaluate.drift import DriftProbe
from selfdistill.evaluate.renderers import renderer_for
from selfdistill.evaluate.results import score_of
from selfdistill.evaluate.run import prompt_ids
from selfdistill.evaluate.scorer_choice import TaskRows, chosen_task, first_rows
from selfdistill.evaluate.task_rows import score_rows
from selfdistill.method.lengths import context_length
from selfdistill.method.random_state import unchanged_random_state
from selfdistill.method.rollout.engine import Sampling
from selfdistill.method.trainer import SDFTTrainer
from selfdistill.models.mode import evaluating
from selfdistill.records.runs import AnswerRecord
from selfdistill.settings.evaluate import DecodingOptions
from selfdistill.settings.groups import JudgeOptions
from selfdistill.settings.train import TrainOptions
from selfdistill.settings.watch import KeepRule
from selfdistill.tasks import resolve_data_dir
from selfdistill.tasks.overlap import overlap_warning
from selfdistill.tasks.task import Task
from selfdistill.training.prepare import Prepared
from selfdistill.training.progress import TrainingProgress
from selfdistill.training.success import check_alone
from selfdistill.types import EvalResult, Example, engine_in_memory

ACCURACY, DRIFT, LEAK = "eval/accuracy", "eval/drift", "eval/leak"


def held_out_rows(options: TrainOptions, train: Sequence[Example], console: Console) -> TaskRows | None:
    """The rows that ``--eval_steps`` scores; None without it.

    They are the first ``--eval_rows`` of the task's evaluation rows, or of a person's own: of those that
    ``--eval_share`` holds out, or else of the evaluation split of the folder. Warns of prompts that are in ``train``.

    Raises:
        UserError: there are no such rows, one is wrong, or the scorer needs a judge or runs programs.
    """
    if options.watch.eval_steps is None:
        return None
    path = options.source.dataset_path
    task = _own_task(options, path, lambda text: console.print(escape(text))) if path else _named_task(options)
    check_alone(task, "--eval_steps")
    examples = first_rows(task.load_eval(resolve_data_dir(options.recipe.data.data_dir)), options.watch.eval_rows)
    if not examples:
        raise UserError(f"--eval_steps: {task.name} has no evaluation rows. Leave it out, or give --dataset_path.")
    if path and (warning := overlap_warning(path, train, examples)):  # a named task's is given with its rows
        console.print(f"[yellow]Warning:[/yellow] {escape(warning)}")
    return TaskRows(task, examples)


def check_watched(prepared: Prepared) -> None:
    """Raises UserError if no evaluation would be made, a held-out prompt fills the model's context, or the best
    checkpoint could not be kept."""
    test, every = prepared.test, prepared.options.watch.eval_steps
    if test is None or every is None:
        return
    if every > (steps := _num_steps(prepared)):
        raise UserError(f"--eval_steps {every}: the run has {steps} steps, so nothing is evaluated. Lower it.")
    if prepared.options.watch.keep_best is not None and prepared.config.save_total_limit == 1:
        raise UserError(
            "--keep_best: the best checkpoint and the newest one are kept. Give save_total_limit=2 or more."
        )
    renderer = renderer_for(test.task, prepared.files.tokenizer, prepared.config.chat_variables("student"))
    prompt_ids(test.examples, renderer, Sampling(max_new_tokens=1, context=context_length(prepared.files.config)))


@contextmanager
def between_steps(trainer: SDFTTrainer) -> Generator[None]:
    """Context in which the run's clock and its progress bar stand still."""
    with ExitStack() as stack:
        stack.enter_context(trainer.run_log.left_out())
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, TrainingProgress):
                stack.enter_context(callback.paused())
        yield


class Watch(TrainerCallback):
    """Every ``eval_steps`` steps evaluates the student, logs the numbers, and keeps some answers; those also before the
    first step.

    Of several processes the main one evaluates while the others wait. The training that goes on is the same as without:
    random numbers, the modes of modules, the clock and what other callbacks asked for are left as they were found.

    Args:
        trainer: the run's trainer, its model as training starts from it: drift is measured against it. This must be
            the last of its callbacks.
        prepared: the run, with held-out rows.
        console: for what was measured.
    """

    def __init__(self, trainer: SDFTTrainer, prepared: Prepared, console: Console) -> None:
        assert prepared.test is not None
        assert prepared.options.watch.eval_steps is not None
        config = prepared.config
        self._trainer, self._console = trainer, console
        self._test, self._every = prepared.test, prepared.options.watch.eval_steps
        rows = config.per_device_train_batch_size * config.gradient_accumulation_steps * config.num_rollouts
        self._decoding = DecodingOptions(
            batch_size=min(DecodingOptions.batch_size, rows),  # the memory that a step's rollouts take is there
            max_new_tokens=min(self._test.task.max_new_tokens, config.max_completion_length),
            rollout_engine=engine_in_memory(config.rollout_engine),
            chat_template_kwargs=config.chat_variables("student"),
        )
        self._num_answers = prepared.options.watch.eval_answers
        self._rule, self._stop_after = prepared.options.watch.keep_rule, prepared.options.watch.stop_after
        self._probe: DriftProbe | None = None
        if count := prepared.options.watch.drift_prompts:
            with trainer.step.sharding.gathered():
                trainer.processes.once(lambda: self._make_probe(count))

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keeps the start model's answers; a run that is resumed has them."""
        if self._num_answers and state.global_step == 0:
            with between_steps(self._trainer), self._trainer.step.sharding.gathered():
                self._trainer.processes.once(self._answer)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Evaluates after every ``eval_steps``-th step."""
        if state.global_step % self._every:
            return
        asked = control.should_log
        with between_steps(self._trainer), self._trainer.step.sharding.gathered():
            measured = self._trainer.processes.once(self._measure)
        self._trainer.log(measured)
        control.should_log = asked  # transformers takes any log for the one that was asked for
        if self._trainer.processes.is_main:
            self._console.print(f"step {state.global_step}: {escape(self._in_words(measured))}")
        if self._rule is not None:
            self._keep(self._rule, measured, state, control)

    def _keep(self, rule: KeepRule, measured: Mapping[str, float], state: Any, control: Any) -> None:
        """Asks for a checkpoint if the evaluation is the best so far, and for the end if too many were not.

        The best is noted in transformers' state, which every checkpoint holds, so a resumed run knows it.
        """
        step, value = state.global_step, rule.value({name.removeprefix("eval/"): n for name, n in measured.items()})
        if value is not None and (state.best_global_step is None or value > state.best_metric):
            state.best_metric, state.best_global_step = value, step
            state.best_model_checkpoint = str(_checkpoint(self._trainer, step))
            control.should_save = True
        without = (step - (state.best_global_step or 0)) // self._every
        if self._stop_after is not None and without >= self._stop_after:
            control.should_training_stop = True
            if self._trainer.processes.is_main:
                self._console.print(f"The run ends after step {step}: {without} evaluations in a row were no better.")

    def _make_probe(self, count: int) -> None:
        task, examples = self._test.task, drift_examples()[:count]
        with unchanged_random_state():
            self._probe = DriftProbe(
                self._trainer.model,
                self._trainer.tokenizer,
                examples,
                format_probe=task.format_probe,
                engine=self._decoding.rollout_engine,
                chat_template_kwargs=self._decoding.chat_template_kwargs,
            )

    def _answer(self) -> None:
        rows = TaskRows(self._test.task, self._test.examples[: self._num_answers])
        with unchanged_random_state(), evaluating(self._trainer.model):
            self._keep_answers(self._scored(rows))

    def _scored(self, rows: TaskRows) -> EvalResult:
        trainer = self._trainer
        return score_rows(trainer.model, trainer.tokenizer, rows, self._decoding, self._console)

    def _keep_answers(self, result: EvalResult) -> None:
        answers = [
            AnswerRecord(
                step=self._trainer.state.global_step,
                id=sample.example.id,
                prompt=list(sample.example.prompt),
                reference=sample.example.reference,
                completion=sample.completion,
                num_tokens=sample.num_tokens,
                finish_reason=sample.finish_reason,
                score=sample.scores[result.metric],
            )
            for sample in result.samples[: self._num_answers]
        ]
        self._trainer.run_log.write_answers(answers)

    def _measure(self) -> dict[str, float]:
        """The numbers of an evaluation, as metrics.jsonl has them."""
        model = self._trainer.model
        with unchanged_random_state(), evaluating(model):
            result = self._scored(self._test)
            drift = self._probe.measure(model).record if self._probe is not None else None
        if self._num_answers:
            self._keep_answers(result)
        score = score_of(result.scores)
        measured: dict[str, float] = {
            ACCURACY: math.nan if score.accuracy is None else score.accuracy,
            "eval/accuracy_low": score.interval[0],
            "eval/accuracy_high": score.interval[1],
            "eval/num_scored": score.num_total,
        }
        return measured if drift is None else measured | {DRIFT: drift.kl_per_token, LEAK: drift.format_leak_rate}

    def _in_words(self, measured: dict[str, float]) -> str:
        """The numbers as a console line."""
        headline, count = next(iter(self._test.task.scorers)), measured["eval/num_scored"]
        text = f"{headline} could score none of {len(self._test.examples)} held-out rows"
        if count:
            low, high = measured["eval/accuracy_low"], measured["eval/accuracy_high"]
            text = f"{headline} {measured[ACCURACY]:.1%} ({low:.0%} to {high:.0%}) on {count} held-out rows"
        if DRIFT in measured:
            text += f", drift {measured[DRIFT]:.3f} nats, leak {measured[LEAK]:.0%}"
        return text


def watch(trainer: SDFTTrainer, prepared: Prepared, console: Console) -> None:
    """Adds the evaluations that ``--eval_steps`` asks for to a trainer that has not begun; does nothing without."""
    if prepared.test is not None:
        trainer.add_callback(Watch(trainer, prepared, console))


def load_best(trainer: SDFTTrainer, prepared: Prepared, console: Console) -> None:
    """Gives the trained model the weights of the best evaluation's step, which it says; does nothing without
    ``--keep_best``. Only the main process's model is changed, which is the one that is saved, unless it is split.

    Raises:
        UserError: the checkpoint of that step is damaged.
    """
    if prepared.options.watch.keep_best is None:
        return
    step, last = trainer.state.best_global_step, trainer.state.global_step
    if step is None:
        saved = f"the model saved is that of the last step, {last}."
        text = f"[yellow]Warning:[/yellow] no evaluation met --keep_best; {saved}"
    else:
        text = f"The model saved is that of step {step} of {last}, the best by --keep_best."
        if step != last:
            load = partial(_load, trainer, _checkpoint(trainer, step))
            if trainer.step.sharding.is_split:
                load()
            else:
                trainer.processes.once(load)
    if trainer.processes.is_main:
        console.print(text)


def _load(trainer: SDFTTrainer, checkpoint: Path) -> None:
    try:
        verify(checkpoint)
    except DamagedError as error:
        raise DamagedFilesError(
            f"{checkpoint}, the best by --keep_best: {error}. Leave --keep_best out to save the last step's model."
        ) from error
    trainer.checkpoints.load_model(checkpoint)


def _checkpoint(trainer: SDFTTrainer, step: int) -> Path:
    return trainer.run_log.folder / f"{run_folder.CHECKPOINT}{step}"


def _named_task(options: TrainOptions) -> Task:
    return chosen_task(options.source.dataset_name, None, JudgeOptions(scorer=options.watch.scorer))


def _own_task(options: TrainOptions, path: str, say: Callable[[str], None]) -> Task:
    rows = options.recipe.data.rows
    eval_path = own_evaluation(path) if rows.eval_share is None else None
    if eval_path is None and rows.eval_share is None:
        raise UserError(
            f"--eval_steps: {path[:80]} has no split to evaluate on. Add --eval_share 0.1, which holds out a tenth of "
            "the rows."
        )
    reading = Reading(rows=rows, seed=options.seed, say=say)
    return chosen_task("", eval_path, JudgeOptions(scorer=options.watch.scorer), train_path=path, reading=reading)


def _num_steps(prepared: Prepared) -> int:
    """Optimizer steps of the run, counted as transformers' Trainer counts them."""
    config = prepared.config
    if config.max_steps > 0:
        return config.max_steps
    batches = len(prepared.pairs) / (config.per_device_train_batch_size * config.world_size)
    whole = math.floor(batches) if config.dataloader_drop_last else math.ceil(batches)
    return math.ceil(config.num_train_epochs * max(math.ceil(whole / config.gradient_accumulation_steps), 1))
