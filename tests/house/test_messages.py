"""A message for users has at most 40 words, whatever stands in its place holders."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from selfdistill import errors
from tests.support.mistakes import MOST_WORDS

PACKAGE = Path(errors.__file__).parent
ERRORS = ("UserError", "EngineError", "MissingDataError", "EmptyRowError")


def messages(source: str) -> Iterator[tuple[int, ast.expr]]:
    """Line and message of every error for users that the source makes."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ERRORS:
            yield node.lineno, node.args[0]


def words(message: ast.expr) -> int:
    """Words of a message: those written out, and one for everything that is put in."""
    if isinstance(message, ast.Constant):
        return sum(any(map(str.isalnum, word)) for word in str(message.value).split())
    if isinstance(message, ast.JoinedStr):
        return sum(map(words, message.values))
    if isinstance(message, ast.FormattedValue):
        return max(1, words(message.value))
    if isinstance(message, ast.BinOp):
        return words(message.left) + words(message.right)
    if isinstance(message, ast.IfExp):
        return max(words(message.body), words(message.orelse))
    if isinstance(message, ast.Call) and isinstance(message.func, ast.Name):
        return words_of_call(message.func.id, message.args)
    return 1


def words_of_call(name: str, given: list[ast.expr]) -> int:
    """Most words of what is put in by a function of ``errors``; of any other function one."""
    if name == "brief":
        most = given[1].value if len(given) > 1 and isinstance(given[1], ast.Constant) else 15
        return int(str(most)) + 1  # the dots
    return len(["Did", "you", "mean", "this?"]) if name == "did_you_mean" else 1


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("UserError('--port 7 is for the page.')", 6),
        ("UserError(f'--port {port} is no port.' f' Give {another}.')", 7),
        ("UserError(f'{path}:{line}, a -- b')", 4),
        ("MissingDataError(f\"{what if what else 'no rows at all'} in {str(path)}\")", 6),
        ("UserError(f'no such file {name}.{did_you_mean(name, known)}')", 8),
        ("UserError(f'{name}: {brief(error, 20)}')", 22),
        ("UserError(reason + ' Leave it out.')", 4),
        ("UserError(str(error))", 1),
    ],
)
def test_words_are_counted(source: str, count: int) -> None:
    [(line, message)] = messages(source)
    assert (line, words(message)) == (1, count)


def test_every_message_for_users_is_short() -> None:
    found = [
        (f"{path.relative_to(PACKAGE)}:{line}", words(message))
        for path in sorted(PACKAGE.rglob("*.py"))
        for line, message in messages(path.read_text(encoding="utf-8"))
    ]
    assert len(found) > 100
    assert [(place, count) for place, count in found if count > MOST_WORDS] == []


def test_a_library_error_in_a_message_is_cut() -> None:
    told = errors.brief(ValueError(" ".join(["word"] * 50)), 15)
    assert told.split() == ["word"] * 15 + ["..."]
    assert errors.brief(ValueError("a few words")) == "a few words"
