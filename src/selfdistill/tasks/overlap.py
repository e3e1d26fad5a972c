"""Evaluation prompts that also stand in the training rows: scores on them show memory, not skill."""

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from selfdistill.tasks.task import Task
from selfdistill.types import Example, UserError, message_text


def normalized(text: str) -> str:
    """The text in Unicode's NFKC, without case, every run of white space one space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def normalized_prompt(example: Example) -> str:
    """All turns of the prompt as one normalised text."""
    return normalized("\n".join(message_text(turn) for turn in example.prompt))


def num_overlapping(train: Sequence[Example], evaluation: Sequence[Example]) -> int:
    """How many evaluation rows have a prompt that a training row has, both normalised."""
    seen = {normalized_prompt(example) for example in train}
    return sum(normalized_prompt(example) in seen for example in evaluation)


def overlap_share(train: Sequence[Example], evaluation: Sequence[Example]) -> float:
    """``num_overlapping`` as a share of the evaluation rows; 0 of none."""
    return num_overlapping(train, evaluation) / len(evaluation) if evaluation else 0.0


def overlap_warning(
    task: Task,
    data_dir: Path | None,
    *,
    train: Sequence[Example] | None = None,
    evaluation: Sequence[Example] | None = None,
) -> str | None:
    """One line where evaluation prompts occur in training, else None; None too where one of the two is not at hand.

    ``train`` and ``evaluation`` are the rows already loaded; what is None is loaded here.
    """
    try:
        train = task.load_train(data_dir) if train is None else train
        evaluation = task.load_eval(data_dir) if evaluation is None else evaluation
    except UserError:  # the command needs one of them only
        return None
    count = num_overlapping(train, evaluation)
    if not count:
        return None
    return (
        f"{task.name}: {count:,} of {len(evaluation):,} evaluation prompts ({count / len(evaluation):.1%}) "
        "are in the training rows too; scores on them say little."
    )
