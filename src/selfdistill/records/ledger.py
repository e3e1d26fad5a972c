"""A ledger on disk: ``ledger.json``, and ``gate.json`` in the folder of each version."""

from dataclasses import dataclass, field
from typing import Any

from selfdistill.run_folder import FORMAT


@dataclass(frozen=True, slots=True, kw_only=True)
class Skill:
    """What was taught, and how it is scored ever after."""

    name: str
    source: str
    """Data set's path or task's name, as the user gave it."""
    rows_sha256: str
    """Fingerprint of the training rows, whatever their order."""
    num_rows: int
    items_sha256: str
    """Fingerprint of the evaluation items."""
    num_items: int
    metric: str
    """Name of the scorer."""
    task: str | None
    """Task that the scorer belongs to; None for the user's own data."""
    scorer: str | None
    """As ``--scorer`` takes it, a .py file by its name in the skill's folder; None for the task's own."""
    max_new_tokens: int
    """Longest completion in evaluation, in tokens."""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict[str, Any])
    """Passed to the chat template in every evaluation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateVerdict:
    """What the gate found for one skill."""

    skill: str
    compared_with: int
    """Version whose answers it was compared with."""
    num_items: int
    then: float
    """Mean score of that version over the items."""
    now: float
    """The candidate's."""
    change: float
    bound: float
    """Upper confidence bound of the change."""
    smallest_loss: float | None
    """Smallest loss that this many items could have shown; None where not even a total one."""
    refused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """``gate.json``: weights, the skill they were trained on, and what the gate said of them."""

    number: int
    parent: int
    """Version that training started from; 0 is the base model."""
    created: str
    """Date and time, ISO 8601."""
    refused: bool
    skill: Skill
    method: dict[str, Any]
    """Settings of the training in short."""
    max_forgetting: float
    confidence: float
    verdicts: tuple[GateVerdict, ...]
    """One for each skill; that of the new one, compared with before training, is the last."""
    status: str = ""
    """In ``ledger.json``, for readers: current, previous, refused or rolled back."""
    format: int = FORMAT


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRecord:
    """``ledger.json``."""

    base: str
    """The base model's name, or its absolute path."""
    current: int
    """Number of the current version; 0 is the base model."""
    held: list[str]
    """Skills that the current version holds, oldest first."""
    versions: tuple[Version, ...]
    """All that were ever made, refused ones too, by number."""
    format: int = FORMAT
