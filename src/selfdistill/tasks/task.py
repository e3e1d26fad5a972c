"""The record that describes a task, and the scorers in it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from selfdistill.types import Example, Scorer


@runtime_checkable
class BatchScorer(Protocol):
    """A Scorer that can also score all rows at once, for one that waits for a network."""

    def score_all(self, completions: Sequence[str], examples: Sequence[Example]) -> list[float | None]:
        """The score of each row, in order; the same scores as one by one."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A program that a model wrote, and what it is held to. The two run in separate processes."""

    source: str
    """The program, which defines the function ``entry_point``."""
    tests: str
    """Code that calls the function by its name, and raises if it is wrong."""
    entry_point: str
    setup: str = ""
    """Code that runs before the tests, such as functions that they use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A benchmark: where its rows come from and how a completion is scored."""

    name: str
    description: str
    """What the task asks for, in one line."""
    source: str
    """Where the data come from."""
    licence: str
    revision: str
    """Changes whenever rows or scoring change, so that results of two revisions are never compared."""
    load_train: Callable[[Path | None], Sequence[Example]]
    """Training rows, given the data folder (None for a task whose data ship in the package)."""
    load_eval: Callable[[Path | None], Sequence[Example]]
    """Evaluation rows, in a fixed order."""
    scorers: Mapping[str, Scorer]
    """By name; the first one is the headline."""
    max_new_tokens: int
    """Longest completion in evaluation, in tokens."""
    judged: Mapping[str, str] = field(default_factory=dict[str, str])
    """Rubric of each scorer that needs an LLM judge, by the scorer's name. In ``scorers`` it is ``unscored``, which
    an evaluation with a judge replaces."""
    programs: Mapping[str, Callable[[str, Example], Program]] = field(
        default_factory=dict[str, Callable[[str, Example], Program]]
    )
    """For each scorer that runs a program, by the scorer's name: the function from a completion and its example to the
    program. In ``scorers`` it is ``unscored``, which a sandbox replaces."""
    prompt: Literal["chat", "plain text"] = "chat"
    """Whether a prompt is a chat, or bare text to be continued."""
    extract: Callable[[str], str] = str.strip
    """From a completion to its answer; completions of a row with the same answer vote together."""
    format_probe: Callable[[str], bool] | None = None
    """Whether a text begins like this task's answers; None if they have no form of their own."""


def unscored(completion: str, example: Example) -> float | None:
    """None for every row: stands for a scorer that needs a judge or a sandbox until there is one."""
