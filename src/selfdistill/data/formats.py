"""The formats of rows. A row of another format than ours is turned into one of ours, with ``prompt`` or ``messages``.

To add a format, add a row to ``FORMATS``; docs/data.md shows each.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from selfdistill.errors import UserError, quoted
from selfdistill.types import is_blank

Columns = Mapping[str, Any]

DEMONSTRATION_COLUMNS = ("demonstration", "output_text", "golden_response", "completion", "privileged_context")
"""Columns for the demonstration, of which a row has at most one."""
REFERENCE_COLUMNS = ("reference", "answer", "golden_answer")
"""Columns for the reference answer; the first one that a row has is taken."""
TEXT = "text"
TOOLS = "tools"
"""Column for definitions of the tools that the assistant may call, in a row of any format with a prompt."""
SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
}
"""The role of each ``from`` in ShareGPT's turns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A way in which rows are written."""

    name: str
    columns: tuple[str, ...]
    """Columns that a row of this format has; the first format that fits a row is taken."""
    convert: Callable[[Columns, str], dict[str, Any]] | None = None
    """From a row, and its name for messages, to columns of ours. None if they are ours already. Raises UserError."""


def _alpaca(row: Columns, where: str) -> dict[str, Any]:
    """The input, if there is one, follows the instruction after an empty line."""
    parts = [text(row["instruction"], f"{where}: instruction"), text(row.get("input") or "", f"{where}: input")]
    asked = "\n\n".join(part for part in parts if not is_blank(part))
    return _with_system(row, asked, where) | {"demonstration": row["output"]}


def _share_gpt(row: Columns, where: str) -> dict[str, Any]:
    turns = row["conversations"]
    if not isinstance(turns, list | tuple) or not all(isinstance(turn, Mapping) for turn in turns):
        raise UserError(f"{where}: conversations is {quoted(turns)}: it must be a list of objects with from and value.")
    messages = [_message(turn, where) for turn in turns]
    system = row.get("system")
    if system is not None and not is_blank(text(system, f"{where}: system")):
        messages.insert(0, {"role": "system", "content": system})
    return {"messages": messages}


def _message(turn: Columns, where: str) -> Columns:
    """A turn of ShareGPT as one of ours; one with a role is ours already."""
    if "role" in turn:
        return turn
    speaker = turn.get("from")
    if not isinstance(speaker, str) or speaker not in SPEAKERS:
        raise UserError(
            f"{where}: conversations has a turn from {quoted(speaker)}; use one of {', '.join(SPEAKERS)}. Its text is "
            "its value."
        )
    return {"role": SPEAKERS[speaker], "content": text(turn.get("value"), f"{where}: conversations: value")}


def _question(row: Columns, where: str) -> dict[str, Any]:
    """An answer that is text is what is demonstrated, too."""
    shown = {"demonstration": row["answer"]} if isinstance(row["answer"], str) else {}
    return {"prompt": row["question"], "answer": row["answer"]} | shown


def _input(row: Columns, where: str) -> dict[str, Any]:
    return {"prompt": row["input"], "demonstration": row["output"]}


def _with_system(row: Columns, asked: str, where: str) -> dict[str, Any]:
    system = row.get("system")
    if system is None or is_blank(text(system, f"{where}: system")):
        return {"prompt": asked}
    return {"prompt": [{"role": "system", "content": system}, {"role": "user", "content": asked}]}


def text(value: Any, what: str) -> str:
    """The value, which must be text. Raises UserError."""
    if not isinstance(value, str):
        raise UserError(f"{what} is {quoted(value)}: it must be text.")
    return value


FORMATS: tuple[Format, ...] = (
    *(Format(name=f"prompt/{column}", columns=("prompt", column)) for column in DEMONSTRATION_COLUMNS),
    Format(name="prompt", columns=("prompt",)),
    *(Format(name=f"messages/{column}", columns=("messages", column)) for column in DEMONSTRATION_COLUMNS),
    Format(name="messages", columns=("messages",)),
    Format(name="ShareGPT", columns=("conversations",), convert=_share_gpt),
    Format(name="Alpaca", columns=("instruction", "output"), convert=_alpaca),
    Format(name="question/answer", columns=("question", "answer"), convert=_question),
    Format(name="input/output", columns=("input", "output"), convert=_input),
    Format(name=TEXT, columns=(TEXT,)),
)
"""The formats, in the order in which they are tried."""

KNOWN_COLUMNS = (
    "prompt",
    "messages",
    *DEMONSTRATION_COLUMNS,
    *REFERENCE_COLUMNS,
    "conversations",
    "instruction",
    "input",
    "output",
    "system",
    "question",
    TOOLS,
    TEXT,
)
"""Every column that some format reads."""
_ONE_OF = (("prompt", "messages", "conversations"), DEMONSTRATION_COLUMNS)
"""Columns of which a row has at most one, since they say the same thing."""


def format_of(row: Columns) -> Format | None:
    """The format of a row without its None values; None if it has none."""
    return _format_with(frozenset(row))


@lru_cache(maxsize=1024)
def _format_with(names: frozenset[str]) -> Format | None:
    return next((form for form in FORMATS if names.issuperset(form.columns)), None)


def check_unambiguous(row: Columns, where: str) -> None:
    """Raises UserError if two columns say the same thing; cells of blank text say nothing."""
    for group in _ONE_OF:
        there = [name for name in group if name in row]
        if len(there) < 2:
            continue
        said = [name for name in there if not (isinstance(row[name], str) and is_blank(row[name]))]
        if len(said) > 1:
            raise UserError(
                f"{where} has both {said[0]} and {said[1]}. Keep one, or name with --columns the one to read, as in "
                f"{said[0]}={said[0]}."
            )
