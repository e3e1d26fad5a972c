"""``continual``: trains every arm on the same sequence of tasks, each stage from the weights of the one before."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from torch import Tensor

from selfdistill import run_folder
from selfdistill.data.kept import keep
from selfdistill.errors import UserError
from selfdistill.method.needs import target_reads
from selfdistill.records.studies import BaseRecord, ContinualRecord, Measurements, SequenceRecord, StageRecord
from selfdistill.settings.study import ContinualOptions, is_own_stage
from selfdistill.settings.train import method_config
from selfdistill.stats import continual as summaries
from selfdistill.studies.arms import Arm, parse_arms
from selfdistill.studies.budget import spent_by
from selfdistill.studies.elsewhere import order
from selfdistill.studies.folder import StudyFolder
from selfdistill.studies.measures import Meter, in_words
from selfdistill.studies.ray_executor import chosen_executor
from selfdistill.studies.runs import StudyRuns, put
from selfdistill.studies.sharing import Sharing
from selfdistill.studies.subjects import Subject, named_subject, own_subject
from selfdistill.studies.work import Bench, Job
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
        """Runs every stage that isn't done, writes continual.json and returns its record. Other processes may do the
        same at the same time; then it waits for their stages.

        Raises:
            UserError: an arm can't be trained, no row can be scored, or others work on the study in another way.
        """
        self.check()
        on_cpu = partial(self.runs.stay_on_cpu, self.arms[0], self.subjects[0])
        executor = chosen_executor(self.options.execution, self.console, on_cpu)
        with Sharing(self.folder, self.console, executor=executor) as sharing:
            if sharing.goes_on:
                self.console.print(f"Going on with the study in {escape(str(self.folder.path))}.")
            base = sharing.do(self.runs.base(self.arms, self.subjects, partial(order, self, Sequences.score_base)))
            self.console.print(f"before training: {in_words(base.measured)}")
            done = sharing.work_off(partial(self._jobs, base))
            runs = [self._conclude(arm, base, [done[stage.place] for stage in self._stages(arm)]) for arm in self.arms]
            record = ContinualRecord(runs=runs)
            run_folder.write_json(self.folder.path / run_folder.CONTINUAL, record)
            return record

    def check(self) -> None:
        """Prepares every arm once. Raises UserError if one can't be trained."""
        self.runs.check(self.arms, self.subjects, here=self.options.execution.executor == "process")

    def score_base(self, before: BaseRecord | None, bench: Bench) -> BaseRecord:
        """Scores the base model; see ``StudyRuns.score_base``."""
        return self.runs.score_base(self.arms, self.subjects, before, bench)

    def _conclude(self, arm: Arm, base: BaseRecord, stages: list[StageRecord]) -> SequenceRecord:
        return conclude(
            self.names,
            stages,
            base,
            arm=arm.name,
            settings=dict(arm.settings),
            distils=arm.distils,
            anchor_share=arm.anchor_share,
            learning_rate=arm.learning_rate,
        )

    def _stages(self, arm: Arm) -> list[Stage]:
        """All stages of an arm, in order."""
        stages: list[Stage] = []
        start = self.meter.files.name
        for number, subject in enumerate(self.subjects, start=1):
            stages.append(Stage(arm=arm, number=number, subject=subject, start=start))
            start = str(self.folder.path / stages[-1].place)
        return stages

    def _jobs(self, base: BaseRecord, done: Mapping[str, StageRecord]) -> list[Job[StageRecord]]:
        """Of each arm the stages up to the first that isn't done, from whose weights the next one starts.

        Args:
            base: the base model's scores.
            done: records by the stage's place.
        """
        jobs: list[Job[StageRecord]] = []
        for arm in self.arms:
            for stage in self._stages(arm):
                quiet, several = stage.number > 1, len(self.subjects) > 1
                asked = (arm.name, stage.number, stage.start, base)  # a stage's rows are read where it is made
                jobs.append(
                    Job(
                        name=stage.place,
                        title=f"{arm.name}, stage {stage.number} of {len(self.subjects)}: {stage.subject.name}",
                        find=partial(self._find, stage),
                        make=partial(self._train, stage, base),
                        put=partial(put, self.folder, stage.place, run_folder.STAGE),
                        order=order(self, Sequences.train, *asked, quiet=quiet, needs_folder=several),
                        then=partial(self._then, stage),
                    )
                )
                if stage.place not in done:
                    break
        return jobs

    def _find(self, stage: Stage) -> StageRecord | None:
        return self.folder.find(f"{stage.place}/{run_folder.STAGE}", StageRecord)

    def _then(self, stage: Stage, record: StageRecord) -> None:
        """Says how a stage ended, and deletes weights that no stage will start from any more."""
        self.console.print(f"  {in_words(record.measured)}")
        if stage.number > 1 and self.options.keep_models == "last":
            remove_weights(Path(stage.start))

    def train(self, arm: str, number: int, start: str, base: BaseRecord, bench: Bench) -> StageRecord:
        """Trains, measures and saves a stage.

        Args:
            arm: the name of its arm.
            number: the stage's, from 1.
            start: model that it starts from: the base model's name, or the folder of the stage before.
            base: the base model's scores.
            bench: where to make it.

        Raises:
            UserError: it can't be trained or scored.
        """
        (chosen,) = (each for each in self.arms if each.name == arm)
        return self._train(replace(self._stages(chosen)[number - 1], start=start), base, bench)

    def _train(self, stage: Stage, base: BaseRecord, work: Bench) -> StageRecord:
        """Trains, measures and saves a stage."""
        folder, subject, arm = work.folder / stage.place, stage.subject, stage.arm
        self.meter.prepare()
        rows = None
        if self.options.replay and stage.number > 1:
            earlier = [before.train for before in self.subjects[: stage.number - 1]]
            rows = with_replay(subject.train, earlier, self.options.replay, f"{self.options.seed}/{stage.number}")
        settings = {"output_dir": str(folder), **self.runs.template_settings(arm, subject, base)}
        prepared = self.runs.prepared(
            arm, subject, settings, rows=rows, files=ModelFiles(stage.start, self.options.recipe)
        )
        model = load_student(prepared)
        trainer = self.runs.trainer(arm, prepared, model, work, self._base_weights() if stage.number > 1 else None)
        trainer.train()
        spent = spent_by(trainer)
        trained = whole_model(trainer)
        measured = self.meter.measure(trained)
        measured.write(folder / run_folder.EVAL)
        save_whole(trained, prepared, folder)
        return StageRecord(
            stage=stage.number,
            task=subject.name,
            num_rows=trainer.num_rows,
            step=spent.step,
            tokens=spent.tokens,
            seconds=spent.seconds,
            measured=measured.numbers(),
        )

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
    configs = {arm.name: method_config(arm.options) for arm in arms}
    others = {name: config for name, config in configs.items() if config.has_other_teacher}
    for arm in arms:
        if (arm.distils and arm.name not in others) or arm.anchor_share or "start" in target_reads(configs[arm.name]):
            return
    for name, config in others.items():
        which = "teacher_model" if config.teacher_server is None else "teacher_server"
        raise UserError(
            f"{name}: the model of --{which} teaches in every stage, so --teacher_anchor base changes nothing. Leave "
            "one of them out."
        )
    raise UserError("--teacher_anchor base: no arm has a teacher or anchor prompts. Leave it out.")


def with_replay(
    own: Sequence[Example], earlier: Sequence[Sequence[Example]], share: float, seed: str
) -> Sequence[Example]:
    """A stage's own rows, followed by rows of earlier stages.

    Args:
        own: the stage's rows.
        earlier: the rows of each earlier stage.
        share: rows of earlier stages over all rows returned, in [0, 1); if there are too few, all of them are taken.
        seed: decides which rows are drawn. Every earlier stage gives the same number, as long as it has rows.
    """
    places = [random.Random(f"{seed}/{at}").sample(range(len(rows)), len(rows)) for at, rows in enumerate(earlier)]
    turns = zip_longest(*([(rows, place) for place in each] for rows, each in zip(earlier, places, strict=True)))
    in_turn = (rows[place] for turn in turns for rows, place in filter(None, turn))
    return keep(chain(own, islice(in_turn, round(len(own) * share / (1 - share)))))


def remove_weights(folder: Path) -> None:
    """Deletes the saved weights in a stage's folder; everything else stays."""
    for pattern in WEIGHTS:
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
