"""Settings of the method, torch-free: the command line shows and checks them without loading torch."""

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from selfdistill.types import UserError

Method = Literal["sdft", "sft", "dft", "cpt", "offline", "reinvoke"]
DivergenceKind = Literal["forward_kl", "reverse_kl", "jsd"]
Support = Literal["full", "top_k", "sampled"]
TeacherKind = Literal["ema", "frozen", "live"]
Template = Literal["paper", "prior_turn", "system", "few_shot", "file", "auto"]
Reduction = Literal["rollout_mean", "token_mean"]
Overlong = Literal["error", "drop"]


LEARNS_TOKENS = ("sft", "dft", "cpt")
"""Methods whose completion is the demonstration and that have no teacher."""

SHOWS_DEMONSTRATION = ("sdft", "offline")
"""Methods whose teacher is shown the demonstration."""


@dataclass(kw_only=True)
class MethodConfig:
    """What defines a run: the method's settings and the optimizer's.

    The defaults are ours; ``PAPER`` lists where the paper's differ, and a run prints every deviation.
    """

    method: Method = "sdft"
    """sdft: student samples, teacher scores. offline: teacher samples. sft, dft, cpt: no teacher, the
    demonstration is the completion. reinvoke: on-policy distillation from a base model on general prompts."""

    divergence: DivergenceKind = "forward_kl"
    """forward_kl = KL(teacher||student); reverse_kl = KL(student||teacher); jsd = generalised Jensen-Shannon."""
    divergence_beta: float = 0.5
    """Weight of the teacher in jsd, strictly between 0 and 1."""
    divergence_support: Support = "full"
    """Outcomes compared: the full vocabulary, the top k tokens, or the sampled token (reverse_kl only)."""
    divergence_top_k: int = 100
    """Number of tokens with divergence_support=top_k."""
    divergence_top_k_of: Literal["teacher", "student"] = "teacher"
    """Whose most likely tokens with divergence_support=top_k."""
    divergence_tail: bool = False
    """Add the rest of the vocabulary as one more outcome to the top k instead of renormalising."""
    divergence_clip: float | None = None
    """Upper bound of one token's divergence, in nats."""

    teacher: TeacherKind = "ema"
    """ema: moving average of the student; frozen: the start weights; live: the student itself."""
    teacher_update_rate: float = 0.02
    """Share of the student that enters the ema teacher at an update."""
    teacher_sync_steps: int = 1
    """Optimizer steps between two updates of the ema teacher."""

    template: Template = "paper"
    """How the teacher is shown the demonstration; auto is for the command line, which measures it."""
    template_repeat: int = 1
    """prior_turn: how often the earlier turn is shown. few_shot: how many other demonstrations come first."""
    template_file: str | None = None
    """Jinja file with template=file; it sees question, demonstration, messages."""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict[str, Any])
    """Passed to the tokenizer's chat template, for example {"enable_thinking": false}."""

    max_prompt_length: int | None = None
    """Longest student prompt in tokens; by default what the model's context leaves."""
    max_teacher_prompt_length: int | None = None
    """Longest teacher prompt in tokens, demonstration included; by default what the model's context leaves."""
    max_completion_length: int = 1024
    """Longest completion in tokens; a longer one is cut and flagged as truncated."""
    overlong: Overlong = "error"
    """Rows over a length limit: stop with an error, or drop them. Nothing is ever cut silently."""

    temperature: float = 1.0
    """Sampling temperature; both models' logits are divided by it in the divergence, too."""
    top_p: float = 1.0
    """Nucleus of the sampler."""
    num_loss_tokens_to_skip: int = 0
    """Completion tokens at the start that carry no loss (counted after a think tag, if there is one)."""
    mask_truncated_completions: bool = False
    """Leave completions that hit max_completion_length out of the loss."""
    loss_reduction: Reduction = "rollout_mean"
    """rollout_mean: mean over tokens, then over rollouts (the paper). token_mean: mean over all tokens."""
    sampler_correction_cap: float | None = 2.0
    """Cap of the importance weight where the sampler's logprobs differ from the trainer's; none: no correction."""

    anchor_share: float = 0.0
    """Share of each batch that is general prompts without demonstration, held to the start model."""
    anchor_data: str | None = None
    """File of general prompts; by default the 200 that come with the package."""

    rollouts_logged_per_step: int | None = 4
    """Rollouts written to rollouts.jsonl at each step; none: all."""

    learning_rate: float = 2e-5
    """Peak learning rate."""
    num_train_epochs: float = 2.0
    """Passes over the training rows."""
    max_steps: int = -1
    """Optimizer steps; above 0 it overrides num_train_epochs."""
    per_device_train_batch_size: int = 4
    """Prompts per micro-batch."""
    gradient_accumulation_steps: int = 8
    """Micro-batches per optimizer step; the completions of all of them are sampled together."""
    lr_scheduler_type: str = "cosine"
    """Learning-rate schedule, by transformers' names."""
    warmup_steps: float = 10
    """Steps of linear warm-up, or below 1 their share of all steps."""
    weight_decay: float = 0.0
    """AdamW's weight decay."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    seed: int = 42
    """Seed of data order and sampling."""

    def validate(self) -> None:
        """Raises UserError naming the first field that is out of range, its value and the range."""
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise UserError(f"{name}: {getattr(self, name)!r} is not one of {', '.join(choices)}.")
        for name, (low, high, wording) in _RANGES.items():
            value = getattr(self, name)
            if value is None and name in _OPTIONAL:
                continue
            number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
            if not low <= number <= high:  # NaN fails every comparison
                raise UserError(f"{name}: {value!r} is not {wording}.")
        if self.divergence_support == "sampled" and self.divergence != "reverse_kl":
            raise UserError(
                "divergence_support: 'sampled' estimates the reverse KL only. "
                "Set divergence to reverse_kl, or divergence_support to full or top_k."
            )
        if (self.template == "file") != (self.template_file is not None):
            raise UserError("template_file: give it together with template=file, and only then.")


_SMALL = 1e-12
_RANGES: dict[str, tuple[float, float, str]] = {
    "divergence_beta": (_SMALL, 1 - _SMALL, "strictly between 0 and 1"),
    "divergence_top_k": (1, math.inf, "at least 1"),
    "divergence_clip": (_SMALL, math.inf, "above 0"),
    "teacher_update_rate": (0, 1, "between 0 and 1"),
    "teacher_sync_steps": (1, math.inf, "at least 1"),
    "template_repeat": (1, 16, "between 1 and 16"),
    "max_prompt_length": (1, math.inf, "at least 1"),
    "max_teacher_prompt_length": (1, math.inf, "at least 1"),
    "max_completion_length": (1, math.inf, "at least 1"),
    "temperature": (_SMALL, math.inf, "above 0"),
    "top_p": (_SMALL, 1, "above 0 and at most 1"),
    "num_loss_tokens_to_skip": (0, math.inf, "at least 0"),
    "sampler_correction_cap": (_SMALL, math.inf, "above 0"),
    "anchor_share": (0, 0.9, "between 0 and 0.9"),
    "rollouts_logged_per_step": (0, math.inf, "at least 0"),
    "learning_rate": (0, 1, "between 0 and 1, for example 2e-5"),
    "num_train_epochs": (0, math.inf, "at least 0"),
    "per_device_train_batch_size": (1, math.inf, "at least 1"),
    "gradient_accumulation_steps": (1, math.inf, "at least 1"),
    "warmup_steps": (0, math.inf, "at least 0"),
    "weight_decay": (0, math.inf, "at least 0"),
    "max_grad_norm": (0, math.inf, "at least 0"),
}
_OPTIONAL = {
    "max_completion_length",  # the command line fills in the task's
    "divergence_clip",
    "max_prompt_length",
    "max_teacher_prompt_length",
    "sampler_correction_cap",
    "rollouts_logged_per_step",
}
_CHOICES: dict[str, tuple[str, ...]] = {
    "method": get_args(Method),
    "divergence": get_args(DivergenceKind),
    "divergence_support": get_args(Support),
    "divergence_top_k_of": ("teacher", "student"),
    "teacher": get_args(TeacherKind),
    "template": get_args(Template),
    "loss_reduction": get_args(Reduction),
    "overlong": get_args(Overlong),
}

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


def method_field_names() -> list[str]:
    """Names of MethodConfig's fields."""
    return [f.name for f in dataclasses.fields(MethodConfig)]


def check_output_dir(output_dir: str, *, resume: bool, overwrite: bool) -> None:
    """A non-empty output folder is somebody's work: refuse it unless told what to do with it.

    Raises:
        UserError: the folder is not empty and neither flag is given, both are, or the path is a file.
    """
    path = Path(output_dir)
    if resume and overwrite:
        raise UserError("--resume and --overwrite exclude each other: give one of them.")
    if path.is_file():
        raise UserError(f"--output_dir {output_dir} is a file. Name a folder.")
    if path.is_dir() and any(path.iterdir()) and not resume and not overwrite:
        raise UserError(
            f"--output_dir {output_dir} is not empty. Name another folder, continue with --resume, "
            "or replace it with --overwrite."
        )
    if resume and not (path.is_dir() and any(path.glob("checkpoint-*"))):
        raise UserError(f"--resume: {output_dir} holds no checkpoint-N folder. Leave --resume out to start.")
