"""LoRA adapters: put on, read, merged, and refused where they don't fit."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from selfdistill.models import loading, places
from selfdistill.models.adapters import lora
from selfdistill.models.cache import EMBEDDED_FOLDER
from tests.support.mistakes import mistake
from tests.support.tiny_chat import tiny_model, tiny_tokenizer


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model.eval()(input_ids=torch.tensor([[5, 6, 7]])).logits


@pytest.fixture
def adapter(folder: Path, tmp_path: Path, on_cpu: None) -> tuple[Path, torch.Tensor]:
    """Folder of a LoRA adapter of ``folder``, with the adapted model's logits on the ids 5, 6, 7."""
    model = lora(loading.load_model(str(folder), dtype="float32"), r=2, alpha=4, dropout=0.0)
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    model.save_pretrained(str(tmp_path / "adapter"))
    return tmp_path / "adapter", logits(model)


def set_base(adapter: Path, base: str) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": base}))


def test_adapter_is_merged_into_its_base(adapter: tuple[Path, torch.Tensor], folder: Path, tmp_path: Path):
    path, expected = adapter
    merged = loading.load_model(str(path), dtype="float32")
    assert isinstance(merged, LlamaForCausalLM)
    assert not any("lora" in name for name, _ in merged.named_parameters())
    torch.testing.assert_close(logits(merged), expected)
    base = loading.load_model(str(folder), dtype="float32")
    assert (logits(base) - expected).abs().max() > 0.01  # the adapter does something
    assert loading.load_config(str(path)).to_dict() == loading.load_config(str(folder)).to_dict()
    assert loading.load_tokenizer(str(path)).get_vocab() == tiny_tokenizer().get_vocab()
    merged.save_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(loading.load_model(str(tmp_path / "merged"), dtype="float32")), expected)


def test_all_weights_of_a_merged_model_are_trainable(adapter: tuple[Path, torch.Tensor]):
    merged = loading.load_model(str(adapter[0]), dtype="float32")
    assert [name for name, weight in merged.named_parameters() if not weight.requires_grad] == []


def test_adapter_finds_its_base_beside_it_and_after_a_move(
    adapter: tuple[Path, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path, expected = adapter
    set_base(path, "../base")
    shutil.move(tmp_path, moved := tmp_path.parent / f"{tmp_path.name}-moved")
    torch.testing.assert_close(logits(loading.load_model(str(moved / "adapter"), dtype="float32")), expected)
    set_base(moved / "adapter", f"/elsewhere/{EMBEDDED_FOLDER}")
    monkeypatch.setattr(places, "embedded_model_path", lambda: moved / "base")
    torch.testing.assert_close(logits(loading.load_model(str(moved / "adapter"), dtype="float32")), expected)


def rename_weights(adapter: Path, old: str, new: str) -> None:
    file = adapter / "adapter_model.safetensors"
    save_file({name.replace(old, new): value for name, value in load_file(file).items()}, file)


def test_an_adapter_that_fits_nothing_in_its_base_is_refused(adapter: tuple[Path, torch.Tensor]):
    path, _ = adapter
    rename_weights(path, ".layers.", ".blocks.")
    message = mistake(loading.load_model, str(path))
    assert message.startswith(f"The adapter in {path} does not fit: its weight base_model.model.model.blocks.0.")
    assert "(14 such)" in message  # A and B of seven linear layers


def test_an_adapter_with_a_weight_too_few_is_refused(adapter: tuple[Path, torch.Tensor]):
    path, _ = adapter
    file = path / "adapter_model.safetensors"
    save_file({name: value for name, value in load_file(file).items() if "q_proj.lora_B" not in name}, file)
    message = mistake(loading.load_model, str(path))
    assert "self_attn.q_proj.lora_B" in message
    assert "is not in its file (1 such)" in message


def test_an_adapter_of_another_shape_is_refused(adapter: tuple[Path, torch.Tensor]):
    path, _ = adapter
    file = path / "adapter_model.safetensors"
    save_file({name: torch.cat([value, value]) for name, value in load_file(file).items()}, file)
    message = mistake(loading.load_model, str(path))
    assert message.startswith(f"The adapter in {path} does not fit its base: size mismatch for base_model.model.model.")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lora_weights_have_the_dtype_of_the_base(dtype: torch.dtype):
    base: Any = tiny_model()
    adapted: Any = lora(base.to(dtype), r=2, alpha=4, dropout=0.0)
    assert isinstance(adapted, PeftModel)
    trained = {name: weight for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert {weight.dtype for weight in trained.values()} == {dtype}
    assert len(trained) == 2 * 7  # A and B of q, k, v, o, gate, up, down; none at the head
    assert adapted.lm_head.weight.dtype == dtype


@pytest.mark.parametrize(
    ("setting", "part"),
    [
        ({"r": 0}, "0"),
        ({"alpha": 0}, "alpha"),
        ({"dropout": 2.0}, "2.0"),
        ({"target_modules": ["zork"]}, "zork"),
        ({"target_modules": ["lm_head"]}, "head"),
    ],
)
def test_bad_lora_setting(setting: dict[str, Any], part: str):
    assert part in mistake(lora, tiny_model(), **{"r": 2, "alpha": 4, "dropout": 0.0, **setting})
