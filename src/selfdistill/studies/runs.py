"""One training run of a study: prepared once for each arm and subject, and told once."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from accelerate.utils.memory import clear_device_cache
from rich.console import Console
from torch import Tensor
from transformers import PreTrainedModel, set_seed

from selfdistill import run_folder
from selfdistill.errors import UserError
from selfdistill.method.trainer import SDFTTrainer
from selfdistill.records.studies import BaseRecord
from selfdistill.settings import flat
from selfdistill.studies.arms import Arm
from selfdistill.studies.folder import StudyFolder
from selfdistill.studies.measures import Meter
from selfdistill.studies.subjects import Subject
from selfdistill.training.prepare import ModelFiles, Prepared, prepare, require_memory
from selfdistill.training.rendered import RenderedRows
from selfdistill.training.run import make_trainer, rendered_rows
from selfdistill.training.template import choose_template
from selfdistill.types import Example, Template


class StudyRuns:
    """The training runs of a study.

    Args:
        folder: the study's.
        meter: measures the models, and knows the base model's files.
        console: for what is said.
    """

    def __init__(self, folder: StudyFolder, meter: Meter, console: Console) -> None:
        self.folder, self.meter, self._console = folder, meter, console
        self._rendered: dict[str, RenderedRows] = {}
        self._announced: set[str] = set()  # arms whose settings were told

    def check(self, arms: Sequence[Arm], subjects: Sequence[Subject]) -> None:
        """Prepares every arm once, so that what is wrong shows before anything is computed or deleted.

        Raises:
            UserError: a setting is unknown, out of range or would be ignored, a prompt is over its limit, the model is
                not there, or there is too little memory.
        """
        for arm in arms:
            for each in subjects:
                try:
                    require_memory(self.prepared(arm, each, {}))
                except UserError as error:
                    raise UserError(f"{arm.name}: {error}") from error

    def base(self, arms: Sequence[Arm], subjects: Sequence[Subject]) -> BaseRecord:
        """The base model's scores, and templates for arms that leave them to a preflight.

        Measured once and kept, its evaluation in eval-before; templates when the first arm asks for them.

        Raises:
            UserError: no way of showing the demonstration makes a teacher that is better than the base.
        """
        found = self.folder.find(run_folder.BASE, BaseRecord)
        asks = next((arm for arm in arms if arm.needs_template), None)
        if found is not None and (asks is None or found.templates):
            return found
        model = self.meter.load_base()
        if found is None:
            self._console.print("Scoring the base model ...")
            measured = self.meter.measure(model, is_base=True)
            measured.write(self.folder.path / run_folder.EVAL_BEFORE)
            found = BaseRecord(measured=measured.numbers())
        if asks is not None:
            chosen = {each.name: self._template(asks, each, model) for each in subjects}
            found = replace(found, templates=chosen)
        run_folder.write_json(self.folder.path / run_folder.BASE, found)
        return found

    def prepared(
        self,
        arm: Arm,
        subject: Subject,
        values: Mapping[str, Any],
        *,
        rows: Sequence[Example] | None = None,
        files: ModelFiles | None = None,
    ) -> Prepared:
        """A run of an arm, ready for its model.

        Args:
            arm: gives the settings.
            subject: gives the task and, unless ``rows`` does, the rows, which are rendered once for all arms.
            values: further settings by name.
            rows: other rows than the subject's.
            files: of another model than the base.
        """
        files = files or self.meter.files
        options = flat.changed(arm.options, {"dataset_name": subject.name, "model_name": files.name, **values})
        if rows is not None:
            return prepare(options, subject.task, rendered_rows(rows, files, self._console), files)
        if subject.name not in self._rendered:
            self._rendered[subject.name] = rendered_rows(subject.train, files, self._console)
        return prepare(options, subject.task, self._rendered[subject.name], files)

    def template_settings(self, arm: Arm, subject: Subject, base: BaseRecord) -> dict[str, Any]:
        """The template that the preflight chose, for an arm that leaves it to one."""
        if not arm.needs_template:
            return {}
        template, repeat = base.templates[subject.name]
        return {"template": template, "template_repeat": repeat}

    def trainer(
        self, arm: Arm, prepared: Prepared, model: PreTrainedModel, weights: Mapping[str, Tensor] | None = None
    ) -> SDFTTrainer:
        """The run's trainer, in an empty folder; an arm's settings are told at its first run."""
        config = prepared.config
        shutil.rmtree(str(config.output_dir), ignore_errors=True)  # of a start that was interrupted
        set_seed(config.seed)  # adapters begin with random weights
        quiet = arm.name in self._announced
        self._announced.add(arm.name)
        return make_trainer(prepared, model, self._console, weights=weights, quiet=quiet)

    def _template(self, arm: Arm, subject: Subject, model: PreTrainedModel) -> tuple[Template, int]:
        return choose_template(self.prepared(arm, subject, {}), model, self._console)


def free_memory() -> None:
    """Gives back the memory of models that nothing refers to any more."""
    clear_device_cache(garbage_collection=True)
