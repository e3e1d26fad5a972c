"""What the commands of the ledger take. Torch-free, so that ``--help`` answers at once."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from selfdistill.settings.commands import TrainOptions, at_least_1
from selfdistill.types import UserError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What a skill may be called: it names files."""


@dataclass(kw_only=True)
class LearnWhat:
    """The ledger, the skill and the gate: the part of LearnOptions that is not training."""

    ledger: str | None = None
    """Folder that is the model's memory; where there is none a new one is begun."""
    skill: str | None = None
    """Name of the new skill; by default that of its data."""
    eval_path: str | None = None
    """Held-out rows of your own data, which the skill is scored on ever after."""
    eval_share: float | None = None
    """Share of your own rows to hold out where there is no eval_path; by default 0.1."""
    eval_limit: int | None = None
    """Score the first so many evaluation rows only."""
    max_forgetting: float = 0.02
    """Loss of an earlier skill's mean score, 0 to 1, that is allowed."""
    confidence: float = 0.95
    """Refuse where so sure, one-sided, that more than max_forgetting was lost."""
    scorer: str | None = None
    """Headline: exact_match, multiple_choice, numeric[:TOLERANCE], regex:PATTERN or path.py:function."""
    max_new_tokens: int | None = None
    """Longest completion in evaluation; by default what the task needs, of your own data what training allows."""
    eval_batch_size: int = 64
    """Prompts decoded together in evaluation."""


@dataclass(kw_only=True)
class LearnOptions(TrainOptions, LearnWhat):
    """Teach the ledger's model one more skill; promote it only if no earlier skill was lost. Exit code 3: refused."""

    model_name: str | None = None  # type: ignore[assignment]
    """Base model of a new ledger, by default smollm2-135m; later it goes on from the current version."""
    output_dir: tyro.conf.Suppress[tyro.conf.Fixed[str | None]] = None
    save_steps: tyro.conf.Suppress[tyro.conf.Fixed[int | None]] = None
    base_model: tyro.conf.Suppress[tyro.conf.Fixed[str | None]] = None
    dry_run: tyro.conf.Suppress[tyro.conf.Fixed[bool]] = False
    resume: tyro.conf.Suppress[tyro.conf.Fixed[bool]] = False
    overwrite: tyro.conf.Suppress[tyro.conf.Fixed[bool]] = False

    def check(self) -> None:
        """Raises UserError for what can be seen before anything is loaded."""
        if self.ledger is None:
            raise UserError("--ledger is missing: name the folder that is the model's memory.")
        for name in ("output_dir", "save_steps", "base_model", "dry_run", "resume", "overwrite"):
            if getattr(self, name):  # no flag of learn, but a YAML file may set it
                raise UserError(f"{name} is no setting of learn, whose folders the ledger names. Leave it out.")
        at_least_1(self, "eval_limit", "max_new_tokens", "eval_batch_size")
        if not 0 <= self.max_forgetting < 1:
            raise UserError(f"--max_forgetting {self.max_forgetting} is not at least 0 and below 1; 0.02 is 2 points.")
        if not 0.5 < self.confidence < 1:
            raise UserError(f"--confidence {self.confidence} is not above 0.5 and below 1.")
        if self.method == "reinvoke":
            raise UserError("--method reinvoke teaches no skill. Use train for it, or another method here.")
        self._check_data()
        super(LearnOptions, replace(self, dry_run=True)).check()  # training has no output_dir of its own here

    def _check_data(self) -> None:
        if self.eval_share is not None and not 0 < self.eval_share < 1:
            raise UserError(f"--eval_share {self.eval_share} is not above 0 and below 1.")
        if self.eval_share is not None and self.eval_path is not None:
            raise UserError("--eval_share and --eval_path exclude each other: give one of them.")
        for name in ("eval_share", "eval_path"):
            if self.dataset_path is None and getattr(self, name) is not None:
                raise UserError(f"--{name} goes with --dataset_path; a task has evaluation rows of its own.")
        if self.scorer == "judge":
            raise UserError("--scorer judge: a ledger scores without a judge. Name another scorer.")
        if not NAME.fullmatch(self.skill_name) or self.skill_name == "drift":
            raise UserError(
                f"--skill {self.skill_name!r}: use at most 64 letters, digits, dots, dashes and underscores; "
                "drift is taken."
            )

    @property
    def skill_name(self) -> str:
        """The skill's name: ``skill``, or the name of the file, Hub data set or task."""
        if self.skill is not None:
            return self.skill
        if self.dataset_path is None:
            return self.dataset_name
        name = Path(self.dataset_path.partition(":")[0]).stem
        return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:64] or "skill"


@dataclass(kw_only=True)
class RollbackOptions:
    """Make an earlier version of a ledger's model the current one. Nothing is deleted."""

    ledger: str | None = None
    """The ledger's folder."""
    to: int | None = None
    """Number of the version, 0 for the base model; by default the one before the current."""

    def check(self) -> None:
        """Raises UserError for what can be seen before anything is loaded."""
        if self.ledger is None:
            raise UserError("--ledger is missing: name the folder that is the model's memory.")


@dataclass(kw_only=True)
class LedgerOptions:
    """Show a ledger: its versions, where they come from, and the skills held."""

    folder: Annotated[str, tyro.conf.Positional]
    """The ledger's folder."""
