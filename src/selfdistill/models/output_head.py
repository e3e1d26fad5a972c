"""The parts of a model that the loss needs: decoder, output head, and what turns their product into logits."""

from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from transformers import PreTrainedConfig, PreTrainedModel

from selfdistill.errors import UserError
from selfdistill.models.mode import evaluating


@dataclass(frozen=True, slots=True)
class HeadTransform:
    """The operations from ``hidden @ head.T`` to a model's logits."""

    scale: float = 1.0
    """Factor, applied first."""
    softcap: float | None = None
    """Applied next, as ``softcap * tanh(x / softcap)``; None for no cap."""

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Applies the transform to raw logits of any shape; returns the same shape and dtype."""
        scaled = logits if self.scale == 1.0 else logits * self.scale
        return scaled if self.softcap is None else torch.tanh(scaled / self.softcap) * self.softcap


def head_transform(config: PreTrainedConfig) -> HeadTransform:
    """Returns the transform that a model's config declares; ``check_head`` verifies that nothing is missing."""
    text: Any = config.get_text_config(decoder=True)
    family = text.model_type
    scale = 1.0
    if family.startswith("cohere"):  # others (MPT) declare logit_scale but do not use it
        scale = getattr(text, "logit_scale", None) or 1.0
    elif factor := getattr(text, "logits_scaling", None):  # Granite, MiniCPM3
        scale = factor if family.startswith("hyperclovax") else 1.0 / factor
    elif factor := getattr(text, "lm_head_multiplier", None):  # Falcon-H1
        scale = factor
    caps = ("final_logit_softcapping", "logits_soft_cap")  # Gemma; RecurrentGemma
    cap = next((value for name in caps if (value := getattr(text, name, None))), None)
    return HeadTransform(scale=float(scale), softcap=cap)


def unwrapped(model: PreTrainedModel | PeftModel) -> Any:
    """Returns the transformers model inside PEFT's wrapper, or the model itself."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def decoder(model: PreTrainedModel | PeftModel) -> torch.nn.Module:
    """Returns the part of the model whose ``last_hidden_state`` [B, T, H] is the output head's input."""
    return unwrapped(model).get_decoder()


def output_head(model: PreTrainedModel | PeftModel) -> torch.Tensor:
    """Returns the output head's weight [V, H]: the parameter itself, not a copy.

    Raises:
        UserError: there is no output head, or it has a bias or an adapter.
    """
    head = unwrapped(model).get_output_embeddings()
    kind = unwrapped(model).config.model_type
    if isinstance(head, BaseTunerLayer | AuxiliaryTrainingWrapper):
        raise UserError(
            "An adapter on the output head can't be trained here. Leave the head out of the LoRA "
            "target modules; all-linear does."
        )
    if not isinstance(getattr(head, "weight", None), torch.Tensor):
        raise UserError(f"Models of type {kind} have no output head. Use a causal language model.")
    if getattr(head, "bias", None) is not None:
        raise UserError(
            f"Models of type {kind} have a bias in their output head, which the loss does not "
            "support. Use a model without one, for example Llama, Qwen, Gemma or Phi-3."
        )
    return head.weight


@torch.no_grad()
def check_head(model: PreTrainedModel | PeftModel) -> None:
    """Raises UserError unless decoder, output_head and head_transform give the model's own logits, which are finite.

    Protects the loss from architectures with an operation between decoder and logits that head_transform does not know.
    Costs two forward passes of four tokens.
    """
    head = output_head(model)
    config = unwrapped(model).config
    ids = torch.arange(4, device=head.device)[None]
    with evaluating(model):
        hidden = getattr(decoder(model)(input_ids=ids, use_cache=False), "last_hidden_state", None)
        expected = model(input_ids=ids, use_cache=False).logits.float()
    if not torch.isfinite(expected).all():
        raise UserError("The model's logits are not finite numbers. Its weights are broken: copy them again.")
    if hidden is not None:
        ours = head_transform(config)(torch.nn.functional.linear(hidden, head).float())
        tolerance = 1e-4 if head.dtype == torch.float32 else 0.05
        if ours.shape == expected.shape and (ours - expected).abs().max() <= tolerance * expected.abs().max():
            return
    raise UserError(
        f"Models of type {config.model_type} compute logits in a way the loss does not know. "
        "Use a model such as Llama, Qwen, Gemma, Granite or Cohere."
    )
