"""The command line: parses arguments, calls a command and turns its result into an exit code."""

import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from selfdistill.errors import DiskError, TerminatedError, UserError, is_out_of_memory, printable
from selfdistill.signals import handled


class Command(NamedTuple):
    """A command. The module of ``commands`` that runs it has the command's name."""

    options: str
    """Class of its options, as ``module:class`` within ``settings``."""
    help: str
    """One line for ``selfdistill --help``."""


COMMANDS = {
    "demo": Command("train:DemoOptions", "evaluate, train and evaluate again the embedded model"),
    "plan": Command("plan:PlanOptions", "show which training settings fit a GPU, before anything is loaded"),
    "init": Command("init:InitOptions", "ask five questions and write a file of settings for train"),
    "data": Command("data:DataCommandOptions", "show what is understood of your rows, and which are bad"),
    "preflight": Command("train:PreflightOptions", "predict before training whether self-distillation can work"),
    "train": Command("train:TrainOptions", "train a model on the demonstrations of a task"),
    "eval": Command("evaluate:EvalOptions", "evaluate a model on one or more tasks"),
    "report": Command("report:ReportOptions", "write a report on a run or a study"),
    "watch": Command("report:FolderWatchOptions", "show the report of a run in the browser while it grows"),
    "compare": Command("study:CompareOptions", "compare methods: same data, same budget, several seeds"),
    "continual": Command("study:ContinualOptions", "train on several tasks in a row and measure gains and losses"),
    "export": Command("export:ExportOptions", "write a trained model as other programs load it"),
    "chat": Command("chat:ChatOptions", "talk to one or two models, in the terminal or on a web page"),
    "learn": Command("ledger:LearnOptions", "train one more skill; refused if an earlier skill is lost"),
    "rollback": Command("ledger:RollbackOptions", "make another version of a ledger's model current"),
    "ledger": Command("ledger:LedgerOptions", "show a ledger: its versions and skills"),
    "build": Command("build:BuildOptions", "prepare the data of the tasks medical and wiki"),
    "tasks": Command("report:TasksOptions", "list the tasks: scorers, rows, licence, source"),
    "recipes": Command("report:RecipesOptions", "list the recipes: files with settings"),
}

IN_SEVERAL_PROCESSES = "train"
"""The command that torchrun and accelerate launch can start in several processes."""

HELP = """usage: selfdistill COMMAND [options]
Teach a language model new skills by self-distillation, and keep the old ones.
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
        went away does not count), that of a UserError (its message is printed; 2, unless ``errors`` says another), 3 if
        ``learn`` refused the new weights, 5 for what the system could not read or write, 130 if interrupted, 143 if
        terminated.

    Raises:
        SystemExit: a flag is wrong (code 2), or help was asked for (code 0).

    Of several processes that a launcher started all end with the same code, and one message is printed.
    """
    from selfdistill.launcher import place, run_together
    from selfdistill.progress import plain_output

    arguments = list(sys.argv[1:] if argv is None else argv)
    with plain_output() as output:
        here = place()
        if here.size == 1 or arguments[:1] == [IN_SEVERAL_PROCESSES]:
            code = run_together(lambda: _main(arguments))
        else:
            code = 2
            if here.rank == 0:
                print(
                    f"selfdistill: {here.size} processes were started (WORLD_SIZE), and only {IN_SEVERAL_PROCESSES} "
                    "runs in several. Start this command without torchrun or accelerate launch.",
                    file=sys.stderr,
                )
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
        with handled(_terminate, signal.SIGTERM):
            return _dispatch(arguments[0], arguments[1:])
    except UserError as error:
        return _failed(str(error), error.exit_code)
    except (KeyboardInterrupt, TerminatedError) as stop:
        by_hand = isinstance(stop, KeyboardInterrupt)
        return _failed("interrupted" if by_hand else "terminated", 128 + (signal.SIGINT if by_hand else signal.SIGTERM))
    except OSError as error:
        if error.errno is None or isinstance(error, ConnectionError | TimeoutError):
            raise
        place = f"{error.filename}: " if error.filename else ""
        return _failed(f"{place}{error.strerror}. Mend that, and give the same command again.", DiskError.exit_code)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return _failed("the memory is full. Close other programs, or take a smaller model or batch.", 2)


def _failed(message: str, code: int) -> int:
    from selfdistill.launcher import tell

    tell(f"selfdistill: {printable(message)}")
    return code


def _terminate(number: int, frame: object) -> None:
    """SIGTERM ends a command as SIGINT does, by an exception."""
    raise TerminatedError


def parse(command: str, arguments: Sequence[str]) -> Any:
    """Parses the options of a command, including those of its configuration file.

    Raises:
        UserError: there is no such command, or its configuration file is wrong.
        SystemExit: a flag is wrong, or help was asked for. The message or the help was printed.
    """
    from importlib import import_module

    if os.environ.get("NO_COLOR"):
        os.environ.setdefault("PYTHON_TYRO_ANSI_CODES", "False")  # tyro reads it as it is imported
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

    from selfdistill.launcher import place
    from selfdistill.progress import PlainConsole

    module = import_module(f"selfdistill.commands.{command}")
    return module.run(options, PlainConsole(highlight=False, quiet=place().rank > 0)) or 0


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
