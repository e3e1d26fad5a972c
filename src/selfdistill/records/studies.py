"""Studies on disk: what ``compare`` and ``continual`` write.

An arm is one of the things compared; a cell is one training run of ``compare``, a stage one of ``continual``.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from selfdistill.records.evaluations import DriftRecord, Score
from selfdistill.run_folder import FORMAT
from selfdistill.stats.paired import PairedTest
from selfdistill.stats.scores import mean
from selfdistill.stats.seeds import OverSeeds
from selfdistill.types import Template

BudgetOf = Literal["steps", "tokens", "seconds"]
QUESTION = "Does self-distillation keep more at the same skill?"
"""What a comparison answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskScore(Score):
    """A task's headline score, and that of each part of its evaluation set."""

    parts: dict[str, Score] = field(default_factory=dict[str, Score])


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """What a study measures of a model."""

    tasks: dict[str, TaskScore]
    """By task, in the order of the study."""
    prior: dict[str, float] = field(default_factory=dict[str, float])
    """Accuracy by prior benchmark; empty where none was measured."""
    drift: DriftRecord | None = None
    """None where drift was not measured."""

    @property
    def prior_mean(self) -> float | None:
        """Mean over the prior benchmarks; None where none was measured."""
        return mean(list(self.prior.values())) if self.prior else None


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRecord:
    """``study.json``: what the study is, so that the same command finds it again."""

    command: str
    settings: dict[str, Any]
    """Options of the command, but for those that change nothing it finds."""
    data: dict[str, str]
    """Fingerprints of rows and names of scorers; other data make another study."""
    arms: dict[str, dict[str, Any]]
    """By arm, the settings in which it differs from the study's."""
    versions: dict[str, str]
    """Of the libraries when the study began."""
    format: int = FORMAT


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseRecord:
    """``base.json``: the base model's scores, and templates that a preflight chose."""

    measured: Measurements
    templates: dict[str, tuple[Template, int]] = field(default_factory=dict[str, tuple[Template, int]])
    """Template and repeat by task, for arms that leave it to a preflight."""
    format: int = FORMAT


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A model at one point of a run, and what the run had used by then."""

    arm: str
    learning_rate: float
    seed: int
    step: int
    """Optimizer steps."""
    tokens: int
    """Tokens that passed through the student in training."""
    seconds: float
    """Of training; evaluations don't count."""
    skill: TaskScore
    """Score on the task that is trained."""
    prior: dict[str, float] = field(default_factory=dict[str, float])
    drift: DriftRecord | None = None
    run: str = ""
    """The run's folder inside the study's."""
    chosen: bool = True
    """Whether the run's learning rate is the one chosen for its arm."""
    validation: float | None = None
    """Accuracy on the rows that choose the learning rate; None where no rate was to be chosen."""

    @property
    def prior_mean(self) -> float | None:
        """Mean over the prior benchmarks; None where none was measured."""
        return mean(list(self.prior.values())) if self.prior else None

    @property
    def kl_per_token(self) -> float | None:
        """Drift from the base in nats for each token; None where it was not measured."""
        return None if self.drift is None else self.drift.kl_per_token


@dataclass(frozen=True, slots=True, kw_only=True)
class CellRecord:
    """``cell.json``: one training run of a comparison."""

    arm: str
    learning_rate: float
    seed: int
    run: str
    num_rows: int
    """Rows trained on."""
    validation: float | None
    checkpoints: list[Checkpoint]
    format: int = FORMAT


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmRecord:
    """An arm of a comparison, with the learning rate that was chosen for it."""

    name: str
    settings: dict[str, Any]
    learning_rate: float
    distils: bool
    """True where it is held to a teacher, False where it learns the demonstrations' tokens."""
    anchor_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedTest:
    """Two arms on the same rows, one seed."""

    seed: int
    test: PairedTest
    """Second minus first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmTest:
    """Two arms on the same rows, seed by seed and over seeds."""

    first: str
    second: str
    seeds: list[SeedTest]
    over_seeds: OverSeeds
    """Of the changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EqualSkill:
    """What two arms cost where both are equally good."""

    first: str
    second: str
    accuracy: float
    """The level of skill at which both are read."""
    share: float
    """How far up from the base it lies: 1 at the highest level that every seed of both reaches, 0.5 half way."""
    seeds: list[int]
    values: dict[str, dict[str, float]]
    """By arm and measure, the mean over seeds."""
    differences: dict[str, OverSeeds]
    """Second minus first, by measure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontPoint:
    """A checkpoint on an arm's front, and how another arm fares at the same accuracy."""

    step: int
    accuracy: float
    """Mean over seeds."""
    sign: int | None
    """+1: the other arm has less drift there, beyond the noise of the seeds; -1: more; 0: not decided; None: in some
    seed it never reaches this accuracy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """An arm's front of skill against drift, as another arm sees it."""

    arm: str
    seen_from: str
    points: list[FrontPoint]

    @property
    def dominated(self) -> bool:
        """True where the other arm has less drift at every point, beyond the noise. False of no points."""
        return bool(self.points) and all(point.sign == 1 for point in self.points)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareRecord:
    """``compare.json``: what a comparison found."""

    dataset: str
    metric: str
    arms: list[ArmRecord]
    seeds: list[int]
    budget: BudgetOf
    budget_amount: float
    base: Checkpoint
    """The base model, at step 0."""
    checkpoints: list[Checkpoint]
    """Of every run, in the order they were made."""
    tests: list[ArmTest]
    """At the last checkpoint of the chosen rates."""
    equal_skill: list[EqualSkill]
    fronts: list[Front]
    verdict: str
    """The answer to QUESTION: yes, no or not decided, and what of."""
    format: int = FORMAT

    def runs(self) -> dict[str, dict[int, list[Checkpoint]]]:
        """Checkpoints of the chosen rates by arm and seed, by rising step."""
        found: dict[str, dict[int, list[Checkpoint]]] = {arm.name: {} for arm in self.arms}
        for checkpoint in sorted(self.checkpoints, key=lambda each: each.step):
            if checkpoint.chosen:
                found[checkpoint.arm].setdefault(checkpoint.seed, []).append(checkpoint)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRecord:
    """``stage.json``: one training run of a sequence, and the model after it."""

    stage: int
    """From 1."""
    task: str
    num_rows: int
    step: int
    tokens: int
    seconds: float
    measured: Measurements
    format: int = FORMAT


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceRecord:
    """What an arm's sequence gained and lost. The summaries are those of ``stats.continual``."""

    arm: str
    settings: dict[str, Any]
    distils: bool
    anchor_share: float
    learning_rate: float
    tasks: list[str]
    base: list[float]
    """The base model's accuracy on each task."""
    accuracy_matrix: list[list[float]]
    """R[i, j]: score on task j after stage i."""
    average_accuracy: float
    average_incremental_accuracy: float
    learning_accuracy: float
    backward_transfer: float
    forward_transfer: float
    forgetting: float
    normalized: list[list[float | None]]
    before: Measurements
    stages: list[StageRecord]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContinualRecord:
    """``continual.json``: the same sequence of tasks for every arm."""

    runs: list[SequenceRecord]
    format: int = FORMAT
