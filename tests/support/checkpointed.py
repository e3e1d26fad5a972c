"""Runs that leave checkpoints, and go on from them."""

from pathlib import Path
from typing import Any

from selfdistill import SDFTTrainer
from tests.support.training import make_trainer

CHECKPOINTS: dict[str, Any] = {
    "max_steps": 4,
    "num_train_epochs": 4,
    "save_strategy": "steps",
    "save_steps": 2,
    "optim": "adamw_torch",
    "teacher_update_rate": 0.5,
}
"""A run of four steps with checkpoints after the second and the last."""


def resumed(trainer: SDFTTrainer, **options: Any) -> list[str]:
    """Resumes, and returns the warnings."""
    said: list[str] = []
    trainer.checkpoints.on_warning = said.append
    trainer.train(resume_from_checkpoint=True, **options)
    return said


_finished: list[Path] = []


def finished(folder: Path) -> Path:
    """A run of four steps, made once."""
    if not _finished or not _finished[0].exists():
        made = folder.parent / "finished"
        make_trainer(made, **CHECKPOINTS).train()
        _finished[:] = [made]
    return _finished[0]
