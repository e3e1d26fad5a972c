"""``continual``: trains every arm on the same sequence of tasks, each stage from the weights of the one before."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from torch import Tensor

from selfdistill import run_folder
from selfdistill.checkpoints.lock import locked
from selfdistill.errors import UserError
from selfdistill.records.studies import BaseRecord, ContinualRecord, Measurements, SequenceRecord, StageRecord
from selfdistill.settings.study import ContinualOptions, is_own_stage
from selfdistill.stats import continual as summaries
from selfdistill.studies.arms import Arm, parse_arms
from selfdistill.studies.budget import spent_by
from selfdistill.studies.folder import StudyFolder
from selfdistill.studies.measures import Meter, in_words
from selfdistill.studies.runs import StudyRuns, free_memory
from selfdistill.studies.subjects import Subject, named_subject, own_subject
from selfdistill.training.prepare import ModelFiles
from selfdistill.training.run import load_student, save_whole, whole_model
from selfdistill.types import Example

WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
"""Files that hold a saved model's weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One training run of an arm's sequence."""

    arm: Arm
    number: int
    """Position in the sequence, from 1."""
    subject: Subject
    start: str
    """Model that it starts from: the base model's name, or the folder of the stage before."""

    @property
    def place(self) -> str:
        """Path of its folder inside the study's folder."""
        return f"{self.arm.name}/stage-{self.number}-{self.subject.name}"


class Sequences:
    """The same sequence of tasks, once for each arm.

    Args:
        options: checked already.
        console: for progress and results.

    Raises:
        UserError: a setting, a row or the folder can't be used.
    """

    def __init__(self, options: ContinualOptions, console: Console) -> None:
        self.options, self.console = options, console
        self.arms = parse_arms(options.arms, options.recipe, default=options.method, seed=options.seed)
        if options.teacher_anchor == "base":
            check_anchor(self.arms)
        self.subjects = [stage_subject(text, options, console) for text in options.stage_list()]
        self.names = [subject.name for subject in self.subjects]
        for name in self.names:
            if self.names.count(name) > 1:
                raise UserError(f"--stages: {name!r} is there twice. Give each stage another task or file.")
        self.folder = StudyFolder("continual", options, self.subjects, self.arms)
        self.meter = Meter([subject.test for subject in self.subjects], options.measures, options.recipe, console)
        self.runs = StudyRuns(self.folder, self.meter, console)

    def run(self) -> ContinualRecord:
        """Runs every stage that isn't done, writes continual.json and returns its record.

        Raises:
            UserError: an arm can't be trained, no row can be scored, or another command uses the folder.
        """
        self.runs.check(self.arms, self.subjects)
        with locked(self.folder.path):
            return self._run()

    def _run(self) -> ContinualRecord:
        if self.folder.open():
            self.console.print(f"Going on with the study in {escape(str(self.folder.path))}.")
        self.console.print(f"before training: {in_words(self.base.measured)}")
        record = ContinualRecord(runs=[self._conclude(arm, self._sequence(arm)) for arm in self.arms])
        run_folder.write_json(self.folder.path / run_folder.CONTINUAL, record)
        return record

    @cached_property
    def base(self) -> BaseRecord:
        """The base model's scores, and the templates that a preflight chose."""
        return self.runs.base(self.arms, self.subjects)

    def _conclude(self, arm: Arm, stages: list[StageRecord]) -> SequenceRecord:
        return conclude(
            self.names,
            stages,
            self.base,
            arm=arm.name,
            settings=dict(arm.settings),
            distils=arm.distils,
            anchor_share=arm.anchor_share,
            learning_rate=arm.learning_rate,
        )

    def _sequence(self, arm: Arm) -> list[StageRecord]:
        """Records of an arm's stages: those on disk for stages that were run before, otherwise those of new runs."""
        records: list[StageRecord] = []
        start = self.meter.files.name
        for number, subject in enumerate(self.subjects, start=1):
            stage = Stage(arm=arm, number=number, subject=subject, start=start)
            title = escape(f"{arm.name}, stage {number} of {len(self.subjects)}: {subject.name}")
            record = self.folder.find(f"{stage.place}/{run_folder.STAGE}", StageRecord)
            if record is not None:
                self.console.print(f"[bold]{title}[/bold]: done before")
            else:
                self.console.print(f"[bold]{title}[/bold]")
                record = self._train(stage)
                free_memory()
            self.console.print(f"  {in_words(record.measured)}")
            records.append(record)
            if number > 1 and self.options.keep_models == "last":
                remove_weights(Path(start))
            start = str(self.folder.path / stage.place)
        return records

    def _train(self, stage: Stage) -> StageRecord:
        """Trains, measures and saves a stage. Its record is written last: without one, the stage is run again."""
        folder, subject, arm = self.folder.path / stage.place, stage.subject, stage.arm
        self.meter.prepare()
        rows = None
        if self.options.replay and stage.number > 1:
            earlier = [before.train for before in self.subjects[: stage.number - 1]]
            rows = with_replay(subject.train, earlier, self.options.replay, f"{self.options.seed}/{stage.number}")
        settings = {"output_dir": str(folder), **self.runs.template_settings(arm, subject, self.base)}
        prepared = self.runs.prepared(
            arm, subject, settings, rows=rows, files=ModelFiles(stage.start, self.options.recipe)
        )
        model = load_student(prepared)
        trainer = self.runs.trainer(arm, prepared, model, self._base_weights() if stage.number > 1 else None)
        trainer.train()
        spent = spent_by(trainer)
        trained = whole_model(trainer)
        measured = self.meter.measure(trained)
        measured.write(folder / run_folder.EVAL)
        save_whole(trained, prepared, folder)
        record = StageRecord(
            stage=stage.number,
            task=subject.name,
            num_rows=trainer.num_rows,
            step=spent.step,
            tokens=spent.tokens,
            seconds=spent.seconds,
            measured=measured.numbers(),
        )
        self.folder.keep(f"{stage.place}/{run_folder.STAGE}", record)
        return record

    def _base_weights(self) -> dict[str, Tensor] | None:
        """Weights of the base model by parameter name, if later stages' teachers start from them; otherwise None."""
        if self.options.teacher_anchor == "previous":
            return None
        return self.meter.base_weights()


