"""Files of a ledger: ``ledger.json``, and ``gate.json`` in the folder of each version."""

from dataclasses import dataclass, field
from typing import Any

from selfdistill.run_folder import FORMAT


@dataclass(frozen=True, slots=True, kw_only=True)
class Skill:
    """A skill: its training data, and how it is scored."""

    name: str
    source: str
    """Path of the data or name of the task, as given."""
    rows_sha256: str
    """SHA-256 of the training rows, independent of their order."""
    num_rows: int
    items_sha256: str
    """SHA-256 of the evaluation items."""
    num_items: int
    metric: str
    """Name of the scorer."""
    task: str | None
    """Task that the scorer belongs to; None for the user's own data."""
    scorer: str | None
    """Value of ``--scorer``, with a .py file named as in the skill's folder; None for the task's own scorer."""
    max_new_tokens: int
    """Maximum length of a completion in evaluations, in tokens."""
    scorer_sha256: str | None = None
    """SHA-256 of the scorer's .py file; None without one."""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict[str, Any])
    """Passed to the chat template in every evaluation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateVerdict:
    """The gate's verdict on one skill."""

    skill: str
    compared_with: int
    """Number of the version that the candidate was compared with."""
    num_items: int
    then: float
    """Mean score of that version over the items, in [0, 1]."""
    now: float
    """Mean score of the candidate."""
    change: float
    """``now`` minus ``then``."""
    bound: float
    """Upper confidence bound of the change."""
    smallest_loss: float | None
    """Smallest loss that this number of items can detect; None if not even a complete loss could be detected."""
    refused: bool
    """True if the candidate is refused because of this skill."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """``gate.json``: a version, the skill that it was trained on, and the gate's verdicts."""

    number: int
    parent: int
    """Number of the version that training started from; 0 is the base model."""
    created: str
    """Date and time, ISO 8601."""
    refused: bool
    """True if any verdict refuses it."""
    skill: Skill
    method: dict[str, Any]
    """The main settings of the training."""
    max_forgetting: float
    """Allowed loss in mean score."""
    confidence: float
    """One-sided confidence with which a larger loss must be shown."""
    verdicts: tuple[GateVerdict, ...]
    """One for each earlier skill, then one for the new skill, compared with the model before training."""
    manifest: str = ""
    """SHA-256 of the manifest of the version's folder, in hex; empty in ``gate.json``, which the manifest lists."""
    status: str = ""
    """For readers of ``ledger.json``: current, previous, refused or rolled back."""
    format: int = FORMAT


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRecord:
    """``ledger.json``."""

    base: str
    """Name or absolute path of the base model."""
    current: int
    """Number of the current version; 0 is the base model."""
    held: list[str]
    """Names of the current version's skills, oldest first."""
    versions: tuple[Version, ...]
    """All versions ever made, including refused ones, by number."""
    format: int = FORMAT
