"""Evaluations on disk: ``<dataset>.json`` and ``<dataset>.samples.jsonl``, and drift in two files of its own."""

from dataclasses import dataclass, field
from typing import Any

from selfdistill.run_folder import FORMAT
from selfdistill.stats.paired import PairedTest
from selfdistill.types import EvalConfig, FinishReason, Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A scorer's mean over some rows."""

    accuracy: float | None
    """Mean in [0, 1]; None where no row was scored."""
    interval: tuple[float, float]
    """95% Wilson interval."""
    num_correct: float
    """Sum of the scores."""
    num_total: int
    """Scored rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakRecord:
    """Traces, in completions, of a prompt that only a teacher saw (``evaluate.leak``). Rates lie in [0, 1]."""

    num_rows: int
    phrase_rate: float = 0.0
    """Share of completions that speak of an example they were not shown."""
    phrase_interval: tuple[float, float] = (0.0, 1.0)
    copy_rate: float | None = None
    """Mean share of a completion that is one run of its row's demonstration; None where no row has one."""
    mean_characters: float = 0.0
    distinct_2: float = 0.0
    """Different word pairs over all word pairs."""
    base_phrase_rate: float = 0.0
    base_copy_rate: float | None = None
    base_mean_characters: float = 0.0
    base_distinct_2: float = 0.0
    length_ratio: float | None = None
    """Mean length over the base's; None where that is 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgainstBase:
    """A result against an earlier one on the same rows."""

    base_accuracy: float
    accuracy: float
    """Both over the rows that both have a score for."""
    test: PairedTest
    """Ours minus the base's."""
    leak: LeakRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalRecord:
    """``<dataset>.json``. The reference's eval_results.json is this same object: it knows accuracy, num_correct,
    num_total, per_sample_scores and config."""

    accuracy: float | None
    interval: tuple[float, float]
    num_correct: float
    num_total: int
    num_unscored: int
    truncated_share: float
    """Share of completions that met the token limit."""
    mean_completion_tokens: float
    metrics: dict[str, Score]
    """By scorer, over all rows."""
    parts: dict[str, Score]
    """The headline scorer by part of the evaluation set."""
    mean_of_parts: float | None
    per_sample_scores: list[float | None]
    config: EvalConfig
    pass_at_k: dict[str, float] = field(default_factory=dict[str, float])
    """By k, where several completions of a row were sampled."""
    majority_vote: Score | None = None
    against_base: AgainstBase | None = None
    format: int = FORMAT

    @property
    def score(self) -> Score:
        """The headline."""
        return Score(
            accuracy=self.accuracy, interval=self.interval, num_correct=self.num_correct, num_total=self.num_total
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRecord:
    """One completion of a row."""

    completion: str
    scores: dict[str, float | None]
    num_tokens: int
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRecord:
    """A line of ``<dataset>.samples.jsonl``, and an entry of the reference's eval_responses.json. Where several
    completions were sampled, ``completions`` holds all, ``scores`` are their means, and the rest is of the first."""

    id: str
    part: str
    prompt: list[Message]
    reference: Any
    completion: str
    scores: dict[str, float | None]
    num_tokens: int
    finish_reason: FinishReason
    completions: list[CompletionRecord] = field(default_factory=list[CompletionRecord])
    format: int = FORMAT


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftRecord:
    """``drift.json``: how far a model moved from its base on general prompts."""

    kl_per_token: float
    """KL(base||model) in nats, mean over all tokens of the base's answers."""
    reference_nll: float
    """The model's loss on general reference answers, in nats for each token."""
    base_reference_nll: float
    format_leak_rate: float
    """Share of the model's answers that begin like an answer of the new task."""
    format_leak_interval: tuple[float, float]
    num_prompts: int
    config: dict[str, Any] = field(default_factory=dict[str, Any])
    """Base model and decoding, where ``eval`` measured it."""
    format: int = FORMAT


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftSample:
    """A line of ``drift.samples.jsonl``: one general prompt."""

    id: str
    prompt: str
    base_answer: str
    """The base's greedy answer, on which the divergence is measured."""
    answer: str
    """The model's greedy answer."""
    kl_per_token: float
    """Mean KL(base||model) in nats over the tokens of the base's answer."""
    leaks: bool
    """Whether the model's answer begins like an answer of the new task."""
    format: int = FORMAT
