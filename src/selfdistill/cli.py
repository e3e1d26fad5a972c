"""The command line: parses arguments, calls a command and turns its result into an exit code."""

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from selfdistill.errors import UserError, printable


class Command(NamedTuple):
    """A command. The module of ``commands`` that runs it has the command's name."""

    options: str
    """Class of its options, as ``module:class`` within ``settings``."""
    help: str
    """One line for ``selfdistill --help``."""


COMMANDS = {
    "demo": Command("train:DemoOptions", "evaluate, train and evaluate again the embedded model"),
    "plan": Command("plan:PlanOptions", "show which training settings fit a GPU, before anything is loaded"),
    "data": Command("data:DataCommandOptions", "show what is understood of your rows, and which are bad"),
    "preflight": Command("train:PreflightOptions", "predict before training whether self-distillation can work"),
    "train": Command("train:TrainOptions", "train a model on the demonstrations of a task"),
    "eval": Command("evaluate:EvalOptions", "evaluate a model on one or more tasks"),
    "report": Command("report:ReportOptions", "write a report on a run or a study"),
    "compare": Command("study:CompareOptions", "compare methods: same data, same budget, several seeds"),
    "continual": Command("study:ContinualOptions", "train on several tasks in a row and measure gains and losses"),
    "chat": Command("chat:ChatOptions", "talk to one or two models, in the terminal or on a web page"),
    "learn": Command("ledger:LearnOptions", "train one more skill; refused if an earlier skill is lost"),
    "rollback": Command("ledger:RollbackOptions", "make another version of a ledger's model current"),
    "ledger": Command("ledger:LedgerOptions", "show a ledger: its versions and skills"),
    "build": Command("build:BuildOptions", "prepare the data of the tasks medical and wiki"),
    "tasks": Command("report:TasksOptions", "list the tasks: scorers, rows, licence, source"),
    "recipes": Command("report:RecipesOptions", "list the recipes: files with settings"),
}

HELP = """usage: selfdistill COMMAND [options]

Teach a language model new skills from demonstrations by self-distillation,
and measure what it keeps.

{commands}

`selfdistill COMMAND --help` lists a command's options.
Quick start:  selfdistill train --output_dir runs/first
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: the arguments; by default those of the process.

    Returns:
        The exit code: 0 for success, 1 if some of what was to be printed could not be (as on a full disk; a reader that
        went away does not count), 2 for a UserError (its message is printed), 3 if ``learn`` refused the new weights,
        130 if interrupted.

    Raises:
        SystemExit: a flag is wrong (code 2), or help was asked for (code 0).
    """
    from selfdistill.progress import plain_output

    with plain_output() as output:
        code = _main(list(sys.argv[1:] if argv is None else argv))
        output.flush()
    if code == 0 and output.failure is not None and not isinstance(output.failure, BrokenPipeError):
        print(f"selfdistill: some of the output could not be written: {output.failure.strerror}.", file=sys.stderr)
        return 1
    return code


def _main(arguments: list[str]) -> int:
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
        print(f"selfdistill: {printable(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("selfdistill: interrupted", file=sys.stderr)
        return 130


def parse(command: str, arguments: Sequence[str]) -> Any:
    """Parses the options of a command, including those of its configuration file.

    Raises:
        UserError: there is no such command, or its configuration file is wrong.
        SystemExit: a flag is wrong, or help was asked for. The message or the help was printed.
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

    from selfdistill.progress import PlainConsole

    module = import_module(f"selfdistill.commands.{command}")
    return module.run(options, PlainConsole(highlight=False)) or 0


def _defaults(options_class: type, arguments: Sequence[str]) -> Any:
    """Defaults for tyro: the values of the --config file for commands that train, otherwise tyro's marker for the
    class's own defaults."""
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
