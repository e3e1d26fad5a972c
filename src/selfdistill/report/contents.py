"""What results.json holds. A gate, a script and the page read the same records."""

from dataclasses import dataclass, field
from typing import Any

from selfdistill.records.evaluations import DriftRecord, EvalRecord, SampleRecord
from selfdistill.records.runs import RunConfig
from selfdistill.records.studies import CompareRecord, SequenceRecord
from selfdistill.run_folder import FORMAT
from selfdistill.stats.paired import PairedTest


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean with its 95% interval. None stands for "nothing could be graded"."""

    value: float | None
    """The mean; a share in [0, 1] unless said otherwise."""
    low: float | None = None
    high: float | None = None
    num_total: int = 0
    """Items behind the mean."""


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
    """True for the data set and scorer that the run's verdict is about."""
    before: Estimate | None
    after: Estimate
    test: PairedTest | None
    """None where the same items were not scored before, or not in the same way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPair:
    """Two runs on the same items of a data set."""

    first: str
    second: str
    dataset: str
    metric: str
    test: PairedTest
    """Second minus first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDrift:
    """How far a run's model moved from the base on general prompts."""

    run: str
    when: str
    """before or after."""
    drift: DriftRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What ``eval`` left for one data set; results.json does not repeat it."""

    dataset: str
    record: EvalRecord
    rows: dict[str, SampleRecord]
    """By id."""

    @property
    def metric(self) -> str:
        """Name of the headline scorer."""
        return self.record.config.metric


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutView:
    """One training completion with what each token cost."""

    step: int
    id: str
    target: str
    """What it was held to: teacher, start or tokens."""
    student_prompt: str
    teacher_prompt: str
    """Empty where no teacher read one."""
    tokens: list[str]
    """Text of every completion token."""
    per_token: list[float | None]
    """Divergence of every token in nats, of the target ``tokens`` its cross-entropy; None where it carried no loss."""
    finish_reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionMean:
    """Mean divergence at one position of the completions of a phase of training."""

    phase: str
    """early, middle or late."""
    position: int
    """From 0."""
    divergence: float
    num_rollouts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A training run, or a mere evaluation."""

    name: str
    """Folder's path inside the folder reported on."""
    config: RunConfig | None
    """What its run_config.json holds; None of a mere evaluation."""
    training: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """Lines of metrics.jsonl that have a loss."""
    positions: list[PositionMean] = field(default_factory=list[PositionMean])
    rollouts: list[RolloutView] = field(default_factory=list[RolloutView])
    """A few rollouts, from early, middle and late in training."""

    @property
    def task(self) -> str:
        """Task it was trained on; empty if unknown."""
        return self.config.task if self.config else ""

    @property
    def settings(self) -> dict[str, Any]:
        """Its resolved settings."""
        return self.config.settings if self.config else {}

    @property
    def method(self) -> str:
        """How it was trained; empty if it was not."""
        return self.settings.get("method", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A model's completion of an evaluation row."""

    completion: str
    score: float | None
    num_tokens: int
    finish_reason: str
    status: str
    """Against the answer before: fixed, broke or same; empty where there is nothing to compare with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredRow:
    """An evaluation row with its answers side by side."""

    dataset: str
    id: str
    part: str
    prompt: str
    reference: str
    before: Answer | None
    after: dict[str, Answer]
    """By run."""

    @property
    def status(self) -> str:
        """The statuses of its answers, each once, separated by blanks."""
        return " ".join(dict.fromkeys(answer.status for answer in self.after.values() if answer.status))


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Everything the report shows."""

    title: str
    written: str
    """Date and time, ISO 8601."""
    selfdistill: str
    """Version that wrote this."""
    verdict: str
    """Of all runs: WORSE where one is, BETTER where all are, else NOT ENOUGH DATA."""
    warnings: list[str]
    comparisons: list[Comparison]
    between_runs: list[RunPair]
    drift: list[RunDrift]
    runs: list[Run]
    shown: list[str]
    """Names of the runs whose verdicts and answers are shown: one of each method first, at most four."""
    samples: list[AnsweredRow]
    num_samples: int
    """Evaluation rows there were to choose the samples from."""
    compare: CompareRecord | None
    """What compare.json holds."""
    continual: list[SequenceRecord]
    """What continual.json holds."""
    format: int = FORMAT
