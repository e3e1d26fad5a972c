"""``selfdistill continual``."""

import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from selfdistill import run_folder
from selfdistill.report.glossary import MEANINGS
from selfdistill.settings.method import LEARNS_TOKENS
from selfdistill.settings.study import ContinualOptions
from selfdistill.stats import scores as metrics
from selfdistill.studies.arms import Arm, parse_arms
from selfdistill.studies.folder import (
    StudyFolder,
    Subject,
    base_of,
    check_arms,
    describe,
    finish,
    free_memory,
    subject,
)
from selfdistill.types import Example, UserError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from selfdistill.method.trainer import SDFTTrainer

CONTINUAL, STAGE = "continual.json", "stage.json"
TABLES = ("continual", "accuracy_matrix", "normalized", "sequence")
"""Tables of the report that are printed; of several sequences each has a number behind its name."""
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
        return f"{self.arm.name}/stage-{self.number}-{self.subject.task.name}"


def run(options: ContinualOptions, console: Console) -> None:
    """Runs every stage that isn't done, then says what the sequences gained and lost.

    Raises:
        UserError: anything the user can mend.
    """
    options.check()
    sequence = Sequences(options, console)
    records = sequence.run()
    found = [sequence.conclude(arm, records[arm.name]) for arm in sequence.arms]
    run_folder.write_json(sequence.folder.path / CONTINUAL, found[0] | {"runs": found})
    finish(sequence.folder, TABLES, console)
    console.print(escape(f"Forgetting: {MEANINGS['forgetting']}"))


