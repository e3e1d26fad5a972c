"""Settings of the method, in groups by what they are about.

The command line composes the groups it needs; Python's ``SDFTConfig`` has all of them as one flat namespace, as users
of transformers and TRL expect.
"""

import dataclasses
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from selfdistill.errors import UserError
from selfdistill.settings.fields import SMALL, JsonObject, at_least, check_fields, number, path
from selfdistill.types import (
    DivergenceKind,
    EngineName,
    Method,
    Overlong,
    Reduction,
    Role,
    Support,
    TeacherKind,
    Template,
)


@dataclass(kw_only=True)
class DivergenceSettings:
    """How student and teacher are compared at a token."""

    divergence: DivergenceKind = "forward_kl"
    """forward_kl = KL(teacher||student); reverse_kl = KL(student||teacher); jsd = generalised Jensen-Shannon."""
    divergence_beta: float = number(0.5, SMALL, 1 - SMALL, "strictly between 0 and 1")
    """Weight of the teacher in jsd, strictly between 0 and 1. Near either end jsd, and so every gradient, goes to 0."""
    divergence_support: Support = "full"
    """Outcomes compared: the full vocabulary, the top k tokens, or the sampled token (reverse_kl only)."""
    divergence_top_k: int = at_least(1, 100)
    """Number of tokens with divergence_support=top_k."""
    divergence_top_k_of: Role = "teacher"
    """Whose likeliest tokens with divergence_support=top_k."""
    divergence_tail: bool = False
    """Add the rest of the vocabulary as one more outcome to the top k instead of renormalising."""
    divergence_clip: float | None = number(None, SMALL, float("inf"), "above 0")
    """Upper bound of one token's divergence, in nats."""


@dataclass(kw_only=True)
class TeacherSettings:
    """Whose weights the teacher has."""

    teacher: TeacherKind = "ema"
    """ema: moving average of the student; frozen: the start weights; live: the student itself."""
    teacher_update_rate: float = number(0.02, 0, 1, "between 0 and 1")
    """Share of the student that enters the ema teacher at an update."""
    teacher_sync_steps: int = at_least(1, 1)
    """Optimizer steps between two updates of the ema teacher."""


@dataclass(kw_only=True)
class PromptSettings:
    """How prompts are rendered, and how long they may be."""

    template: Template = "paper"
    """How the teacher is shown the demonstration; auto is for the command line, which measures it."""
    template_repeat: int = number(1, 1, 16, "between 1 and 16")
    """prior_turn: how often the earlier turn is shown. few_shot: how many other demonstrations come first."""
    template_file: str | None = path()
    """Jinja file with template=file; it sees question, demonstration, messages."""
    chat_template_kwargs: JsonObject = field(default_factory=dict[str, Any])
    """Passed to the tokenizer's chat template, for example {"enable_thinking": false}."""
    max_prompt_length: int | None = at_least(1, None)
    """Longest student prompt in tokens; by default what the model's context leaves."""
    max_teacher_prompt_length: int | None = at_least(1, None)
    """Longest teacher prompt in tokens, demonstration included; by default what the model's context leaves."""
    overlong: Overlong = "error"
    """Rows over a length limit: stop with an error, or drop them. Nothing is ever cut silently."""


@dataclass(kw_only=True)
class SamplingSettings:
    """How completions are sampled, and which of their tokens carry loss."""

    temperature: float = number(1.0, 1e-3, 1e3, "between 0.001 and 1000")
    """Sampling temperature; both models' logits are divided by it in the divergence, too."""
    top_p: float = number(1.0, SMALL, 1, "above 0 and at most 1")
    """Nucleus of the sampler."""
    rollout_engine: EngineName = "auto"
    """own: our decoding loop. generate: transformers' generate. auto: own where it gives the model's own logits."""
    sampler_correction_cap: float | None = number(2.0, SMALL, float("inf"), "above 0")
    """Cap of the importance weight where another copy of the weights samples (an engine of your own, in Python); none:
    no correction. The engines that sample from the weights being trained need none."""
    num_loss_tokens_to_skip: int = at_least(0, 0)
    """Completion tokens at the start that carry no loss (counted after a think tag, if there is one)."""
    mask_truncated_completions: bool = False
    """Leave completions that hit max_completion_length out of the loss."""
    loss_reduction: Reduction = "rollout_mean"
    """rollout_mean: mean over tokens, then over rollouts (the paper). token_mean: mean over all tokens."""
    rollouts_logged_per_step: int | None = at_least(0, 4)
    """Rollouts written to rollouts.jsonl at each step; none: all."""


