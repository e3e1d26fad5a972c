"""The file that ``--chat_template`` names."""

from pathlib import Path

from selfdistill.errors import UserError, brief


def read_chat_template(file: str) -> str:
    """Text of a chat template's file, by which it replaces the tokenizer's own.

    Raises:
        UserError: the file can't be read as text, or holds none.
    """
    try:
        text = Path(file).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UserError(
            f"--chat_template {file} can't be read: {brief(reason)}. Name a Jinja file, such as a model's "
            "chat_template.jinja."
        ) from error
    if not text.strip():
        raise UserError(f"--chat_template {file} is empty. Name a Jinja file, such as a model's chat_template.jinja.")
    return text
