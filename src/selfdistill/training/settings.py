"""A command's options to the trainer's config."""

import typing
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any

from selfdistill.errors import UserError, brief, did_you_mean
from selfdistill.method.config import SDFTConfig
from selfdistill.method.methods import METHODS
from selfdistill.method.needs import ignored_settings
from selfdistill.settings import flat
from selfdistill.settings.groups import TrainerOptions
from selfdistill.settings.method import MethodConfig, method_settings
from selfdistill.settings.train import TrainOptions, method_config
from selfdistill.settings.yaml_files import checked, options_from_file, parse_assignments, places_in_file
from selfdistill.tasks.task import Task

AUTO_STANDS_FOR = "prior_turn"
"""Template of a config whose template a preflight has still to choose."""
EVERY_METHOD_TAKES = ("template", "template_file")
"""Flags that are left out, and not refused, where the method has no use for them: one command line serves all
methods."""
FEWEST_COMPLETION_TOKENS = 256
"""Default completions are allowed so many tokens at least: short demonstrations say little of a rambling model."""


def other_fields() -> dict[str, Any]:
    """Fields of the trainer's config that have no flag, with their types."""
    taken = {each.name for each in fields(MethodConfig)} | set(flat.leaves(TrainOptions))
    types = typing.get_type_hints(SDFTConfig)
    return {each.name: types.get(each.name, Any) for each in fields(SDFTConfig) if each.init and each.name not in taken}


def trainer_config(options: TrainOptions, max_completion_length: int) -> SDFTConfig:
    """The trainer's config: options, then what the file sets of its other fields, then --set.

    ``max_completion_length``: the completion limit where the options leave it open.

    Raises:
        UserError: an unknown field, a field that has a flag of its own, a value out of range or one that would be
            ignored.
    """
    trainer = options.recipe.trainer
    others = other_fields()
    extra = _from_file(trainer, others)
    for name, value in parse_assignments(trainer.set, list(others)).items():
        extra[name] = checked(value, others[name], f"--set {name}")
    if options.run.save_steps is not None:
        extra = {"save_strategy": "steps", "save_steps": options.run.save_steps} | extra
    settings: dict[str, Any] = method_settings(method_config(options)) | extra
    if options.recipe.max_completion_length is None:
        settings["max_completion_length"] = max_completion_length
    if settings["template"] == "auto":
        settings["template"] = AUTO_STANDS_FOR if METHODS[options.method].shows_demonstration else "paper"
    if options.recipe.adapter.lora_r is not None and METHODS[options.method].teacher == "base_model":
        raise UserError(f"--method {options.method} trains all weights. Leave --lora_r out.")
    try:
        return SDFTConfig(output_dir=options.run.output_dir or "unused", **settings)
    except UserError:
        raise
    except (ValueError, ImportError) as error:  # what TrainingArguments refuses
        raise UserError(brief(error, 36)) from error  # a study puts the name of its arm before it


def without_idle_settings(options: TrainOptions) -> tuple[TrainOptions, list[str]]:
    """The options without what their file sets but their method has no use for, and the names of that.

    A recipe may be run with another method: what it says of a teacher then counts for nothing, and is left out, and so
    is a template. Any other flag that would be ignored is refused, later, by ``trainer_config``.
    """
    file, given = options.recipe.trainer.config, flat.flatten(options)
    in_file = flat.flatten(options_from_file(TrainOptions, file)) if file else {}
    idle = [
        name for name in idle_settings(options) if name in EVERY_METHOD_TAKES or (file and given[name] == in_file[name])
    ]
    return at_default(options, idle), idle


def idle_settings(options: TrainOptions) -> list[str]:
    """Settings with another value than their default that the options' method has no use for."""
    own, defaults = flat.flatten(options), flat.flatten(TrainOptions())
    return [name for name in ignored_settings(method_config(options)) if name in own and own[name] != defaults[name]]


def at_default(options: TrainOptions, names: Iterable[str]) -> TrainOptions:
    """The options with these settings at their default."""
    defaults = flat.flatten(TrainOptions())
    return flat.changed(options, {name: defaults[name] for name in names})


def check_preflight_rows(options: TrainOptions) -> None:
    """Raises UserError where ``--preflight_rows`` would be ignored."""
    rows, default = options.recipe.trainer.preflight_rows, TrainOptions().recipe.trainer.preflight_rows
    if rows != default and not needs_template(options):
        raise UserError(f"--preflight_rows {rows} counts only with --template auto, which a preflight chooses.")


def needs_template(options: TrainOptions) -> bool:
    """True where a preflight is to say how the teacher is shown the demonstration."""
    return options.recipe.prompts.template == "auto" and METHODS[options.method].shows_demonstration


def completion_budget(task: Task, lengths: Sequence[int], *, samples: bool) -> int:
    """Default completion limit: 1.5 times the 95th percentile of demonstration lengths in tokens, at least 256, at
    most the task's own limit. A model that rambles on costs time and teaches nothing.

    ``samples``: False where the demonstration is the completion: then the longest one fits, whatever the task says.
    """
    if not lengths:
        return task.max_new_tokens
    ordered = sorted(lengths)
    usual, longest = ordered[int(0.95 * (len(ordered) - 1))], ordered[-1]
    sampled = min(task.max_new_tokens, max(FEWEST_COMPLETION_TOKENS, usual * 3 // 2))
    return sampled if samples else max(sampled, longest + 16)


def _from_file(trainer: TrainerOptions, known: dict[str, Any]) -> dict[str, Any]:
    """What the YAML file sets of the fields ``known``. Raises UserError, with file and line, for anything else."""
    places = places_in_file(trainer.config) if trainer.from_file and trainer.config else {}
    flags = flat.leaves(TrainOptions)
    values: dict[str, Any] = {}
    for name, value in trainer.from_file:
        place = places.get(name, "from_file")
        if name in flags:  # a flag of train's that the command does not have
            raise UserError(f"{place}: {name} is a setting of train that this command has no use for. Leave it out.")
        if name not in known:
            raise UserError(f"{place}: unknown setting {name!r}.{did_you_mean(name, [*known, *flags])}")
        values[name] = checked(value, known[name], f"{place}: {name}")
    return values
