"""Finds evaluation prompts that are also in the training rows: scores on them show memory, not skill."""

from collections.abc import Callable, Sequence
from pathlib import Path

from selfdistill.data.prompts import normalized_prompt
from selfdistill.errors import MissingDataError
from selfdistill.types import Example


def num_overlapping(train: Sequence[Example], evaluation: Sequence[Example]) -> int:
    """Number of evaluation rows whose normalised prompt is also that of a training row."""
    asked = [normalized_prompt(example) for example in evaluation]
    wanted = set(asked)
    seen = {prompt for prompt in map(normalized_prompt, train) if prompt in wanted}
    return sum(prompt in seen for prompt in asked)


def overlap_share(train: Sequence[Example], evaluation: Sequence[Example]) -> float:
    """``num_overlapping`` as a share of the evaluation rows; 0 if there are none."""
    return num_overlapping(train, evaluation) / len(evaluation) if evaluation else 0.0


def overlap_warning(
    name: str, train: Sequence[Example], evaluation: Sequence[Example], where: str = "the training rows"
) -> str | None:
    """A sentence if evaluation prompts of the data set ``name`` are in the training rows, which ``where`` calls by
    name, else None."""
    count = num_overlapping(train, evaluation) if train and evaluation else 0
    if not count:
        return None
    return (
        f"{name}: {count:,} of {len(evaluation):,} evaluation prompts ({count / len(evaluation):.1%}) "
        f"are in {where} too; scores on them say little."
    )


def repeats_warning(name: str, train: Sequence[Example]) -> str | None:
    """A sentence if training rows of the data set ``name`` have prompt and demonstration of an earlier one, else
    None."""
    count = len(train) - len({hash(f"{example.prompt}{example.demonstration}") for example in train})
    if not count:
        return None
    return (
        f"{name}: {count:,} of {len(train):,} training rows repeat an earlier row; each counts as often as it stands."
    )


def rows_at_hand(load: Callable[[Path | None], Sequence[Example]], data_dir: Path | None) -> Sequence[Example]:
    """The rows of a task's split; none if its data are missing, since a command may need the other split only."""
    try:
        return load(data_dir)
    except MissingDataError:
        return []
