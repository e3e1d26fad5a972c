"""Turns a user's row, in any of the accepted schemas, into an Example."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from selfdistill.data.columns import renamed, unknown_columns
from selfdistill.data.formats import (
    DEMONSTRATION_COLUMNS,
    REFERENCE_COLUMNS,
    TEXT,
    TOOLS,
    check_unambiguous,
    format_of,
    text,
)
from selfdistill.data.kept import keep
from selfdistill.errors import EmptyRowError, UserError, quoted
from selfdistill.types import Example, Message, is_blank, message_text

_HALF = re.compile(r"\\ud[89a-f]")
_ENCODER = json.JSONEncoder(default=str, skipkeys=True)
ROLES = ("system", "developer", "user", "assistant", "tool")


def examples_from_rows(
    rows: Iterable[Mapping[str, Any]],
    *,
    source: str,
    prefix: str,
    need_demonstration: bool = True,
    raw_text: bool = False,
) -> Sequence[Example]:
    """The examples of a data set, in order, with the ids ``prefix/0``, ``prefix/1``, ...

    Args:
        rows: the rows, in any schema of ``example_from_row``.
        source: the data's name in error messages, such as ``my.jsonl``.
        prefix: beginning of the ids.
        need_demonstration: whether a row without a demonstration is an error.
        raw_text: whether the rows may be plain text.

    Raises:
        UserError: there are no rows, or one is wrong; the message gives its number, counted from 1.
    """
    examples = keep(
        example_from_row(
            row,
            where=f"{source} row {index + 1}",
            id=f"{prefix}/{index}",
            need_demonstration=need_demonstration,
            raw_text=raw_text,
        )
        for index, row in enumerate(rows)
    )
    if not examples:
        raise UserError(f"{source} has no rows: give it at least one with a prompt.")
    return examples


def example_from_row(
    row: Mapping[str, Any],
    *,
    where: str,
    id: str,
    need_demonstration: bool = True,
    raw_text: bool = False,
    columns: Mapping[str, str] | None = None,
) -> Example:
    """One row as an Example.

    A row in one of ``FORMATS`` that is not ours is converted first. The demonstration is that one of
    DEMONSTRATION_COLUMNS that the row has, and the prompt is ``prompt`` or ``messages``. In a row with ``messages`` but
    none of those columns, both come from ``messages``: its last run of assistant turns, with the tool turns between
    them, is the demonstration, and what precedes it the prompt. Plain text is a demonstration without a prompt.

    Prompts and demonstrations are text or message lists; ``tools`` is a list of definitions, or one as JSON text. Keys
    whose value is None, which Arrow adds at every depth of a message, are dropped.

    Args:
        row: the row, by column.
        where: its name in error messages, such as ``my.jsonl row 3``.
        id: the example's id.
        need_demonstration: whether a row without a demonstration is an error.
        raw_text: whether the row may be plain text, for a method that reads no prompts.
        columns: the row's names for our columns; if any, no others are read.

    Raises:
        UserError: the row fits none of the formats, or one of its parts is wrong; EmptyRowError if that part is empty.
    """
    named = renamed(row, columns or {}, where)
    given = {name: value for name, value in named.items() if value is not None}
    prompt, demonstration, known = _parts(given, where, raw_text=raw_text)
    if need_demonstration and not demonstration:
        raise _no_demonstration("messages" in known, where)
    tools = _tools(given.get(TOOLS), where) if prompt else ()
    example = Example(
        id=id, prompt=prompt, demonstration=demonstration, tools=tools, reference=_reference(known, where)
    )
    _check_characters(example, where)
    return example


_Turns = tuple[Message, ...]


def _parts(row: Mapping[str, Any], where: str, *, raw_text: bool) -> tuple[_Turns, _Turns, Mapping[str, Any]]:
    """Prompt and demonstration of a row without None values, and its columns by our names."""
    check_unambiguous(row, where)
    form = format_of(row)
    if form is None:
        raise _no_prompt(row, where)
    if form.name == TEXT:
        if not raw_text:
            raise UserError(
                f"{where} has text without a prompt, which only train --method cpt reads. Give it prompt and "
                "demonstration."
            )
        return (), _demonstration(text(row[TEXT], f"{where}: {TEXT}"), TEXT, where), row
    known = row if form.convert is None else form.convert(row, where)
    column = next((name for name in DEMONSTRATION_COLUMNS if name in known and _says(known[name])), None)
    if column is None:  # an empty cell is no demonstration, but is what is wrong if there is no other
        column = next((name for name in DEMONSTRATION_COLUMNS if name in known), None)
    in_messages = "prompt" not in known or ("messages" in known and not _says(known["prompt"]))
    asked, demonstration = _asked(known, in_messages, where), ()
    if column is None and in_messages:
        asked, demonstration = _split(asked)
    _check_prompt(asked, where)
    if column is not None:
        demonstration = _demonstration(known[column], column, where)
    return asked, demonstration, known


def _asked(known: Mapping[str, Any], in_messages: bool, where: str) -> _Turns:
    """The turns of ``messages``, or else of ``prompt``."""
    if not in_messages:
        return _turns(known["prompt"], role="user", what=f"{where}: prompt")
    if isinstance(known["messages"], str):
        raise UserError(f"{where}: messages is text; give a list of messages, or name the column prompt.")
    return _turns(known["messages"], role="user", what=f"{where}: messages")


def _says(value: Any) -> bool:
    return not (isinstance(value, str) and is_blank(value))


def _check_characters(example: Example, where: str) -> None:
    """Raises UserError for half a character (a lone surrogate), which no file and no tokenizer takes; and for values
    nested too deep to be walked through."""
    try:
        said = [*example.prompt, *example.demonstration, *example.tools, example.reference]
        escaped = _ENCODER.encode(said)
    except (RecursionError, ValueError) as error:
        raise UserError(f"{where} is nested too deep, or in itself. Make it flat.") from error
    if _HALF.search(escaped) and (half := _lone_half(escaped)):
        raise UserError(f"{where} holds {half}, half a character, which is no text. Write the file again as UTF-8.")


def _lone_half(escaped: str) -> str | None:
    """The first ``\\udXXX`` in JSON text that is not one of a pair."""
    text = json.loads(escaped)
    plain = json.dumps(text, ensure_ascii=False)
    found = re.search("[\ud800-\udfff]", plain)
    return f"\\u{ord(found[0]):04x}" if found else None


def _turns(value: Any, *, role: str, what: str) -> tuple[Message, ...]:
    """The turns of a message list, checked; a text is one turn of ``role``."""
    if isinstance(value, str):
        return ({"role": role, "content": value},)
    if not isinstance(value, list | tuple) or not all(isinstance(turn, Mapping) for turn in value):
        raise UserError(f"{what} is {quoted(value)}: it must be text, or a list of messages with role and content.")
    return tuple(_message(turn, what) for turn in value)


def _message(turn: Mapping[str, Any], what: str) -> Message:
    message: Message = _without_none(turn)
    role = message.get("role")
    if role not in ROLES:
        raise UserError(f"{what} has a turn with role {quoted(role)}; use one of {', '.join(ROLES)}.")
    content, calls = message.get("content"), message.get("tool_calls")
    if calls is not None and not (isinstance(calls, list) and all(isinstance(call, dict) for call in calls)):
        raise UserError(f"{what} has tool_calls {quoted(calls)}: they must be a list of objects.")
    if calls:
        message = {**message, "tool_calls": [_call(call) for call in calls]}
    if content is None and not calls:
        raise UserError(f"{what} has a turn of role {role} without content: give its text.")
    if content is None:  # many templates read the content of every turn
        return {**message, "content": ""}
    if isinstance(content, str):
        return message
    if isinstance(content, list) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in content):
        # Many templates would print a list of typed parts as Python text.
        return {**message, "content": "".join(part["text"] for part in content)}
    raise UserError(f"{what} has a turn of role {role} whose content is {quoted(content)}: it must be text.")


def _call(call: dict[str, Any]) -> dict[str, Any]:
    """A tool call whose arguments, if they are an object as JSON text, are that object: templates write it out."""
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(arguments := function.get("arguments"), str):
        return call
    try:
        read = json.loads(arguments)
    except (ValueError, RecursionError):
        return call
    return {**call, "function": {**function, "arguments": read}} if isinstance(read, dict) else call


def _tools(value: Any, where: str) -> tuple[dict[str, Any], ...]:
    """Definitions of tools as objects with ``type`` and ``function``; a bare function becomes one."""
    if isinstance(value, str) and not is_blank(value):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: tools is {quoted(value)}, which is no JSON. Give a list of objects.") from error
    if not value or (isinstance(value, str) and is_blank(value)):
        return ()
    tools = [_defined(tool) for tool in value] if isinstance(value, list | tuple) else [None]
    found = tuple(tool for tool in tools if tool is not None)
    if len(found) < len(tools):
        raise UserError(f"{where}: tools is {quoted(value)}: it must be a list of objects with type and function.")
    return found


def _defined(tool: Any) -> dict[str, Any] | None:
    """The definition without None values; None for what is none."""
    if not isinstance(tool, Mapping):
        return None
    plain: dict[str, Any] = _without_none(tool)
    definition = plain if "function" in plain else {"type": "function", "function": plain}
    function = definition["function"]
    return definition if isinstance(function, dict) and isinstance(function.get("name"), str) else None


def _without_none(value: Any) -> Any:
    """A copy without the mapping keys, at any depth, whose value is None."""
    if isinstance(value, Mapping):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_without_none(item) for item in value]
    return value


def _split(turns: tuple[Message, ...]) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """A conversation's prompt and demonstration, which is its last run of assistant turns with the tool turns between
    them; empty if the conversation does not end with the assistant."""
    start = len(turns)
    if turns and turns[-1]["role"] == "assistant":
        while start > 0 and turns[start - 1]["role"] in ("assistant", "tool"):
            start -= 1
        while turns[start]["role"] == "tool":  # answers a call in the prompt, so belongs to the prompt
            start += 1
    return turns[:start], turns[start:]


def _check_prompt(prompt: tuple[Message, ...], where: str) -> None:
    if all(is_blank(message_text(turn)) for turn in prompt):
        raise EmptyRowError(f"{where}: the prompt is empty; give the text the model should answer.")
    last = prompt[-1]
    if last["role"] == "assistant":
        raise UserError(
            f"{where}: the prompt ends in an assistant turn; end it with a user turn and put the "
            "answer into demonstration."
        )
    if last["role"] == "user" and is_blank(message_text(last)):
        raise EmptyRowError(f"{where}: the last user turn of the prompt is empty; give its text.")


def _demonstration(value: Any, column: str, where: str) -> tuple[Message, ...]:
    if column == "golden_response" and isinstance(value, list | tuple):
        if not all(isinstance(step, str) for step in value):
            raise UserError(f"{where}: golden_response is {quoted(value)}: it must be text or a list of texts.")
        value = "\n".join(value)
    turns = _turns(value, role="assistant", what=f"{where}: {column}")
    if all(is_blank(message_text(turn)) for turn in turns):
        raise EmptyRowError(f"{where}: {column} is empty; give the expert's answer.")
    if column == "privileged_context":  # turns of any role, which the teacher sees as one text
        text = "\n".join(message_text(turn) for turn in turns)
        return ({"role": "assistant", "content": text},)
    if turns[0]["role"] != "assistant" or turns[-1]["role"] != "assistant":
        raise UserError(
            f"{where}: {column} begins with role {turns[0]['role']} and ends with "
            f"{turns[-1]['role']}; both must be assistant."
        )
    return turns


def _reference(columns: Mapping[str, Any], where: str) -> Any:
    """The reference answer; None if there is none, or only blank text such as an empty CSV cell."""
    column = next((name for name in REFERENCE_COLUMNS if name in columns), None)
    value = columns[column] if column else None
    if isinstance(value, str) and is_blank(value):
        return None
    if column == "golden_answer":
        if not isinstance(value, list | tuple) or not all(
            isinstance(call, Mapping) and isinstance(call.get("Action"), str) for call in value
        ):
            raise UserError(
                f"{where}: golden_answer is {quoted(value)}: it must be a list of objects with Action and Action_Input."
            )
        return [dict(call) for call in value]
    return value


def _no_prompt(columns: Mapping[str, Any], where: str) -> UserError:
    if set(columns) & {*DEMONSTRATION_COLUMNS, "golden_answer"}:
        return UserError(f"{where} has no prompt: add a column prompt (text or messages), or name it with --columns.")
    return unknown_columns(columns, where)


def _no_demonstration(from_messages: bool, where: str) -> UserError:
    if from_messages:
        return UserError(f"{where} has no demonstration: messages must end with an assistant turn, or add output_text.")
    return UserError(
        f"{where} has no demonstration: add a column demonstration or completion, or name yours with --columns, as in "
        "prompt=prompt,demonstration=answer."
    )
