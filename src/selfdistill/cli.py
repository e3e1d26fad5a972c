"""The command line: parse, call, print. No logic."""

import sys
from collections.abc import Sequence
from typing import Any, TypeVar

from selfdistill.types import UserError

_Options = TypeVar("_Options")

COMMANDS = {
    "demo": "evaluate, train, evaluate again on the embedded model; writes a report",
    "train": "teach a model the demonstrations of a task",
    "eval": "score a model on a task",
}
HELP = """usage: selfdistill COMMAND [options]

Teach a language model new skills from demonstrations by self-distillation,
and measure what it keeps.

{commands}

`selfdistill COMMAND --help` lists a command's options.
Quick start:  selfdistill train --output_dir runs/first
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code: 0 done, 2 a user's error, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP.format(commands="\n".join(f"  {name:<10} {text}" for name, text in COMMANDS.items())))
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
        from selfdistill.tasks.files import did_you_mean

        raise UserError(f"Unknown command {command!r}.{did_you_mean(command, COMMANDS)} Try selfdistill --help.")
    from rich.console import Console

    console = Console(highlight=False)
    if command == "train":
        from selfdistill.options import TrainOptions

        defaults, from_file = _from_file(TrainOptions, arguments)
        options = _parse(TrainOptions, arguments, command, defaults)

        from selfdistill.commands import train

        train.run(options, from_file, console)
    elif command == "demo":
        from selfdistill.options import DemoOptions

        demo_options = _parse(DemoOptions, arguments, command, DemoOptions())

        from selfdistill.commands import demo

        demo.run(demo_options, console)
    else:
        from selfdistill.options import EvalOptions

        options = _parse(EvalOptions, arguments, command, EvalOptions())

        from selfdistill.commands import evaluate

        evaluate.run(options, console)
    return 0


def _parse(options_class: type[_Options], arguments: list[str], command: str, default: _Options) -> _Options:
    import tyro

    return tyro.cli(
        options_class,
        args=arguments,
        prog=f"selfdistill {command}",
        default=default,
        use_underscores=True,
        config=(tyro.conf.FlagCreatePairsOff,),
    )


def _from_file(options_class: type[_Options], arguments: list[str]) -> tuple[_Options, dict[str, Any]]:
    """Defaults from the YAML file that ``--config`` names, if it is given."""
    path = None
    for index, argument in enumerate(arguments):
        if argument == "--config" and index + 1 < len(arguments):
            path = arguments[index + 1]
        elif argument.startswith("--config="):
            path = argument.removeprefix("--config=")
    if path is None:
        return options_class(), {}

    from selfdistill.commands.train import other_fields
    from selfdistill.yaml_settings import with_file

    return with_file(options_class, path, list(other_fields()))