class Sequences:
    """The same sequence of tasks, once for each arm.

    Raises:
        UserError: a setting, a row or the folder is not usable.
    """

    def __init__(self, options: ContinualOptions, console: Console) -> None:
        self.options = options
        self.console = console
        self.arms = parse_arms(options, default=options.method)
        if options.teacher_anchor == "base":
            check_anchor(self.arms)
        self.subjects = [stage_subject(text, options, console) for text in options.stage_list()]
        self.names = [each.task.name for each in self.subjects]
        for name in self.names:
            if self.names.count(name) > 1:
                raise UserError(f"--stages: {name!r} is there twice. Give each stage a task or file of its own.")
        self.folder = StudyFolder("continual", options, self.subjects, self.arms)
        from selfdistill.models import loading
        from selfdistill.studies.measures import Measures

        loading.quiet_libraries()
        self.measures = Measures([each.test for each in self.subjects], options, console)

    def run(self) -> dict[str, list[dict[str, Any]]]:
        """Every stage's record, by arm."""
        check_arms(self.arms, self.subjects, self.measures)
        if self.folder.open():
            self.console.print(f"Going on with the study in {escape(str(self.folder.path))}.")
        self.console.print(f"before training: {describe(self.base)}")
        return {arm.name: self._sequence(arm) for arm in self.arms}

    @cached_property
    def base(self) -> dict[str, Any]:
        """The base model's scores, and templates."""
        return base_of(self.folder, self.measures, self.arms, self.subjects, self.console)

    def conclude(self, arm: Arm, stages: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """What continual.json holds of an arm."""
        matrix = [[stage["tasks"][name]["accuracy"] for name in self.names] for stage in stages]
        base = [self.base["tasks"][name]["accuracy"] for name in self.names]
        return {
            "method": arm.name,
            "settings": arm.settings,
            "tasks": self.names,
            "base": base,
            "accuracy_matrix": matrix,
            "average_accuracy": metrics.average_accuracy(matrix),
            "average_incremental_accuracy": metrics.average_incremental_accuracy(matrix),
            "learning_accuracy": metrics.learning_accuracy(matrix),
            "backward_transfer": metrics.backward_transfer(matrix),
            "forward_transfer": metrics.forward_transfer(matrix, base),
            "forgetting": metrics.forgetting(matrix),
            "normalized": metrics.normalized(matrix, base),
            "before": {name: self.base[name] for name in ("tasks", "prior", "drift")},
            "stages": list(stages),
        }

    def _sequence(self, arm: Arm) -> list[dict[str, Any]]:
        """Records of an arm's stages, those that an earlier start has left or new ones."""
        records: list[dict[str, Any]] = []
        start = self.options.model_name
        for number, each in enumerate(self.subjects, start=1):
            stage = Stage(arm=arm, number=number, subject=each, start=start)
            title = escape(f"{arm.name}, stage {number} of {len(self.subjects)}: {each.task.name}")
            if (found := self.folder.find(f"{stage.place}/{STAGE}")) is not None:
                self.console.print(f"[bold]{title}[/bold]: done before")
            else:
                self.console.print(f"[bold]{title}[/bold]")
                found = self._train(stage)
                free_memory()
            self.console.print(f"  {describe(found)}")
            records.append(found)
            if number > 1 and self.options.keep_models == "last":
                remove_weights(Path(start))
            start = str(self.folder.path / stage.place)
        return records

    def _train(self, stage: Stage) -> dict[str, Any]:
        """Trains a stage from its start to its end; its record is written last, when the weights are there."""
        from transformers import set_seed

        from selfdistill.commands.train import make_trainer
        from selfdistill.models import loading

        folder = self.folder.path / stage.place
        shutil.rmtree(folder, ignore_errors=True)  # of a start that was interrupted
        self.measures.prepare()
        name, task = stage.start, stage.subject.task
        data = {"dataset_name": task.name, "dataset_path": None}
        options = replace(stage.arm.options, output_dir=str(folder), model_name=name, **data)
        if stage.arm.needs_template:
            options.template, options.template_repeat = self.base["templates"][task.name]
        earlier = [each.train for each in self.subjects[: stage.number - 1]]
        rows = with_replay(stage.subject.train, earlier, self.options.replay, f"{options.seed}/{stage.number}")
        model = loading.load_model(name, dtype=options.dtype)
        set_seed(options.seed)  # adapters begin with random weights
        weights = self._anchor() if stage.number > 1 else None
        trainer = make_trainer(options, task, rows, model, self.measures.tokenizer, self.console, weights=weights)
        trainer.train()
        wall_s = trainer.recorder.wall_seconds
        trained = whole_model(trainer)
        measured = self.measures.measure(trained)
        measured.write(folder / "eval")
        trained.save_pretrained(folder)
        self.measures.tokenizer.save_pretrained(folder)
        spent = {"step": trainer.state.global_step, "tokens": trainer.tokens_seen, "wall_s": wall_s}
        record = {"stage": stage.number, "task": task.name, "num_rows": trainer.num_rows, **measured.entry(), **spent}
        run_folder.write_json(folder / STAGE, record)
        return record

    def _anchor(self) -> "dict[str, Tensor] | None":
        """Weights that the teacher of a later stage starts from; None for those that the stage starts from."""
        if self.options.teacher_anchor == "previous":
            return None
        return dict(self.measures.load_base().named_parameters())


def stage_subject(text: str, options: ContinualOptions, console: Console) -> Subject:
    """The task of one of ``--stages``: a name, train.jsonl or train.jsonl:eval.jsonl."""
    train, colon, evaluation = text.partition(":")
    if not colon and not (Path(train).suffix or "/" in train or Path(train).exists()):
        return subject(None, None, train, options, console)
    return subject(train, evaluation or None, Path(train).stem, options, console)


def check_anchor(arms: Sequence[Arm]) -> None:
    """Raises UserError where ``--teacher_anchor base`` would be ignored, or can't be."""
    for arm in arms:
        if arm.options.method not in LEARNS_TOKENS and arm.options.teacher == "live":
            raise UserError(f"{arm.name}: a live teacher is the student, so --teacher_anchor base can't move it.")
    if all(arm.options.method in LEARNS_TOKENS and not arm.options.anchor_share for arm in arms):
        raise UserError("--teacher_anchor base: no arm has a teacher or anchor prompts. Leave it out.")


def with_replay(own: list[Example], earlier: Sequence[list[Example]], share: float, seed: str) -> list[Example]:
    """A stage's rows, and so many of earlier stages that these are ``share`` of all, or all there are.

    Every earlier stage gives the same number, as long as it has rows; which ones is a function of ``seed``.
    """
    shuffled = [random.Random(f"{seed}/{at}").sample(rows, len(rows)) for at, rows in enumerate(earlier)]
    in_turn = [row for turn in zip_longest(*shuffled) for row in turn if row is not None]
    return [*own, *in_turn[: round(len(own) * share / (1 - share))]]


def whole_model(trainer: "SDFTTrainer") -> "PreTrainedModel":
    """The trained model, LoRA adapters merged into it: what the next stage loads and what is scored."""
    model: Any = trainer.model
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


def remove_weights(folder: Path) -> None:
    """Deletes the weights of a stage that another one has followed."""
    for pattern in WEIGHTS:
        for path in folder.glob(pattern):
            path.unlink()
