"""Packed and joined linear layers against the layers themselves."""

import pytest
import torch
from torch import nn

from selfdistill.models import lora
from selfdistill.rollout import projections
from selfdistill.rollout.projections import FEWEST_TOKENS, make_projections


def agree(model) -> None:
    """Every projection gives what the model's own layers give, to bf16 rounding."""
    found = make_projections(model, 3, FEWEST_TOKENS)
    torch.manual_seed(1)
    with torch.inference_mode():
        for layer, ours in zip(model.get_decoder().layers, found.layers, strict=True):
            attention, mlp = layer.self_attn, layer.mlp
            pairs = [
                (ours.query_key_value, (attention.q_proj, attention.k_proj, attention.v_proj)),
                (ours.output, (attention.o_proj,)),
                (ours.gate_up, (mlp.gate_proj, mlp.up_proj)),
                (ours.down, (mlp.down_proj,)),
            ]
            for projection, layers in pairs:
                x = torch.randn(3, 1, layers[0].in_features, dtype=torch.bfloat16)
                for output, module in zip(projection(x), layers, strict=True):
                    torch.testing.assert_close(output, module(x), rtol=2e-2, atol=2e-2)
        x = torch.randn(3, 16, dtype=torch.bfloat16)
        torch.testing.assert_close(found.head(x)[0], x @ model.get_output_embeddings().weight.T, rtol=2e-2, atol=2e-2)


def biased(model) -> nn.Module:
    """The model with large biases wherever it has some."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=3.0)
    return model


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3"])
def test_packed_layers_give_what_the_layers_give(tiny_model, model_type):
    agree(biased(tiny_model(model_type, dtype=torch.bfloat16)))


def test_a_bias_that_only_some_of_the_joined_layers_have_is_not_lost(tiny_model):
    model = biased(tiny_model("qwen2", dtype=torch.bfloat16))
    for layer in model.get_decoder().layers:
        layer.self_attn.q_proj.bias = None
    agree(model)


def test_adapters_count(tiny_model):
    model = tiny_model(dtype=torch.bfloat16)
    adapted = lora(model, r=2, alpha=2, dropout=0.0)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter)
    agree(adapted.get_base_model())


def test_layers_run_as_they_are_where_packing_does_not_work(tiny_model, monkeypatch):
    monkeypatch.setattr(projections, "_packing_works", lambda: False)
    monkeypatch.setattr(projections, "_packed_weight", lambda *_: pytest.fail("packed all the same"))
    agree(tiny_model(dtype=torch.bfloat16))
