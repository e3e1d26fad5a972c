"""``prior``: prior capabilities, which training may damage, measured by lm-evaluation-harness (extra ``eval``).

The harness loads its data from the Hub, formats prompts without a chat template, decodes and scores;
only HumanEval's programs run in our sandbox instead of in the harness's process.
"""

from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata, util
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfdistill.errors import UserError, brief
from selfdistill.evaluate.prior import HARNESS_PROMPT
from selfdistill.evaluate.run import reported_result
from selfdistill.evaluate.sandbox import check_program, wall
from selfdistill.method.lengths import context_length
from selfdistill.models.mode import evaluating
from selfdistill.tasks.humaneval import STOPS, program
from selfdistill.tasks.task import Task
from selfdistill.types import EvalResult, Example, ScoredSample

METRICS = {
    "hellaswag": "acc",
    "mmlu": "acc",
    "truthfulqa_mc1": "acc",
    "winogrande": "acc",
    "ifeval": "inst_level_loose_acc",
    "humaneval": "pass_at_1",
}
"""The benchmarks, and the harness's metric that is each one's score."""
HUMANEVAL = "humaneval"
FOLDERS = ("hellaswag", "mmlu", "truthfulqa", "winogrande", "ifeval")
"""Folders of the harness with these tasks; to read all of its 14,000 tasks takes ten seconds."""
LONGEST = 1280
"""Tokens of IFEval's answers, the most that a benchmark may take."""


def _humaneval(row: Mapping[str, Any], completions: Sequence[str], confined: bool = True) -> dict[str, float]:
    example = Example(id=str(row.get("task_id", "")), prompt=(), reference=dict(row))
    return {METRICS[HUMANEVAL]: float(bool(check_program(program(completions[0], example), confined=confined).passed))}


def _unconfined_humaneval(row: Mapping[str, Any], completions: Sequence[str]) -> dict[str, float]:
    return _humaneval(row, completions, confined=False)


HUMANEVAL_CONFIG: dict[str, Any] = {
    "task": HUMANEVAL,
    "dataset_path": "openai/openai_humaneval",
    "output_type": "generate_until",
    "test_split": "test",
    "doc_to_text": "{{prompt}}",
    "doc_to_target": "{{canonical_solution}}",
    "process_results": _humaneval,
    "metric_list": [{"metric": METRICS[HUMANEVAL], "aggregation": "mean", "higher_is_better": True}],
    "generation_kwargs": {"until": list(STOPS), "max_gen_toks": 1024, "do_sample": False},
    "repeats": 1,
    "num_fewshot": 0,
    "metadata": {"version": 1.0},
}
"""The harness's own task of that name, except that the programs run in our sandbox."""

TASK = Task(
    name="prior",
    description="HellaSwag, MMLU, TruthfulQA, Winogrande, IFEval and HumanEval through lm-evaluation-harness.",
    source="the Hub, as lm-evaluation-harness loads it",
    licence="each benchmark's own",
    revision="1",
    load_train=lambda _: [],
    load_eval=lambda _: [],
    scorers={"score": lambda completion, example: None},
    max_new_tokens=0,
)


def require_harness() -> None:
    """Raises UserError if lm-evaluation-harness is not installed."""
    if util.find_spec("lm_eval") is None:
        raise UserError(
            "prior needs lm-evaluation-harness: pip install 'selfdistill[eval]'. prior-quick needs nothing."
        )


