"""``selfdistill eval``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from selfdistill import run_folder
from selfdistill.options import EvalOptions
from selfdistill.tasks import get_task, resolve_data_dir
from selfdistill.tasks.custom import custom_task
from selfdistill.tasks.task import Task
from selfdistill.types import EvalResult, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

RESULTS, RESPONSES = "eval_results.json", "eval_responses.json"


def run(options: EvalOptions, console: Console) -> None:
    """Scores the model, writes the two result files and prints a table.

    Raises:
        UserError: anything the user can mend.
    """
    options.check()
    folder = Path(options.output_dir or "")
    if (folder / RESULTS).exists() and not options.overwrite:
        raise UserError(f"{folder / RESULTS} exists. Name another --output_dir or give --overwrite.")
    task = custom_task(None, options.dataset_path) if options.dataset_path else get_task(options.dataset_name)
    examples = task.load_eval(resolve_data_dir(options.data_dir))[: options.limit]

    from selfdistill import models  # loads torch

    models.quiet_libraries()
    tokenizer = models.load_tokenizer(options.model_path)
    models.require_chat_template(tokenizer, options.model_path)
    model = models.load_model(options.model_path, dtype=options.dtype)
    result = evaluate_model(model, tokenizer, task, examples, options, console)
    write(result, folder, {"model_path": options.model_path, "dtype": str(model.dtype)})
    console.print(table([result], title=f"{options.model_path}"))
    console.print(f"Results are in {escape(str(folder))}.")


def evaluate_model(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    task: Task,
    examples: list[Any],
    options: EvalOptions,
    console: Console,
) -> EvalResult:
    """Scores a model that is in memory, with a progress bar on terminals."""
    import torch

    from selfdistill import models
    from selfdistill.evaluate.run import evaluate
    from selfdistill.progress import progress_bar
    from selfdistill.prompts import PromptRenderer
    from selfdistill.rollout.engine import Sampling
    from selfdistill.rollout.batched import make_engine

    torch.manual_seed(options.seed)
    engine = make_engine(model, models.eos_token_ids(model, tokenizer), models.pad_token_id(tokenizer))
    sampling = Sampling(
        max_new_tokens=options.max_new_tokens or task.max_new_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
    )
    with progress_bar(console) as bar:
        line = bar.add_task(f"scoring {task.name}", total=len(examples), note="")
        return evaluate(
            task,
            examples,
            engine,
            PromptRenderer(tokenizer),
            sampling,
            batch_size=options.batch_size,
            progress=lambda done: bar.advance(line, done),
        )


def write(result: EvalResult, folder: Path, facts: dict[str, Any]) -> None:
    """``eval_results.json`` and ``eval_responses.json`` in ``folder``."""
    from selfdistill.evaluate.run import responses, summary

    numbers = summary(result)
    numbers["config"] |= facts | {"versions": run_folder.versions()}
    run_folder.write_json(folder / RESPONSES, responses(result))
    run_folder.write_json(folder / RESULTS, numbers)


def write_into_run(result: EvalResult, folder: Path) -> None:
    """``<task>.json`` and ``<task>.samples.jsonl`` in a run folder's ``eval`` or ``eval-before``."""
    from selfdistill.evaluate.run import responses, summary

    run_folder.write_jsonl(folder / f"{result.task}.samples.jsonl", responses(result))
    run_folder.write_json(folder / f"{result.task}.json", summary(result))


def table(results: list[EvalResult], title: str) -> Table:
    """Every scorer and part of the results, with 95% intervals."""
    from selfdistill.evaluate.run import summary

    shown = Table(title=escape(title), title_justify="left")
    for name in ("task", "score", "rows"):
        shown.add_column(name, justify="right" if name != "task" else "left")
    shown.add_column("mean [95% interval]", justify="right")
    for result in results:
        numbers = summary(result)
        for metric, values in numbers["metrics"].items():
            shown.add_row(result.task, metric, str(values["num_total"]), percent(values))
        for part, values in numbers["parts"].items():
            shown.add_row(f"  {part}", result.metric, str(values["num_total"]), percent(values))
    return shown


def percent(values: dict[str, Any]) -> str:
    """``63.0% [56.1, 69.4]``; ``unscored`` where nothing could be graded."""
    if values["num_total"] == 0:
        return "unscored"
    low, high = values["interval"]
    return f"{values['accuracy']:.1%} [{100 * low:.1f}, {100 * high:.1f}]"
