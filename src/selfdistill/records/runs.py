"""A training run on disk: ``run_config.json``, ``rollouts.jsonl``, and ``run_state.json`` in its checkpoints.

A line of ``metrics.jsonl`` is an object with ``step``, ``format`` and numbers by name: those of transformers' Trainer
(``loss``, ``learning_rate``, ``grad_norm``, ``epoch``) and ours (see docs/files.md).
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfdistill import run_folder
from selfdistill.run_folder import FORMAT
from selfdistill.types import FinishReason, Target


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """``run_config.json``: what was run."""

    model_name: str
    """Model that training started from."""
    num_training_rows: int
    """Rows that are trained on; those over a length limit are left out."""
    versions: dict[str, str]
    settings: dict[str, Any]
    """Every field of SDFTConfig as it was resolved."""
    deviations_from_paper: dict[str, tuple[Any, Any]]
    """This run's value and the paper's, by setting."""
    task: str = ""
    """Task that was learned; empty where the rows came from Python."""
    dataset: str = ""
    """The task's name, or the path of the rows."""
    rollout_engine: str = ""
    """What samples completions."""
    format: int = FORMAT

    @property
    def chat_template_kwargs(self) -> dict[str, Any]:
        """What the chat template was given."""
        return self.settings.get("chat_template_kwargs") or {}


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRecord:
    """A line of ``rollouts.jsonl``: one training completion."""

    step: int
    id: str
    """The row's id."""
    target: Target
    student_prompt: str
    teacher_prompt: str | None
    """None where no teacher reads one."""
    completion: str
    completion_ids: list[int]
    tokens: list[str]
    """Text that each token adds."""
    finish_reason: FinishReason
    loss_positions: list[int]
    """Completion positions that carry loss."""
    per_token_kl: list[float | None] = field(default_factory=list[float | None])
    """Divergence from the target at each loss position, in nats; empty for the target ``tokens``. What is not finite
    is written as null."""
    per_token_cross_entropy: list[float | None] = field(default_factory=list[float | None])
    """Cross-entropy at each loss position, in nats; for the target ``tokens`` only."""
    format: int = FORMAT


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """``run_state.json`` of a checkpoint: what a run had used up when it was written."""

    tokens_seen: int
    """Tokens that had passed through the student in training."""
    seconds: float
    """Of training so far."""
    format: int = FORMAT


def run_in(model: str) -> RunConfig | None:
    """What made the model, where its name is the folder of a run of ours. Raises UserError for a broken record."""
    path = Path(model).expanduser() / run_folder.RUN_CONFIG
    return run_folder.read_record(path, RunConfig) if path.is_file() else None
