"""Scores a model on a task's rows with a command's decoding options and a progress bar."""

from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfdistill.evaluate.run import evaluate_model
from selfdistill.evaluate.scorer_choice import TaskRows
from selfdistill.method.rollout.copies import CopyOptions
from selfdistill.method.rollout.engine import OnDone, Sampling
from selfdistill.progress import progress_bar
from selfdistill.settings.evaluate import DecodingOptions
from selfdistill.types import EvalResult


def score_rows(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: TaskRows,
    decoding: DecodingOptions,
    console: Console,
) -> EvalResult:
    """Scores a model in memory; shows a progress bar on a terminal. Raises UserError as ``run.evaluate``."""
    task = rows.task
    sampling = Sampling(
        max_new_tokens=decoding.max_new_tokens or task.max_new_tokens,
        temperature=decoding.temperature,
        top_p=decoding.top_p,
    )
    with scoring_bar(console, task.name, len(rows.examples) * decoding.num_samples) as progress:
        return evaluate_model(
            model,
            tokenizer,
            task,
            rows.examples,
            sampling,
            num_samples=decoding.num_samples,
            batch_size=decoding.batch_size,
            seed=decoding.seed,
            engine=decoding.rollout_engine,
            copy=CopyOptions(url=decoding.vllm_url, memory_share=decoding.vllm_memory_share),
            chat_template_kwargs=decoding.chat_template_kwargs,
            progress=progress,
        )


@contextmanager
def scoring_bar(console: Console, name: str, total: int) -> Generator[OnDone]:
    """A progress bar on a terminal; gives the function that advances it by a number of completions."""
    with progress_bar(console) as bar:
        line = bar.add_task(f"scoring {name}", total=total, note="")
        yield lambda done: bar.advance(line, done)
