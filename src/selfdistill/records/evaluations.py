"""Evaluations on disk: ``<dataset>.json`` and ``<dataset>.samples.jsonl``, and drift in two files of its own."""

from dataclasses import dataclass, field
from typing import Any

from selfdistill.run_folder import FORMAT
from selfdistill.stats.paired import PairedTest
from selfdistill.types import EvalConfig, FinishReason, Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Mean of a scorer over some rows."""

    accuracy: float | None
    """Mean in [0, 1]; None if no row was scored."""
    interval: tuple[float, float]
    """95% Wilson interval of the mean."""
    num_correct: float
    """Sum of the scores."""
    num_total: int
    """Number of scored rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakRecord:
    """Traces of the teacher's prompt in completions (``evaluate.leak``). Rates lie in [0, 1]; ``base_`` marks values of
    the earlier result."""

    num_rows: int
    phrase_rate: float = 0.0
    """Share of completions that mention an example, though the model was shown none."""
    phrase_interval: tuple[float, float] = (0.0, 1.0)
    """95% interval of ``phrase_rate``."""
    copy_rate: float | None = None
    """Share of a completion taken up by the longest passage copied from its row's demonstration, mean over rows; None
    if no row has a demonstration."""
    mean_characters: float = 0.0
    """Mean length of a completion in characters."""
    distinct_2: float = 0.0
    """Number of distinct pairs of adjacent words, divided by the number of all pairs."""
    base_phrase_rate: float = 0.0
    base_copy_rate: float | None = None
    base_mean_characters: float = 0.0
    base_distinct_2: float = 0.0
    length_ratio: float | None = None
    """``mean_characters`` divided by ``base_mean_characters``; None if that is 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgainstBase:
    """Comparison of a result with an earlier one, the base, on the same rows."""

    base_accuracy: float
    accuracy: float
    """Accuracies over the rows that are scored in both results."""
    test: PairedTest
    """Paired test of the change, accuracy minus base accuracy."""
    leak: LeakRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalRecord:
    """``<dataset>.json``. The reference implementation's eval_results.json is a copy: it has the fields accuracy,
    num_correct, num_total, per_sample_scores and config."""

    accuracy: float | None
    """Mean of the main scorer in [0, 1]; None if no row was scored."""
    interval: tuple[float, float]
    """95% Wilson interval of the accuracy."""
    num_correct: float
    """Sum of the scores."""
    num_total: int
    """Number of scored rows."""
    num_unscored: int
    """Number of rows without a score."""
    truncated_share: float
    """Share of completions that reached the token limit."""
    mean_completion_tokens: float
    metrics: dict[str, Score]
    """Score over all rows by scorer."""
    parts: dict[str, Score]
    """Score of the main scorer by part of the evaluation set; empty if it has no parts."""
    mean_of_parts: float | None
    """Unweighted mean of the parts' accuracies; None without parts."""
    per_sample_scores: list[float | None]
    """Score of the main scorer for every row; None if unscored."""
    config: EvalConfig
    """How the evaluation was made."""
    pass_at_k: dict[str, float] = field(default_factory=dict[str, float])
    """Pass rate by k; empty unless several completions per row were sampled."""
    majority_vote: Score | None = None
    """Score of the most frequent answer; None unless several completions per row were sampled."""
    against_base: AgainstBase | None = None
    """Comparison with ``--base_results``; None without."""
    format: int = FORMAT

    @property
    def score(self) -> Score:
        """Score of the main scorer over all rows."""
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
    """A line of ``<dataset>.samples.jsonl`` and an entry of eval_responses.json: one evaluation row.

    If several completions were sampled, ``completions`` has all of them, ``scores`` are means over them, and
    ``completion``, ``num_tokens`` and ``finish_reason`` belong to the first.
    """

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
    """KL(base||model) in nats per token, mean over all tokens of the base's answers."""
    reference_nll: float
    """The model's negative log-likelihood of general reference answers, in nats per token."""
    base_reference_nll: float
    """The same of the base."""
    format_leak_rate: float
    """Share of the model's answers that begin in the format of the new task."""
    format_leak_interval: tuple[float, float]
    """95% interval of ``format_leak_rate``."""
    num_prompts: int
    config: dict[str, Any] = field(default_factory=dict[str, Any])
    """Base model, decoding and versions if ``eval`` measured it; otherwise empty."""
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
    """True if the model's answer begins in the format of the new task."""
    format: int = FORMAT
