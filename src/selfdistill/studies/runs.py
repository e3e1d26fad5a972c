"""The training runs of a study: rows are rendered once for all arms, and each arm is announced once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from accelerate.utils.memory import clear_device_cache
from rich.console import Console
from torch import Tensor
from transformers import PreTrainedModel

from selfdistill import run_folder
from selfdistill.errors import UserError
from selfdistill.method.trainer import SDFTTrainer
from selfdistill.records.studies import BaseRecord
from selfdistill.settings import flat
from selfdistill.studies.arms import Arm
from selfdistill.studies.folder import StudyFolder
from selfdistill.studies.measures import Meter
from selfdistill.studies.subjects import Subject
from selfdistill.studies.work import Bench, Job, StopIfLost, Work
from selfdistill.training.prepare import ModelFiles, Prepared, prepare, require_memory
from selfdistill.training.rendered import RenderedRows
from selfdistill.training.run import make_trainer, rendered_rows
from selfdistill.training.template import choose_template
from selfdistill.types import Example, Template


class StudyRuns:
    """The training runs of a study.

    Args:
        folder: the study's folder.
        meter: measures the models; its ``device`` is set by ``check``.
        console: for messages.
    """

    def __init__(self, folder: StudyFolder, meter: Meter, console: Console) -> None:
        self.folder, self.meter, self._console = folder, meter, console
        self._rendered: dict[str, RenderedRows] = {}
        self.announced: set[str] = set()
        """Names of the arms whose settings were printed."""

    def check(self, arms: Sequence[Arm], subjects: Sequence[Subject], *, here: bool = True) -> None:
        """Prepares every arm once, so that mistakes show before anything is computed or deleted.

        ``here``: False if the runs are not made on this machine, whose memory then does not matter.

        Raises:
            UserError: a setting is unknown, out of range or would be ignored, a prompt is over its limit, the model is
                not there, there is too little memory, or the arms train on different devices.
        """
        devices: set[str] = set()
        for arm in arms:
            for subject in subjects:
                try:
                    prepared = self.prepared(arm, subject, {})
                    if here:
                        require_memory(prepared)
                except UserError as error:
                    raise UserError(f"{arm.name}: {error}") from error
                devices.add(str(prepared.device))
        if len(devices) > 1:
            raise UserError(
                f"The arms train on different devices: {', '.join(sorted(devices))}. Give use_cpu to the whole study, "
                "with --set, not to one arm."
            )
        self.meter.device = devices.pop()

    def stay_on_cpu(self, arm: Arm, subject: Subject) -> bool:
        """Whether a setting, and not only what there is on this machine, keeps the runs on the CPU."""
        return bool(self.prepared(arm, subject, {}).config.use_cpu)

    def base(
        self,
        arms: Sequence[Arm],
        subjects: Sequence[Subject],
        order: Callable[[BaseRecord | None], Callable[[Bench, Console], BaseRecord]] | None = None,
    ) -> Job[BaseRecord]:
        """The base model's scores, and a template for each subject if an arm leaves it to a preflight.

        Both are computed once and kept in base.json, the base's answers in eval-before. The preflight runs when an
        arm first needs it.

        Args:
            arms: all of the study.
            subjects: its tasks.
            order: of what was kept before, the order to make the job elsewhere.

        Doing it raises UserError: no row could be scored, or no template makes a teacher that is better than the base
        model.
        """
        undecided = any(arm.needs_template for arm in arms)

        def kept() -> BaseRecord | None:
            return self.folder.find(run_folder.BASE, BaseRecord)

        def found() -> BaseRecord | None:
            record = kept()
            return record if record is not None and (not undecided or record.templates) else None

        def put(work: Work, record: BaseRecord) -> None:
            if (work.folder / run_folder.EVAL_BEFORE).is_dir():
                work.publish(run_folder.EVAL_BEFORE)
            work.check()
            self.folder.keep(run_folder.BASE, record)

        return Job(
            name=run_folder.BASE,
            title="the base model's scores",
            find=found,
            make=lambda work: self.score_base(arms, subjects, kept(), work),
            put=put,
            order=order(kept()) if order is not None else None,
            announced=False,
        )

    def score_base(
        self, arms: Sequence[Arm], subjects: Sequence[Subject], before: BaseRecord | None, bench: Bench
    ) -> BaseRecord:
        """Scores the base model, and chooses a template for each subject if an arm leaves it to a preflight.

        Args:
            arms: all of the study.
            subjects: its tasks.
            before: the scores, if they are known, and only a template is needed.
            bench: where to write the base's answers.

        Raises:
            UserError: as ``base`` says.
        """
        undecided = next((arm for arm in arms if arm.needs_template), None)
        record, model = before, self.meter.load_base()
        if record is None:
            self._console.print("Scoring the base model ...")
            measured = self.meter.measure(model, is_base=True)
            measured.write(bench.folder / run_folder.EVAL_BEFORE)
            record = BaseRecord(measured=measured.numbers())
        if undecided is not None:
            chosen = {subject.name: self._template(undecided, subject, model) for subject in subjects}
            record = replace(record, templates=chosen)
        return record

    def prepared(
        self,
        arm: Arm,
        subject: Subject,
        values: Mapping[str, Any],
        *,
        rows: Sequence[Example] | None = None,
        files: ModelFiles | None = None,
    ) -> Prepared:
        """A run of an arm, prepared up to the point where its model is loaded.

        Args:
            arm: the arm, with its settings.
            subject: the task, and the training rows, which are rendered once for all arms.
            values: further settings by name, which replace the arm's.
            rows: training rows to use instead of the subject's.
            files: the model to start from, if it is not the base model.

        Raises:
            UserError: a setting is unknown, out of range or would be ignored, or a prompt is over its limit.
        """
        files = files or self.meter.files
        options = flat.changed(arm.options, {"dataset_name": subject.name, "model_name": files.name, **values})
        if rows is not None:
            return prepare(options, subject.task, rendered_rows(rows, files, self._console), files)
        if subject.name not in self._rendered:
            self._rendered[subject.name] = rendered_rows(subject.train, files, self._console)
        return prepare(options, subject.task, self._rendered[subject.name], files)

    def template_settings(self, arm: Arm, subject: Subject, base: BaseRecord) -> dict[str, Any]:
        """The template settings that the preflight chose; empty for an arm that needs no preflight."""
        if not arm.needs_template:
            return {}
        template, repeat = base.templates[subject.name]
        return {"template": template, "template_repeat": repeat}

    def trainer(
        self,
        arm: Arm,
        prepared: Prepared,
        model: PreTrainedModel,
        work: Bench,
        weights: Mapping[str, Tensor] | None = None,
    ) -> SDFTTrainer:
        """The trainer of a run. The arm's settings are printed at its first run only.

        Args:
            arm: the run's arm.
            prepared: the run.
            model: the model to train, in memory.
            work: what the run is part of; it ends when that is lost.
            weights: what the teacher starts from, by parameter name; by default the model's own weights.
        """
        quiet = arm.name in self.announced
        self.announced.add(arm.name)
        trainer = make_trainer(prepared, model, self._console, weights=weights, quiet=quiet)
        trainer.add_callback(StopIfLost(work))
        return trainer

    def _template(self, arm: Arm, subject: Subject, model: PreTrainedModel) -> tuple[Template, int]:
        return choose_template(self.prepared(arm, subject, {}), model, self._console)


def put(folder: StudyFolder, place: str, name: str, work: Work, record: Any) -> None:
    """Writes a run's record, sealed with what lies beside it, and moves the run to the study's folder.

    Args:
        folder: the study's.
        place: the run's folder in it.
        name: of the record's file.
        work: in whose folder the run was made.
        record: the run's.

    Raises:
        LostLeaseError: another process has taken the run over, or made it.
    """
    folder.keep(f"{place}/{name}", record, work.folder)
    work.publish(place)
    free_memory()


def free_memory() -> None:
    """Frees the memory of models that are no longer referenced."""
    clear_device_cache(garbage_collection=True)
