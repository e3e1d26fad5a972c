"""What results.json holds. A gate, a script and the page read the same records."""

from dataclasses import dataclass, field
from typing import Any

BETTER, WORSE, NOT_ENOUGH_DATA = "BETTER", "WORSE", "NOT ENOUGH DATA"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A mean with its 95% interval. None stands for "nothing could be graded"."""

    value: float | None
    """The mean; a share in [0, 1] unless said otherwise."""
    low: float | None = None
    high: float | None = None
    num_total: int = 0
    """Items behind the mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """The paired test of two answers to each of the same items."""

    change: Measure
    """Mean of after minus before over the items that both have a score for, in [-1, 1]."""
    p_value: float
    """Exact McNemar test, two-sided."""
    fixed: int
    """Items whose score rose."""
    broke: int
    """Items whose score fell."""
    detectable: float | None
    """Smallest true change found with 80% probability at this size; None where no change could be shown."""
    verdict: str
    """BETTER or WORSE at the 5% level, else NOT ENOUGH DATA."""


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
    before: Measure | None
    after: Measure
    paired: Paired | None
    """None where the same items were not scored before, or not in the same way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPair:
    """Two runs on the same items of a data set; ``paired`` takes the first as before, the second as after."""

    first: str
    second: str
    dataset: str
    metric: str
    paired: Paired


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """How far a model moved from the base on general prompts."""

    run: str
    when: str
    """before or after."""
    kl_per_token: float | None
    """KL from the base model per token of the base's own answers, in nats."""
    reference_nll: float | None
    """Loss on general reference answers, in nats a token."""
    format_leak_rate: float | None
    """Share of general answers that carry the new task's format."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutView:
    """One training completion with what each token cost."""

    step: int
    id: str
    target: str
    """What it was held to: teacher, start or tokens."""
    student_prompt: str
    teacher_prompt: str
    tokens: list[str]
    """Text of every completion token; the whole completion as one where the run did not keep them."""
    per_token: list[float | None]
    """Divergence of every token in nats, None where it carried no loss."""
    finish_reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A training run, or a mere evaluation."""

    name: str
    """Folder's path inside the folder reported on."""
    task: str
    """Data set it was trained on; empty if unknown."""
    method: str
    config: dict[str, Any]
    """What its run_config.json holds."""
    training: list[dict[str, Any]] = field(default_factory=list)
    """Lines of metrics.jsonl that have a loss."""
    positions: list[dict[str, Any]] = field(default_factory=list)
    """position (from 0), phase of training and mean divergence there, with the number of rollouts."""
    rollouts: list[RolloutView] = field(default_factory=list)
    """A few rollouts, from early, middle and late in training."""


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
class Sample:
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
    drift: list[Drift]
    runs: list[Run]
    shown: list[str]
    """Names of the runs whose verdicts and answers are shown: one of each method first, at most four."""
    samples: list[Sample]
    num_samples: int
    """Evaluation rows there were to choose the samples from."""
    compare: list[dict[str, Any]]
    """Entries of compare.json: one per method, seed, learning rate and checkpoint."""
    tests: list[dict[str, Any]]
    """Paired tests of compare.json: for each two arms every seed's, and what they come to over seeds."""
    equal_skill: list[dict[str, Any]]
    """Of compare.json: what each two arms cost where both are equally good."""
    continual: list[dict[str, Any]]
    """Sequences of continual.json, each with tasks, accuracy_matrix, base and the six summaries."""
