"""A transformers that does not call what training depends on stops the run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer

from selfdistill.method import trainer as trainer_module
from selfdistill.method.hooks import Hooks
from selfdistill.method.trainer import SDFTTrainer
from tests.support.training import make_trainer

CLIPPING = {"max_grad_norm": 1.0}
SAVING = {"save_strategy": "steps", "save_steps": 1}


@pytest.mark.parametrize("name", [*Hooks.IN_A_STEP, *Hooks.OTHERS])
def test_a_trainer_that_lacks_a_hook_is_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delattr(Trainer, name)
    with pytest.raises(RuntimeError, match=rf"does not call Trainer\.{name}, on which training here depends"):
        make_trainer(tmp_path)


def uncalled(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """From now on our trainer's hook does as it does, but nobody is told that it was called."""
    called = Hooks.called
    monkeypatch.setattr(Hooks, "called", lambda self, hook: None if hook == name else called(self, hook))


@pytest.mark.parametrize("name", [*Hooks.IN_A_STEP, "_clip_grad_norm", "_save_checkpoint"])
def test_a_hook_that_is_never_called_stops_the_run_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    uncalled(monkeypatch, name)
    trainer = make_trainer(tmp_path, max_steps=2, **CLIPPING, **SAVING)
    with pytest.raises(RuntimeError, match=rf"Trainer\.{name}"):
        trainer.train()
    assert trainer.state.global_step == 1


def test_each_overridden_hook_tells_that_it_was_called(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, **CLIPPING, **SAVING)
    trainer.train()
    counts = trainer._hooks._counts
    assert {*Hooks.IN_A_STEP, "_clip_grad_norm", "_save_checkpoint"} <= {n for n in counts if counts[n]}
    assert all(name in vars(SDFTTrainer) for name in (*Hooks.IN_A_STEP, *Hooks.OTHERS))


@pytest.mark.parametrize("name", ["_clip_grad_norm", "_save_checkpoint"])
def test_a_hook_that_transformers_no_longer_calls_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As if a release had another method of another name in its place."""
    ours = getattr(SDFTTrainer, name)

    def ignored(self: Any, *arguments: Any) -> Any:
        if name == "_clip_grad_norm":
            return torch.zeros(())
        return Trainer._save_checkpoint(self, *arguments)

    monkeypatch.setattr(trainer_module.SDFTTrainer, name, ignored)
    assert ours is not ignored
    trainer = make_trainer(tmp_path, **CLIPPING, **SAVING)
    with pytest.raises(RuntimeError, match=name):
        trainer.train()


def test_clipping_and_saving_are_not_missed_where_they_are_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uncalled(monkeypatch, "_clip_grad_norm")
    trainer = make_trainer(tmp_path, max_grad_norm=0.0)
    trainer.train()
    assert trainer.state.global_step == 1


def test_a_second_run_counts_anew_but_keeps_its_optimizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(tmp_path)
    trainer.train()
    trainer.train()
    uncalled(monkeypatch, "training_step")
    with pytest.raises(RuntimeError, match="training_step"):
        trainer.train()


@pytest.mark.parametrize("name", Hooks.LOADING)
def test_a_run_does_not_go_on_from_a_checkpoint_that_was_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    settings = {**SAVING, "num_train_epochs": 2, "max_steps": 2}
    make_trainer(tmp_path, **settings).train()
    uncalled(monkeypatch, name)
    trainer = make_trainer(tmp_path, **settings)
    with pytest.raises(RuntimeError, match=rf"Trainer\.{name}"):
        trainer.train(str(tmp_path / "checkpoint-1"))
