"""What ``compare`` and ``continual`` take: the settings that all arms share, the arms, and what is measured."""

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from selfdistill.errors import UserError
from selfdistill.settings.evaluate import DecodingOptions
from selfdistill.settings.fields import at_least, check_fields, number, path
from selfdistill.settings.groups import DEFAULT_TASK, JudgeOptions, SourceOptions
from selfdistill.settings.method import OptimizerSettings
from selfdistill.settings.train import Recipe, RecipeGroup, method_config
from selfdistill.types import Method

Prior = Literal["auto", "none", "prior-quick", "prior"]
Budget = Literal["steps", "tokens", "seconds"]
NO_TOTAL = ("constant", "constant_with_warmup", "inverse_sqrt")
"""Learning-rate schedules that need not know when training ends."""


@dataclass(frozen=True, kw_only=True)
class ArmOptions:
    """What is compared."""

    methods: str | None = None
    """Methods to train with, with commas; each is an arm of its name."""
    arm: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """"NAME: field=value, field=value": a further arm with settings of its own, such as
    "anchored: method=sdft, anchor_share=0.25"; repeatable."""


@dataclass(frozen=True, kw_only=True)
class StudyFolderOptions:
    """Where the study is."""

    output_dir: str | None = path()
    """Folder of the study. The same command started again goes on where it stopped."""
    overwrite: bool = False
    """Delete what the study has found so far and start again."""

    def check(self) -> None:
        """Raises UserError where no folder is named."""
        if self.output_dir is None:
            raise UserError("--output_dir is missing: name a folder for the study.")


