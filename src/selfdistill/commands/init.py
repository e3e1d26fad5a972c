"""``selfdistill init``."""

import sys

from rich.console import Console
from rich.markup import escape

from selfdistill.errors import UserError
from selfdistill.settings.init import InitOptions, answered, commands, write_file


def run(options: InitOptions, console: Console) -> None:
    """Asks what no flag says, writes the file and prints the commands to run.

    Raises:
        UserError: nobody can be asked, an answer is not allowed, or the file exists. Nothing is written then.
    """
    options.check()
    options = answered(options, _ask if sys.stdin.isatty() else None)
    write_file(options)
    console.print(f"{escape(options.file)} is written. Next:")
    for command, purpose in commands(options):
        console.print(f"  {escape(command)}   [dim]# {purpose}[/dim]", soft_wrap=True)


def _ask(question: str, default: str) -> str:
    """The answer that is typed in. Raises UserError if the input ends."""
    try:
        return input(f"{question}{f' [{default}]' if default else ''}: ")
    except EOFError as error:
        raise UserError("init: the input ended before all was answered. Nothing was written.") from error
