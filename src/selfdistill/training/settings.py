"""Turns a command's options into the trainer's config."""

import typing
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from selfdistill.errors import UserError, brief, did_you_mean
from selfdistill.method.config import SDFTConfig
from selfdistill.method.methods import METHODS
from selfdistill.method.needs import ignored_settings
from selfdistill.method.refused import refuse_evaluation
from selfdistill.settings import flat
from selfdistill.settings.groups import TrainerOptions
from selfdistill.settings.method import MethodConfig, method_settings
from selfdistill.settings.train import TrainOptions, method_config
from selfdistill.settings.yaml_files import checked, options_from_file, parse_assignments, places_in_file
from selfdistill.tasks.task import Task

AUTO_STANDS_FOR = "prior_turn"
"""Template in the config while a preflight has yet to choose one."""
EVERY_METHOD_TAKES = ("template", "template_file")
"""Flags that are dropped instead of refused if the method has no use for them, so that one command line can be used
with all methods."""
FEWEST_COMPLETION_TOKENS = 256
"""Smallest default completion limit in tokens, since a model may well ramble although demonstrations are short."""


def other_fields() -> dict[str, Any]:
    """Types of the fields of the trainer's config that have no flag, by name."""
    with_flag = {field.name for field in fields(MethodConfig)} | set(flat.leaves(TrainOptions))
    names = [field.name for field in fields(SDFTConfig) if field.init and field.name not in with_flag]
    types = typing.get_type_hints(SDFTConfig)
    return {name: types.get(name, Any) for name in names}


def trainer_config(options: TrainOptions, max_completion_length: int) -> SDFTConfig:
    """Builds the trainer's config. Fields without a flag come from the configuration file, and --set overrides those.

    Args:
        options: of the run.
        max_completion_length: completion limit in tokens, used if the options set none.

    Raises:
        UserError: a field is unknown or has a flag of its own, a value is out of range, or it would be ignored.
    """
    trainer = options.recipe.trainer
    others = other_fields()
    extra = _from_file(trainer, others)
    for name, value in parse_assignments(trainer.set, list(others), flags=list(flat.leaves(TrainOptions))).items():
        extra[name] = checked(value, others[name], f"--set {name}")
    if trainer.report_to is not None:
        extra["report_to"] = [name.strip() for name in trainer.report_to.split(",")]
        extra = {"run_name": _run_name(options.run.output_dir or "unused"), "project": "selfdistill"} | extra
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
        config = SDFTConfig(output_dir=options.run.output_dir or "unused", **settings)
        refuse_evaluation(config)
        return config
    except UserError:
        raise
    except (ValueError, ImportError) as error:  # raised by TrainingArguments
        raise UserError(brief(error, 36)) from error  # leaves room for the name of a study's arm in front


def without_idle_settings(options: TrainOptions) -> tuple[TrainOptions, list[str]]:
    """Resets settings of the configuration file, and templates, that the method has no use for.

    So a recipe can be run with another method than its own. Any other setting that would be ignored is refused later,
    by ``trainer_config``.

    Returns:
        The options, and the names of the settings that were reset to their defaults.
    """
    file, given = options.recipe.trainer.config, flat.flatten(options)
    in_file = flat.flatten(options_from_file(TrainOptions, file)) if file else {}
    idle = [
        name for name in idle_settings(options) if name in EVERY_METHOD_TAKES or (file and given[name] == in_file[name])
    ]
    return at_default(options, idle), idle


def idle_settings(options: TrainOptions) -> list[str]:
    """Names of the settings that differ from their default although the method has no use for them."""
    own, defaults = flat.flatten(options), flat.flatten(TrainOptions())
    return [name for name in ignored_settings(method_config(options)) if name in own and own[name] != defaults[name]]


def at_default(options: TrainOptions, names: Iterable[str]) -> TrainOptions:
    """A copy of the options with these settings at their defaults."""
    defaults = flat.flatten(TrainOptions())
    return flat.changed(options, {name: defaults[name] for name in names})


def check_preflight_rows(options: TrainOptions) -> None:
    """Raises UserError if ``--preflight_rows`` would be ignored."""
    rows, default = options.recipe.trainer.preflight_rows, TrainOptions().recipe.trainer.preflight_rows
    if rows != default and not needs_template(options):
        raise UserError(f"--preflight_rows {rows} counts only with --template auto, for which a preflight is run.")


def check_scorer(options: TrainOptions) -> None:
    """Raises UserError if ``--scorer`` would be ignored."""
    uses = options.watch.eval_steps is not None or options.recipe.prompts.demonstration_from == "own_success"
    if options.watch.scorer is not None and not uses and not needs_template(options):
        raise UserError(f"--scorer {options.watch.scorer} changes nothing without --eval_steps. Leave it out.")


def needs_template(options: TrainOptions) -> bool:
    """True if a preflight has to choose the template."""
    return options.recipe.prompts.template == "auto" and METHODS[options.method].shows_demonstration


def completion_budget(task: Task, lengths: Sequence[int], *, samples: bool) -> int:
    """Default completion limit in tokens: 1.5 times the 95th percentile of demonstration lengths, at least 256, at most
    the task's own limit. Longer sampled completions cost time and teach nothing.

    Args:
        task: for its limit.
        lengths: tokens of every demonstration; if empty, the limit is the task's own.
        samples: False if demonstrations are completions. Then the longest demonstration fits, whatever the task's
            limit.
    """
    if not lengths:
        return task.max_new_tokens
    ordered = sorted(lengths)
    usual, longest = ordered[int(0.95 * (len(ordered) - 1))], ordered[-1]
    sampled = min(task.max_new_tokens, max(FEWEST_COMPLETION_TOKENS, usual * 3 // 2))
    return sampled if samples else max(sampled, longest)


def _run_name(output_dir: str) -> str:
    """What trackers call a run: the last parts of its folder's path, which in a study are study, arm, rate and seed."""
    path = Path(output_dir)
    return "-".join(part for part in path.parts[-4:] if part not in (path.anchor, ".."))


def _from_file(trainer: TrainerOptions, known: dict[str, Any]) -> dict[str, Any]:
    """Values of the fields ``known`` that the YAML file sets. Raises UserError, with file and line, for any other
    name."""
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
