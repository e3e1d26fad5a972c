"""Files of studies, which ``compare`` and ``continual`` write.

An arm is a set of training settings that is compared with others. A cell is one training run of ``compare``, a stage
one training run of ``continual``.
"""

from dataclasses import dataclass, field
from typing import Any

from selfdistill.records.evaluations import DriftRecord, Score
from selfdistill.run_folder import FORMAT
from selfdistill.stats.paired import PairedTest
from selfdistill.stats.scores import mean
from selfdistill.stats.seeds import OverSeeds
from selfdistill.types import Budget, Template

QUESTION = "Does self-distillation keep more at the same skill?"
"""The question that a comparison answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskScore(Score):
    """Score of a task's main scorer."""

    parts: dict[str, Score] = field(default_factory=dict[str, Score])
    """Score by part of the evaluation set; empty if it has no parts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """What a study measures on a model."""

    tasks: dict[str, TaskScore]
    """Score by task, in the order of the study."""
    prior: dict[str, float] = field(default_factory=dict[str, float])
    """Accuracy by benchmark of prior capabilities; empty if none was measured."""
    drift: DriftRecord | None = None
    """Drift from the base model; None if not measured."""

    @property
    def prior_mean(self) -> float | None:
        """Mean accuracy over the benchmarks of prior capabilities; None if none was measured."""
        return mean(list(self.prior.values())) if self.prior else None


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRecord:
    """``study.json``: identity of a study, by which the same command continues it."""

    command: str
    """``compare`` or ``continual``."""
    settings: dict[str, Any]
    """Options of the command, except those that do not affect its results."""
    data: dict[str, str]
    """Fingerprints of rows and names of scorers; a study is not continued with other ones."""
    arms: dict[str, dict[str, Any]]
    """By arm, its settings that differ from the study's."""
    versions: dict[str, str]
    """Versions of Python and of libraries when the study began."""
    format: int = FORMAT


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseRecord:
    """``base.json``: measurements on the base model, and templates that a preflight chose."""

    measured: Measurements
    """Of the base model."""
    templates: dict[str, tuple[Template, int]] = field(default_factory=dict[str, tuple[Template, int]])
    """(Template, repeat) by task, for arms whose template is auto."""
    format: int = FORMAT


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Measurements on a model at one point of a run, and what the run had used by then."""

    arm: str
    learning_rate: float
    seed: int
    step: int
    """Optimizer steps so far."""
    tokens: int
    """Tokens that passed through the student in training."""
    seconds: float
    """Duration of training in seconds, without evaluations."""
    skill: TaskScore
    """Score on the task that is trained on."""
    prior: dict[str, float] = field(default_factory=dict[str, float])
    """Accuracy by benchmark of prior capabilities; empty if none was measured."""
    drift: DriftRecord | None = None
    """Drift from the base model; None if not measured."""
    run: str = ""
    """Folder of the run, relative to the study's."""
    chosen: bool = True
    """True if the run has the learning rate that was chosen for its arm."""
    validation: float | None = None
    """Accuracy on the validation rows; None if no learning rate had to be chosen."""

    @property
    def prior_mean(self) -> float | None:
        """Mean accuracy over the benchmarks of prior capabilities; None if none was measured."""
        return mean(list(self.prior.values())) if self.prior else None

    @property
    def kl_per_token(self) -> float | None:
        """Drift from the base model in nats per token; None if not measured."""
        return None if self.drift is None else self.drift.kl_per_token


