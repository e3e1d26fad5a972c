"""Options of ``train``, ``preflight`` and ``demo``."""

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro

from selfdistill.errors import UserError
from selfdistill.run_folder import check_output_dir
from selfdistill.settings import flat
from selfdistill.settings.fields import at_least, check_fields, number, path
from selfdistill.settings.groups import AdapterOptions, DataOptions, ModelOptions, SourceOptions, TrainerOptions
from selfdistill.settings.method import (
    AnchorSettings,
    CompletionSettings,
    DivergenceSettings,
    MethodConfig,
    OptimizerSettings,
    PromptSettings,
    SamplingSettings,
    TargetSettings,
    TeacherSettings,
)
from selfdistill.settings.watch import WatchOptions
from selfdistill.settings.yaml_files import options_from_file
from selfdistill.types import Method


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings of a training run, except its data set, its method and its seed."""

    max_completion_length: int | None = at_least(1, None)
    """Maximum tokens of a completion; by default 1.5 times the 95th percentile of the demonstrations' lengths."""
    data: DataOptions = DataOptions()
    model: ModelOptions = ModelOptions()
    adapter: AdapterOptions = AdapterOptions()
    comparison: DivergenceSettings = field(default_factory=DivergenceSettings)
    targets: TargetSettings = field(default_factory=TargetSettings)
    teachers: TeacherSettings = field(default_factory=TeacherSettings)
    completions: CompletionSettings = field(default_factory=CompletionSettings)
    prompts: PromptSettings = field(default_factory=lambda: PromptSettings(template="auto"))
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    anchors: AnchorSettings = field(default_factory=AnchorSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    trainer: TrainerOptions = TrainerOptions()

    def check(self) -> None:
        """Checks ranges, and refuses what would be ignored. Raises UserError."""
        check_fields(self)
        check_fields(self.data)
        for group in (self.model, self.adapter, self.trainer):
            group.check()
        if self.model.quantize is not None and self.adapter.lora_r is None:
            raise UserError(
                f"--quantize {self.model.quantize}: quantized weights can't be trained, only an adapter beside them. "
                "Add --lora_r 16, or leave --quantize out."
            )


RecipeGroup = Annotated[Recipe, tyro.conf.arg(name="")]
"""Type of a field that adds the recipe's flags to those of a command."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Output of the run, and how it starts."""

    output_dir: str | None = path()
    """Folder for the model and the run's records. If it holds this run, stopped on the way, the run goes on."""
    base_model: str | None = path()
    """For reinvoke: the model to distil from. By default the one that the run in model_name started from."""
    save_steps: int | None = at_least(1, None)
    """Save a checkpoint every N steps, from which a stopped run goes on; by default none is saved."""
    dry_run: bool = False
    """Print the settings, prompts, lengths and estimated memory, then stop."""
    resume: bool = False
    """Go on with the run in output_dir, which must hold one; without it, the same command does so, too."""
    allow_changes: bool = False
    """Go on with a run although settings or data differ from those that it was begun with."""
    overwrite: bool = False
    """Delete the run in output_dir first."""
    profile: bool = False
    """Write a profile of steps 2 to 4 to trace.json.gz, which ui.perfetto.dev opens."""

    def check(self) -> None:
        """Raises UserError if a value is out of range, or the output folder is missing or in use."""
        check_fields(self)
        if self.dry_run:
            return
        if self.output_dir is None:
            raise UserError("--output_dir is missing: name a folder for the model and its records.")
        check_output_dir(
            self.output_dir, resume=self.resume, overwrite=self.overwrite, allow_changes=self.allow_changes
        )


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Train a model on the demonstrations of a task."""

    method: Method = "sdft"
    """sdft: student samples, teacher scores. offline: teacher samples. sft, dft, cpt: train on demonstrations.
    reinvoke: on-policy distillation from a base model on general prompts."""
    seed: int = number(42, 0, 2**32 - 1, "between 0 and 4294967295")
    """Seed of the data order, of sampling, and of the draws from weighted sources."""
    source: SourceOptions = SourceOptions()
    run: RunOptions = RunOptions()
    watch: WatchOptions = WatchOptions()
    recipe: RecipeGroup = Recipe()

    def check(self) -> None:
        """Checks what can be checked before anything is loaded. Raises UserError."""
        check_fields(self)
        self.recipe.check()
        self.recipe.data.rows.check(own=self.source.dataset_path is not None)
        method_config(self).validate()
        if self.run.base_model is not None and self.method != "reinvoke":
            raise UserError(f"--base_model is what reinvoke distils from; {self.method} has none. Leave it out.")
        prompts = self.recipe.prompts
        self.watch.check(scores_completions=prompts.demonstration_from == "own_success" or prompts.template == "auto")
        self.run.check()


@dataclass(frozen=True, kw_only=True)
class PreflightOptions:
    """Predict before training whether self-distillation can work, and with which template."""

    num_rows: int = at_least(1, 32)
    """Training rows to test on."""
    json: bool = False
    """Print one JSON object and nothing else."""
    scorer: str | None = None
    """Tells which answers are right: exact_match, multiple_choice, numeric[:TOLERANCE], regex:PATTERN or
    path.py:function; by default the task's."""
    method: Method = "sdft"
    """Method whose memory is estimated."""
    seed: int = number(42, 0, 2**32 - 1, "between 0 and 4294967295")
    """Seed of the draws from several weighted sources; otherwise without effect."""
    source: SourceOptions = SourceOptions()
    recipe: RecipeGroup = Recipe()

    def check(self) -> None:
        """Checks what can be checked before anything is loaded. Raises UserError."""
        check_fields(self)
        self.recipe.check()
        self.recipe.data.rows.check(own=self.source.dataset_path is not None)
        method_config(self).validate()
        for name in ("teacher_model", "teacher_server"):
            if getattr(self.recipe.teachers, name) is not None:
                raise UserError(f"--{name}: a preflight measures the student as its own teacher. Leave it out.")
        rows, file = self.recipe.trainer.preflight_rows, self.recipe.trainer.config
        without_flags = PreflightOptions() if file is None else options_from_file(PreflightOptions, file)
        if rows != without_flags.recipe.trainer.preflight_rows:
            raise UserError(f"--preflight_rows {rows} is for train. Here it is --num_rows.")


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Evaluate the embedded model, train it on the embedded data, evaluate it again and write a report."""

    output_dir: str = path("runs/demo")
    """Folder for the model, the records and report.html."""
    config: str = path("demo-cpu")
    """Recipe or YAML file with the settings of the training."""
    limit: int | None = at_least(1, None)
    """Score only N evaluation rows, with the parts of the task in proportion."""
    max_steps: int | None = at_least(1, None)
    """Optimizer steps of the training; by default those of the configuration."""
    minutes: float | None = at_least(1, None)
    """Score fewer rows and take fewer steps where this machine needs longer; by default 6, 12 without bf16 units."""
    drift_prompts: int = number(24, 0, 64, "between 0 and 64, the number there are")
    """General prompts on which it is measured what the training cost; 0 measures nothing."""
    against: Literal["sft"] | None = None
    """sft: train the same rows by supervised fine-tuning (recipe sft-cpu), too, and compare both in one report."""
    overwrite: bool = False
    """Delete the run in output_dir first."""
    skip_memory_check: bool = False
    """Train even if the estimated memory exceeds what is available."""

    def check(self) -> None:
        """Checks ranges, and refuses what would be ignored. Raises UserError."""
        check_fields(self)
        if self.against is not None and self.minutes is not None:
            raise UserError(
                f"--minutes {self.minutes:g}: a comparison takes what it takes. Leave it out, or shorten it with "
                "--limit and --max_steps."
            )


def method_config(options: Any) -> MethodConfig:
    """The method's settings among a command's options. A setting that the options lack, or leave open as None, has
    MethodConfig's default."""
    names = {setting.name for setting in dataclasses.fields(MethodConfig)}
    values = {name: value for name, value in flat.flatten(options).items() if name in names}
    for name in ("max_completion_length", "max_steps"):
        if values.get(name) is None:
            values.pop(name, None)
    return MethodConfig(**values)
