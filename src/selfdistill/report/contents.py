"""The records of results.json, from which the page, Markdown and scripts read the same numbers."""

from dataclasses import dataclass, field
from typing import Any

from selfdistill.records.evaluations import DriftRecord, EvalRecord, SampleRecord
from selfdistill.records.runs import RunConfig
from selfdistill.records.studies import CompareRecord, SequenceRecord
from selfdistill.run_folder import FORMAT
from selfdistill.stats.paired import PairedTest


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean with its 95% interval."""

    value: float | None
    """The mean: a share in [0, 1], or a difference of shares in [-1, 1]. None if nothing could be scored."""
    low: float | None = None
    """Lower end of the interval; None if there is no interval."""
    high: float | None = None
    num_total: int = 0
    """Number of scored items."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One data set, or a part of it, before and after a run."""

    run: str
    dataset: str
    part: str
    """Part of the evaluation set; empty for all of it."""
    metric: str
    """Name of the scorer."""
    headline: bool
    """True for the comparison that the run's verdict is about."""
    before: Estimate | None
    """None if the data set was not scored before training."""
    after: Estimate
    test: PairedTest | None
    """After minus before; None if no item was scored both before and after in the same way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPair:
    """Two runs compared on the same items of a data set."""

    first: str
    second: str
    dataset: str
    metric: str
    test: PairedTest
    """Second minus first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDrift:
    """How far a run's model moved from the base model on general prompts."""

    run: str
    when: str
    """``before`` or ``after`` training."""
    drift: DriftRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """An evaluation of one data set as ``eval`` wrote it; it is not repeated in results.json."""

    dataset: str
    record: EvalRecord
    rows: dict[str, SampleRecord]
    """Evaluated rows by id."""

    @property
    def metric(self) -> str:
        """Name of the headline scorer."""
        return self.record.config.metric


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutView:
    """One training completion with the loss of each token."""

    step: int
    id: str
    """Id of the training row."""
    target: str
    """What the student was held to: ``teacher``, ``start`` or ``tokens``."""
    student_prompt: str
    teacher_prompt: str
    """Empty if no teacher read a prompt."""
    tokens: list[str]
    """Text of each completion token."""
    per_token: list[float | None]
    """Divergence of each token in nats, or its cross-entropy for the target ``tokens``; None for a token without
    loss."""
    finish_reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionMean:
    """Mean divergence at one completion position in one phase of training."""

    phase: str
    """``early``, ``middle`` or ``late``."""
    position: int
    """Token of the completion, from 0."""
    divergence: float
    """In nats."""
    num_rollouts: int
    """Rollouts behind the mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A model's completion of an evaluation row."""

    completion: str
    score: float | None
    """Score by the headline scorer, in [0, 1]; None if it could not be scored."""
    num_tokens: int
    finish_reason: str
    status: str
    """``fixed``, ``broke`` or ``same`` as the answer before training; empty if there is no score to compare with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedRow:
    """A held-out row with the answers of a run's model as it learned."""

    id: str
    prompt: str
    reference: str
    answers: dict[int, Answer]
    """Answers by step, ascending; step 0 is before the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A training run, or a folder that holds an evaluation only."""

    name: str
    """Path of its folder inside the reported folder."""
    config: RunConfig | None
    """Content of run_config.json; None for an evaluation only."""
    training: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """Lines of metrics.jsonl that have a loss."""
    evaluations: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """Lines of metrics.jsonl that are of an evaluation during the run."""
    positions: list[PositionMean] = field(default_factory=list[PositionMean])
    rollouts: list[RolloutView] = field(default_factory=list[RolloutView])
    """A few rollouts, from early, middle and late in training."""
    watched: list[WatchedRow] = field(default_factory=list[WatchedRow])
    """Held-out rows that were answered before and during the run."""

    @property
    def task(self) -> str:
        """Name of the task it was trained on; empty if unknown."""
        return self.config.task if self.config else ""

    @property
    def settings(self) -> dict[str, Any]:
        """Its resolved settings; empty if unknown."""
        return self.config.settings if self.config else {}

    @property
    def method(self) -> str:
        """Method it was trained with; empty if unknown."""
        return self.settings.get("method", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredRow:
    """An evaluation row with the answers before training and after each run."""

    dataset: str
    id: str
    part: str
    prompt: str
    reference: str
    before: Answer | None
    after: dict[str, Answer]
    """Answers by run."""

    @property
    def status(self) -> str:
        """The distinct statuses of its answers, separated by spaces."""
        return " ".join(dict.fromkeys(answer.status for answer in self.after.values() if answer.status))


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Everything the report shows."""

    title: str
    written: str
    """Date and time, ISO 8601."""
    selfdistill: str
    """Version of selfdistill that wrote the report."""
    verdict: str
    """WORSE if any run is worse, BETTER if all are better, otherwise NOT ENOUGH DATA."""
    warnings: list[str]
    comparisons: list[Comparison]
    between_runs: list[RunPair]
    drift: list[RunDrift]
    runs: list[Run]
    shown: list[str]
    """Names of the runs whose verdicts and answers are shown: one of each arm or method first, at most four."""
    samples: list[AnsweredRow]
    """The evaluation rows that are shown."""
    num_samples: int
    """Number of evaluation rows from which ``samples`` were chosen."""
    compare: CompareRecord | None
    """Content of compare.json; None if there is none."""
    continual: list[SequenceRecord]
    """Sequences of continual.json; empty if there is none."""
    format: int = FORMAT
