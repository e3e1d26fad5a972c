"""Decoder, output head and the step to logits, against the models' own logits."""

import math
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, LlamaForCausalLM

from selfdistill.models.output_head import HeadTransform, check_head, decoder, head_transform, output_head
from tests.support.mistakes import mistake
from tests.support.tiny import random_model

FAMILIES = [
    ("llama", {}, HeadTransform(1.0, None)),
    ("qwen2", {}, HeadTransform(1.0, None)),
    ("gemma2", {"final_logit_softcapping": 3.0}, HeadTransform(1.0, 3.0)),
    ("gemma3_text", {"final_logit_softcapping": 2.0}, HeadTransform(1.0, 2.0)),
    ("cohere", {"logit_scale": 0.25}, HeadTransform(0.25, None)),
    ("granite", {"logits_scaling": 8.0}, HeadTransform(0.125, None)),
    (
        "falcon_h1",
        {"lm_head_multiplier": 0.5, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8},
        HeadTransform(0.5),
    ),
]


@pytest.mark.parametrize(("model_type", "settings", "transform"), FAMILIES, ids=[f[0] for f in FAMILIES])
@torch.no_grad()
def test_transform_gives_the_models_logits(model_type: str, settings: dict[str, Any], transform: HeadTransform):
    model = random_model(model_type, **settings)
    ids = torch.tensor([[5, 7, 11, 13, 17]])
    hidden = decoder(model)(input_ids=ids).last_hidden_state
    plain = hidden @ output_head(model).T
    logits = model(input_ids=ids).logits
    assert head_transform(model.config) == transform
    torch.testing.assert_close(transform(plain), logits)
    if transform != HeadTransform():
        assert (plain - logits).abs().max() > 0.1  # the transform matters on this input
    check_head(model)


def test_transform_by_hand():
    x = torch.tensor([0.0, 4.0])
    assert HeadTransform(scale=0.5)(x).tolist() == [0.0, 2.0]
    capped = HeadTransform(scale=0.5, softcap=2.0)(x)
    assert capped.tolist() == pytest.approx([0.0, 2 * 0.7615941559557649])  # tanh(1)


def test_none_means_no_scale():
    config = AutoConfig.for_model("cohere", logit_scale=None)
    assert head_transform(config) == HeadTransform()


def test_declared_but_unused_scale_is_not_applied():
    config = AutoConfig.for_model("mpt", logit_scale="inv_sqrt_d_model")
    assert head_transform(config) == HeadTransform()


def test_adapter_is_in_the_decoder_and_not_around_it():
    model: Any = random_model("llama")
    head = model.lm_head.weight
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    adapted.eval()
    assert output_head(adapted) is head
    check_head(adapted)
    ids = torch.tensor([[5, 7]])
    with torch.no_grad():
        tuned = decoder(adapted)(input_ids=ids).last_hidden_state
        with adapted.disable_adapter():
            base = decoder(adapted)(input_ids=ids).last_hidden_state
    assert (tuned - base).abs().max() > 0.1


def test_head_with_bias_is_refused():
    assert "phi have a bias" in mistake(output_head, random_model("phi"))


def test_head_with_adapter_is_refused():
    adapted = get_peft_model(random_model("llama"), LoraConfig(r=2, target_modules=["lm_head"]))
    assert "all-linear" in mistake(output_head, adapted)
    kept = get_peft_model(
        random_model("llama"), LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
    )
    assert "all-linear" in mistake(output_head, kept)


def test_model_without_a_head_is_refused():
    assert "no output head" in mistake(output_head, random_model("llama").model)


def llama_config() -> Any:
    return random_model("llama").config


class Louder(LlamaForCausalLM):
    """An architecture with a step to its logits that no config field tells."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        output["logits"] *= 1.1
        return output


def test_unknown_step_to_logits_is_noticed():
    model = Louder(llama_config()).train()
    assert "llama compute logits in a way the loss does not know" in mistake(check_head, model)
    assert model.training


class Alone(LlamaForCausalLM):
    """An architecture whose decoder is the whole model, which gives logits and no last hidden state."""

    def get_decoder(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self


def test_a_decoder_without_a_last_hidden_state_is_noticed():
    message = mistake(check_head, Alone(llama_config()))
    assert "llama compute logits in a way the loss does not know" in message


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_no_numbers_tell_of_broken_weights(value: float):
    model: Any = random_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[3, 5] = value
    assert mistake(check_head, model) == (
        "The model's logits are not finite numbers. Its weights are broken: copy them again."
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_check_passes_in_each_dtype_and_keeps_the_mode(dtype: torch.dtype):
    model = random_model("gemma2", dtype, final_logit_softcapping=3.0).train()
    check_head(model)
    assert model.training
