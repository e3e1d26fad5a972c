"""What ``train``, ``preflight`` and ``demo`` take."""

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro

from selfdistill.errors import UserError
from selfdistill.run_folder import check_output_dir
from selfdistill.settings import flat
from selfdistill.settings.fields import at_least, check_fields, number, path
from selfdistill.settings.groups import AdapterOptions, DataOptions, ModelOptions, SourceOptions, TrainerOptions
from selfdistill.settings.method import (
    AnchorSettings,
    DivergenceSettings,
    MethodConfig,
    OptimizerSettings,
    PromptSettings,
    SamplingSettings,
    TeacherSettings,
)
from selfdistill.settings.yaml_files import options_from_file
from selfdistill.types import Method


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that makes a training run what it is, but for its data, its method and its seed."""

    max_completion_length: int | None = at_least(1, None)
    """Longest completion in tokens; by default 1.5 times the usual demonstration."""
    data: DataOptions = DataOptions()
    model: ModelOptions = ModelOptions()
    adapter: AdapterOptions = AdapterOptions()
    comparison: DivergenceSettings = field(default_factory=DivergenceSettings)
    teachers: TeacherSettings = field(default_factory=TeacherSettings)
    prompts: PromptSettings = field(default_factory=lambda: PromptSettings(template="auto"))
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    anchors: AnchorSettings = field(default_factory=AnchorSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    trainer: TrainerOptions = TrainerOptions()

    def check(self) -> None:
        """Raises UserError for the first value that is out of range."""
        check_fields(self)
        check_fields(self.data)
        for group in (self.model, self.adapter, self.trainer):
            group.check()


RecipeGroup = Annotated[Recipe, tyro.conf.arg(name="")]
"""A field of this type adds the recipe's flags to a command's own."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where the run goes, and how it begins."""

    output_dir: str | None = path()
    """Folder for the model and the run's records. It must be new or empty."""
    base_model: str | None = path()
    """reinvoke: the model to distil from; by default the one that the run in model_name started from."""
    save_steps: int | None = at_least(1, None)
    """Write a checkpoint to resume from every so many steps."""
    dry_run: bool = False
    """Print settings, prompts, lengths and memory, then stop."""
    resume: bool = False
    """Go on from the last checkpoint in output_dir."""
    overwrite: bool = False
    """Replace the run that is in output_dir."""
    profile: bool = False
    """Write a trace of steps 2 to 4, trace.json.gz, to be opened at ui.perfetto.dev."""

    def check(self) -> None:
        """Raises UserError for a value that is out of range, or an output folder that is missing or in use."""
        check_fields(self)
        if self.dry_run:
            return
        if self.output_dir is None:
            raise UserError("--output_dir is missing: name a folder for the model and its records.")
        check_output_dir(self.output_dir, resume=self.resume, overwrite=self.overwrite)


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Teach a model the demonstrations of a task. Any field of the trainer's config goes to --set."""

    method: Method = "sdft"
    """sdft: student samples, teacher scores. offline: teacher samples. sft, dft, cpt: no teacher, the
    demonstration is the completion. reinvoke: on-policy distillation from a base model on general prompts."""
    seed: int = number(42, 0, 2**32 - 1, "between 0 and 4294967295")
    """Seed of data order and sampling."""
    source: SourceOptions = SourceOptions()
    run: RunOptions = RunOptions()
    recipe: RecipeGroup = Recipe()

    def check(self) -> None:
        """Raises UserError for what can be seen before anything is loaded."""
        check_fields(self)
        self.recipe.check()
        method_config(self).validate()
        if self.run.base_model is not None and self.method != "reinvoke":
            raise UserError(f"--base_model is what reinvoke distils from; {self.method} has none. Leave it out.")
        self.run.check()


@dataclass(frozen=True, kw_only=True)
class PreflightOptions:
    """Say before any training whether self-distillation can work, and with which template. It takes train's settings,
    so that a recipe can be asked about as it is."""

    num_rows: int = at_least(1, 32)
    """Training rows to look at."""
    json: bool = False
    """Print one JSON object and nothing else."""
    method: Method = "sdft"
    """For the memory estimate."""
    seed: int = number(42, 0, 2**32 - 1, "between 0 and 4294967295")
    """Of a recipe; nothing is drawn here."""
    source: SourceOptions = SourceOptions()
    recipe: RecipeGroup = Recipe()

    def check(self) -> None:
        """Raises UserError for what can be seen before anything is loaded."""
        check_fields(self)
        self.recipe.check()
        method_config(self).validate()
        rows, file = self.recipe.trainer.preflight_rows, self.recipe.trainer.config
        unasked = PreflightOptions() if file is None else options_from_file(PreflightOptions, file)
        if rows != unasked.recipe.trainer.preflight_rows:
            raise UserError(f"--preflight_rows {rows} is for train. Here it is --num_rows.")


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Evaluate, train and evaluate again on the embedded model and data, and write a report."""

    output_dir: str = path("runs/demo")
    """Folder for the model, the records and report.html."""
    config: str = path("demo-cpu")
    """Recipe or YAML file with the settings to train with."""
    limit: int | None = at_least(1, None)
    """Score only the first so many rows, as large a share of each part."""
    overwrite: bool = False
    """Replace the run that is in output_dir."""
    skip_memory_check: bool = False
    """Train even where the memory that a run is estimated to take is not there."""


def method_config(options: Any) -> MethodConfig:
    """The method's settings among a command's options. Where the options lack a name, or leave the longest completion
    open, it is MethodConfig's own default."""
    own = {each.name for each in dataclasses.fields(MethodConfig)}
    values = {name: value for name, value in flat.flatten(options).items() if name in own}
    if values.get("max_completion_length") is None:
        values.pop("max_completion_length", None)
    return MethodConfig(**values)
