"""Quantized models: what is loaded, that gradients are right, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from torch import nn

from selfdistill.models import loading, quantization
from selfdistill.models.adapters import lora
from selfdistill.models.output_head import decoder
from selfdistill.models.quantization import linear_layers, quantized_bytes, quantized_to
from selfdistill.types import Quantize
from tests.support.mistakes import mistake

IDS = torch.tensor([[5, 6, 7, 8]])


def adapted(folder: Path, quantize: Quantize | None, dtype: str = "float32") -> Any:
    """A model of the folder with an adapter whose weights are not zero, and that does not change between calls."""
    torch.manual_seed(0)
    model = lora(loading.load_model(str(folder), dtype=dtype, quantize=quantize), r=2, alpha=4, dropout=0.0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.1)
    return model.eval()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("quantize", ["4bit", "8bit"])
def test_linear_layers_are_quantized_and_the_rest_is_not(
    folder: Path, on_cpu: None, quantize: Quantize, dtype: str
) -> None:
    model = loading.load_model(str(folder), dtype=dtype, quantize=quantize)
    whole = loading.load_model(str(folder), dtype=dtype)
    assert quantized_to(model) == quantize
    assert quantized_to(whole) is None
    assert model.dtype == getattr(torch, dtype)
    kept = {"4bit": torch.uint8, "8bit": torch.int8}[quantize]
    layers = linear_layers(model)
    assert len(layers) == len(linear_layers(whole)) > 0
    assert {layer.weight.dtype for layer in layers} == {kept}
    others = {id(p): p.dtype for p in model.parameters()}
    for layer in layers:
        others.pop(id(layer.weight))
    assert set(others.values()) == {model.dtype}
    assert not any(layer.weight.requires_grad for layer in layers)


@pytest.mark.parametrize("quantize", ["4bit", "8bit"])
def test_an_adapter_has_the_dtype_of_the_computation(folder: Path, on_cpu: None, quantize: Quantize) -> None:
    trained = [p for p in adapted(folder, quantize, "bfloat16").parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.bfloat16}


def gradients(model: Any) -> dict[str, torch.Tensor]:
    with torch.no_grad():  # as a rollout does; on some CPUs bitsandbytes would change its weights' layout here
        decoder(model)(input_ids=IDS)
    hidden = decoder(model)(input_ids=IDS).last_hidden_state
    torch.manual_seed(1)
    (hidden * torch.randn_like(hidden)).sum().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def test_gradients_are_those_of_the_dequantized_weights(folder: Path, on_cpu: None) -> None:
    model, reference = adapted(folder, "4bit"), adapted(folder, None)
    reference.load_state_dict(
        {name: value for name, value in model.state_dict().items() if "lora_" in name}, strict=False
    )
    theirs = dict(reference.named_modules())
    for name, module in model.named_modules():
        if hasattr(module, "quant_state"):
            theirs[name].weight.data = dequantize_4bit(module.weight.data, module.weight.quant_state).float()
    ours, expected = gradients(model), gradients(reference)
    assert ours.keys() == expected.keys()
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5)


def test_no_layer_may_change_its_layout(folder: Path, on_cpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a CPU that has the units for the other layout."""
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)
    model = loading.load_model(str(folder), dtype="float32", quantize="4bit")
    flags = [layer.support_avx512bf16_for_cpu for layer in linear_layers(model)]
    assert flags == [False] * len(flags)


def test_bytes_by_hand() -> None:
    layers = [nn.Linear(256, 128, device="meta"), nn.Linear(128, 64, device="meta")]
    numbers = 256 * 128 + 128 * 64  # 40,960: 640 blocks of 64, whose scales are 640 bytes and 2.5 blocks of fp32
    assert quantized_bytes("4bit", layers) == numbers // 2 + 640 + 10
    assert quantized_bytes("8bit", layers) == numbers + 4 * (128 + 64)


@pytest.mark.model
@pytest.mark.parametrize("quantize", ["4bit", "8bit"])
def test_bytes_of_the_embedded_model(quantize: Quantize) -> None:
    model = loading.load_model("smollm2-135m", dtype="bfloat16", device="cpu", quantize=quantize)
    layers = linear_layers(model)
    held = 0
    layer: Any
    for layer in layers:
        held += layer.weight.nbytes
        state = getattr(layer.weight, "quant_state", None)
        held += state.absmax.nbytes + state.state2.absmax.nbytes if state else layer.weight.SCB.nbytes
    shapes = [nn.Linear(layer.in_features, layer.out_features, device="meta") for layer in layers]
    assert quantized_bytes(quantize, shapes) == pytest.approx(held, rel=1e-3)


def test_what_can_not_be_quantized(folder: Path, tmp_path: Path, on_cpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    assert "is a GGUF file, which is dequantized" in mistake(loading.load_model, str(file), quantize="4bit")
    lora(loading.load_model(str(folder)), r=2, alpha=4, dropout=0.0).save_pretrained(str(tmp_path / "adapter"))
    said = mistake(loading.load_model, str(tmp_path / "adapter"), quantize="8bit")
    assert "is an adapter, which can't be merged into quantized weights" in said
    monkeypatch.setattr(quantization.util, "find_spec", lambda name: None)
    assert "pip install 'selfdistill[gpu]'" in mistake(loading.load_model, str(folder), quantize="4bit")


@pytest.mark.parametrize("quantize", ["4bit", "8bit"])
def test_an_adapter_stays_beside_quantized_weights(
    folder: Path, tmp_path: Path, on_cpu: None, quantize: Quantize
) -> None:
    model = adapted(folder, quantize)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.5)
    model.save_pretrained(tmp_path / "A")
    config = tmp_path / "A" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": str(folder)}))
    loaded = loading.load_model(str(tmp_path / "A"), dtype="float32", quantize=quantize, beside=True)
    assert quantized_to(loaded) == quantize
    assert not any(weight.requires_grad for weight in loaded.parameters())
    ids = torch.tensor([[1, 5, 9, 2]])
    torch.testing.assert_close(loaded(input_ids=ids).logits, model.eval()(input_ids=ids).logits)
    plain = loading.load_model(str(folder), dtype="float32", quantize=quantize)
    assert float((loaded(input_ids=ids).logits - plain(input_ids=ids).logits).abs().max()) > 1e-3
