"""A chat template of the user's in the place of the tokenizer's own."""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from selfdistill.errors import UserError, brief
from selfdistill.models.bounded import BoundedError
from selfdistill.models.tokens import MARK, chat_text
from selfdistill.settings.chat_template import read_chat_template


def replace_chat_template(tokenizer: PreTrainedTokenizerBase, file: str, variables: Mapping[str, Any]) -> None:
    """Gives the tokenizer the chat template in a file, after a trial with one user turn.

    Args:
        tokenizer: is changed; what saves it saves the template.
        file: path of the Jinja file.
        variables: passed to the chat template in the trial.

    Raises:
        UserError: the file can't be read, the template fails, or it leaves out what the user says.
    """
    tokenizer.chat_template = read_chat_template(file)
    try:
        text = chat_text(tokenizer, [{"role": "user", "content": MARK}], add_generation_prompt=True, **variables)
    except BoundedError as error:
        raise UserError(
            f"--chat_template {file} fails on a user turn: {brief(error, 15)}. Correct it, or give what it needs in "
            "--chat_template_kwargs."
        ) from error
    if MARK not in text:
        raise UserError(f"--chat_template {file} leaves out what the user says. It must show messages' content.")
