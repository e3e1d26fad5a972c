"""``selfdistill eval``."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from selfdistill import run_folder
from selfdistill.commands.eval_table import percent, show
from selfdistill.data.readers import did_you_mean
from selfdistill.evaluate.scorer_choice import chosen_task, with_chosen_judge
from selfdistill.run_folder import RESPONSES, RESULTS
from selfdistill.settings.commands import EvalOptions
from selfdistill.stats.scores import holm
from selfdistill.tasks import TASKS, resolve_data_dir
from selfdistill.tasks.overlap import overlap_warning
from selfdistill.tasks.task import Task
from selfdistill.types import EvalResult, Example, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from selfdistill.evaluate.drift import Drift
    from selfdistill.evaluate.judge import Judge

    Job = Callable[[PreTrainedModel, PreTrainedTokenizerBase], "Outcome"]

__all__ = ["evaluate_model", "percent", "run", "write_drift_into_run", "write_into_run"]

DRIFT, HUMANEVAL, PRIOR, PRIOR_QUICK = "drift", "humaneval-quick", "prior", "prior-quick"
MEASURES = (DRIFT, PRIOR_QUICK, HUMANEVAL, PRIOR)
"""Names that eval takes beside those of tasks."""


@dataclass(slots=True)
class Outcome:
    """A data set's results as they go to the files."""

    name: str
    numbers: dict[str, Any]
    rows: list[dict[str, Any]]
    result: EvalResult | None = None
    """None of drift."""


def run(options: EvalOptions, console: Console) -> None:
    """Scores the model on every data set named, writes the result files and prints one table.

    Raises:
        UserError: anything the user can mend.
    """
    options.check()
    names = ["custom"] if options.dataset_path else options.datasets()
    folder = Path(options.output_dir or "")
    folders = {name: folder if len(names) == 1 else folder / name for name in names}
    for path in [folder / RESULTS, *(place / RESULTS for place in folders.values())]:
        if path.exists() and not options.overwrite:
            raise UserError(f"{path} exists. Name another --output_dir or give --overwrite.")
    rows = {name: _rows_of_task(name, options, console) for name in names if name not in MEASURES}

    from selfdistill.models import loading  # loads torch

    loading.quiet_libraries()
    jobs = {name: _job(name, rows.get(name), options, console) for name in names}
    base = _base_results(names, options)
    tokenizer = loading.load_tokenizer(options.model_path)
    if rows or DRIFT in names:
        loading.require_chat_template(tokenizer, options.model_path)
    model = loading.load_model(options.model_path, dtype=options.dtype)
    facts = {"model_path": options.model_path, "dtype": str(model.dtype), "versions": run_folder.versions()}
    outcomes: list[Outcome] = []
    for name, job in jobs.items():
        outcome = job(model, tokenizer)
        outcome.numbers["config"] |= facts
        _write(outcome, folders[name])
        outcomes.append(outcome)
    refusals = _compare(outcomes, base)
    for outcome in outcomes if base else ():
        _write(outcome, folders[outcome.name])
    if len(names) > 1:
        run_folder.write_json(folder / RESULTS, {outcome.name: outcome.numbers for outcome in outcomes})
    console.print(show({outcome.name: outcome.numbers for outcome in outcomes}, title=options.model_path))
    console.print(f"Results are in {escape(str(folder))}.")
    if refusals:
        raise UserError(refusals[0])


@dataclass(frozen=True, slots=True)
class TaskRows:
    """A task and the rows of it that are scored."""

    task: Task
    examples: list[Example]
    judge: "Judge | None" = None


def _rows_of_task(name: str, options: EvalOptions, console: Console) -> TaskRows:
    if not options.dataset_path and name not in TASKS and (hint := did_you_mean(name, MEASURES)):
        raise UserError(f"Unknown dataset name {name!r}.{hint}")
    task = chosen_task(name, options)
    data_dir = resolve_data_dir(options.data_dir)
    examples = task.load_eval(data_dir)[: options.limit]
    if warning := overlap_warning(task, data_dir, evaluation=examples):
        console.print(f"[yellow]Warning:[/yellow] {escape(warning)}")
    task, judge = with_chosen_judge(task, options, console)
    return TaskRows(task, examples, judge)


def _job(name: str, rows: TaskRows | None, options: EvalOptions, console: Console) -> "Job":
    """What is to be done for a data set once the model is there. Raises UserError for what it lacks."""
    if rows is not None:
        return partial(_score_task, name=name, rows=rows, options=options, console=console)
    if name == DRIFT:
        return partial(_score_drift, options=options, console=console)
    if name == PRIOR_QUICK:
        from selfdistill.evaluate.prior import load_questions

        questions = load_questions(resolve_data_dir(options.data_dir), options.limit)
        return partial(_score_prior_quick, questions=questions, options=options, console=console)
    if name == HUMANEVAL:
        if not options.allow_code_execution:
            raise UserError(f"{HUMANEVAL} runs programs that the model writes: give --allow_code_execution.")
        from selfdistill.evaluate.code import TASK

        examples = TASK.load_eval(resolve_data_dir(options.data_dir))[: options.limit]
        return partial(_score_task, name=name, rows=TaskRows(TASK, examples), options=options, console=console)
    from selfdistill.evaluate.harness import require_harness

    require_harness()
    return partial(_score_prior, options=options, console=console)


