"""The command line: parse, call, print. No logic."""

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from selfdistill.errors import UserError


class Command(NamedTuple):
    """A command. Its module in ``commands`` has its name."""

    options: str
    """Class of its options, as ``module:class`` of ``settings``."""
    help: str


COMMANDS = {
    "demo": Command("train:DemoOptions", "score, train, score again on the embedded model; write a report"),
    "preflight": Command("train:PreflightOptions", "say before any training whether self-distillation can work"),
    "train": Command("train:TrainOptions", "teach a model the demonstrations of a task"),
    "eval": Command("evaluate:EvalOptions", "score a model on a task"),
    "report": Command("report:ReportOptions", "make report.html of a run's folder"),
    "compare": Command("study:CompareOptions", "methods side by side: same data, same budget, several seeds"),
    "continual": Command("study:ContinualOptions", "one task after another; what each stage gained and lost"),
    "chat": Command("chat:ChatOptions", "talk to a model or two side by side, in the terminal or on a page"),
    "learn": Command("ledger:LearnOptions", "add a skill to a ledger; refused where an earlier one is lost"),
    "rollback": Command("ledger:RollbackOptions", "make an earlier version of a ledger current"),
    "ledger": Command("ledger:LedgerOptions", "show a ledger: versions, lineage, skills held"),
    "build": Command("build:BuildOptions", "write the data of the tasks medical and wiki"),
    "tasks": Command("report:TasksOptions", "list the tasks: source, licence, rows"),
    "recipes": Command("report:RecipesOptions", "list the settings that come with the package"),
}

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
        print(HELP.format(commands="\n".join(f"  {name:<10} {command.help}" for name, command in COMMANDS.items())))
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


def parse(command: str, arguments: Sequence[str]) -> Any:
    """The options of a command, what is behind ``--config`` included.

    Raises:
        UserError: there is no such command, or its configuration file is wrong.
        SystemExit: a flag is wrong, or help was asked for; both are printed.
    """
    from importlib import import_module

    import tyro

    from selfdistill.errors import did_you_mean
    from selfdistill.settings import flat

    if command not in COMMANDS:
        raise UserError(f"Unknown command {command!r}.{did_you_mean(command, COMMANDS)} Try selfdistill --help.")
    module, _, name = COMMANDS[command].options.partition(":")
    options_class = getattr(import_module(f"selfdistill.settings.{module}"), name)
    parsed = tyro.cli(
        options_class,
        args=list(arguments),
        prog=f"selfdistill {command}",
        default=_defaults(options_class, arguments),
        use_underscores=True,
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes),
    )
    return flat.with_home(parsed)


def _dispatch(command: str, arguments: Sequence[str]) -> int:
    options = parse(command, arguments)
    from importlib import import_module

    from rich.console import Console

    module = import_module(f"selfdistill.commands.{command}")
    return module.run(options, Console(highlight=False)) or 0


def _defaults(options_class: type, arguments: Sequence[str]) -> Any:
    """What the YAML file behind ``--config`` sets of a command that trains; else tyro's sign for the class's own."""
    import tyro

    from selfdistill.settings import flat

    path = None
    for index, argument in enumerate(arguments):
        if argument == "--config" and index + 1 < len(arguments):
            path = arguments[index + 1]
        elif argument.startswith("--config="):
            path = argument.removeprefix("--config=")
    if path is None or "from_file" not in flat.leaves(options_class):
        return tyro.MISSING_NONPROP

    from selfdistill.settings.yaml_files import options_from_file

    return options_from_file(options_class, path)
