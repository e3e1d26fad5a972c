"""Packed and joined linear layers against the layers themselves."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from selfdistill.method.rollout import projections
from selfdistill.method.rollout.projections import FEWEST_TOKENS, make_projections
from selfdistill.models.adapters import lora

ROUNDING: dict[str, Any] = {"rtol": 2e-2, "atol": 2e-2}
"""Of sums in bf16 that are added up in another order."""


def outputs(model: Any) -> tuple[list[Tensor], list[Tensor]]:
    """What every projection gives for random inputs, and what the model's own layers give for the same."""
    found = make_projections(model, 3, FEWEST_TOKENS)
    torch.manual_seed(1)
    ours, theirs = [], []
    with torch.inference_mode():
        for layer, projected in zip(model.get_decoder().layers, found.layers, strict=True):
            attention, mlp = layer.self_attn, layer.mlp
            pairs = [
                (projected.query_key_value, (attention.q_proj, attention.k_proj, attention.v_proj)),
                (projected.output, (attention.o_proj,)),
                (projected.gate_up, (mlp.gate_proj, mlp.up_proj)),
                (projected.down, (mlp.down_proj,)),
            ]
            for projection, layers in pairs:
                x = torch.randn(3, 1, layers[0].in_features, dtype=torch.bfloat16)
                ours += projection(x)
                theirs += [module(x) for module in layers]
        x = torch.randn(3, 16, dtype=torch.bfloat16)
        ours += found.head(x)
        theirs.append(x @ model.get_output_embeddings().weight.T)
    return ours, theirs


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of every weight that is packed from now on."""
    projections._packing_works()  # packs one itself, once
    found: list[int] = []
    pack = projections._packed_weight
    monkeypatch.setattr(projections, "_packed_weight", lambda w, *more: found.append(len(w)) or pack(w, *more))
    return found


def biased(model: Any) -> Any:
    """The model with large biases wherever it has some."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=3.0)
    return model


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3"])
def test_packed_layers_give_what_the_layers_give(tiny_model, packed, model_type):
    model = biased(tiny_model(model_type, dtype=torch.bfloat16))
    torch.testing.assert_close(*outputs(model), **ROUNDING)
    products = 4 * len(model.get_decoder().layers) + 1  # four a layer, and the head
    assert len(packed) == (products if projections._packing_works() else 0)


def test_a_bias_that_only_some_of_the_joined_layers_have_is_not_lost(tiny_model, packed):
    model = biased(tiny_model("qwen2", dtype=torch.bfloat16))
    for layer in model.get_decoder().layers:
        layer.self_attn.q_proj.bias = None
    torch.testing.assert_close(*outputs(model), **ROUNDING)
    products = 3 * len(model.get_decoder().layers) + 1
    assert len(packed) == (products if projections._packing_works() else 0)


def test_adapters_count(tiny_model):
    model = tiny_model(dtype=torch.bfloat16)
    before, _ = outputs(model)
    adapted = lora(model, r=2, alpha=2, dropout=0.0)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter)
    base: Any = adapted.get_base_model()
    ours, theirs = outputs(base)
    torch.testing.assert_close(ours, theirs, **ROUNDING)
    assert any((a - b).abs().max() > 0.1 for a, b in zip(ours, before, strict=True))


def test_layers_run_as_they_are_where_packing_does_not_work(tiny_model, monkeypatch):
    monkeypatch.setattr(projections, "_packing_works", lambda: False)
    monkeypatch.setattr(projections, "_packed_weight", lambda *_: pytest.fail("packed all the same"))
    ours, theirs = outputs(tiny_model(dtype=torch.bfloat16))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
