"""A user's own data as a task."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from selfdistill.data.own import Reading, files_of, own_examples
from selfdistill.data.readers import HubId, find
from selfdistill.errors import MissingDataError, UserError
from selfdistill.tasks.scorers import exact_match
from selfdistill.tasks.task import Task
from selfdistill.types import Example, Scorer


def custom_task(
    train_path: str | None,
    eval_path: str | None,
    *,
    scorers: Mapping[str, Scorer] | None = None,
    name: str = "custom",
    max_new_tokens: int = 1024,
    reading: Reading | None = None,
) -> Task:
    """A task over files, folders or Hub datasets, as ``--dataset_path`` names them.

    Of data with several splits, training reads ``train`` and evaluation ``test`` or another of ``EVAL_SPLITS``. Without
    ``eval_path`` and with an ``eval_share``, evaluation reads the rows that are held out of the training rows. The
    revision is a hash of the evaluation data, or the Hub id as it was given, which does not show changes on the Hub,
    and of how they are read.

    Args:
        train_path: the training rows; None if there are none.
        eval_path: the evaluation rows.
        scorers: by name, the first one being the headline; by default ``exact_match``.
        name: the task's name, with which ids of rows begin.
        max_new_tokens: longest completion in evaluation, in tokens.
        reading: how rows are read; by default all rows in a known format.

    Raises:
        UserError: a path does not exist or can't be read. Loading the rows raises it for a bad row, and if no
            evaluation row has anything to score against.
    """
    chosen = dict(scorers or {"exact_match": exact_match})
    how = reading or Reading()

    def load_train(_: Path | None) -> Sequence[Example]:
        if train_path is None:
            raise _missing("training")
        needs = how.needs_demonstration
        return own_examples(train_path, how, side="train", prefix=f"{name}/train", need_demonstration=needs)

    def load_eval(_: Path | None) -> Sequence[Example]:
        examples = _eval_examples(train_path, eval_path, how, f"{name}/eval")
        if scorers is None and all(row.reference is None and not row.demonstration for row in examples):
            path = eval_path or train_path
            raise UserError(f"{path} has nothing to score against: add a column answer or demonstration.")
        return examples

    named = [path for path in (train_path, eval_path) if path is not None]
    files = [files_of(path) for path in named]
    for file in (file for each in files for file in each):
        find(file)
    how_read = [f"{option}={value}" for option, value in how.rows.changed().items()]
    return Task(
        name=name,
        description="The user's own data.",
        source=" + ".join(dict.fromkeys(named)),
        licence="the user's",
        revision="-".join([*map(_digest, files[-1:]), *how_read, *chosen]),
        load_train=load_train,
        load_eval=load_eval,
        scorers=chosen,
        max_new_tokens=max_new_tokens,
    )


def _eval_examples(train_path: str | None, eval_path: str | None, how: Reading, prefix: str) -> Sequence[Example]:
    """The rows of ``eval_path``, or else the share that is held out of the training rows."""
    if eval_path is not None:
        return own_examples(eval_path, how, side="eval", prefix=prefix, need_demonstration=False)
    if train_path is None or how.rows.eval_share is None:
        raise _missing("evaluation")
    return own_examples(train_path, how, side="held_out", prefix=prefix, need_demonstration=False)


def _missing(kind: str) -> MissingDataError:
    return MissingDataError(f"No {kind} data were named: give files, folders or Hub ids with --dataset_path.")


def _digest(names: list[str]) -> str:
    """Twelve hex digits of the SHA-256 of files, of folders' files and of Hub ids; a single Hub id as it is. Raises
    UserError if a file can't be read."""
    sha = hashlib.sha256()
    for name in names:
        place = find(name)
        if isinstance(place, HubId):
            if len(names) == 1:
                return name
            sha.update(name.encode())
            continue
        inner = sorted(item for item in place.rglob("*") if item.is_file()) if place.is_dir() else [place]
        for file in inner:
            try:
                with file.open("rb") as stream:
                    sha.update(hashlib.file_digest(stream, "sha256").digest())
            except OSError as error:
                raise UserError(f"{file} can't be read: {error.strerror}.") from error
    return sha.hexdigest()[:12]
