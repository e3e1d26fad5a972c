"""What the loss must know of a model: its decoder, its output head, and the step from there to logits."""

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
    """What a model does to ``hidden @ head.T`` before it calls the result logits."""

    scale: float = 1.0
    """Factor, applied first."""
    softcap: float | None = None
    """Then ``cap * tanh(x / cap)``, if not None."""

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """``logits``: any shape. Returns the same shape and dtype."""
        scaled = logits if self.scale == 1.0 else logits * self.scale
        return scaled if self.softcap is None else torch.tanh(scaled / self.softcap) * self.softcap


def head_transform(config: PreTrainedConfig) -> HeadTransform:
    """The transform that a model's config declares; check_head tells whether that is all of it."""
    text: Any = config.get_text_config(decoder=True)
    family = text.model_type
    scale = 1.0
    if family.startswith("cohere"):  # others (MPT) declare logit_scale and don't use it
        scale = getattr(text, "logit_scale", None) or 1.0
    elif factor := getattr(text, "logits_scaling", None):  # Granite, MiniCPM3
        scale = factor if family.startswith("hyperclovax") else 1.0 / factor
    elif factor := getattr(text, "lm_head_multiplier", None):  # Falcon-H1
        scale = factor
    caps = ("final_logit_softcapping", "logits_soft_cap")  # Gemma; RecurrentGemma
    cap = next((value for name in caps if (value := getattr(text, name, None))), None)
    return HeadTransform(scale=float(scale), softcap=cap)


def unwrapped(model: PreTrainedModel | PeftModel) -> Any:
    return model.get_base_model() if isinstance(model, PeftModel) else model


def decoder(model: PreTrainedModel | PeftModel) -> torch.nn.Module:
    """The part whose ``last_hidden_state`` (batch, length, hidden) the output head takes."""
    return unwrapped(model).get_decoder()


def output_head(model: PreTrainedModel | PeftModel) -> torch.Tensor:
    """The output head's weight, (vocabulary, hidden). It is the parameter itself, not a copy.

    Raises UserError for a head that is more than its weight: one with a bias or an adapter.
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
    """Raises UserError unless decoder, output_head and head_transform give the model's own logits.

    Costs two forward passes of four tokens. It guards the loss against architectures with a step
    between decoder and logits that head_transform does not know.
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
