"""Settings of the method, in groups by subject.

The command line composes the groups it needs. ``SDFTConfig``, for Python, has all of them in one flat namespace, as
users of transformers and TRL expect.
"""

import dataclasses
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

from selfdistill.errors import UserError
from selfdistill.settings.fields import SMALL, JsonObject, at_least, check_fields, number, path
from selfdistill.types import (
    CompletionSource,
    DemonstrationFrom,
    DivergenceKind,
    EngineName,
    Method,
    Overlong,
    Reduction,
    Role,
    Support,
    TargetKind,
    TargetReference,
    TeacherHome,
    TeacherKind,
    Template,
    TokenWeight,
    WeightTransfer,
)


@dataclass(kw_only=True)
class DivergenceSettings:
    """How the distributions of student and teacher are compared at each token."""

    divergence: DivergenceKind = "forward_kl"
    """forward_kl = KL(teacher||student); reverse_kl = KL(student||teacher); jsd: generalised Jensen-Shannon."""
    divergence_beta: float = number(0.5, SMALL, 1 - SMALL, "strictly between 0 and 1")
    """jsd: weight of the teacher, strictly between 0 and 1. Near either end jsd and its gradient vanish."""
    divergence_support: Support = "full"
    """Tokens compared at each position: the full vocabulary, the k likeliest, or the sampled one (reverse_kl only)."""
    divergence_top_k: int = at_least(1, 100)
    """Number of tokens compared with divergence_support=top_k."""
    divergence_top_k_of: Role = "teacher"
    """Model whose likeliest tokens are compared with divergence_support=top_k."""
    divergence_tail: bool = False
    """top_k: compare all other tokens together as one more outcome, instead of renormalising the k."""
    divergence_clip: float | None = number(None, SMALL, float("inf"), "above 0")
    """Upper bound on the divergence of a token, in nats; None for no bound."""
    vocab_clip: float | None = number(None, SMALL, float("inf"), "above 0")
    """Upper bound on what each vocabulary entry adds to a token's divergence, in nats; None for no bound."""


@dataclass(kw_only=True)
class TargetSettings:
    """What a token is held to where the student is compared with the teacher, and how much the token counts."""

    target: TargetKind = "teacher"
    """teacher: the teacher's distribution. mix: between a reference and the teacher. budget: as near the teacher as a
    distance from the student allows. contrast: the start model, moved by what is particular to the demonstration."""
    target_weight: float = number(0.5, SMALL, 1, "above 0 and at most 1")
    """mix: weight of the teacher's log-probabilities; the reference has the rest."""
    target_reference: TargetReference = "start"
    """mix: start: the model that training began with (one more forward pass); student: the student as it is."""
    target_budget: float = at_least(1e-4, 0.1)
    """budget: distance of the target from the student, KL(target||student) of a token in nats."""
    token_weight: TokenWeight = "one"
    """one: all tokens count alike. support: less the less the teacher supports what precedes them. position: less the
    later they are; late: more. entropy: less the less certain the teacher is."""
    token_weight_half_life: float = number(64.0, SMALL, float("inf"), "above 0")
    """position: tokens after which the weight is halved; late: after which it is half its limit."""


@dataclass(kw_only=True)
class TeacherSettings:
    """The teacher's weights."""

    teacher: TeacherKind = "ema"
    """ema: moving average of the student's weights; frozen: the weights at the start; live: the student's own."""
    teacher_update_rate: float = number(0.02, 0, 1, "between 0 and 1")
    """ema: share of the student in the average at each update (0.02: 2% student, 98% teacher so far)."""
    teacher_sync_steps: int = at_least(1, 1)
    """ema: optimizer steps between updates."""
    teacher_restart_steps: int | None = at_least(1, None)
    """frozen: optimizer steps after which the teacher becomes a copy of the student, and stays so for as many; by
    default it never does."""
    teacher_model: str | None = path()
    """Another model of the same vocabulary as a teacher that stays as it is; by default the student's own weights."""
    teacher_server: str | None = None
    """Address of a vLLM server whose model is the teacher, such as http://localhost:8000. It takes
    divergence_support=top_k. A key is read from SELFDISTILL_TEACHER_KEY (docs/engines.md)."""
    teacher_home: TeacherHome = "device"
    """Where the teacher's weights are kept. host: in the host's memory, uploaded once a step, with the same results."""


@dataclass(kw_only=True)
class CompletionSettings:
    """Who writes the completions of a method whose student writes them, and how many there are."""

    completion_source: CompletionSource = "student"
    """student: the student alone. mixture: others write a share of the completions. interleaved: the teacher replaces
    tokens that it ranks low. accepted: the student, up to the first token that a speculative verifier would reject."""
    mixture_share: float = number(0.5, SMALL, 1, "above 0 and at most 1")
    """mixture: share of the completions of a step that the student does not write."""
    mixture_of: Literal["demonstration", "teacher"] = "demonstration"
    """mixture: what stands in their place: the demonstration, or a sample of the teacher's."""
    mixture_target: Literal["teacher", "tokens"] = "teacher"
    """mixture: what the student is compared with where another wrote. tokens: their cross-entropy, as in sft."""
    mixture_steps: int | None = at_least(1, None)
    """mixture: steps over which the share falls evenly to 0; by default it stays."""
    interleaved_top_k: int = at_least(1, 25)
    """interleaved: a token that is not among the teacher's k likeliest is replaced by a sample of the teacher's."""
    num_rollouts: int = at_least(1, 1)
    """Completions of each prompt in a step, anchor prompts too, for methods that sample."""


