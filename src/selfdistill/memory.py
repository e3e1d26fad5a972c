"""How much memory a run will take, estimated before any weight is loaded."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from selfdistill import models
from selfdistill.config import LEARNS_TOKENS, MethodConfig
from selfdistill.types import PromptPair


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """Bytes by purpose."""

    weights: int
    """The model, in the dtype that is computed in."""
    masters_and_optimizer: int
    """fp32 masters, their gradients and AdamW's two moments, for what is trained."""
    teacher: int
    """The teacher's own tensors."""
    activations: int
    """Kept from the forward for the backward pass of the largest micro-batch."""
    rollout_cache: int
    """Keys and values while completions are sampled."""
    program: int
    """The interpreter, the libraries and working buffers."""

    @property
    def peak(self) -> int:
        """All of it at once, but sampling and training, which take turns."""
        standing = self.weights + self.masters_and_optimizer + self.teacher + self.program
        return standing + max(self.activations, self.rollout_cache)

    def as_dict(self) -> dict[str, int]:
        """Bytes by purpose, and the peak."""
        return asdict(self) | {"peak": self.peak}


def estimate(
    config: Any,
    args: MethodConfig,
    *,
    num_parameters: int,
    num_trainable: int,
    bytes_per_weight: int,
    longest_sequence: int,
) -> MemoryEstimate:
    """Memory of training with ``args``.

    Args:
        config: the model's transformers config.
        args: the settings.
        num_parameters: parameters of the model, tied ones once.
        num_trainable: those that are trained.
        bytes_per_weight: size of the dtype that is computed in.
        longest_sequence: tokens of the longest prompt and completion that are scored.
    """
    own_master = bytes_per_weight == 4
    ema = args.teacher == "ema" and args.method not in LEARNS_TOKENS
    frozen = args.teacher == "frozen" and args.method not in LEARNS_TOKENS
    text = config.get_text_config(decoder=True)
    hidden, layers = text.hidden_size, text.num_hidden_layers
    inner = getattr(text, "intermediate_size", None) or 4 * hidden
    heads = text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or hidden // heads
    kv_width = (getattr(text, "num_key_value_heads", None) or heads) * head_dim
    sequences = args.per_device_train_batch_size / (1 - args.anchor_share)
    # saved by autograd in a pre-norm gated block: norms keep fp32 copies, projections their inputs
    per_token = layers * (
        (6 * hidden + 2 * heads * head_dim + 4 * kv_width + 4 * inner) * bytes_per_weight + 8 * hidden
    )
    prompts = sequences * args.gradient_accumulation_steps
    return MemoryEstimate(
        weights=num_parameters * bytes_per_weight,
        masters_and_optimizer=num_trainable * (12 if own_master else 16),
        teacher=num_trainable * ((4 if own_master else 4 + bytes_per_weight) if ema else bytes_per_weight * frozen),
        activations=int(sequences * longest_sequence * per_token),
        rollout_cache=int(min(32, prompts) * longest_sequence * layers * 2 * kv_width * bytes_per_weight),
        program=700 * 2**20,
    )


def estimate_for(
    config: Any, args: MethodConfig, pairs: Sequence[PromptPair], *, dtype: str, lora_r: int | None
) -> MemoryEstimate:
    """The estimate for rendered rows. Parameters are counted on the meta device: no weight is read."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        num_parameters = sum(p.numel() for p in model.parameters())
        if lora_r is not None:
            model = models.lora(model, r=lora_r, alpha=lora_r, dropout=0.0)
    num_trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    compute = models.compute_dtype(dtype, models.default_device())
    completion = args.max_completion_length
    prompt = max(len(pair.student_ids) for pair in pairs)
    if args.method not in LEARNS_TOKENS:
        sampled = prompt + completion
    else:
        sampled = prompt + max(len(pair.demonstration_ids) for pair in pairs)
    return estimate(
        config,
        args,
        num_parameters=num_parameters,
        num_trainable=num_trainable,
        bytes_per_weight=torch.empty((), dtype=compute).element_size(),
        longest_sequence=sampled,
    )