@dataclass(frozen=True, slots=True, kw_only=True)
class CellRecord:
    """``cell.json``: one training run of a comparison."""

    arm: str
    learning_rate: float
    seed: int
    run: str
    """Folder of the run, relative to the study's."""
    num_rows: int
    """Number of rows trained on."""
    validation: float | None
    """Accuracy on the validation rows at the end; None if no learning rate had to be chosen."""
    checkpoints: list[Checkpoint]
    """By rising step."""
    format: int = FORMAT


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmRecord:
    """An arm of a comparison."""

    name: str
    settings: dict[str, Any]
    """Its settings that differ from the study's."""
    learning_rate: float
    """The learning rate that was chosen for it."""
    distils: bool
    """True if it learns from a teacher, False if it learns the demonstrations' tokens."""
    anchor_share: float
    """Share of general prompts among its prompts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedTest:
    """Paired test of two arms on the same rows, for one seed."""

    seed: int
    test: PairedTest
    """Of the second arm's score minus the first's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmTest:
    """Paired tests of two arms on the same rows, for each seed and over all seeds."""

    first: str
    second: str
    seeds: list[SeedTest]
    over_seeds: OverSeeds
    """Of the changes in score, second minus first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EqualSkill:
    """Prior capabilities, drift and cost of two arms at the same score on the trained task."""

    first: str
    second: str
    accuracy: float
    """The score at which both are compared, interpolated between checkpoints."""
    share: float
    """Position of this score: 0 is the base model's, 1 the highest that every seed of both arms reaches."""
    seeds: list[int]
    """Seeds that are compared."""
    values: dict[str, dict[str, float]]
    """Mean over seeds, by arm and then by measure."""
    differences: dict[str, OverSeeds]
    """Second arm minus first, by measure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontPoint:
    """A checkpoint on an arm's front, and its comparison with another arm at the same accuracy."""

    step: int
    accuracy: float
    """Mean over seeds."""
    sign: int | None
    """+1: the other arm has less drift there, beyond the noise between seeds; -1: more; 0: not decided; None: with some
    seed it does not reach this accuracy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """An arm's front of skill against drift, compared with another arm."""

    arm: str
    seen_from: str
    """The other arm."""
    points: list[FrontPoint]

    @property
    def dominated(self) -> bool:
        """True if the other arm has less drift at every point, beyond the noise; False if there are no points."""
        return bool(self.points) and all(point.sign == 1 for point in self.points)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareRecord:
    """``compare.json``: the result of a comparison."""

    dataset: str
    """Name of the task."""
    metric: str
    """Name of its main scorer."""
    arms: list[ArmRecord]
    seeds: list[int]
    budget: Budget
    """Resource of which every run got the same amount."""
    budget_amount: float
    """That amount."""
    base: Checkpoint
    """The base model, at step 0."""
    checkpoints: list[Checkpoint]
    """Checkpoints of all runs, in the order of their making."""
    tests: list[ArmTest]
    """At the last checkpoints of the runs with the chosen learning rates."""
    equal_skill: list[EqualSkill]
    fronts: list[Front]
    verdict: str
    """The answer to ``QUESTION``: yes, no or not decided, with its reason."""
    format: int = FORMAT

    def runs(self) -> dict[str, dict[int, list[Checkpoint]]]:
        """Checkpoints of the runs with the chosen learning rates, by arm and seed, each list by rising step."""
        by_arm: dict[str, dict[int, list[Checkpoint]]] = {arm.name: {} for arm in self.arms}
        for checkpoint in sorted(self.checkpoints, key=lambda checkpoint: checkpoint.step):
            if checkpoint.chosen:
                by_arm[checkpoint.arm].setdefault(checkpoint.seed, []).append(checkpoint)
        return by_arm


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRecord:
    """``stage.json``: one training run of a sequence, and the model after it."""

    stage: int
    """Position in the sequence, from 1."""
    task: str
    """Task that the stage trains on."""
    num_rows: int
    """Number of rows trained on."""
    step: int
    """Optimizer steps of the stage."""
    tokens: int
    """Tokens that passed through the student in the stage."""
    seconds: float
    """Duration of its training in seconds."""
    measured: Measurements
    """Of the model after the stage."""
    format: int = FORMAT


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceRecord:
    """Results of an arm's sequence of stages. ``stats.continual`` has the formulas of the summaries."""

    arm: str
    settings: dict[str, Any]
    """The arm's settings that differ from the study's."""
    distils: bool
    """True if it learns from a teacher, False if it learns the demonstrations' tokens."""
    anchor_share: float
    """Share of general prompts among its prompts."""
    learning_rate: float
    tasks: list[str]
    """In the order of the stages."""
    base: list[float]
    """The base model's accuracy on each task."""
    accuracy_matrix: list[list[float]]
    """``R[i][j]``: score on task j after stage i."""
    average_accuracy: float
    average_incremental_accuracy: float
    learning_accuracy: float
    backward_transfer: float
    forward_transfer: float
    forgetting: float
    normalized: list[list[float | None]]
    """The accuracy matrix scaled as ``stats.continual`` describes; None where it is undefined."""
    before: Measurements
    """Of the base model."""
    stages: list[StageRecord]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContinualRecord:
    """``continual.json``: the results of a sequence of tasks for every arm."""

    runs: list[SequenceRecord]
    """One for each arm."""
    format: int = FORMAT
