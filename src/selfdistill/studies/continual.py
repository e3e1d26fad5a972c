"""The same sequence of tasks for every arm, each stage trained from the one before."""

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
from selfdistill.errors import UserError
from selfdistill.models import loading
from selfdistill.records.studies import BaseRecord, ContinualRecord, Measurements, SequenceRecord, StageRecord
from selfdistill.settings.study import ContinualOptions
from selfdistill.stats import continual as summaries
from selfdistill.studies.arms import Arm, parse_arms
from selfdistill.studies.budget import spent_by
from selfdistill.studies.folder import StudyFolder
from selfdistill.studies.measures import Meter, in_words
from selfdistill.studies.runs import StudyRuns, free_memory
from selfdistill.studies.subjects import Subject, named_subject, own_subject
from selfdistill.training.prepare import ModelFiles
from selfdistill.training.run import save_whole, whole_model
from selfdistill.types import Example

WEIGHTS = ("*.safetensors", "*.safetensors.index.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One training run of an arm's sequence."""

    arm: Arm
    number: int
    """From 1."""
    subject: Subject
    start: str
    """Model that it starts from: the base's name, or the folder of the stage before."""

    @property
    def place(self) -> str:
        """Its folder inside the study's."""
        return f"{self.arm.name}/stage-{self.number}-{self.subject.name}"


class Sequences:
    """The same sequence of tasks, once for each arm.

    Raises:
        UserError: a setting, a row or the folder is not usable.
    """

    def __init__(self, options: ContinualOptions, console: Console) -> None:
        self.options, self.console = options, console
        self.arms = parse_arms(options.arms, options.recipe, default=options.method, seed=options.seed)
        if options.teacher_anchor == "base":
            check_anchor(self.arms)
        self.subjects = [stage_subject(text, options, console) for text in options.stage_list()]
        self.names = [each.name for each in self.subjects]
        for name in self.names:
            if self.names.count(name) > 1:
                raise UserError(f"--stages: {name!r} is there twice. Give each stage a task or file of its own.")
        self.folder = StudyFolder("continual", options, self.subjects, self.arms)
        self.meter = Meter([each.test for each in self.subjects], options.measures, options.recipe, console)
        self.runs = StudyRuns(self.folder, self.meter, console)

    def run(self) -> ContinualRecord:
        """Runs every stage that isn't done, writes continual.json and returns what it holds.

        Raises:
            UserError: an arm can't be trained, or nothing can be scored.
        """
        self.runs.check(self.arms, self.subjects)
        if self.folder.open():
            self.console.print(f"Going on with the study in {escape(str(self.folder.path))}.")
        self.console.print(f"before training: {in_words(self.base.measured)}")
        found = ContinualRecord(runs=[self._conclude(arm, self._sequence(arm)) for arm in self.arms])
        run_folder.write_json(self.folder.path / run_folder.CONTINUAL, found)
        return found

    @cached_property
    def base(self) -> BaseRecord:
        """The base model's scores, and templates."""
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
        """Records of an arm's stages, those that an earlier start has left or new ones."""
        records: list[StageRecord] = []
        start = self.meter.files.name
        for number, each in enumerate(self.subjects, start=1):
            stage = Stage(arm=arm, number=number, subject=each, start=start)
            title = escape(f"{arm.name}, stage {number} of {len(self.subjects)}: {each.name}")
            found = self.folder.find(f"{stage.place}/{run_folder.STAGE}", StageRecord)
            if found is not None:
                self.console.print(f"[bold]{title}[/bold]: done before")
            else:
                self.console.print(f"[bold]{title}[/bold]")
                found = self._train(stage)
                free_memory()
            self.console.print(f"  {in_words(found.measured)}")
            records.append(found)
            if number > 1 and self.options.keep_models == "last":
                remove_weights(Path(start))
            start = str(self.folder.path / stage.place)
        return records

    def _train(self, stage: Stage) -> StageRecord:
        """Trains a stage from its start to its end; its record is written last, when the weights are there."""
        folder, subject, arm = self.folder.path / stage.place, stage.subject, stage.arm
        self.meter.prepare()
        rows = None
        if self.options.replay and stage.number > 1:
            earlier = [each.train for each in self.subjects[: stage.number - 1]]
            rows = with_replay(subject.train, earlier, self.options.replay, f"{self.options.seed}/{stage.number}")
        settings = {"output_dir": str(folder), **self.runs.template_settings(arm, subject, self.base)}
        prepared = self.runs.prepared(arm, subject, settings, rows=rows, files=ModelFiles(stage.start))
        model = loading.load_model(stage.start, dtype=arm.options.recipe.model.dtype)
        trainer = self.runs.trainer(arm, prepared, model, self._anchor() if stage.number > 1 else None)
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
        run_folder.write_json(folder / run_folder.STAGE, record)
        return record

    def _anchor(self) -> dict[str, Tensor] | None:
        """Weights that the teacher of a later stage starts from; None for those that the stage starts from."""
        if self.options.teacher_anchor == "previous":
            return None
        return dict(self.meter.load_base().named_parameters())


def conclude(
    tasks: list[str],
    stages: list[StageRecord],
    base: BaseRecord,
    **arm: Any,
) -> SequenceRecord:
    """A sequence's record, made of its stages'. ``arm``: the fields of SequenceRecord that tell the arm."""
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
    """A model's accuracy on a task."""
    accuracy = measured.tasks[task].accuracy
    assert accuracy is not None, "a study stops where nothing is scored"
    return accuracy


def stage_subject(text: str, options: ContinualOptions, console: Console) -> Subject:
    """The task of one of ``--stages``: a name, train.jsonl or train.jsonl:eval.jsonl."""
    data, measures = options.recipe.data, options.measures
    train, colon, evaluation = text.partition(":")
    if not colon and not (Path(train).suffix or "/" in train or Path(train).exists()):
        return named_subject(train, data, measures, console)
    return own_subject(train, evaluation or None, data, measures, console)


def check_anchor(arms: Sequence[Arm]) -> None:
    """Raises UserError where ``--teacher_anchor base`` would be ignored, or can't be."""
    for arm in arms:
        if arm.distils and arm.options.recipe.teachers.teacher == "live":
            raise UserError(f"{arm.name}: a live teacher is the student, so --teacher_anchor base can't move it.")
    if not any(arm.distils or arm.anchor_share for arm in arms):
        raise UserError("--teacher_anchor base: no arm has a teacher or anchor prompts. Leave it out.")


def with_replay(own: list[Example], earlier: Sequence[list[Example]], share: float, seed: str) -> list[Example]:
    """A stage's rows, and so many of earlier stages that these are ``share`` of all, or all there are.

    Every earlier stage gives the same number, as long as it has rows; which ones is a function of ``seed``.
    """
    shuffled = [random.Random(f"{seed}/{at}").sample(rows, len(rows)) for at, rows in enumerate(earlier)]
    in_turn = [row for turn in zip_longest(*shuffled) for row in turn if row is not None]
    return [*own, *in_turn[: round(len(own) * share / (1 - share))]]


def remove_weights(folder: Path) -> None:
    """Deletes the weights of a stage that another one has followed."""
    for pattern in WEIGHTS:
        for path in folder.glob(pattern):
            path.unlink()
