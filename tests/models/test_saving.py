"""The generation config that goes into a folder: it ends turns, it can be written, and the model keeps its own."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from selfdistill.models.adapters import lora
from selfdistill.models.saving import ready_to_save, save_model, saved_generation_config
from tests.support.tiny import CHAT_TEMPLATE, byte_tokenizer
from tests.support.tiny_chat import tiny_model
from tests.support.training import make_trainer, student


def written(folder: Path) -> GenerationConfig:
    return GenerationConfig.from_pretrained(folder)


def test_the_ends_of_a_turn_are_in_it() -> None:
    own = GenerationConfig(eos_token_id=7, pad_token_id=3, do_sample=True, temperature=0.6)
    found = saved_generation_config(own, {9, 5})
    assert found.eos_token_id == [5, 9]
    assert (found.pad_token_id, found.do_sample, found.temperature) == (3, True, 0.6)
    assert own.eos_token_id == 7


@pytest.mark.parametrize(("ids", "expected"), [({9}, 9), (set(), None)])
def test_one_end_is_a_number_and_none_is_none(ids: set[int], expected: Any) -> None:
    assert saved_generation_config(None, ids).eos_token_id == expected


REFUSED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"temperature": 0.6}, {"do_sample": True, "temperature": 0.6}),
    ({"top_p": 0.8, "top_k": 5}, {"do_sample": True, "top_p": 0.8, "top_k": 5}),
    ({"temperature": 0.0}, {"do_sample": None, "temperature": None}),  # which stands for greedy decoding
    ({"temperature": 0.6, "num_beams": 1, "length_penalty": 0.3}, {"temperature": None, "length_penalty": None}),
]
"""What transformers does not write, and what becomes of it."""


@pytest.mark.parametrize(("own", "becomes"), REFUSED)
def test_what_transformers_refuses_to_write_is_mended(
    tmp_path: Path, own: dict[str, Any], becomes: dict[str, Any]
) -> None:
    """Sampling settings without sampling: that they were to sample is the likelier meaning."""
    refused = GenerationConfig(**own, pad_token_id=3)
    with pytest.raises(ValueError, match="GenerationConfig is invalid"):
        refused.save_pretrained(tmp_path)
    mended = saved_generation_config(refused, {2})
    mended.save_pretrained(tmp_path)
    assert {name: getattr(mended, name) for name in becomes} == becomes
    assert (mended.eos_token_id, mended.pad_token_id) == (2, 3)


def test_the_model_keeps_its_own_also_after_an_error() -> None:
    model = student()
    own = model.generation_config
    with contextlib.suppress(KeyError), ready_to_save(model, {5}):
        assert model.generation_config.eos_token_id == 5
        raise KeyError
    assert model.generation_config is own


def test_the_base_of_an_adapted_model_is_what_is_saved(tmp_path: Path) -> None:
    model = tiny_model()
    adapted: Any = lora(model, r=1, alpha=1, dropout=0.0)
    with ready_to_save(adapted, {2, 4}):
        model.save_pretrained(tmp_path)
    assert written(tmp_path).eos_token_id == [2, 4]


# -- a run's model ---------------------------------------------------------------------------------------


def test_a_trained_model_knows_its_end_of_turn(tmp_path: Path) -> None:
    """The chat template ends turns with another token (id 258) than the tokenizer's EOS (256): both end completions."""
    tokenizer = byte_tokenizer(CHAT_TEMPLATE.replace("<|end|>", "<think>"))
    model = student(eos_token_id=256)
    trainer = make_trainer(tmp_path, model=model, tokenizer=tokenizer, save_strategy="steps", save_steps=1)
    trainer.train()
    trainer.save_model()
    for folder in (tmp_path, tmp_path / "checkpoint-1"):
        assert written(folder).eos_token_id == [256, 258]


def test_a_model_whose_generation_config_is_refused_is_saved_with_its_weights(tmp_path: Path) -> None:
    model = student(torch.bfloat16)
    model.generation_config = GenerationConfig(temperature=0.6, top_p=0.9)
    trainer = make_trainer(tmp_path, model=model, save_strategy="steps", save_steps=1)
    trainer.train()
    trainer.save_model()
    for folder in (tmp_path, tmp_path / "checkpoint-1"):
        assert (folder / "model.safetensors").is_file()
        found = written(folder)
        assert (found.do_sample, found.temperature, found.top_p) == (True, 0.6, 0.9)


def test_an_adapters_names_are_in_one_order(tmp_path: Path) -> None:
    adapted: Any = lora(tiny_model(), r=2, alpha=2, dropout=0.0)
    names = adapted.peft_config["default"].target_modules
    assert isinstance(names, set)
    save_model(adapted, byte_tokenizer(), {2}, tmp_path)
    written = json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"]
    assert len(written) > 5
    assert written == sorted(names)
    assert adapted.peft_config["default"].target_modules is names
