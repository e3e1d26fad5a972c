"""The command line: parse, call, print. No logic."""

import sys
from collections.abc import Sequence
from typing import Any

from selfdistill.types import UserError

COMMANDS = {
    "demo": ("DemoOptions", "score, train, score again on the embedded model; write a report"),
    "preflight": ("PreflightOptions", "say before any training whether self-distillation can work"),
    "train": ("TrainOptions", "teach a model the demonstrations of a task"),
    "eval": ("EvalOptions", "score a model on a task"),
    "report": ("ReportOptions", "make report.html of a run's folder"),
    "compare": ("settings.study:CompareOptions", "methods side by side: same data, same budget, several seeds"),
    "continual": ("settings.study:ContinualOptions", "one task after another; what each stage gained and lost"),
    "chat": ("settings.chat:ChatOptions", "talk to a model or two side by side, in the terminal or on a page"),
    "learn": ("settings.ledger:LearnOptions", "add a skill to a ledger; refused where an earlier one is lost"),
    "rollback": ("settings.ledger:RollbackOptions", "make an earlier version of a ledger current"),
    "ledger": ("settings.ledger:LedgerOptions", "show a ledger: versions, lineage, skills held"),
    "build": ("BuildOptions", "write the data of the tasks medical and wiki"),
    "tasks": ("ListOptions", "list the tasks: source, licence, rows"),
    "recipes": ("ListOptions", "list the settings that come with the package"),
}
"""By name: the class of its options, as ``module:class`` where the module isn't ``settings.commands``, and a line
of help. Its module in ``commands`` has the command's name."""

HELP = """usage: selfdistill COMMAND [options]

Teach a language model new skills from demonstrations by self-distillation,
and measure what it keeps.

{commands}

`selfdistill COMMAND --help` lists a command's options.
Quick start:  selfdistill train --output_dir runs/first
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code: 0 done, 2 a user's error, 3 refused by the gate, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP.format(commands="\n".join(f"  {name:<10} {text}" for name, (_, text) in COMMANDS.items())))
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from selfdistill import __version__

        print(f"selfdistill {__version__}")
        return 0
    try:
        return _dispatch(arguments[0], arguments[1:])
    except UserError as error:
        print(f"selfdistill: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("selfdistill: interrupted", file=sys.stderr)
        return 130


def _dispatch(command: str, arguments: list[str]) -> int:
    if command not in COMMANDS:
        from selfdistill.data.readers import did_you_mean

        raise UserError(f"Unknown command {command!r}.{did_you_mean(command, COMMANDS)} Try selfdistill --help.")
    import importlib

    import tyro
    from rich.console import Console

    module_name, _, class_name = COMMANDS[command][0].rpartition(":")
    options_class = getattr(importlib.import_module(f"selfdistill.{module_name or 'settings.commands'}"), class_name)
    parsed = tyro.cli(
        options_class,
        args=arguments,
        prog=f"selfdistill {command}",
        default=_defaults(options_class, arguments),
        use_underscores=True,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    module = importlib.import_module(f"selfdistill.commands.{command}")
    return module.run(parsed, Console(highlight=False)) or 0


def _defaults(options_class: Any, arguments: list[str]) -> Any:
    """What the YAML file that ``--config`` names sets of a command that trains; else tyro's sign for the class's own
    defaults."""
    path = None
    for index, argument in enumerate(arguments):
        if argument == "--config" and index + 1 < len(arguments):
            path = arguments[index + 1]
        elif argument.startswith("--config="):
            path = argument.removeprefix("--config=")
    if path is None or not hasattr(options_class, "method_settings"):
        import tyro

        return tyro.MISSING_NONPROP

    from selfdistill.commands.train import from_yaml

    return from_yaml(path, options_class)
