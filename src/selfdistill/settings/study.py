"""Options of ``compare`` and ``continual``: the arms, the settings that they share, and what is measured."""

import math
from dataclasses import dataclass, field
from importlib import util
from pathlib import Path
from typing import Annotated, Literal

import tyro

from selfdistill.errors import UserError
from selfdistill.settings.evaluate import DecodingOptions
from selfdistill.settings.fields import at_least, check_fields, data, number, path
from selfdistill.settings.groups import DEFAULT_TASK, JudgeOptions, SourceOptions
from selfdistill.settings.method import OptimizerSettings
from selfdistill.settings.train import Recipe, RecipeGroup, method_config
from selfdistill.settings.yaml_files import options_from_file
from selfdistill.types import Budget, Method, engine_in_memory

Prior = Literal["auto", "none", "prior-quick", "prior"]
NO_TOTAL = ("constant", "constant_with_warmup", "inverse_sqrt")
"""Learning-rate schedules that do not depend on the total number of steps."""


@dataclass(frozen=True, kw_only=True)
class ArmOptions:
    """The arms: what is compared."""

    methods: str | None = None
    """Methods to compare, separated by commas; each is an arm named after its method."""
    arm: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """"NAME: setting=value, setting=value": a further arm with settings of its own, such as
    "anchored: method=sdft, anchor_share=0.25"; may be repeated."""


@dataclass(frozen=True, kw_only=True)
class StudyFolderOptions:
    """The study's folder."""

    output_dir: str | None = path()
    """Folder of the study. Running the same command again continues an unfinished study."""
    overwrite: bool = False
    """Delete the study in output_dir and start again."""

    def check(self) -> None:
        """Raises UserError if no folder is named."""
        if self.output_dir is None:
            raise UserError("--output_dir is missing: name a folder for the study.")


@dataclass(frozen=True, kw_only=True)
class ExecutionOptions:
    """Where the study's runs are made."""

    executor: Literal["process", "ray"] = "process"
    """process: by this command, which may be started several times; ray: by the tasks of a Ray cluster."""
    ray_address: str | None = None
    """Address of the Ray cluster; by default RAY_ADDRESS, else one is started on this machine for the study."""
    ray_cpus: int = at_least(1, 1)
    """CPU cores of each run on the cluster. It also has one GPU, if the cluster has any."""

    def check(self) -> None:
        """Checks ranges, refuses what would be ignored, and looks for the package ray. Raises UserError."""
        check_fields(self)
        if self.executor == "ray":
            if util.find_spec("ray") is None:
                raise UserError(
                    "--executor ray needs the package ray: pip install 'selfdistill[ray]'. Without it, start the same "
                    "command several times on one folder."
                )
            return
        if self.ray_address is not None:
            raise UserError(f"--ray_address {self.ray_address} counts only with --executor ray. Give both or neither.")
        if self.ray_cpus != ExecutionOptions.ray_cpus:
            raise UserError(f"--ray_cpus {self.ray_cpus} counts only with --executor ray. Give both or neither.")