def conclude(
    tasks: list[str],
    stages: list[StageRecord],
    base: BaseRecord,
    **arm: Any,
) -> SequenceRecord:
    """The record of a sequence, computed from its stages.

    Args:
        tasks: names of the tasks, in the order of the stages.
        stages: one record for each task.
        base: the base model's scores.
        arm: the fields of SequenceRecord that describe the arm.

    Raises:
        ValueError: there are not as many stages as tasks.
    """
    matrix = [[accuracy_of(stage.measured, task) for task in tasks] for stage in stages]
    before = [accuracy_of(base.measured, task) for task in tasks]
    return SequenceRecord(
        **arm,
        tasks=tasks,
        base=before,
        accuracy_matrix=matrix,
        average_accuracy=summaries.average_accuracy(matrix),
        average_incremental_accuracy=summaries.average_incremental_accuracy(matrix),
        learning_accuracy=summaries.learning_accuracy(matrix),
        backward_transfer=summaries.backward_transfer(matrix),
        forward_transfer=summaries.forward_transfer(matrix, before),
        forgetting=summaries.forgetting(matrix),
        normalized=summaries.normalized(matrix, before),
        before=base.measured,
        stages=stages,
    )


def accuracy_of(measured: Measurements, task: str) -> float:
    """A model's accuracy on a task, in [0, 1]."""
    accuracy = measured.tasks[task].accuracy
    assert accuracy is not None, "a study stops if no row can be scored"
    return accuracy


def stage_subject(text: str, options: ContinualOptions, console: Console) -> Subject:
    """The task and rows of one of ``--stages``: a task's name, train.jsonl or train.jsonl:eval.jsonl.

    Raises:
        UserError: there is no such task or file, a row is bad, or a judge is needed and none is named.
    """
    data, measures = options.recipe.data, options.measures
    if not is_own_stage(text):
        return named_subject(text, data, measures, console)
    train, _, evaluation = text.partition(":")
    return own_subject(train, evaluation or None, data, measures, console, seed=options.seed)


def check_anchor(arms: Sequence[Arm]) -> None:
    """Raises UserError if ``--teacher_anchor base`` would change nothing, or can't be done."""
    for arm in arms:
        if arm.distils and arm.options.recipe.teachers.teacher == "live":
            raise UserError(
                f"{arm.name}: a live teacher is the student itself, so --teacher_anchor base can't change it. Leave it "
                "out, or take another --teacher."
            )
    if not any(arm.distils or arm.anchor_share for arm in arms):
        raise UserError("--teacher_anchor base: no arm has a teacher or anchor prompts. Leave it out.")


def with_replay(own: list[Example], earlier: Sequence[list[Example]], share: float, seed: str) -> list[Example]:
    """A stage's own rows, followed by rows of earlier stages.

    Args:
        own: the stage's rows.
        earlier: the rows of each earlier stage.
        share: rows of earlier stages over all rows returned, in [0, 1); if there are too few, all of them are taken.
        seed: decides which rows are drawn. Every earlier stage gives the same number, as long as it has rows.
    """
    shuffled = [random.Random(f"{seed}/{at}").sample(rows, len(rows)) for at, rows in enumerate(earlier)]
    in_turn = [row for turn in zip_longest(*shuffled) for row in turn if row is not None]
    return [*own, *in_turn[: round(len(own) * share / (1 - share))]]


def remove_weights(folder: Path) -> None:
    """Deletes the saved weights in a stage's folder; everything else stays."""
    for pattern in WEIGHTS:
        for path in folder.glob(pattern):
            path.unlink()