def evaluate_model(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    task: Task,
    examples: list[Example],
    options: EvalOptions,
    console: Console,
) -> EvalResult:
    """Scores a model that is in memory, with a progress bar on terminals."""
    from selfdistill.evaluate import run as evaluation
    from selfdistill.evaluate.code import PlainText
    from selfdistill.method.rollout.engine import Sampling

    sampling = Sampling(
        max_new_tokens=options.max_new_tokens or task.max_new_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
    )
    with _progress(console, task.name, len(examples) * options.num_samples) as progress:
        return evaluation.evaluate_model(
            model,
            tokenizer,
            task,
            examples,
            sampling,
            num_samples=options.num_samples,
            batch_size=options.batch_size,
            seed=options.seed,
            renderer=PlainText(tokenizer) if task.name == HUMANEVAL else None,
            progress=progress,
        )


def _score_task(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    *,
    name: str,
    rows: TaskRows,
    options: EvalOptions,
    console: Console,
) -> Outcome:
    outcome = _outcome(name, evaluate_model(model, tokenizer, rows.task, rows.examples, options, console))
    if rows.judge is not None:
        outcome.numbers["config"]["judge"] = rows.judge.facts()
        console.print(escape(rows.judge.report()))
    return outcome


def _score_prior_quick(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    *,
    questions: list[Any],
    options: EvalOptions,
    console: Console,
) -> Outcome:
    from selfdistill.evaluate.prior import evaluate_prior_quick

    with _progress(console, PRIOR_QUICK, sum(len(question.requests) for question in questions)) as progress:
        return _outcome(PRIOR_QUICK, evaluate_prior_quick(model, tokenizer, questions, progress=progress))


def _score_prior(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", *, options: EvalOptions, console: Console
) -> Outcome:
    from selfdistill.evaluate.harness import evaluate_prior

    if not options.allow_code_execution:
        console.print("prior: HumanEval is left out, since it runs programs: give --allow_code_execution for it.")
    result = evaluate_prior(model, tokenizer, limit=options.limit, allow_code_execution=options.allow_code_execution)
    return _outcome(PRIOR, result)


def _score_drift(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", *, options: EvalOptions, console: Console
) -> Outcome:
    from selfdistill.data.general import drift_examples
    from selfdistill.evaluate.drift import DriftProbe
    from selfdistill.models import loading

    name, task = _origin(options)
    if name == options.model_path:
        console.print("drift: no base model is known, so the model is its own. Name one with --base_model.")
    base = model if name == options.model_path else loading.load_model(name, dtype=options.dtype)
    probe = DriftProbe(base, tokenizer, drift_examples()[: options.limit], format_probe=task and task.format_probe)
    drift = probe.base if base is model else probe.measure(model)
    config = {"task": DRIFT, "revision": "1", "base_model": name, **asdict(probe.sampling)}
    return Outcome(DRIFT, drift.summary() | {"config": config}, [asdict(sample) for sample in drift.samples])


def _origin(options: EvalOptions) -> tuple[str, Task | None]:
    """The base model, which is the model itself where nothing tells, and the task that the run learned, if known."""
    record = Path(options.model_path) / run_folder.CONFIG
    facts = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    name = options.base_model or facts.get("model_name") or options.model_path
    return name, TASKS.get(facts.get("dataset", ""))


def _outcome(name: str, result: EvalResult) -> Outcome:
    from selfdistill.evaluate.run import responses, summary

    return Outcome(name, summary(result), responses(result), result)


def _base_results(names: list[str], options: EvalOptions) -> dict[str, tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Results and rows to compare with, by data set."""
    if options.base_results is None:
        return {}
    from selfdistill.evaluate.against import read_results

    return {name: read_results(Path(options.base_results), name) for name in names if name != DRIFT}


def _compare(outcomes: list[Outcome], base: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]]) -> list[str]:
    """Adds ``against_base`` to the numbers, p-values corrected by Holm's method; returns what was refused, and why."""
    from selfdistill.evaluate.against import against_base

    refusals: list[str] = []
    compared: list[dict[str, Any]] = []
    for outcome in outcomes:
        if outcome.name not in base or outcome.result is None:
            continue
        try:
            found = against_base(outcome.numbers, outcome.rows, outcome.result.samples, *base[outcome.name])
        except UserError as error:
            refusals.append(str(error))
            continue
        outcome.numbers["against_base"] = found
        compared.append(found)
    for found, p_value in zip(compared, holm([found["p_value"] for found in compared]), strict=True):
        found["p_value_holm"] = p_value
    return refusals


def _write(outcome: Outcome, folder: Path) -> None:
    run_folder.write_json(folder / RESPONSES, outcome.rows)
    run_folder.write_json(folder / RESULTS, outcome.numbers)


def write_into_run(result: EvalResult, folder: Path) -> None:
    """``<task>.json`` and ``<task>.samples.jsonl`` in a run folder's ``eval`` or ``eval-before``."""
    from selfdistill.evaluate.run import responses, summary

    run_folder.write_jsonl(folder / f"{result.task}.samples.jsonl", responses(result))
    run_folder.write_json(folder / f"{result.task}.json", summary(result))


def write_drift_into_run(drift: "Drift", folder: Path) -> None:
    """``drift.json`` and ``drift.samples.jsonl`` in a run folder's ``eval`` or ``eval-before``."""
    run_folder.write_jsonl(folder / f"{DRIFT}.samples.jsonl", [asdict(sample) for sample in drift.samples])
    run_folder.write_json(folder / f"{DRIFT}.json", drift.summary())


@contextmanager
def _progress(console: Console, name: str, total: int) -> Iterator[Callable[[int], None]]:
    from selfdistill.progress import progress_bar

    with progress_bar(console) as bar:
        line = bar.add_task(f"scoring {name}", total=total, note="")
        yield lambda done: bar.advance(line, done)
