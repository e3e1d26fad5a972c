"""Options of ``learn``, ``rollback`` and ``ledger``."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from selfdistill.errors import UserError
from selfdistill.run_folder import DRIFT
from selfdistill.settings.fields import at_least, check_fields, data, number, path
from selfdistill.settings.groups import ModelOptions, SourceOptions
from selfdistill.settings.sources import sources
from selfdistill.settings.train import Recipe, RecipeGroup, method_config
from selfdistill.types import Method

CURRENT_VERSION = "(the ledger's current version)"
"""Default of ``model_name``: learning continues from the ledger's current version."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""Allowed names of skills, which become file names."""


@dataclass(frozen=True, kw_only=True)
class SkillOptions:
    """The new skill, and how it will be scored, now and by every later learn."""

    skill: str | None = None
    """Name of the new skill; by default the name of its data."""
    eval_path: str | None = data()
    """With --dataset_path: held-out rows, on which the skill is scored. Otherwise --eval_share, or else the evaluation
    split of a folder that has one, or else an --eval_share of 0.1."""
    eval_limit: int | None = at_least(1, None)
    """Score only the first N evaluation rows."""
    scorer: str | None = None
    """exact_match, multiple_choice, numeric[:TOLERANCE], regex:PATTERN, path.py:function; default: the task's own."""
    max_new_tokens: int | None = at_least(1, None)
    """Maximum tokens of a completion in evaluations; by default the task's limit, for your own rows training's."""
    eval_batch_size: int = at_least(1, 64)
    """Prompts decoded together in evaluations."""


@dataclass(frozen=True, kw_only=True)
class GateOptions:
    """When the new weights are refused."""

    max_forgetting: float = 0.02
    """Allowed loss in the mean score of an earlier skill; scores lie between 0 and 1, so 0.02 is 2 points."""
    confidence: float = 0.95
    """Confidence (one-sided) with which a loss above max_forgetting must be shown before the weights are refused."""

    def check(self) -> None:
        """Checks ranges. Raises UserError."""
        if not 0 <= self.max_forgetting < 1:
            raise UserError(f"--max_forgetting {self.max_forgetting} is not at least 0 and below 1; 0.02 is 2 points.")
        if not 0.5 < self.confidence < 1:
            raise UserError(f"--confidence {self.confidence} is not above 0.5 and below 1.")


@dataclass(frozen=True, kw_only=True)
class LearnOptions:
    """Train the ledger's model on one more skill; the new weights are promoted unless an earlier skill was lost.

    The exit code is 3 if they are refused. Training continues from the ledger's current version; model_name names the
    base model of a new ledger.
    """

    ledger: str | None = path()
    """Folder of the ledger, which holds the model's versions and skills; created if it does not exist."""
    method: Method = "sdft"
    """Training method, any but reinvoke."""
    seed: int = number(42, 0, 2**32 - 1, "between 0 and 4294967295")
    """Seed of the data order and of sampling."""
    new_skill: SkillOptions = SkillOptions()
    gate: GateOptions = GateOptions()
    source: SourceOptions = SourceOptions()
    recipe: RecipeGroup = Recipe(model=ModelOptions(model_name=CURRENT_VERSION))

    def check(self) -> None:
        """Checks what can be checked before anything is loaded. Raises UserError."""
        if self.ledger is None:
            raise UserError("--ledger is missing: name the ledger's folder.")
        check_fields(self)
        check_fields(self.new_skill)
        self.gate.check()
        self.recipe.check()
        method_config(self).validate()
        if self.method == "reinvoke":
            raise UserError("--method reinvoke teaches no skill. Use train for it, or another method here.")
        self.recipe.model.check_merging()
        self._check_data()

    def _check_data(self) -> None:
        skill = self.new_skill
        if self.source.dataset_path is None and skill.eval_path is not None:
            raise UserError("--eval_path goes with --dataset_path; a task has evaluation rows of its own.")
        self.recipe.data.rows.check(own=self.source.dataset_path is not None, eval_path=skill.eval_path)
        if skill.scorer == "judge":
            raise UserError("--scorer judge: a ledger scores without a judge. Name another scorer.")
        if not NAME.fullmatch(self.skill_name) or self.skill_name == DRIFT:
            raise UserError(
                f"--skill {self.skill_name!r}: use at most 64 letters, digits, dots, dashes and underscores; "
                "drift is reserved."
            )

    @property
    def skill_name(self) -> str:
        """The skill's name: ``skill`` if given, else the name of the file, Hub data set or task."""
        if self.new_skill.skill is not None:
            return self.new_skill.skill
        if self.source.dataset_path is None:
            return self.source.dataset_name
        name = Path(sources(self.source.dataset_path)[0].name.partition(":")[0]).stem
        return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:64] or "skill"

    @property
    def base_model(self) -> str | None:
        """The base model that was named, or None."""
        name = self.recipe.model.model_name
        return None if name == CURRENT_VERSION else name


@dataclass(frozen=True, kw_only=True)
class RollbackOptions:
    """Make another version of a ledger's model the current one. Nothing is deleted."""

    ledger: str | None = path()
    """The ledger's folder."""
    to: int | None = None
    """Number of the version, 0 for the base model; by default the parent of the current version."""

    def check(self) -> None:
        """Checks what can be checked before anything is loaded. Raises UserError."""
        if self.ledger is None:
            raise UserError("--ledger is missing: name the ledger's folder.")


@dataclass(frozen=True, kw_only=True)
class LedgerOptions:
    """Show a ledger: its versions, which version each was trained from, and the skills."""

    folder: Annotated[str, tyro.conf.Positional] = path(".")
    """The ledger's folder."""
