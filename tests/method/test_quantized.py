"""Training an adapter beside quantized weights: teachers, resuming, checkpointing, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch

from selfdistill.models.adapters import lora
from selfdistill.models.loading import load_model
from selfdistill.models.output_head import decoder
from selfdistill.types import Quantize
from tests.support.mistakes import mistake
from tests.support.training import make_trainer, student

IDS = torch.tensor([[5, 6, 7, 8]])


@pytest.fixture
def folder(tmp_path: Path) -> str:
    student().save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def adapted(folder: str, quantize: Quantize, dtype: str = "float32") -> Any:
    torch.manual_seed(0)
    return lora(load_model(folder, dtype=dtype, device="cpu", quantize=quantize), r=2, alpha=4, dropout=0.0)


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("quantize", ["4bit", "8bit"])
@pytest.mark.parametrize("teacher", ["frozen", "ema", "live"])
def test_an_adapter_learns_and_its_base_stays(
    tmp_path: Path, folder: str, quantize: Quantize, teacher: str, dtype: str
) -> None:
    model = adapted(folder, quantize, dtype)
    before, kept = weights(model), {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    trainer = make_trainer(tmp_path, model=model, teacher=teacher, max_steps=2, learning_rate=1.0)
    trainer.train()
    assert all(torch.equal(p, kept[name]) for name, p in model.named_parameters() if name in kept)
    after = weights(model)
    assert all(not torch.equal(before[name], after[name]) for name in before if "lora_B" in name)


@torch.no_grad()
def test_a_frozen_teacher_is_the_model_without_the_adapter(tmp_path: Path, folder: str) -> None:
    model = adapted(folder, "4bit")
    trainer = make_trainer(tmp_path, model=model, teacher="frozen", max_steps=2, learning_rate=1.0)
    with torch.enable_grad():
        trainer.train()
    with trainer.step.teachers["teacher"].active():
        taught = decoder(model)(input_ids=IDS).last_hidden_state
    learned = decoder(model)(input_ids=IDS).last_hidden_state
    with model.disable_adapter():
        torch.testing.assert_close(decoder(model)(input_ids=IDS).last_hidden_state, taught)
    assert (learned - taught).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("quantize", ["4bit", "8bit"])
def test_a_resumed_run_ends_as_an_unbroken_one(tmp_path: Path, folder: str, quantize: Quantize, dtype: str) -> None:
    def ends(place: Path, **settings: Any) -> dict[str, torch.Tensor]:
        trainer = make_trainer(
            place,
            model=adapted(folder, quantize, dtype),
            save_strategy="steps",
            save_steps=1,
            optim="adamw_torch",
            **settings,
        )
        resumed = (place / "checkpoint-2").is_dir()
        trainer.train(resume_from_checkpoint=resumed, allow_changes=resumed)  # of max_steps
        return weights(trainer.model)

    whole = ends(tmp_path / "whole", max_steps=3)
    ends(tmp_path / "broken", max_steps=2)
    resumed = ends(tmp_path / "broken", max_steps=3)
    for name, weight in whole.items():
        assert torch.equal(weight, resumed[name]), name


def test_recomputing_activations_changes_no_gradient(tmp_path: Path, folder: str) -> None:
    ends = []
    for recompute in (False, True):
        trainer = make_trainer(
            tmp_path / str(recompute), model=adapted(folder, "4bit"), activation_checkpointing=recompute, max_steps=2
        )
        trainer.train()
        ends.append(weights(trainer.model))
    for name, weight in ends[0].items():
        torch.testing.assert_close(weight, ends[1][name])


def test_quantized_weights_alone_are_not_trained(tmp_path: Path, folder: str) -> None:
    model = load_model(folder, device="cpu", quantize="4bit")
    assert "are quantized to 4bit, which can't be trained" in mistake(make_trainer, tmp_path, model=model)
