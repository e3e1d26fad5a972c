"""Arms of a study: a name, and the settings in which its training runs differ from the other arms'."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, get_args, get_type_hints

from selfdistill.data.readers import did_you_mean
from selfdistill.settings.commands import TrainOptions
from selfdistill.settings.method import SHOWS_DEMONSTRATION, Method, method_field_names
from selfdistill.settings.study import StudyOptions
from selfdistill.settings.yaml_files import checked, parse_assignments
from selfdistill.types import UserError

FIXED = ("seed", "max_steps", "num_train_epochs")
"""Settings that no arm may have to itself: they make the data, their order and the budget."""
RESERVED = ("eval", "eval-before")
"""Names of folders that the report takes for something else."""


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
        return self.options.template == "auto" and self.options.method in SHOWS_DEMONSTRATION


def parse_arms(study: StudyOptions, default: str) -> list[Arm]:
    """The arms of ``--methods``, then those of ``--arm``; where neither is given, the methods of ``default``.

    Raises:
        UserError: an unknown method or setting, a bad value, or a name given twice.
    """
    methods = study.methods if study.methods is not None or study.arm else default
    arms = [_arm(study, name, {"method": name}, "--methods") for name in _names(methods or "")]
    arms += [_parsed(study, text) for text in study.arm]
    if not arms:
        raise UserError(f"--methods {study.methods!r} names no method. Known: {', '.join(get_args(Method))}.")
    names = [arm.name for arm in arms]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"Two arms are called {name!r}. Give each a name of its own.")
    return arms


def parse_rates(text: str | None, arms: Sequence[Arm]) -> dict[str, list[float]]:
    """Learning rates to try by arm: those of ``--learning_rates``, else the one that the arm has.

    Raises:
        UserError: an unknown arm, an arm whose rate is its own already, or something that is no rate.
    """
    rates = {arm.name: [arm.options.learning_rate] for arm in arms}
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


def _parsed(study: StudyOptions, text: str) -> Arm:
    """An arm as ``--arm`` writes it."""
    name, colon, body = (part.strip() for part in text.partition(":"))
    if not colon or not body:
        raise UserError(f"--arm {text!r}: write it as NAME: field=value, field=value.")
    pieces = re.split(r",\s*(?=\w+\s*=)", body)
    names = [piece.partition("=")[0].strip() for piece in pieces]
    known = [*(name for name in method_field_names() if name not in FIXED), "lora_r", "lora_alpha"]
    if set(names) - {*known, *FIXED}:
        from selfdistill.commands.train import other_fields  # loads torch: only where a name is not one of ours

        known += list(other_fields())
    for field in names:
        if field in FIXED:
            raise UserError(f"--arm {name}: {field} is the same for all arms. Give it to the study.")
    return _arm(study, name, parse_assignments([piece.strip() for piece in pieces], known, "--arm"), f"--arm {name}")


def _arm(study: StudyOptions, name: str, settings: dict[str, Any], where: str) -> Arm:
    if not re.fullmatch(r"\w[\w.+-]*", name) or name in RESERVED:
        raise UserError(f"{where}: {name!r} can't name a folder. Use letters, digits and dashes.")
    own = {f.name: getattr(study, f.name) for f in fields(TrainOptions)}
    types = get_type_hints(TrainOptions)
    others: list[str] = []
    for field, value in settings.items():
        if field in types:
            own[field] = checked(value, types[field], f"{where}: {field}")
        else:
            others.append(f"{field}={json.dumps(value)}")
    options = replace(TrainOptions(**own), set=(*study.set, *others))
    if options.method == "reinvoke":
        raise UserError(f"{where}: reinvoke mends a trained model and learns no task. Leave it out.")
    try:
        options.validate()
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return Arm(name=name, options=options, settings=settings)


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
