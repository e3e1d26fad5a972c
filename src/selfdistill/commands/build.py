"""``selfdistill build``: the data of the tasks that don't come ready-made."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from selfdistill.data.readers import load_rows
from selfdistill.settings.commands import BuildOptions
from selfdistill.tasks.build.medical import medical_rows, split_rows
from selfdistill.tasks.build.wiki import Ask, read_passages, wiki_rows
from selfdistill.types import Example, Message, UserError

MAX_ANSWER_TOKENS = 512
"""Longest answer to a request for questions."""
TEMPERATURE = 0.7
"""Of the model that writes questions."""

Rows = list[dict[str, str]]


def run(options: BuildOptions, console: Console) -> None:
    """Writes ``<output_dir>/<task>_data/{train_data,eval_data}``.

    Raises:
        UserError: anything the user can mend.
    """
    options.check()
    folder = Path(options.output_dir or "").expanduser() / f"{options.task}_data"
    if folder.exists() and not options.overwrite:
        raise UserError(f"{folder} exists. Name another --output_dir or give --overwrite.")
    train, evaluation = (_medical if options.task == "medical" else _wiki)(options, console)
    if not evaluation:
        raise UserError("No question could be held out for evaluation. Raise --questions_per_passage.")
    write(folder, train, evaluation)
    console.print(
        f"{options.task}: {len(train):,} training rows, {len(evaluation):,} evaluation rows in {escape(str(folder))}."
    )
    console.print(f"Use them with --dataset_name {options.task} --data_dir {escape(str(folder.parent))}")


def _medical(options: BuildOptions, console: Console) -> tuple[Rows, Rows]:
    rows, source = _public_rows(options.source or "", options.hub_config)
    answers, answers_source = _public_rows(options.answers, None) if options.answers else ([], "")
    kept = medical_rows(rows, source, answers, answers_source)
    console.print(
        f"{escape(source)}: {len(kept):,} of {len(rows):,} rows have all columns and a question of their own."
    )
    return split_rows(kept[: options.limit], options.num_eval, options.seed)


def _public_rows(path_or_id: str, hub_config: str | None) -> tuple[list[dict[str, object]], str]:
    if path_or_id.lower().endswith(".csv"):
        raise UserError(f"{path_or_id}: build reads no CSV. Give JSONL, JSON, Parquet, an Arrow folder or a Hub id.")
    return load_rows(path_or_id, hub_config=hub_config)


def _wiki(options: BuildOptions, console: Console) -> tuple[Rows, Rows]:
    passages = read_passages(Path(options.articles or "").expanduser())[: options.limit]
    articles = len({passage.article for passage in passages})
    console.print(f"{len(passages):,} passages of {articles:,} articles; {escape(str(options.model_name))} asks.")
    return wiki_rows(
        passages,
        model_asker(options, console),
        questions_per_passage=options.questions_per_passage,
        num_eval=options.num_eval,
        seed=options.seed,
    )


def model_asker(options: BuildOptions, console: Console) -> Ask:
    """A function from chats to the model's answers; an answer that ran into the limit loses its last line."""
    import torch

    from selfdistill.method.prompts import PromptRenderer
    from selfdistill.method.rollout.batched import make_engine
    from selfdistill.method.rollout.engine import Sampling
    from selfdistill.models import loading
    from selfdistill.progress import progress_bar

    assert options.model_name is not None  # BuildOptions.check saw to it
    loading.quiet_libraries()
    tokenizer = loading.load_tokenizer(options.model_name)
    loading.require_chat_template(tokenizer, options.model_name)
    model = loading.load_model(options.model_name, dtype=options.dtype)
    renderer = PromptRenderer(tokenizer)
    engine = make_engine(
        model, loading.eos_token_ids(model, tokenizer), loading.pad_token_id(tokenizer), options.batch_size
    )
    sampling = Sampling(max_new_tokens=MAX_ANSWER_TOKENS, temperature=TEMPERATURE)

    def ask(chats: Sequence[tuple[Message, ...]]) -> list[str]:
        torch.manual_seed(options.seed)
        examples = [Example(id=str(index), prompt=chat) for index, chat in enumerate(chats)]
        ids = [renderer.render(example).student_ids for example in examples]
        answers: list[str] = []
        with progress_bar(console) as bar:
            line = bar.add_task("writing questions", total=len(ids), note="")
            for start in range(0, len(ids), options.batch_size):
                rollouts = engine.generate(ids[start : start + options.batch_size], sampling)
                for rollout in rollouts:
                    text = renderer.completion_text(rollout.completion_ids)
                    answers.append(text if rollout.finish_reason == "stop" else text.rpartition("\n")[0])
                bar.advance(line, len(rollouts))
        return answers

    return ask


def write(folder: Path, train: Rows, evaluation: Rows) -> None:
    """Both Arrow folders, built aside and moved into place; what was in ``folder`` is replaced."""
    import datasets

    datasets.disable_progress_bars()
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for name, rows in (("train_data", train), ("eval_data", evaluation)):
            datasets.Dataset.from_list(rows).save_to_disk(str(scratch / name))
        scratch.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        scratch.rename(folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
