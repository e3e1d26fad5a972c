"""Whether a file that was written holds the model: its logits beside the model's own."""

from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfdistill.models.tokens import vocab_size

TEXT = "Water boils at 100 degrees.\nWhat is 12 + 30? It's forty-two, isn't it? [1, 2, 3]"
MOST_TOKENS = 48
EXACT, ROUNDED = 1e-4, 0.1
"""Largest difference of a logit, as a share of the largest logit, of weights in fp32 and in 16 bits. A matrix in the
wrong place or order gives one near 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How far logits are from those of the model."""

    largest: float
    """Largest absolute difference."""
    relative: float
    """The same, as a share of the model's largest absolute logit."""
    kl: float
    """KL(model||written) in nats, mean over positions."""
    same_top: float
    """Share of positions at which both find the same token the likeliest."""


def probe_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Ids [1, T] of a short text, on the model's device."""
    ids = tokenizer(TEXT, add_special_tokens=False, return_tensors="pt")["input_ids"][:, :MOST_TOKENS]  # type: ignore[index]
    return torch.as_tensor(ids).clamp(max=vocab_size(model) - 1).to(model.device)


@torch.no_grad()
def logits_of(model: PreTrainedModel | PeftModel, ids: Tensor) -> Tensor:
    """The model's logits [T, V] in fp32."""
    return model(input_ids=ids, use_cache=False).logits[0].float()


def difference(expected: Tensor, found: Tensor) -> Difference:
    """Compares logits [T, V] with those that are expected."""
    gap = float((expected - found).abs().max())
    log_p, log_q = expected.log_softmax(-1), found.log_softmax(-1)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1).mean()
    same = (expected.argmax(-1) == found.argmax(-1)).float().mean()
    return Difference(
        largest=gap, relative=gap / float(expected.abs().max()), kl=max(float(kl), 0.0), same_top=float(same)
    )


def is_the_model(found: Difference, dtype: torch.dtype, *, quantized: bool) -> bool:
    """Whether the difference is one that rounding explains. Of quantized weights it is only asked to be a number: how
    much they lose depends on the model."""
    if quantized:
        return found.kl == found.kl and found.largest < float("inf")
    return found.relative <= (EXACT if dtype == torch.float32 else ROUNDED)
