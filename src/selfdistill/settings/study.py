"""What ``compare`` and ``continual`` take: every setting of a training run, and the study's own. Torch-free."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import tyro

from selfdistill.settings.commands import EvalOptions, TrainOptions, at_least_1
from selfdistill.settings.method import Method
from selfdistill.types import UserError

Prior = Literal["auto", "none", "prior-quick", "prior"]
Budget = Literal["steps", "tokens", "seconds"]
NO_TOTAL = ("constant", "constant_with_warmup", "inverse_sqrt")
"""Learning-rate schedules that need not know when training ends."""


@dataclass(kw_only=True)
class StudyOptions(TrainOptions):
    """What both studies take: the settings that all arms share, the arms, and what is measured."""

    UNUSED: ClassVar[tuple[str, ...]] = ("base_model", "save_steps", "dry_run", "resume", "profile")
    """Settings of a training run that mean nothing here; a file that sets one is refused."""

    output_dir: str | None = None
    """Folder of the study. The same command started again goes on where it stopped."""
    methods: str | None = None
    """Methods to train with, with commas; each is an arm of its name."""
    arm: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """"NAME: field=value, field=value": a further arm with settings of its own, such as
    "anchored: method=sdft, anchor_share=0.25"; repeatable."""
    overwrite: bool = False
    """Delete what the study has found so far and start anew."""

    eval_limit: int | None = None
    """Score the first so many evaluation rows of a task only; where it has parts, as large a share of each."""
    eval_batch_size: int = 64
    """Prompts decoded together in evaluation."""
    max_new_tokens: int | None = None
    """Longest completion in evaluation, in tokens; by default what the task needs."""
    scorer: str | None = None
    """Headline: exact_match, multiple_choice, numeric[:TOLERANCE], regex:PATTERN, judge or path.py:function."""
    judge_url: str | None = None
    """Base URL of an OpenAI-compatible judge, else SELFDISTILL_JUDGE_URL; its key is read from OPENAI_API_KEY."""
    judge_model: str | None = None
    """The judge's model."""
    prior: Prior = "auto"
    """What tells prior capabilities: the slices of prior-quick, the harness (prior) or none; auto: prior-quick
    where its slices are in the data folder."""
    prior_limit: int | None = None
    """Questions of each prior benchmark."""
    drift_prompts: int = 64
    """General prompts on which drift from the base model is measured; 0: none."""

    base_model: tyro.conf.Suppress[str | None] = None
    save_steps: tyro.conf.Suppress[int | None] = None
    dry_run: tyro.conf.Suppress[bool] = False
    resume: tyro.conf.Suppress[bool] = False
    profile: tyro.conf.Suppress[bool] = False

    def check(self) -> None:
        """Raises UserError for what can be seen before anything is loaded."""
        if self.output_dir is None:
            raise UserError("--output_dir is missing: name a folder for the study.")
        for name in self.UNUSED:
            if getattr(self, name) != getattr(type(self), name):
                raise UserError(f"{self.config}: this study has no use for {name}. Leave it out.")
        at_least_1(self, "lora_r", "lora_alpha", "limit", "preflight_rows")
        at_least_1(self, "eval_limit", "eval_batch_size", "max_new_tokens", "prior_limit")
        if not 0 <= self.drift_prompts <= 64:
            raise UserError(f"--drift_prompts {self.drift_prompts} is not between 0 and 64.")
        self.validate()

    def evaluation(self) -> EvalOptions:
        """How tasks are scored."""
        return EvalOptions(
            batch_size=self.eval_batch_size,
            max_new_tokens=self.max_new_tokens,
            scorer=self.scorer,
            judge_url=self.judge_url,
            judge_model=self.judge_model,
        )


