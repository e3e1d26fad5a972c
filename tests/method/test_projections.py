"""Packed and joined linear layers against the layers themselves."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from selfdistill.method.rollout import projections
from selfdistill.method.rollout.projections import FEWEST_TOKENS, make_projections
from selfdistill.models.adapters import lora

ROUNDING: dict[torch.dtype, dict[str, Any]] = {
    torch.bfloat16: {"rtol": 2e-2, "atol": 2e-2},
    torch.float32: {"rtol": 1e-5, "atol": 1e-5},
}
"""Of sums that are added up in another order."""
DTYPES = pytest.mark.parametrize("dtype", ROUNDING)


def outputs(model: Any, rows: int = 4, most_rows: int | None = None) -> tuple[list[Tensor], list[Tensor]]:
    """What every projection gives for random inputs, and what the model's own layers give for the same. The projections
    are made for ``most_rows``, by default ``rows``."""
    found = make_projections(model, most_rows or rows, FEWEST_TOKENS)
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
                x = torch.randn(rows, 1, layers[0].in_features, dtype=model.dtype)
                ours += projection(x)
                theirs += [module(x) for module in layers]
        x = torch.randn(rows, 16, dtype=model.dtype)
        ours += found.head(x)
        theirs.append(x @ model.get_output_embeddings().weight.T)
    return ours, theirs


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of every weight that is packed from now on."""
    for dtype in ROUNDING:
        projections._packing_works(dtype)  # packs one itself, once
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


@DTYPES
@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3"])
def test_packed_layers_give_what_the_layers_give(tiny_model, packed, model_type, dtype):
    model = biased(tiny_model(model_type, dtype=dtype))
    torch.testing.assert_close(*outputs(model), **ROUNDING[dtype])
    products = 4 * len(model.get_decoder().layers) + 1  # four a layer, and the head
    assert len(packed) == (products if projections._packing_works(dtype) else 0)


@DTYPES
def test_a_bias_that_only_some_of_the_joined_layers_have_is_not_lost(tiny_model, packed, dtype):
    model = biased(tiny_model("qwen2", dtype=dtype))
    for layer in model.get_decoder().layers:
        layer.self_attn.q_proj.bias = None
    torch.testing.assert_close(*outputs(model), **ROUNDING[dtype])
    products = 3 * len(model.get_decoder().layers) + 1
    assert len(packed) == (products if projections._packing_works(dtype) else 0)


@pytest.mark.parametrize(("dtype", "fewest"), [(torch.bfloat16, 1), (torch.float32, 4)])
def test_layers_run_as_they_are_for_rows_too_few_to_gain_by_packing(tiny_model, packed, monkeypatch, dtype, fewest):
    if not projections._packing_works(dtype):
        pytest.skip("nothing is packed here")
    model = tiny_model(dtype=dtype)
    used: list[int] = []
    pack = projections._packed_weight

    def watched(*arguments: Any) -> Any:
        product = pack(*arguments)
        return lambda x: used.append(len(x)) or product(x)

    monkeypatch.setattr(projections, "_packed_weight", watched)
    outputs(model, rows=fewest, most_rows=8)
    assert used == [fewest] * 9
    if fewest > 1:
        used.clear()
        ours, theirs = outputs(model, rows=fewest - 1, most_rows=8)  # of eight sequences most have finished
        assert used == []
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
        packed.clear()
        outputs(model, rows=fewest - 1)
        assert packed == []  # no copy is made that is never read


def test_other_dtypes_are_not_packed(tiny_model, packed):
    ours, theirs = outputs(tiny_model(dtype=torch.float64))
    assert packed == []
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@DTYPES
def test_adapters_count(tiny_model, dtype):
    model = tiny_model(dtype=dtype)
    before, _ = outputs(model)
    adapted = lora(model, r=2, alpha=2, dropout=0.0)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter)
    base: Any = adapted.get_base_model()
    ours, theirs = outputs(base)
    torch.testing.assert_close(ours, theirs, **ROUNDING[dtype])
    assert any((a - b).abs().max() > 0.1 for a, b in zip(ours, before, strict=True))


@DTYPES
def test_layers_run_as_they_are_where_packing_does_not_work(tiny_model, monkeypatch, dtype):
    monkeypatch.setattr(projections, "_packing_works", lambda _: False)
    monkeypatch.setattr(projections, "_packed_weight", lambda *_: pytest.fail("packed all the same"))
    ours, theirs = outputs(tiny_model(dtype=dtype))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
