"""The record that describes a task. One benchmark is one file that ends in one of these."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from selfdistill.types import Example

Scorer = Callable[[str, Example], float | None]
"""Completion text and example to a score in [0, 1], or None where the sample can't be graded."""


@runtime_checkable
class BatchScorer(Protocol):
    """A Scorer that can also take all rows at once, as one that waits for a network wants to."""

    def score_all(self, completions: Sequence[str], examples: Sequence[Example]) -> list[float | None]:
        """A score for each row, in order, as the scorer gives it one by one."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A benchmark: where its rows come from and how a completion is scored."""

    name: str
    description: str
    """One line for people."""
    source: str
    """Where the data come from."""
    licence: str
    revision: str
    """Changes whenever rows or scoring change, so that results of two revisions are never compared."""
    load_train: Callable[[Path | None], list[Example]]
    """Training rows, given the data folder (None for a task whose data ship in the package)."""
    load_eval: Callable[[Path | None], list[Example]]
    """Evaluation rows, in a fixed order."""
    scorers: Mapping[str, Scorer]
    """By name; the first is the headline."""
    max_new_tokens: int
    """Longest completion in evaluation, in tokens."""
    judged: Mapping[str, str] = field(default_factory=dict[str, str])
    """Scorers that need an LLM judge, by name, with the rubric it judges by; ``scorers`` holds each
    of them as one that leaves every row unscored, for evaluations without a judge."""
    programs: Mapping[str, Callable[[str, Example], str]] = field(
        default_factory=dict[str, Callable[[str, Example], str]]
    )
    """Scorers that run a program, by name, with the function that makes it of a completion and its example: the score
    is 1 where it runs to its end. ``scorers`` holds each of them as one that leaves every row unscored."""
    prompt: Literal["chat", "plain text"] = "chat"
    """Whether a prompt is a chat, or bare text to be continued."""
    extract: Callable[[str], str] = str.strip
    """The answer in a completion: of several completions, those with the same answer vote together."""
    format_probe: Callable[[str], bool] | None = None
    """True for a text that begins like this task's answers; None where they have no form of their own."""


def unscored(completion: str, example: Example) -> float | None:
    """None for every row: what a scorer says that needs a judge, or a sandbox, where there is none."""