def evaluate_prior(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    limit: int | None = None,
    batch_size: int = 16,
    allow_code_execution: bool = False,
    confined: bool = True,
    tasks: Iterable[str | dict[str, Any]] | None = None,
) -> EvalResult:
    """Runs the harness on a model in memory.

    The benchmarks are the result's parts. A sample is an item of a benchmark (in IFEval: one instruction of an
    item), so that the accuracy of a part is the harness's number. ``config.facts["harness"]`` holds the versions of the
    harness and its tasks, and the numbers by the harness's own names.

    Args:
        model: the model, with its adapters if it has any.
        tokenizer: its tokenizer.
        limit: items per benchmark; in MMLU, per subject.
        batch_size: sequences that go through the model together.
        allow_code_execution: whether to run HumanEval's programs; otherwise that benchmark is left out.
        confined: False to run them without a wall where the system has none (``sandbox.check_program``).
        tasks: the harness's tasks, by name or as a config; by default those in METRICS.

    Raises:
        UserError: the harness is not installed, or can't get its data; the model's context is too short; or programs
            are to be run and can't be confined.
    """
    require_harness()
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    facts: dict[str, Any] = {"program_wall": wall(confined)} if allow_code_execution else {}
    if tasks is None:
        _check_context(model)
        runs = {} if confined else {"process_results": _unconfined_humaneval}
        tasks = [name for name in METRICS if name != HUMANEVAL]
        tasks += [HUMANEVAL_CONFIG | runs] if allow_code_execution else []
    try:
        with evaluating(model):
            results = simple_evaluate(
                model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size),  # type: ignore[arg-type]
                tasks=list(tasks),
                task_manager=_task_manager(),
                limit=limit,
                apply_chat_template=False,
                log_samples=True,
                bootstrap_iters=0,
            )
    except (OSError, ImportError, LookupError) as error:
        raise UserError(
            f"lm-evaluation-harness can't load a benchmark ({brief(error, 12)}). It needs the Hub; "
            "without it use prior-quick."
        ) from error
    assert results is not None  # only other processes of a launcher get None
    return result_from(dict(results), facts)


def _check_context(model: PreTrainedModel) -> None:
    """Raises UserError if a prompt and the longest answer don't fit the model, which the harness sees at the end."""
    context = context_length(model.config)
    if context is not None and context <= LONGEST:
        raise UserError(
            f"prior: IFEval asks for answers of {LONGEST:,} tokens, and the model reads {context:,}, the prompt "
            "included. Choose another model, or prior-quick."
        )


def _task_manager() -> Any:
    """Finds the tasks of FOLDERS."""
    from lm_eval import tasks

    home = Path(tasks.__file__).parent
    return tasks.TaskManager(include_path=[home / name for name in FOLDERS], include_defaults=False)


def result_from(results: Mapping[str, Any], facts: Mapping[str, Any] | None = None) -> EvalResult:
    """The harness's results as an EvalResult, with further facts for its config."""
    samples = [
        sample
        for task, rows in results["samples"].items()
        for row in rows
        for sample in _samples(task, row, METRICS[benchmark_of(task)])
    ]
    return reported_result(
        TASK,
        tuple(samples),
        HARNESS_PROMPT,
        {
            **(facts or {}),
            "harness": {
                "version": metadata.version("lm_eval"),
                "task_versions": dict(results["versions"]),
                "metrics": {
                    f"{name}/{key}": value
                    for name in METRICS
                    for key, value in results["results"].get(name, {}).items()
                    if key.split(",")[0] == METRICS[name]
                },
            },
        },
    )


def benchmark_of(task: str) -> str:
    """The benchmark that a task of the harness belongs to; MMLU has one task per subject."""
    return "mmlu" if task.startswith("mmlu_") else task


def _samples(task: str, row: Mapping[str, Any], metric: str) -> list[ScoredSample]:
    name = f"{task}/{row['doc_id']}"
    values = row[metric]
    ids = [name] if not isinstance(values, list) else [f"{name}/{number}" for number in range(len(values))]
    responses = [str(response) for response in row["filtered_resps"]]
    return [
        ScoredSample(
            example=Example(
                id=id,
                prompt=({"role": "user", "content": str(next(iter(row["arguments"]))[0])},),
                reference=row["target"],
                part=benchmark_of(task),
            ),
            completion="\n".join(responses),
            num_tokens=0,
            finish_reason="stop",
            scores={"score": float(value)},
        )
        for id, value in zip(ids, values if isinstance(values, list) else [values], strict=True)
    ]