@dataclass(kw_only=True)
class CompareOptions(StudyOptions):
    """Train with several methods on the same rows in the same order with the same budget, and compare them."""

    UNUSED: ClassVar[tuple[str, ...]] = (*StudyOptions.UNUSED, "seed")

    method: tyro.conf.Suppress[Method] = "sdft"
    seed: tyro.conf.Suppress[int] = 42
    lr_scheduler_type: str = "constant_with_warmup"
    """Learning-rate schedule, by transformers' names. A constant rate makes every checkpoint comparable."""
    eval_path: str | None = None
    """With dataset_path: your evaluation rows; by default the last fifth of the rows, at most 200, is held out."""
    seeds: str = "0,1,2"
    """Seeds of data order and sampling, with commas."""
    learning_rates: str | None = None
    """Rates to choose from: 1e-5,3e-5 for all arms, or sdft:1e-4,2e-4;sft:1e-5,3e-5 arm by arm. All run on the first
    seed; the other seeds run with the rate that does best on the validation rows."""
    validation_rows: int = 64
    """Training rows, the last ones, that nobody trains on where a learning rate is to be chosen."""
    budget: Budget = "steps"
    """What every run may use up the same amount of."""
    budget_amount: float | None = None
    """How much of it; steps: by default max_steps, or what num_train_epochs come to."""
    checkpoints: int = 4
    """Evaluations of a run, at equal shares of the budget."""
    save_models: bool = False
    """Keep the weights of every run."""

    def check(self) -> None:
        """Raises UserError for what can be seen before anything is loaded."""
        super().check()
        self.seed_list()
        at_least_1(self, "validation_rows", "checkpoints")
        if self.eval_path is not None and self.dataset_path is None:
            raise UserError("--eval_path goes with --dataset_path: a named task has evaluation rows of its own.")
        if self.budget_amount is not None and self.budget_amount <= 0:
            raise UserError(f"--budget_amount {self.budget_amount:g} is not above 0.")
        if self.budget == "steps":
            if self.budget_amount is not None and self.budget_amount != int(self.budget_amount):
                raise UserError(f"--budget_amount {self.budget_amount:g} is no whole number of steps.")
            return
        if self.budget_amount is None:
            raise UserError(f"--budget {self.budget}: say how many with --budget_amount.")
        if self.lr_scheduler_type not in NO_TOTAL or 0 < self.warmup_steps < 1:
            raise UserError(
                f"--budget {self.budget}: nobody knows the number of steps, which --lr_scheduler_type "
                f"{self.lr_scheduler_type} or a share as --warmup_steps needs. Use constant_with_warmup."
            )

    def seed_list(self) -> list[int]:
        """The seeds, each once. Raises UserError where one is no number."""
        try:
            seeds = list(dict.fromkeys(int(text) for text in self.seeds.split(",") if text.strip()))
        except ValueError:
            seeds = []
        if not seeds:
            raise UserError(f"--seeds {self.seeds!r}: write whole numbers with commas, such as 0,1,2.")
        return seeds


@dataclass(kw_only=True)
class ContinualOptions(StudyOptions):
    """Train one task after another, each stage from the one before, and see what each gained and lost."""

    UNUSED: ClassVar[tuple[str, ...]] = (*StudyOptions.UNUSED, "dataset_path")

    dataset_name: tyro.conf.Suppress[str] = "assistant-tools"
    dataset_path: tyro.conf.Suppress[str | None] = None
    stages: str = ""
    """Tasks in order, with commas: names, or your own rows as train.jsonl or train.jsonl:eval.jsonl. Without
    evaluation rows the last fifth of the rows, at most 200, is held out."""
    teacher_anchor: Literal["previous", "base"] = "previous"
    """Where a stage's teacher starts and what anchor prompts are held to: the model as the stage begins, or the
    model before all stages."""
    replay: float = 0.0
    """Share of each stage's training rows that are rows of earlier stages."""
    keep_models: Literal["last", "all"] = "last"
    """Weights to keep: of the last finished stage of each arm, or of all stages."""

    def check(self) -> None:
        """Raises UserError for what can be seen before anything is loaded."""
        super().check()
        if not self.stage_list():
            raise UserError("--stages is missing: name tasks in order, such as tooluse,science.")
        if not 0 <= self.replay < 1:
            raise UserError(f"--replay {self.replay} is not at least 0 and below 1.")
        if self.teacher_anchor == "base" and self.lora_r is not None:
            raise UserError("--teacher_anchor base swaps all weights. Leave --lora_r out.")

    def stage_list(self) -> list[str]:
        """The stages as they were named."""
        return [text.strip() for text in self.stages.split(",") if text.strip()]