@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """What is measured on every model."""

    eval_limit: int | None = at_least(1, None)
    """Score only N evaluation rows of each task, with its parts in proportion."""
    eval_batch_size: int = at_least(1, 64)
    """Prompts decoded together in evaluations."""
    max_new_tokens: int | None = at_least(1, None)
    """Maximum length of a completion in evaluations, in tokens; by default the task's own limit."""
    prior: Prior = "auto"
    """prior-quick: small benchmarks; prior: the full harness; auto: prior-quick if its data are there, else none."""
    prior_limit: int | None = at_least(1, None)
    """Use only N questions of each prior benchmark."""
    drift_prompts: int = number(64, 0, 64, "between 0 and 64, the number there are")
    """General prompts on which drift from the base model is measured; 0 measures no drift."""
    judge: JudgeOptions = JudgeOptions()

    def check(self) -> None:
        """Checks ranges, and refuses what would be ignored. Raises UserError."""
        check_fields(self)
        if self.prior == "none" and self.prior_limit is not None:
            raise UserError(f"--prior_limit {self.prior_limit} changes nothing with --prior none. Leave it out.")


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Train with several methods on the same rows, in the same order, with the same budget, and compare them."""

    eval_path: str | None = data()
    """With --dataset_path: your evaluation rows. Otherwise --eval_share, or else the evaluation split of a folder that
    has one, or else the last fifth of the rows, at most 200."""
    seeds: str = "0,1,2"
    """Seeds of the data order and of sampling, separated by commas; every arm is trained once per seed."""
    learning_rates: str | None = None
    """Rates to try on the first seed (the others get the best): 1e-5,3e-5 for all arms, or sdft:1e-4,2e-4;sft:1e-5."""
    validation_rows: int = at_least(1, 64)
    """With --learning_rates: number of training rows, taken from the end, that are held out to choose the rate."""
    budget: Budget = "steps"
    """Resource of which every run gets the same amount."""
    budget_amount: float | None = None
    """Amount of it for each run. By default, for steps only, max_steps or the steps that num_train_epochs take."""
    checkpoints: int = at_least(1, 4)
    """Number of evaluations during a run, at equal shares of the budget."""
    save_models: bool = False
    """Save the trained weights of every run."""
    method: tyro.conf.Suppress[Method] = "sdft"
    """Without effect, since each arm has its own; accepted because a recipe may set it."""
    place: StudyFolderOptions = StudyFolderOptions()
    execution: ExecutionOptions = ExecutionOptions()
    arms: ArmOptions = ArmOptions()
    source: SourceOptions = SourceOptions()
    measures: MeasureOptions = MeasureOptions()
    recipe: RecipeGroup = field(
        default_factory=lambda: Recipe(optimizer=OptimizerSettings(lr_scheduler_type="constant_with_warmup"))
    )

    def check(self) -> None:
        """Checks what can be checked before anything is loaded. Raises UserError."""
        self.place.check()
        check_fields(self)
        self.execution.check()
        self.measures.check()
        self.recipe.check()
        method_config(self).validate()
        self.seed_list()
        if self.learning_rates is None and self.validation_rows != CompareOptions.validation_rows:
            raise UserError(
                f"--validation_rows {self.validation_rows} counts only with --learning_rates. Leave it out."
            )
        if self.eval_path is not None and self.source.dataset_path is None:
            raise UserError("--eval_path goes with --dataset_path: a named task has evaluation rows of its own.")
        self.recipe.data.rows.check(own=self.source.dataset_path is not None, eval_path=self.eval_path)
        if self.budget_amount is not None and not 0 < self.budget_amount < math.inf:
            raise UserError(f"--budget_amount {self.budget_amount:g} is not a number above 0.")
        if self.budget == "steps":
            if self.budget_amount is not None and self.budget_amount != int(self.budget_amount):
                raise UserError(f"--budget_amount {self.budget_amount:g} is not a whole number of steps.")
            return
        if self.budget_amount is None:
            raise UserError(f"--budget {self.budget}: give their number with --budget_amount.")
        schedule, warmup = self.recipe.optimizer.lr_scheduler_type, self.recipe.optimizer.warmup_steps
        if schedule not in NO_TOTAL or 0 < warmup < 1:
            raise UserError(
                f"--budget {self.budget} leaves the number of steps open, but --lr_scheduler_type {schedule} or a "
                "fractional --warmup_steps depends on it. Use constant_with_warmup and whole warm-up steps."
            )

    def seed_list(self) -> list[int]:
        """The seeds, without repeats. Raises UserError if one is not a whole number in [0, 2**32)."""
        try:
            seeds = list(dict.fromkeys(int(text) for text in self.seeds.split(",") if text.strip()))
        except ValueError:
            seeds = []
        if not seeds or not all(0 <= seed < 2**32 for seed in seeds):
            raise UserError(
                f"--seeds {self.seeds!r}: write whole numbers below 2**32 separated by commas, such as 0,1,2."
            )
        return seeds


@dataclass(frozen=True, kw_only=True)
class ContinualOptions:
    """Train on one task after another, each stage from the one before, and measure what each gains and loses."""

    stages: str = ""
    """Tasks in order: names, or own rows as train.jsonl or train.jsonl:eval.jsonl (else a fifth is held out)."""
    teacher_anchor: Literal["previous", "base"] = "previous"
    """Start of each stage's teacher and anchors: the model before that stage (previous) or before all stages (base)."""
    replay: float = number(0.0, 0, 1 - 1e-9, "at least 0 and below 1")
    """Share of rows of earlier stages among the training rows of a stage."""
    keep_models: Literal["last", "all"] = "last"
    """Weights to keep for each arm: those of the last finished stage, or of all stages."""
    method: Method = "sdft"
    """Method of the only arm, if neither --methods nor --arm is given."""
    dataset_name: tyro.conf.Suppress[str] = DEFAULT_TASK
    """Without effect, since the stages name the tasks; accepted because a recipe may set it."""
    seed: int = number(42, 0, 2**32 - 1, "between 0 and 4294967295")
    """Seed of the data order and of sampling."""
    place: StudyFolderOptions = StudyFolderOptions()
    execution: ExecutionOptions = ExecutionOptions()
    arms: ArmOptions = ArmOptions()
    measures: MeasureOptions = MeasureOptions()
    recipe: RecipeGroup = Recipe()

    def check(self) -> None:
        """Checks what can be checked before anything is loaded. Raises UserError."""
        self.place.check()
        check_fields(self)
        self.execution.check()
        self.measures.check()
        self.recipe.check()
        method_config(self).validate()
        if not self.stage_list():
            raise UserError("--stages is missing: name tasks in order, such as tooluse,science.")
        self.recipe.data.rows.check(own=any(map(is_own_stage, self.stage_list())))
        self._check_method()
        self.recipe.model.check_merging()
        if self.teacher_anchor == "base" and self.recipe.adapter.lora_r is not None:
            raise UserError("--teacher_anchor base swaps all weights. Leave --lora_r out.")

    def _check_method(self) -> None:
        """Refuses a ``--method`` beside ``--methods`` or ``--arm``. Raises UserError."""
        file = self.recipe.trainer.config
        without_flags = ContinualOptions() if file is None else options_from_file(ContinualOptions, file)
        if self.method != without_flags.method and (self.arms.methods is not None or self.arms.arm):
            raise UserError(f"--method {self.method} changes nothing beside --methods or --arm. Leave it out.")

    def stage_list(self) -> list[str]:
        """The stages in order, as ``--stages`` names them."""
        return [text.strip() for text in self.stages.split(",") if text.strip()]


def is_own_stage(stage: str) -> bool:
    """Whether a stage names a person's own rows, and not a task."""
    train, colon, _ = stage.partition(":")
    return bool(colon or Path(train).suffix or "/" in train or Path(train).exists())


StudyOptions = CompareOptions | ContinualOptions


def decoding_of(measures: MeasureOptions, recipe: Recipe) -> DecodingOptions:
    """Decoding options of a study's evaluations: greedy, with the engine and the chat template of its training runs. An
    engine that samples from a copy of the weights is used in training only."""
    return DecodingOptions(
        batch_size=measures.eval_batch_size,
        max_new_tokens=measures.max_new_tokens,
        rollout_engine=engine_in_memory(recipe.sampling.rollout_engine),
        chat_template_kwargs=recipe.prompts.chat_variables("student"),
    )
