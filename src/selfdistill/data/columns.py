"""``--columns``: a person's names for the columns that are read, and what to suggest where the names are unknown."""

import difflib
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from selfdistill.data.formats import FORMATS, KNOWN_COLUMNS
from selfdistill.errors import UserError, did_you_mean

_PROMPTS = ("prompt", "question", "query", "instruction", "input", "problem", "user", "request", "task", "context")
_ANSWERS = (
    "demonstration",
    "completion",
    "response",
    "answer",
    "output",
    "solution",
    "chosen",
    "reply",
    "target",
    "assistant",
    "label",
)
_CHATS = ("messages", "conversations", "conversation", "dialogue", "dialog", "chat", "turns")
"""What people call the columns of each kind, the likeliest first."""


def check_column_map(columns: Mapping[str, str]) -> None:
    """Raises UserError if a column is to be read under a name that no format has."""
    for ours, theirs in columns.items():
        if ours not in KNOWN_COLUMNS:
            hint = did_you_mean(ours, KNOWN_COLUMNS) or (
                f" Did you mean {theirs}={ours}?" if theirs in KNOWN_COLUMNS else " Use prompt and demonstration."
            )
            raise UserError(f"--columns {ours}={theirs}: rows have no part {ours!r}.{hint}")


def renamed(row: Mapping[str, Any], columns: Mapping[str, str], where: str) -> Mapping[str, Any]:
    """The columns that ``columns`` names, by our names; the row itself if it names none. Raises UserError if one is not
    there."""
    if not columns:
        return row
    for ours, theirs in columns.items():
        if theirs not in row:
            raise UserError(
                f"{where}: --columns {ours}={theirs}: there is no column {theirs!r}, but [{listed(row)}]. Name one of "
                "these."
            )
    return {ours: row[theirs] for ours, theirs in columns.items()}


def listed(names: Iterable[Any]) -> str:
    """The first column names in few words."""
    named = [str(name) for name in names]
    words = ", ".join(name[:24] for name in named[:5]).split()
    return " ".join(words[:8]) + (", ..." if len(named) > 5 or len(words) > 8 else "")


def unknown_columns(row: Mapping[str, Any], where: str) -> UserError:
    """The error for a row of no format; it names the nearest one, and the ``--columns`` that make it that one."""
    found = _suggested(row)
    if not row:
        return UserError(f"{where} has columns []. Give each row a prompt and a demonstration.")
    nearest = next(
        (form.name for form in FORMATS if set(found) == set(form.columns)),
        " and ".join(found) or "prompt/demonstration",
    )
    flag = shlex.quote(",".join(f"{ours}={theirs}" for ours, theirs in found.items()))
    if not found or len(flag.split()) > 8:
        flag = "prompt=...,demonstration=..."
    return UserError(
        f"{where} has columns [{listed(row)}], which is no known format; the nearest is {nearest}. Try --columns {flag}"
    )


def _suggested(row: Mapping[str, Any]) -> dict[str, str]:
    """Which column is probably what: a chat, or else a prompt and a demonstration."""
    names = [str(name) for name, value in row.items() if value is None or isinstance(value, (str, list, tuple))]
    chats = [str(name) for name, value in row.items() if _is_chat(value)]
    if chats and (chat := _closest(chats, _CHATS) or (chats[0] if len(chats) == len(names) == 1 else None)):
        return {"messages": chat}
    prompt = _closest(names, _PROMPTS)
    answer = _closest([name for name in names if name != prompt], _ANSWERS)
    return {ours: name for ours, name in (("prompt", prompt), ("demonstration", answer)) if name is not None}


def _is_chat(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(turn, Mapping) for turn in value)


def _closest(names: list[str], known: tuple[str, ...]) -> str | None:
    """The name that is most like the first of ``known`` that any is like."""
    plain = {name.casefold().strip(): name for name in names}
    for word in known:
        if word in plain:
            return plain[word]
    for word in known:
        if close := difflib.get_close_matches(word, plain, n=1, cutoff=0.75):
            return plain[close[0]]
        if held := next((name for key, name in plain.items() if word in key), None):
            return held
    return None
