"""What the commands of the ledger take."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from selfdistill.errors import UserError
from selfdistill.settings.fields import at_least, check_fields, number, path
from selfdistill.settings.groups import ModelOptions, SourceOptions
from selfdistill.settings.train import Recipe, RecipeGroup, method_config
from selfdistill.types import Method

CURRENT_VERSION = "(the ledger's current version)"
"""Stands for the model where the command line names none: learning goes on from the ledger's own."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What a skill may be called: it names files."""


@dataclass(frozen=True, kw_only=True)
class SkillOptions:
    """The new skill, and how it is scored ever after."""

    skill: str | None = None
    """Name of the new skill; by default that of its data."""
    eval_path: str | None = path()
    """Held-out rows of your own data, which the skill is scored on ever after."""
    eval_share: float | None = None
    """Share of your own rows to hold out where there is no eval_path; by default 0.1."""
    eval_limit: int | None = at_least(1, None)
    """Score only the first so many evaluation rows."""
    scorer: str | None = None
    """Headline: exact_match, multiple_choice, numeric[:TOLERANCE], regex:PATTERN or path.py:function."""
    max_new_tokens: int | None = at_least(1, None)
    """Longest completion in evaluation; by default what the task needs, of your own data what training allows."""
    eval_batch_size: int = at_least(1, 64)
    """Prompts decoded together in evaluation."""


@dataclass(frozen=True, kw_only=True)
class GateOptions:
    """When a candidate is refused."""

    max_forgetting: float = 0.02
    """Loss of an earlier skill's mean score, 0 to 1, that is allowed."""
    confidence: float = 0.95
    """Refuse where so sure, one-sided, that more than max_forgetting was lost."""

    def check(self) -> None:
        """Raises UserError for a value that is out of range."""
        if not 0 <= self.max_forgetting < 1:
            raise UserError(f"--max_forgetting {self.max_forgetting} is not at least 0 and below 1; 0.02 is 2 points.")
        if not 0.5 < self.confidence < 1:
            raise UserError(f"--confidence {self.confidence} is not above 0.5 and below 1.")


@dataclass(frozen=True, kw_only=True)
class LearnOptions:
    """Teach the ledger's model one more skill; promote it only if no earlier skill was lost. Exit code 3: refused.

    Learning goes on from the ledger's current version; model_name is the base model of a new ledger.
    """

    ledger: str | None = path()
    """Folder that is the model's memory; where there is none a new one is begun."""
    method: Method = "sdft"
    """Any method that teaches a skill: not reinvoke."""
    seed: int = number(42, 0, 2**32 - 1, "between 0 and 4294967295")
    """Seed of data order and sampling."""
    new_skill: SkillOptions = SkillOptions()
    gate: GateOptions = GateOptions()
    source: SourceOptions = SourceOptions()
    recipe: RecipeGroup = Recipe(model=ModelOptions(model_name=CURRENT_VERSION))

    def check(self) -> None:
        """Raises UserError for what can be seen before anything is loaded."""
        if self.ledger is None:
            raise UserError("--ledger is missing: name the folder that is the model's memory.")
        check_fields(self)
        check_fields(self.new_skill)
        self.gate.check()
        self.recipe.check()
        method_config(self).validate()
        if self.method == "reinvoke":
            raise UserError("--method reinvoke teaches no skill. Use train for it, or another method here.")
        self._check_data()

    def _check_data(self) -> None:
        skill = self.new_skill
        if skill.eval_share is not None and not 0 < skill.eval_share < 1:
            raise UserError(f"--eval_share {skill.eval_share} is not above 0 and below 1.")
        if skill.eval_share is not None and skill.eval_path is not None:
            raise UserError("--eval_share and --eval_path exclude each other: give one of them.")
        for name in ("eval_share", "eval_path"):
            if self.source.dataset_path is None and getattr(skill, name) is not None:
                raise UserError(f"--{name} goes with --dataset_path; a task has evaluation rows of its own.")
        if skill.scorer == "judge":
            raise UserError("--scorer judge: a ledger scores without a judge. Name another scorer.")
        if not NAME.fullmatch(self.skill_name) or self.skill_name == "drift":
            raise UserError(
                f"--skill {self.skill_name!r}: use at most 64 letters, digits, dots, dashes and underscores; "
                "drift is taken."
            )

    @property
    def skill_name(self) -> str:
        """The skill's name: ``skill``, or the name of the file, Hub data set or task."""
        if self.new_skill.skill is not None:
            return self.new_skill.skill
        if self.source.dataset_path is None:
            return self.source.dataset_name
        name = Path(self.source.dataset_path.partition(":")[0]).stem
        return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:64] or "skill"

    @property
    def base_model(self) -> str | None:
        """The base model that was named; None where none was."""
        name = self.recipe.model.model_name
        return None if name == CURRENT_VERSION else name


@dataclass(frozen=True, kw_only=True)
class RollbackOptions:
    """Make an earlier version of a ledger's model the current one. Nothing is deleted."""

    ledger: str | None = path()
    """The ledger's folder."""
    to: int | None = None
    """Number of the version, 0 for the base model; by default the one before the current."""

    def check(self) -> None:
        """Raises UserError for what can be seen before anything is loaded."""
        if self.ledger is None:
            raise UserError("--ledger is missing: name the folder that is the model's memory.")


@dataclass(frozen=True, kw_only=True)
class LedgerOptions:
    """Show a ledger: its versions, where they come from, and the skills held."""

    folder: Annotated[str, tyro.conf.Positional] = path("")
    """The ledger's folder."""
