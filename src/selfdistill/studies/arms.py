"""Arms of a study: a name, and the settings in which its training runs differ from the other arms'."""

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
from selfdistill.settings.study import ArmOptions
from selfdistill.settings.train import Recipe, RunOptions, TrainOptions
from selfdistill.settings.yaml_files import checked, options_from_file, parse_assignments
from selfdistill.training.settings import EVERY_METHOD_TAKES, at_default, idle_settings, needs_template, other_fields
from selfdistill.types import Method

FIXED = ("seed", "max_steps", "num_train_epochs")
"""Settings that no arm may have to itself: they make the data, their order and the budget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One of the things that are compared."""

    name: str
    options: TrainOptions
    """The settings of its training runs, those of the study included; run by run the output_dir, seed and
    learning rate are set."""
    settings: Mapping[str, Any]
    """What of them is the arm's own."""

    @property
    def needs_template(self) -> bool:
        """True where a preflight is to say how its teacher is shown the demonstration."""
        return needs_template(self.options)

    @property
    def distils(self) -> bool:
        """True where it is held to a teacher, False where it learns the demonstrations' tokens."""
        return METHODS[self.options.method].has_teacher

    @property
    def learning_rate(self) -> float:
        """Its peak learning rate, unless a study tries several."""
        return self.options.recipe.optimizer.learning_rate

    @property
    def anchor_share(self) -> float:
        """Share of its prompts that are general ones."""
        return self.options.recipe.anchors.anchor_share


def parse_arms(chosen: ArmOptions, recipe: Recipe, *, default: str, seed: int = TrainOptions.seed) -> list[Arm]:
    """The arms of ``--methods``, then those of ``--arm``; where neither is given, the methods of ``default``.

    A setting of the study that an arm's method has no use for is left out of that arm.

    Args:
        chosen: what was given.
        recipe: the settings that all arms share.
        default: methods, with commas.
        seed: of all arms.

    Raises:
        UserError: an unknown method or setting, a bad value, a name given twice, or a setting that no arm has a use
            for.
    """
    shared = TrainOptions(source=SourceOptions(), run=RunOptions(), recipe=recipe, seed=seed)
    methods = chosen.methods if chosen.methods is not None or chosen.arm else default
    arms = [_arm(shared, name, {"method": name}, "--methods") for name in _names(methods or "")]
    arms += [_parsed(shared, text) for text in chosen.arm]
    if not arms:
        raise UserError(f"--methods {chosen.methods!r} names no method. Known: {', '.join(get_args(Method))}.")
    names = [arm.name for arm in arms]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"Two arms are called {name!r}. Give each a name of its own.")
    return _without_idle_settings(arms, recipe.trainer.config)


def parse_rates(text: str | None, arms: Sequence[Arm]) -> dict[str, list[float]]:
    """Learning rates to try by arm: those of ``--learning_rates``, else the one that the arm has.

    Raises:
        UserError: an unknown arm, an arm whose rate is its own already, or something that is no rate.
    """
    rates = {arm.name: [arm.learning_rate] for arm in arms}
    if text is None:
        return rates
    if ":" not in text:
        found = _rates(text)
        return {arm.name: rates[arm.name] if "learning_rate" in arm.settings else found for arm in arms}
    for piece in filter(None, text.split(";")):
        name, _, values = (part.strip() for part in piece.partition(":"))
        arm = next((arm for arm in arms if arm.name == name), None)
        if arm is None:
            raise UserError(f"--learning_rates {piece}: there is no arm {name!r}.{did_you_mean(name, rates)}")
        if "learning_rate" in arm.settings:
            raise UserError(f"--learning_rates {piece}: arm {name!r} has a learning_rate of its own. Give it once.")
        rates[name] = _rates(values)
    return rates


def _parsed(shared: TrainOptions, text: str) -> Arm:
    """An arm as ``--arm`` writes it."""
    name, colon, body = (part.strip() for part in text.partition(":"))
    if not colon or not body:
        raise UserError(f"--arm {text!r}: write it as NAME: field=value, field=value.")
    pieces = [piece.strip() for piece in re.split(r",\s*(?=\w+\s*=)", body)]
    for field in (piece.partition("=")[0].strip() for piece in pieces):
        if field in FIXED:
            raise UserError(f"--arm {name}: {field} is the same for all arms. Give it to the study.")
    known = [each.name for each in fields(MethodConfig) if each.name not in FIXED]
    known += ["lora_r", "lora_alpha", *other_fields()]
    return _arm(shared, name, parse_assignments(pieces, known, "--arm"), f"--arm {name}")


def _arm(shared: TrainOptions, name: str, settings: dict[str, Any], where: str) -> Arm:
    if not re.fullmatch(r"\w[\w.+-]*", name) or name in (run_folder.EVAL, run_folder.EVAL_BEFORE):
        raise UserError(f"{where}: {name!r} can't name a folder. Use letters, digits and dashes.")
    places = flat.leaves(TrainOptions)
    own = {
        field: checked(value, places[field].annotation, f"{where}: {field}")
        for field, value in settings.items()
        if field in places
    }
    others = tuple(f"{field}={json.dumps(value)}" for field, value in settings.items() if field not in places)
    options = flat.changed(shared, {**own, "set": (*shared.recipe.trainer.set, *others)})
    if not METHODS[options.method].needs_demonstration:
        raise UserError(f"{where}: {options.method} mends a trained model and learns no task. Leave it out.")
    try:
        replace(options, run=RunOptions(dry_run=True)).check()
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return Arm(name=name, options=options, settings=settings)


def _without_idle_settings(arms: Sequence[Arm], config: str | None) -> list[Arm]:
    """The arms without those of the study's settings that their methods have no use for. Raises UserError for one that
    is of no use to any of them, unless it is a template or the configuration file's."""
    idle = [{name for name in idle_settings(arm.options) if name not in arm.settings} for arm in arms]
    file = {} if config is None else flat.flatten(options_from_file(TrainOptions, config))
    given = flat.flatten(arms[0].options)
    for name in sorted(set.intersection(*idle) - set(EVERY_METHOD_TAKES)):
        if name not in file or given[name] != file[name]:
            raise UserError(f"{name}={quoted(given[name])} would be ignored: no arm has a use for it. Leave it out.")
    return [replace(arm, options=at_default(arm.options, unused)) for arm, unused in zip(arms, idle, strict=True)]


def _rates(text: str) -> list[float]:
    try:
        rates = list(dict.fromkeys(float(value) for value in _names(text)))
    except ValueError:
        rates = []
    if not rates or not all(0 < rate <= 1 for rate in rates):
        raise UserError(f"--learning_rates {text!r}: write numbers above 0 with commas, such as 1e-5,3e-5.")
    return rates


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
