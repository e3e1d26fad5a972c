"""The arms of a study: each has a name and the settings in which its training runs differ from the other arms'."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, get_args

from selfdistill import run_folder
from selfdistill.errors import UserError, did_you_mean, quoted
from selfdistill.method.methods import METHODS
from selfdistill.settings import flat
from selfdistill.settings.groups import SourceOptions
from selfdistill.settings.method import MethodConfig
from selfdistill.settings.rows import RowOptions
from selfdistill.settings.study import ArmOptions
from selfdistill.settings.train import Recipe, RunOptions, TrainOptions
from selfdistill.settings.yaml_files import checked, options_from_file, parse_assignments
from selfdistill.training.settings import EVERY_METHOD_TAKES, at_default, idle_settings, needs_template, other_fields
from selfdistill.types import Method

FIXED = ("seed", "max_steps", "num_train_epochs")
"""Settings that all arms must share, since they decide the order of the rows and the budget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One of the alternatives that a study compares."""

    name: str
    options: TrainOptions
    """All settings of its training runs, but for output_dir, seed and learning rate, which each run sets."""
    settings: Mapping[str, Any]
    """The settings that were given for this arm alone."""

    @property
    def needs_template(self) -> bool:
        """True if a preflight must choose how the teacher is shown the demonstration."""
        return needs_template(self.options)

    @property
    def distils(self) -> bool:
        """True if the arm learns from a teacher, False if it learns the demonstrations' tokens."""
        return METHODS[self.options.method].has_teacher

    @property
    def learning_rate(self) -> float:
        """Peak learning rate, unless the study tries several."""
        return self.options.recipe.optimizer.learning_rate

    @property
    def anchor_share(self) -> float:
        """Share of the training prompts that are general anchor prompts, in [0, 1)."""
        return self.options.recipe.anchors.anchor_share


def parse_arms(chosen: ArmOptions, recipe: Recipe, *, default: str, seed: int = TrainOptions.seed) -> list[Arm]:
    """The arms of ``--methods``, then those of ``--arm``; if neither is given, one arm for each method of ``default``.

    A shared setting that an arm's method does not use is left out of that arm.

    Args:
        chosen: the values of ``--methods`` and ``--arm``.
        recipe: the settings that all arms share.
        default: methods, separated by commas.
        seed: the seed of all arms.

    Raises:
        UserError: a method or setting is unknown, a value is bad, a name is given twice, or no arm uses a setting.
    """
    read = replace(recipe, data=replace(recipe.data, rows=RowOptions()))  # by the study, for all arms
    shared = TrainOptions(source=SourceOptions(), run=RunOptions(), recipe=read, seed=seed)
    methods = chosen.methods if chosen.methods is not None or chosen.arm else default
    arms = [_arm(shared, name, {"method": name}, "--methods") for name in _names(methods or "")]
    arms += [_parsed(shared, text) for text in chosen.arm]
    if not arms:
        raise UserError(f"--methods {chosen.methods!r} names no method. Known: {', '.join(get_args(Method))}.")
    names = [arm.name for arm in arms]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"Two arms are called {name!r}. Give each arm its own name.")
    return _without_idle_settings(arms, recipe.trainer.config)


def parse_rates(text: str | None, arms: Sequence[Arm]) -> dict[str, list[float]]:
    """The learning rates to try, by arm: those of ``--learning_rates``, or the arm's own rate if none are given for it.

    Raises:
        UserError: an arm is unknown or already sets its own learning rate, or a value is not a rate in (0, 1].
    """
    rates = {arm.name: [arm.learning_rate] for arm in arms}
    if text is None:
        return rates
    if ":" not in text:
        tried = _rates(text)
        return {arm.name: rates[arm.name] if "learning_rate" in arm.settings else tried for arm in arms}
    for piece in filter(None, text.split(";")):
        name, _, values = (part.strip() for part in piece.partition(":"))
        arm = next((arm for arm in arms if arm.name == name), None)
        if arm is None:
            raise UserError(f"--learning_rates {piece}: there is no arm {name!r}.{did_you_mean(name, rates)}")
        if "learning_rate" in arm.settings:
            raise UserError(f"--learning_rates {piece}: arm {name!r} sets its own learning_rate. Give it once.")
        rates[name] = _rates(values)
    return rates


def _parsed(shared: TrainOptions, text: str) -> Arm:
    """The arm that an ``--arm`` text describes. Raises UserError as ``parse_arms`` does."""
    name, colon, body = (part.strip() for part in text.partition(":"))
    if not colon or not body:
        raise UserError(f"--arm {text!r}: write it as NAME: field=value, field=value.")
    pieces = [piece.strip() for piece in re.split(r",\s*(?=\w+\s*=)", body)]
    for field in (piece.partition("=")[0].strip() for piece in pieces):
        if field in FIXED:
            raise UserError(f"--arm {name}: {field} is the same for all arms. Set it for the whole study.")
    known = [field.name for field in fields(MethodConfig) if field.name not in FIXED]
    known += ["lora_r", "lora_alpha", *other_fields()]
    return _arm(shared, name, parse_assignments(pieces, known, "--arm"), f"--arm {name}")


def _arm(shared: TrainOptions, name: str, settings: dict[str, Any], where: str) -> Arm:
    if not re.fullmatch(r"\w[\w.+-]*", name) or name in (run_folder.EVAL, run_folder.EVAL_BEFORE):
        raise UserError(f"{where}: {name!r} can't name a folder. Use letters, digits and dashes.")
    flags = flat.leaves(TrainOptions)
    own = {
        field: checked(value, flags[field].annotation, f"{where}: {field}")
        for field, value in settings.items()
        if field in flags
    }
    others = tuple(f"{field}={json.dumps(value)}" for field, value in settings.items() if field not in flags)
    options = flat.changed(shared, {**own, "set": (*shared.recipe.trainer.set, *others)})
    if not METHODS[options.method].needs_demonstration:
        raise UserError(f"{where}: {options.method} restores a trained model and learns no task. Leave it out.")
    try:
        replace(options, run=RunOptions(dry_run=True)).check()
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return Arm(name=name, options=options, settings=settings)


def _without_idle_settings(arms: Sequence[Arm], config: str | None) -> list[Arm]:
    """The arms, each without the shared settings that its method does not use.

    Raises UserError for a setting that no arm uses, unless it is a template or comes from the configuration file.
    """
    idle = [{name for name in idle_settings(arm.options) if name not in arm.settings} for arm in arms]
    file = {} if config is None else flat.flatten(options_from_file(TrainOptions, config))
    given = flat.flatten(arms[0].options)
    for name in sorted(set.intersection(*idle) - set(EVERY_METHOD_TAKES)):
        if name not in file or given[name] != file[name]:
            raise UserError(f"{name}={quoted(given[name])} would be ignored: no arm uses it. Leave it out.")
    return [replace(arm, options=at_default(arm.options, unused)) for arm, unused in zip(arms, idle, strict=True)]


def _rates(text: str) -> list[float]:
    try:
        rates = list(dict.fromkeys(float(value) for value in _names(text)))
    except ValueError:
        rates = []
    if not rates or not all(0 < rate <= 1 for rate in rates):
        raise UserError(f"--learning_rates {text!r}: write numbers in (0, 1], separated by commas, such as 1e-5,3e-5.")
    return rates


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
