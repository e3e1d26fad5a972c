"""The options class of every command."""

from importlib import import_module
from typing import Any

from selfdistill.cli import COMMANDS

TRAINING = ("train", "preflight", "compare", "continual", "learn")
"""Commands that take the settings of a training run, and so ``--config``."""


def options_class(command: str) -> Any:
    """The class of a command's options."""
    module, _, name = COMMANDS[command].options.partition(":")
    return getattr(import_module(f"selfdistill.settings.{module}"), name)


OPTIONS = {command: options_class(command) for command in COMMANDS}