@dataclass(kw_only=True)
class PromptSettings:
    """How prompts are rendered, and their maximum lengths."""

    template: Template = "paper"
    """How the teacher is shown the demonstration. auto (command line only): a preflight tries several and picks one."""
    template_repeat: int = number(1, 1, 16, "between 1 and 16")
    """prior_turn: how often the earlier turn is repeated. few_shot: how many other demonstrations come first."""
    template_file: str | None = path()
    """Jinja file for template=file; its variables are question, demonstration and messages."""
    chat_template_kwargs: JsonObject = field(default_factory=dict[str, Any])
    """Variables passed to the tokenizer's chat template, for example {"enable_thinking": false}."""
    student_chat_template_kwargs: JsonObject = field(default_factory=dict[str, Any])
    """Variables for the student's prompts, here and in evaluations; of the same name they replace the shared ones."""
    teacher_chat_template_kwargs: JsonObject = field(default_factory=dict[str, Any])
    """Variables for the teacher's prompts; of the same name they replace the shared ones."""
    demonstration_from: DemonstrationFrom = "row"
    """own_success: of num_rollouts, one that the scorer calls right is the demonstration for the others. Where there is
    none, as with row, the row's own."""
    feedback_file: str | None = None
    """path.py:function of your own, which takes a row and a completion of it, and returns words about it for the
    teacher's prompt, or None."""
    max_prompt_length: int | None = at_least(1, None)
    """Maximum tokens of the student's prompt; by default the model's context minus the longest completion."""
    max_teacher_prompt_length: int | None = at_least(1, None)
    """Maximum tokens of the teacher's prompt with the demonstration; by default as max_prompt_length."""
    overlong: Overlong = "error"
    """What to do with rows over a length limit: stop with an error, or drop them. Prompts are never cut."""

    def chat_variables(self, role: Role) -> dict[str, Any]:
        """Variables that the chat template gets for the prompts of the student or the teacher."""
        own = self.student_chat_template_kwargs if role == "student" else self.teacher_chat_template_kwargs
        return {**(self.chat_template_kwargs or {}), **(own or {})}


@dataclass(kw_only=True)
class SamplingSettings:
    """How completions are sampled, and which of their tokens enter the loss."""

    temperature: float = number(1.0, 1e-3, 1e3, "between 0.001 and 1000")
    """Sampling temperature. The divergence, too, divides both models' logits by it."""
    top_p: float = number(1.0, SMALL, 1, "above 0 and at most 1")
    """Sample from the likeliest tokens whose probabilities add up to this (nucleus sampling)."""
    rollout_engine: EngineName = "auto"
    """own: our decoding loop. generate, paged: transformers' generate, continuous batching. auto: own or generate.
    vllm, vllm-server: vLLM in this process, or a server of it (docs/engines.md)."""
    vllm_url: str | None = None
    """rollout_engine=vllm-server: the server's address, such as http://localhost:8000."""
    vllm_weight_transfer: WeightTransfer = "auto"
    """rollout_engine=vllm-server: how all weights go there. nccl: from GPU to GPU, if the server was started with
    --weight-transfer-config. folder: by a checkpoint's folder that both see. auto: nccl where it can be."""
    vllm_memory_share: float = number(0.3, 0.01, 0.95, "between 0.01 and 0.95")
    """rollout_engine=vllm on a GPU: share of its memory for vLLM's weights and key-value cache while it samples."""
    sampler_correction_cap: float | None = number(2.0, SMALL, float("inf"), "above 0")
    """Upper bound on importance weights, None for no correction. Only where an engine samples from a copy of the
    weights: vllm, vllm-server, or one of your own in Python."""
    num_loss_tokens_to_skip: int = at_least(0, 0)
    """Tokens at the start of each completion left out of the loss (counted after a closing think tag, if any)."""
    mask_truncated_completions: bool = False
    """Leave completions that reached max_completion_length out of the loss."""
    loss_reduction: Reduction = "rollout_mean"
    """rollout_mean: mean over each rollout's tokens, then over rollouts (the paper). token_mean: over all tokens."""
    rollouts_logged_per_step: int | None = at_least(0, 4)
    """Rollouts written to rollouts.jsonl at each step; None for all."""


@dataclass(kw_only=True)
class AnchorSettings:
    """General prompts in every batch that keep the model close to its starting point."""

    anchor_share: float = number(0.0, 0, 0.9, "between 0 and 0.9")
    """Share of general prompts among all prompts. On them the teacher is the start model, without a demonstration."""
    anchor_data: str | None = path()
    """File of general prompts; by default the 200 of the package."""


