"""Files of a training run: ``run_config.json``, ``rollouts.jsonl``, ``answers.jsonl``, and ``run_state.json`` in its
checkpoints.

A line of ``metrics.jsonl`` has no class of its own: it is an object with ``step``, ``format`` and metrics by name,
which docs/files.md lists.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfdistill import run_folder
from selfdistill.run_folder import FORMAT
from selfdistill.types import FinishReason, Message, Target, Writer


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """``run_config.json``: the settings and the data of a run."""

    model_name: str
    """Model that training started from."""
    num_training_rows: int
    """Number of rows that are trained on, without those dropped for their length."""
    versions: dict[str, str]
    """Versions of Python and of libraries."""
    settings: dict[str, Any]
    """Every field of SDFTConfig with its resolved value."""
    deviations_from_paper: dict[str, tuple[Any, Any]]
    """(This run's value, the paper's value) by setting."""
    task: str = ""
    """Name of the task; empty if the rows were passed from Python."""
    dataset: str = ""
    """Name of the task, or path of the rows; empty if they were passed from Python."""
    quantize: str | None = None
    """``4bit`` or ``8bit`` if the weights beside the adapter were quantized."""
    chat_template: str = ""
    """File whose chat template replaced the tokenizer's; empty if none did. ``fingerprints`` has its hash."""
    rollout_engine: str = ""
    """Name of the engine that samples completions."""
    fingerprints: dict[str, str] = field(default_factory=dict[str, str])
    """Hashes of what a run depends on besides its settings, by what they are of: training rows, tokenizer, ..."""
    format: int = FORMAT

    @property
    def chat_template_kwargs(self) -> dict[str, Any]:
        """Variables that were passed to the chat template for the student's prompts."""
        shared, own = (self.settings.get(f"{of}chat_template_kwargs") for of in ("", "student_"))
        return {**(shared or {}), **(own or {})}


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRecord:
    """A line of ``rollouts.jsonl``: one training completion."""

    step: int
    """Optimizer step, from 1."""
    id: str
    """Id of the training row."""
    target: Target
    """What the completion was held to."""
    student_prompt: str
    teacher_prompt: str | None
    """Prompt of the model that the completion was held to; None for the target ``tokens``."""
    completion: str
    completion_ids: list[int]
    tokens: list[str]
    """Text that each of ``completion_ids`` adds; joined, they are ``completion``."""
    finish_reason: FinishReason
    """``rejected``: the last token is the first that the teacher would have rejected."""
    writer: Writer = "student"
    """Who wrote the completion."""
    replaced: list[int] | None = None
    """Positions in ``completion_ids``, from 0, whose token the teacher wrote; None if it replaces none."""
    loss_positions: list[int]
    """Positions in ``completion_ids`` that carry loss, from 0."""
    per_token_kl: list[float | None] = field(default_factory=list[float | None])
    """Divergence from the target at each loss position, in nats; empty for the target ``tokens``. None if not
    finite."""
    per_token_cross_entropy: list[float | None] = field(default_factory=list[float | None])
    """Cross-entropy at each loss position, in nats; empty for other targets than ``tokens``."""
    format: int = FORMAT


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRecord:
    """A line of ``answers.jsonl``: the student's greedy answer to a held-out row, before the run or in an evaluation
    during it."""

    step: int
    """Optimizer steps that were made by then; 0 before the run."""
    id: str
    """Id of the row."""
    prompt: list[Message]
    reference: Any
    """Reference answer, in the form that the task's scorers expect; None if there is none."""
    completion: str
    num_tokens: int
    """Tokens of the completion, the end-of-sequence token included."""
    finish_reason: FinishReason
    score: float | None
    """Score in [0, 1] by the task's main scorer, or ``--scorer``; None if it could not be scored."""
    format: int = FORMAT


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """``run_state.json`` of a checkpoint: where the run was, and what it had used and added up by then."""

    tokens_seen: int
    """Tokens that passed through the student in training."""
    skipped_steps: int = 0
    """Steps that changed nothing, since their gradients were not finite."""
    seconds: float
    """Duration of training in seconds, without evaluations between steps."""
    phase_seconds: dict[str, float] = field(default_factory=dict[str, float])
    """Seconds by phase since the last line of metrics.jsonl."""
    sums: dict[str, float | None] = field(default_factory=dict[str, float | None])
    """Sum of every metric since the last line of metrics.jsonl; None if it is not finite."""
    counts: dict[str, float] = field(default_factory=dict[str, float])
    """What each of ``sums`` is divided by."""
    lines: dict[str, int] = field(default_factory=dict[str, int])
    """Number of lines of each .jsonl file."""
    watched: list[dict[str, float]] = field(default_factory=list[dict[str, float]])
    """Measures of the completions of the first steps and the last, by which collapse is seen."""
    has_warned: bool = False
    """Whether a collapse was seen."""
    loss: float | None = 0.0
    """Sum of the losses of the steps since the last line of metrics.jsonl, in nats; None if it is not finite."""
    total_loss: float | None = 0.0
    """Sum of the losses of all steps before; None if it is not finite."""
    last_logged: int = 0
    """Step of the last line of metrics.jsonl."""
    epoch: int = 0
    """Passes over the rows that were finished."""
    micro_batch: int = 0
    """Micro-batches of the current pass that were used."""
    sampler_seed: int | None = None
    """Seed of the order of the rows; None if they are not shuffled by a seed."""
    next_rows: str = ""
    """Hash of the places of the rows that the rest of the current pass takes, in order."""
    format: int = FORMAT


def run_in(model: str) -> RunConfig | None:
    """Configuration of the run that made the model, if ``model`` is a run's folder; None otherwise. Raises UserError if
    its record is broken."""
    path = Path(model).expanduser() / run_folder.RUN_CONFIG
    return run_folder.read_record(path, RunConfig) if path.is_file() else None