@dataclass(kw_only=True)
class AnchorSettings:
    """General prompts that hold the model near where it started."""

    anchor_share: float = number(0.0, 0, 0.9, "between 0 and 0.9")
    """Share of all prompts that is general prompts without demonstration, held to the start model."""
    anchor_data: str | None = path()
    """File of general prompts; by default the 200 that come with the package."""


@dataclass(kw_only=True)
class OptimizerSettings:
    """How far and how fast weights move."""

    learning_rate: float = number(2e-5, 0, 1, "between 0 and 1, for example 2e-5")
    """Peak learning rate."""
    num_train_epochs: float = at_least(0, 2.0)
    """Passes over the training rows."""
    max_steps: int = number(-1, -1, float("inf"), "-1 (as many as num_train_epochs takes) or above 0")
    """Optimizer steps; above 0 it overrides num_train_epochs."""
    per_device_train_batch_size: int = at_least(1, 4)
    """Prompts per micro-batch."""
    gradient_accumulation_steps: int = at_least(1, 8)
    """Micro-batches per optimizer step; the completions of all of them are sampled together."""
    lr_scheduler_type: str = "cosine"
    """Learning-rate schedule, by transformers' names."""
    warmup_steps: float = at_least(0, 10)
    """Steps of linear warm-up, or below 1 their share of all steps."""
    weight_decay: float = at_least(0, 0.0)
    """AdamW's weight decay."""
    max_grad_norm: float = at_least(0, 1.0)
    """Gradients are scaled down to this norm."""


@dataclass(kw_only=True)
class MethodConfig(
    DivergenceSettings, TeacherSettings, PromptSettings, SamplingSettings, AnchorSettings, OptimizerSettings
):
    """What defines a run: the method's settings and the optimizer's, in one namespace.

    The defaults are ours; ``PAPER`` lists where the paper's differ, and a run prints every deviation.
    """

    method: Method = "sdft"
    """sdft: student samples, teacher scores. offline: teacher samples. sft, dft, cpt: no teacher, the
    demonstration is the completion. reinvoke: on-policy distillation from a base model on general prompts."""
    max_completion_length: int = at_least(1, 1024)
    """Longest completion in tokens; a longer one is cut and flagged as truncated."""
    seed: int = number(42, 0, 2**32 - 1, "between 0 and 4294967295")
    """Seed of data order and sampling."""

    def validate(self) -> None:
        """Raises UserError naming the first field that is out of range, its value and the range."""
        check_fields(self, MethodConfig, open_choices=("method", "divergence", "template", "rollout_engine"))
        if self.max_steps == 0:
            raise UserError("max_steps: 0 steps train nothing. Give 1 or more, or -1 for num_train_epochs.")
        if self.max_steps < 1 and self.num_train_epochs == 0:
            raise UserError("num_train_epochs: 0 epochs train nothing. Give more, or max_steps.")
        if (self.template == "file") != (self.template_file is not None):
            raise UserError("template_file: give it together with template=file, and only then.")


PAPER: dict[str, Any] = {
    "divergence": "forward_kl",
    "divergence_support": "full",
    "teacher": "ema",
    "teacher_update_rate": 0.01,
    "template": "paper",
    "max_prompt_length": 1024,
    "max_completion_length": 1024,
    "temperature": 1.0,
    "top_p": 1.0,
    "num_loss_tokens_to_skip": 3,
    "loss_reduction": "rollout_mean",
    "anchor_share": 0.0,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 10,
    "max_grad_norm": 1.0,
    "weight_decay": 0.0,
}
"""The paper's setting (arXiv 2601.19897) for what a run may deviate in."""


def deviations_from_paper(settings: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Field name to (this run's value, the paper's value), for the fields of ``PAPER`` that differ."""
    return {
        name: (settings[name], paper) for name, paper in PAPER.items() if name in settings and settings[name] != paper
    }


def with_template(config: MethodConfig, template: Template, repeat: int) -> MethodConfig:
    """The method's settings with another template."""
    shown: dict[str, Any] = {"template": template, "template_repeat": repeat, "template_file": None}
    return MethodConfig(**(method_settings(config) | shown))


def method_settings(config: MethodConfig) -> dict[str, Any]:
    """The values of MethodConfig's fields by name, whatever class ``config`` is of; enumerations as their values."""
    values = {each.name: getattr(config, each.name) for each in dataclasses.fields(MethodConfig)}
    return {name: value.value if isinstance(value, Enum) else value for name, value in values.items()}
