"""A model object belongs to its user: after training, or after its death, all but its weights is as it was."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from selfdistill.models.adapters import lora
from tests.support.training import make_trainer, student

KINDS: dict[str, dict[str, Any]] = {
    "sdft": {},
    "sft": {"method": "sft", "max_completion_length": 16},
    "frozen": {"teacher": "frozen"},
    "host": {"teacher_home": "host"},
    "recomputed": {"activation_checkpointing": True},
}
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
"""Settings of a model's configs that transformers' Trainer takes from the tokenizer, for every user of it."""


def state(model: nn.Module) -> dict[str, Any]:
    """All that a model and its modules hold, but for the values of weights: by module's name and attribute."""
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        found[f"{name} type"] = type(module)
        for attribute, value in vars(module).items():
            if attribute == "_modules":
                held: Any = [(own, id(child)) for own, child in value.items()]
            elif attribute in ("_parameters", "_buffers"):
                held = [(own, *tensor_state(tensor)) for own, tensor in value.items() if tensor is not None]
            elif hasattr(value, "to_diff_dict"):
                held = {own: each for own, each in value.to_dict().items() if own not in TOKEN_IDS}
            else:
                held = len(value) if "hooks" in attribute else repr(value)
            found[f"{name} {attribute}"] = held
    return found


def tensor_state(tensor: torch.Tensor) -> Sequence[Any]:
    return id(tensor), tensor.dtype, tensor.shape, tensor.requires_grad, tensor.grad is None


@pytest.mark.parametrize("dies", [False, True], ids=["ends", "dies"])
@pytest.mark.parametrize(("kind", "dtype"), [("sdft", torch.float32), *((kind, torch.bfloat16) for kind in KINDS)])
@pytest.mark.parametrize("adapted", [False, True], ids=["full", "lora"])
def test_all_but_the_weights_is_as_it_was(
    tmp_path: Path, kind: str, dtype: torch.dtype, adapted: bool, dies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = student(dtype, attention_dropout=0.1).eval()
    if adapted:
        model = lora(model, r=2, alpha=2, dropout=0.0)
    before = state(model)
    weights = [weight.detach().clone() for weight in model.parameters()]
    trainer = make_trainer(tmp_path, model=model, **{"learning_rate": 1e-2, **KINDS[kind]})
    if dies:
        monkeypatch.setattr(trainer.step, "follow", lambda number: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            trainer.train()
    else:
        trainer.train()
        assert any(not torch.equal(now, was) for now, was in zip(model.parameters(), weights, strict=True))
    after = state(model)
    after.pop(" _is_accelerate_prepared", None)  # transformers' Trainer notes that on every model
    assert after == before
