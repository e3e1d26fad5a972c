"""``selfdistill chat``."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from selfdistill.errors import UserError
from selfdistill.records.runs import run_in
from selfdistill.settings.chat import DEFAULT_PORT, ChatOptions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def run(options: ChatOptions, console: Console) -> None:
    """Loads one or two models and chats in the terminal or on a web page, until the user leaves.

    Raises:
        UserError: an option is wrong, a model can't be loaded, or the port is taken.
    """
    options.check()
    server = None
    if options.web:
        from selfdistill.chat.web import ChatServer

        server = ChatServer(
            DEFAULT_PORT if options.port is None else options.port
        )  # before loading, since the port may be taken

    from selfdistill.chat.columns import Chat, Column
    from selfdistill.method.rollout.engine import Sampling
    from selfdistill.models import loading  # loads torch

    loading.quiet_libraries()
    flags = {options.model_path: "--model_path"}
    if options.against is not None:
        flags.setdefault(options.against, "--against")
    tokenizers: dict[str, PreTrainedTokenizerBase] = {}
    columns: dict[str, Column] = {}
    for name, flag in flags.items():
        with _blamed_on(flag):
            tokenizers[name] = loading.load_tokenizer(
                name, chat_template=options.chat_template, chat_template_kwargs=_template_kwargs(options, name)
            )
            loading.require_chat_template(tokenizers[name], name)
    for name, flag in flags.items():
        with _blamed_on(flag), console.status(f"loading {escape(name)}"):
            model = loading.load_model(name, dtype=options.dtype, quantize=options.quantize, beside=True)
            columns[name] = Column(name, model, tokenizers[name], _template_kwargs(options, name))
    sampling = Sampling(max_new_tokens=options.max_new_tokens, temperature=options.temperature, top_p=options.top_p)
    names = [options.model_path] if options.against is None else [options.model_path, options.against]
    chat = Chat([columns[name] for name in names], sampling, options.seed)
    if server is not None:
        server.serve(chat, options.system, console)
        return
    from selfdistill.chat.terminal import talk

    talk(chat, console, options.system)


def _template_kwargs(options: ChatOptions, model: str) -> dict[str, Any]:
    """Variables for the chat template: those of the options, else those of the training run that made the model."""
    if options.chat_template_kwargs is not None:
        return options.chat_template_kwargs
    made_by = run_in(model)
    return made_by.chat_template_kwargs if made_by else {}


@contextmanager
def _blamed_on(flag: str) -> Generator[None]:
    """Puts the flag that named the model into messages of UserErrors, in place of ``--model_name``."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace("--model_name", flag)) from error
