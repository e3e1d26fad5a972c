"""The jobs of ``eval``: one for each data set, run once the model is loaded."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfdistill.data.general import drift_examples
from selfdistill.errors import UserError
from selfdistill.evaluate.against import against_base, read_results
from selfdistill.evaluate.drift import DriftProbe
from selfdistill.evaluate.harness import evaluate_prior, require_harness
from selfdistill.evaluate.prior import ChoiceQuestion, evaluate_prior_quick, load_questions
from selfdistill.evaluate.results import eval_record, sample_records
from selfdistill.evaluate.scorer_choice import TaskRows, unscored_reason
from selfdistill.evaluate.task_rows import score_rows, scoring_bar
from selfdistill.models import loading
from selfdistill.records.evaluations import AgainstBase, DriftRecord, DriftSample, EvalRecord, SampleRecord
from selfdistill.records.runs import run_in
from selfdistill.settings.evaluate import DRIFT, PRIOR, PRIOR_QUICK, EvalOptions
from selfdistill.stats.paired import holm
from selfdistill.tasks import TASKS, resolve_data_dir
from selfdistill.types import EvalResult, ScoredSample, engine_in_memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """A data set's results, as they are written to files and shown in the table."""

    name: str
    record: EvalRecord | DriftRecord
    rows: Sequence[SampleRecord] | Sequence[DriftSample]
    samples: tuple[ScoredSample, ...] = ()
    """The samples of a task or benchmark; drift has none."""

    def with_facts(self, facts: dict[str, Any]) -> "Evaluated":
        """The same with further facts in its config, which comparisons ignore, such as model, dtype and versions."""
        if isinstance(self.record, DriftRecord):
            return replace(self, record=replace(self.record, config=self.record.config | facts))
        config = replace(self.record.config, facts=self.record.config.facts | facts)
        return replace(self, record=replace(self.record, config=config))


Job = Callable[[PreTrainedModel, PreTrainedTokenizerBase], Evaluated]
"""Scores a model, given with its tokenizer, on one data set."""


def job_for(name: str, rows: TaskRows | None, options: EvalOptions, console: Console) -> Job:
    """The job that scores a model on a data set.

    Args:
        name: the data set's name.
        rows: a task's rows; None for drift and the prior benchmarks.
        options: how to score.
        console: shows progress and warnings.

    Raises:
        UserError: data or a library that the job needs are missing.
    """
    if rows is not None:
        return partial(_score_task, name=name, rows=rows, options=options, console=console)
    if name == DRIFT:
        return partial(_score_drift, options=options, console=console)
    if name == PRIOR_QUICK:
        questions = load_questions(resolve_data_dir(options.data.data_dir), options.data.limit)
        return partial(_score_prior_quick, questions=questions, console=console)
    assert name == PRIOR
    require_harness()
    return partial(_score_prior, options=options, console=console)


def against_bases(
    evaluated: Sequence[Evaluated], bases: dict[str, tuple[EvalRecord, list[SampleRecord]]]
) -> tuple[list[Evaluated], list[str]]:
    """Compares results with the base's.

    Returns:
        The results, with ``against_base`` where the base has results of the same data set; its p-values are corrected
        by Holm's method for all data sets. Then the reasons why data sets can't be compared.
    """
    compared: dict[str, AgainstBase] = {}
    refusals: list[str] = []
    for result in evaluated:
        if result.name not in bases or not isinstance(result.record, EvalRecord):
            continue
        rows = [row for row in result.rows if isinstance(row, SampleRecord)]
        try:
            compared[result.name] = against_base(result.record.config, rows, result.samples, *bases[result.name])
        except UserError as error:
            refusals.append(str(error))
    corrected = holm([comparison.test.p_value for comparison in compared.values()])
    for (name, comparison), p_value in zip(list(compared.items()), corrected, strict=True):
        compared[name] = replace(comparison, test=replace(comparison.test, p_value_holm=p_value))
    return [
        replace(result, record=replace(result.record, against_base=compared[result.name]))
        if isinstance(result.record, EvalRecord) and result.name in compared
        else result
        for result in evaluated
    ], refusals


def base_results(names: Sequence[str], options: EvalOptions) -> dict[str, tuple[EvalRecord, list[SampleRecord]]]:
    """Results and samples in ``--base_results``, by data set; none without that. Raises UserError if any is missing."""
    if options.base_results is None:
        return {}
    return {name: read_results(Path(options.base_results), name) for name in names if name != DRIFT}


def _score_task(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    name: str,
    rows: TaskRows,
    options: EvalOptions,
    console: Console,
) -> Evaluated:
    result = _evaluated(name, score_rows(model, tokenizer, rows, options.decoding, console))
    if rows.judge is not None:
        result = result.with_facts({"judge": rows.judge.facts()})
        console.print(escape(rows.judge.report()))
    assert isinstance(result.record, EvalRecord)
    if reason := unscored_reason(rows.task, rows.examples, result.record.per_sample_scores):
        console.print(f"[yellow]Warning:[/yellow] {escape(reason)}")
    if short := result.record.config.facts.get("rows_short_of_context"):
        console.print(
            f"[yellow]Warning:[/yellow] {escape(name)}: the model's context leaves {short:,} rows fewer tokens than "
            "--max_new_tokens."
        )
    return result


def _score_prior_quick(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    questions: list[ChoiceQuestion],
    console: Console,
) -> Evaluated:
    with scoring_bar(console, PRIOR_QUICK, sum(len(question.requests) for question in questions)) as progress:
        return _evaluated(PRIOR_QUICK, evaluate_prior_quick(model, tokenizer, questions, progress=progress))


def _score_prior(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, options: EvalOptions, console: Console
) -> Evaluated:
    if not options.allow_code_execution:
        console.print(
            "prior: HumanEval is left out: it runs programs that the model writes. --allow_code_execution includes it."
        )
    result = evaluate_prior(
        model,
        tokenizer,
        limit=options.data.limit,
        allow_code_execution=options.allow_code_execution,
        confined=not options.allow_unconfined_code,
    )
    return _evaluated(PRIOR, result)


def _score_drift(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, options: EvalOptions, console: Console
) -> Evaluated:
    run = run_in(options.model_path)
    name = options.base_model or (run.model_name if run else options.model_path)
    task = TASKS.get(run.dataset) if run else None
    if name == options.model_path:
        console.print(
            "drift: the model is compared with itself, since no base model is known. Name one with --base_model."
        )
    base = model
    if name != options.model_path:
        base = loading.load_model(name, dtype=options.dtype, quantize=options.quantize, beside=True)
    probe = DriftProbe(
        base,
        tokenizer,
        drift_examples()[: options.data.limit],
        format_probe=task.format_probe if task else None,
        engine=engine_in_memory(options.decoding.rollout_engine),  # base and model can't both be on a server
        chat_template_kwargs=options.decoding.chat_template_kwargs,
    )
    drift = probe.base if base is model else probe.measure(model)
    config = {"task": DRIFT, "base_model": name, **asdict(probe.sampling)}
    return Evaluated(name=DRIFT, record=replace(drift.record, config=config), rows=drift.samples)


def _evaluated(name: str, result: EvalResult) -> Evaluated:
    return Evaluated(name=name, record=eval_record(result), rows=sample_records(result), samples=result.samples)
