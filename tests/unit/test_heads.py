"""Decoder, output head and the step to logits, against the models' own logits."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM

from selfdistill.models.output_head import HeadTransform, check_head, decoder, head_transform, output_head
from selfdistill.types import UserError

TINY = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "pad_token_id": 0,
    "initializer_range": 1.0,  # large, so that a soft cap shows
}


def tiny(model_type: str, **settings):
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **{**TINY, **settings})
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


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
def test_transform_gives_the_models_logits(model_type, settings, transform):
    model = tiny(model_type, **settings)
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
    model = tiny("llama")
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
    with pytest.raises(UserError, match="phi have a bias"):
        output_head(tiny("phi"))


def test_head_with_adapter_is_refused():
    adapted = get_peft_model(tiny("llama"), LoraConfig(r=2, target_modules=["lm_head"]))
    with pytest.raises(UserError, match="all-linear"):
        output_head(adapted)
    kept = get_peft_model(tiny("llama"), LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"]))
    with pytest.raises(UserError, match="all-linear"):
        output_head(kept)


def test_model_without_a_head_is_refused():
    with pytest.raises(UserError, match="no output head"):
        output_head(tiny("llama").model)


class Louder(LlamaForCausalLM):
    """An architecture with a step to its logits that no config field tells."""

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output["logits"] *= 1.1
        return output


def test_unknown_step_to_logits_is_noticed():
    model = Louder(tiny("llama").config).train()
    with pytest.raises(UserError, match="llama compute logits"):
        check_head(model)
    assert model.training


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_check_passes_in_each_dtype_and_keeps_the_mode(dtype):
    model = tiny("gemma2", final_logit_softcapping=3.0).to(dtype).train()
    check_head(model)
    assert model.training