@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """What is measured of every model."""

    eval_limit: int | None = at_least(1, None)
    """Score only so many evaluation rows of a task; where it has parts, as large a share of each."""
    eval_batch_size: int = at_least(1, 64)
    """Prompts decoded together in evaluation."""
    max_new_tokens: int | None = at_least(1, None)
    """Longest completion in evaluation, in tokens; by default what the task needs."""
    prior: Prior = "auto"
    """What tells prior capabilities: the slices of prior-quick, the harness (prior) or none; auto: prior-quick
    where its slices are in the data folder."""
    prior_limit: int | None = at_least(1, None)
    """Questions of each prior benchmark."""
    drift_prompts: int = number(64, 0, 64, "between 0 and 64, of which there are so many")
    """General prompts on which drift from the base model is measured; 0: none."""
    judge: JudgeOptions = JudgeOptions()


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Train with several methods on the same rows in the same order with the same budget, and compare them."""

    eval_path: str | None = path()
    """With dataset_path: your evaluation rows; by default the last fifth of the rows, at most 200, is held out."""
    seeds: str = "0,1,2"
    """Seeds of data order and sampling, with commas."""
    learning_rates: str | None = None
    """Rates to choose from: 1e-5,3e-5 for all arms, or sdft:1e-4,2e-4;sft:1e-5,3e-5 arm by arm. All run on the first
    seed; the other seeds run with the rate that does best on the validation rows."""
    validation_rows: int = at_least(1, 64)
    """Training rows, the last ones, that nobody trains on where a learning rate is to be chosen."""
    budget: Budget = "steps"
    """What every run may use the same amount of."""
    budget_amount: float | None = None
    """How much of it; steps: by default max_steps, or what num_train_epochs come to."""
    checkpoints: int = at_least(1, 4)
    """Evaluations of a run, at equal shares of the budget."""
    save_models: bool = False
    """Keep the weights of every run."""
    method: tyro.conf.Suppress[Method] = "sdft"
    """Of a recipe; each arm has its own."""
    place: StudyFolderOptions = StudyFolderOptions()
    arms: ArmOptions = ArmOptions()
    source: SourceOptions = SourceOptions()
    measures: MeasureOptions = MeasureOptions()
    recipe: RecipeGroup = field(
        default_factory=lambda: Recipe(optimizer=OptimizerSettings(lr_scheduler_type="constant_with_warmup"))
    )

    def check(self) -> None:
        """Raises UserError for what can be seen before anything is loaded."""
        self.place.check()
        check_fields(self)
        check_fields(self.measures)
        self.recipe.check()
        method_config(self).validate()
        self.seed_list()
        if self.eval_path is not None and self.source.dataset_path is None:
            raise UserError("--eval_path goes with --dataset_path: a named task has evaluation rows of its own.")
        if self.budget_amount is not None and not 0 < self.budget_amount < math.inf:
            raise UserError(f"--budget_amount {self.budget_amount:g} is not a number above 0.")
        if self.budget == "steps":
            if self.budget_amount is not None and self.budget_amount != int(self.budget_amount):
                raise UserError(f"--budget_amount {self.budget_amount:g} is no whole number of steps.")
            return
        if self.budget_amount is None:
            raise UserError(f"--budget {self.budget}: say how many with --budget_amount.")
        schedule, warmup = self.recipe.optimizer.lr_scheduler_type, self.recipe.optimizer.warmup_steps
        if schedule not in NO_TOTAL or 0 < warmup < 1:
            raise UserError(
                f"--budget {self.budget}: nobody knows the number of steps, which --lr_scheduler_type {schedule} or a "
                "share as --warmup_steps needs. Use constant_with_warmup."
            )

    def seed_list(self) -> list[int]:
        """The seeds, each once. Raises UserError where one is no number, or no seed."""
        try:
            seeds = list(dict.fromkeys(int(text) for text in self.seeds.split(",") if text.strip()))
        except ValueError:
            seeds = []
        if not seeds or not all(0 <= seed < 2**32 for seed in seeds):
            raise UserError(f"--seeds {self.seeds!r}: write whole numbers below 2**32 with commas, such as 0,1,2.")
        return seeds


@dataclass(frozen=True, kw_only=True)
class ContinualOptions:
    """Train one task after another, each stage from the one before, and see what each gained and lost."""

    stages: str = ""
    """Tasks in order, with commas: names, or your own rows as train.jsonl or train.jsonl:eval.jsonl. Without
    evaluation rows the last fifth of the rows, at most 200, is held out."""
    teacher_anchor: Literal["previous", "base"] = "previous"
    """Where a stage's teacher starts and what anchor prompts are held to: the model as the stage begins, or the
    model before all stages."""
    replay: float = number(0.0, 0, 1 - 1e-9, "at least 0 and below 1")
    """Share of each stage's training rows that are rows of earlier stages."""
    keep_models: Literal["last", "all"] = "last"
    """Weights to keep: of the last finished stage of each arm, or of all stages."""
    method: Method = "sdft"
    """Method of the only arm where neither methods nor arm is given."""
    dataset_name: tyro.conf.Suppress[str] = DEFAULT_TASK
    """Of a recipe; the stages name their own."""
    seed: int = number(42, 0, 2**32 - 1, "between 0 and 4294967295")
    """Seed of data order and sampling."""
    place: StudyFolderOptions = StudyFolderOptions()
    arms: ArmOptions = ArmOptions()
    measures: MeasureOptions = MeasureOptions()
    recipe: RecipeGroup = Recipe()

    def check(self) -> None:
        """Raises UserError for what can be seen before anything is loaded."""
        self.place.check()
        check_fields(self)
        check_fields(self.measures)
        self.recipe.check()
        method_config(self).validate()
        if not self.stage_list():
            raise UserError("--stages is missing: name tasks in order, such as tooluse,science.")
        if self.teacher_anchor == "base" and self.recipe.adapter.lora_r is not None:
            raise UserError("--teacher_anchor base swaps all weights. Leave --lora_r out.")

    def stage_list(self) -> list[str]:
        """The stages as they were named."""
        return [text.strip() for text in self.stages.split(",") if text.strip()]


StudyOptions = CompareOptions | ContinualOptions


def decoding_of(measures: MeasureOptions, recipe: Recipe) -> DecodingOptions:
    """How a study decodes: greedily, with the engine and the chat template of its training runs."""
    return DecodingOptions(
        batch_size=measures.eval_batch_size,
        max_new_tokens=measures.max_new_tokens,
        rollout_engine=recipe.sampling.rollout_engine,
        chat_template_kwargs=recipe.prompts.chat_template_kwargs,
    )
