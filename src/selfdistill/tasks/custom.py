"""A user's own data as a task."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from selfdistill.data.readers import find_file, load_rows
from selfdistill.data.rows import examples_from_rows
from selfdistill.errors import MissingDataError, UserError
from selfdistill.tasks.scorers import exact_match
from selfdistill.tasks.task import Scorer, Task
from selfdistill.types import Example


def custom_task(
    train_path: str | None,
    eval_path: str | None,
    *,
    scorers: Mapping[str, Scorer] | None = None,
    name: str = "custom",
    max_new_tokens: int = 1024,
) -> Task:
    """A task over files, Arrow folders or Hub datasets, as ``load_rows`` takes them.

    Of data with several splits, training reads ``train`` and evaluation ``test``. The revision is a hash of the
    evaluation data, or the Hub id as it was given, which does not show changes on the Hub.

    Args:
        train_path: file, folder or Hub id of the training rows; None if there are none.
        eval_path: the same of the evaluation rows.
        scorers: by name, the first one being the headline; by default ``exact_match``.
        name: the task's name, with which ids of rows begin.
        max_new_tokens: longest completion in evaluation, in tokens.

    Raises:
        UserError: a path does not exist or can't be read. Loading the rows raises it for a bad row, and if no
            evaluation row has anything to score against.
    """
    chosen = dict(scorers or {"exact_match": exact_match})

    def load_train(_: Path | None) -> list[Example]:
        return _examples(train_path, split="train", prefix=f"{name}/train", need=True)

    def load_eval(_: Path | None) -> list[Example]:
        examples = _examples(eval_path, split="test", prefix=f"{name}/eval", need=False)
        if scorers is None and all(row.reference is None and not row.demonstration for row in examples):
            raise UserError(f"{eval_path} has nothing to score against: add a column answer or demonstration.")
        return examples

    digests = [_digest(path) for path in (train_path, eval_path) if path is not None]
    return Task(
        name=name,
        description="The user's own data.",
        source=" + ".join(dict.fromkeys(path for path in (train_path, eval_path) if path)),
        licence="the user's",
        revision="-".join([*digests[-1:], *chosen]),
        load_train=load_train,
        load_eval=load_eval,
        scorers=chosen,
        max_new_tokens=max_new_tokens,
    )


def _examples(path: str | None, *, split: str, prefix: str, need: bool) -> list[Example]:
    if path is None:
        kind = "training" if split == "train" else "evaluation"
        raise MissingDataError(
            f"No {kind} data were named: give a file, an Arrow folder or a Hub id with --dataset_path."
        )
    rows, source = load_rows(path, split=split)
    return examples_from_rows(rows, source=source, prefix=prefix, need_demonstration=need)


def _digest(path_or_id: str) -> str:
    """Twelve hex digits of the SHA-256 of a file, or of a folder's files; a Hub id as it is. Raises UserError."""
    path = find_file(path_or_id)
    if path is None:
        return path_or_id
    sha = hashlib.sha256()
    files = sorted(item for item in path.rglob("*") if item.is_file()) if path.is_dir() else [path]
    for file in files:
        try:
            with file.open("rb") as stream:
                sha.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError as error:
            raise UserError(f"{file} can't be read: {error.strerror}.") from error
    return sha.hexdigest()[:12]
