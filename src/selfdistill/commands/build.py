"""``selfdistill build``."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from selfdistill.errors import UserError
from selfdistill.settings.build import BuildOptions
from selfdistill.tasks.build import BUILDERS
from selfdistill.tasks.build.rows import check_folder, write_rows
from selfdistill.types import Message

if TYPE_CHECKING:
    from selfdistill.evaluate.ask import ChatModel, ServerModel


def run(options: BuildOptions, console: Console) -> None:
    """Writes ``<output_dir>/<task>_data/{train_data,eval_data}``.

    Raises:
        UserError: an option or the source data are wrong, or data would be overwritten.
    """
    options.check()
    folder = Path(str(options.output_dir)) / f"{options.task}_data"
    check_folder(folder, overwrite=options.overwrite)

    @cache
    def model() -> "ChatModel | ServerModel":
        from selfdistill.evaluate.ask import ChatModel, ServerModel  # loads torch

        if options.wiki.judge_url is not None:
            return ServerModel(options.wiki, console)
        return ChatModel(options.wiki, options.seed, console)

    def ask(chats: Sequence[tuple[Message, ...]]) -> list[str]:
        return model().answers(chats)

    train, evaluation = BUILDERS[options.task](options, ask, lambda text: console.print(escape(text)))
    if not evaluation:
        raise UserError(
            "No row could be held out for evaluation. Raise --questions_per_passage (wiki), or give more data."
        )
    write_rows(folder, train, evaluation)
    console.print(
        f"{options.task}: {len(train):,} training rows, {len(evaluation):,} evaluation rows in {escape(str(folder))}."
    )
    console.print(f"Use them with --dataset_name {options.task} --data_dir {escape(str(folder.parent))}")