@dataclass(kw_only=True)
class OptimizerSettings:
    """Optimizer, batch size and duration of training."""

    learning_rate: float = number(2e-5, 0, 1, "between 0 and 1, for example 2e-5")
    """Peak learning rate."""
    num_train_epochs: float = at_least(0, 2.0)
    """Passes over the training rows; ignored if max_steps is above 0."""
    max_steps: int = number(-1, -1, float("inf"), "-1 (as many as num_train_epochs takes) or above 0")
    """Number of optimizer steps; -1: as many as num_train_epochs takes."""
    stop_on_collapse: bool = False
    """End the run, and save it, once its completions have collapsed; otherwise there is only a warning."""
    per_device_train_batch_size: int = at_least(1, 4)
    """Prompts per micro-batch."""
    activation_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, a third more time there."""
    gradient_accumulation_steps: int = at_least(1, 8)
    """Micro-batches per optimizer step. Their completions are sampled together, before the first one is trained on."""
    shard_weights: bool = False
    """In several processes: split weights, teacher and optimizer over them (FSDP2), for a model too large for one GPU
    (docs/clusters.md)."""
    optim: str = "adamw_torch_fused"
    """Optimizer of the fp32 weights, by transformers' name. adamw_8bit keeps moments in 8 bits, paged_adamw_8bit on the
    host if the GPU is full; both need the extra gpu."""
    lr_scheduler_type: str = "cosine"
    """Learning-rate schedule: a name that transformers knows, such as cosine or constant_with_warmup."""
    warmup_steps: float = at_least(0, 10)
    """Steps of linear warm-up; a number below 1 is a share of all steps."""
    weight_decay: float = at_least(0, 0.0)
    """AdamW's weight decay."""
    max_grad_norm: float = at_least(0, 1.0)
    """Upper bound on the gradient norm; larger gradients are scaled down. 0 for no bound."""


@dataclass(kw_only=True)
class MethodConfig(
    DivergenceSettings,
    TargetSettings,
    TeacherSettings,
    CompletionSettings,
    PromptSettings,
    SamplingSettings,
    AnchorSettings,
    OptimizerSettings,
):
    """All settings of the method and the optimizer, in one namespace.

    ``PAPER`` holds the paper's values. Some defaults differ from them; a run prints every difference.
    """

    method: Method = "sdft"
    """sdft: student samples, teacher scores. offline: teacher samples. sft, dft, cpt: train on demonstrations.
    reinvoke: on-policy distillation from a base model on general prompts."""
    max_completion_length: int = at_least(1, 1024)
    """Maximum length of a sampled completion in tokens; longer ones are cut and count as truncated."""
    seed: int = number(42, 0, 2**32 - 1, "between 0 and 4294967295")
    """Seed of the data order and of sampling."""

    @property
    def has_other_teacher(self) -> bool:
        """Whether the teacher is another model, at hand or behind a server, that stays as it is."""
        return self.teacher_model is not None or self.teacher_server is not None

    def validate(self) -> None:
        """Checks the ranges. Raises UserError naming the first field that is wrong, its value and the range."""
        check_fields(self, MethodConfig, open_choices=TABLES)
        if self.max_steps == 0:
            raise UserError("max_steps: 0 steps train nothing. Give 1 or more, or -1 to train for num_train_epochs.")
        if self.max_steps < 1 and self.num_train_epochs == 0:
            raise UserError("num_train_epochs: 0 epochs train nothing. Give more, or max_steps.")
        if (self.template == "file") != (self.template_file is not None):
            raise UserError("template_file: give it together with template=file, and only then.")


TABLES = ("method", "divergence", "target", "token_weight", "completion_source", "template", "rollout_engine")
"""Settings whose choices are the rows of a table."""
PAPER: dict[str, Any] = {
    "divergence": "forward_kl",
    "divergence_support": "full",
    "vocab_clip": None,
    "target": "teacher",
    "token_weight": "one",
    "completion_source": "student",
    "num_rollouts": 1,
    "teacher": "ema",
    "teacher_update_rate": 0.01,
    "teacher_model": None,
    "teacher_server": None,
    "template": "paper",
    "demonstration_from": "row",
    "feedback_file": None,
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
"""The paper's settings (arXiv 2601.19897), by name; a run prints where it differs from them."""


def deviations_from_paper(settings: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The settings of ``PAPER`` that have another value here: by name, (this run's value, the paper's value)."""
    return {
        name: (settings[name], paper) for name, paper in PAPER.items() if name in settings and settings[name] != paper
    }


def with_template(config: MethodConfig, template: Template, repeat: int) -> MethodConfig:
    """A copy of the settings with another template."""
    other: dict[str, Any] = {"template": template, "template_repeat": repeat, "template_file": None}
    return MethodConfig(**(method_settings(config) | other))


def method_settings(config: MethodConfig) -> dict[str, Any]:
    """Values of MethodConfig's fields by name, for a MethodConfig or a subclass; enumerations as their values."""
    values = {each.name: getattr(config, each.name) for each in dataclasses.fields(MethodConfig)}
    return {name: value.value if isinstance(value, Enum) else value for name, value in values.items()}
