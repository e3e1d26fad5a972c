"""The strict tool-use score: sums of pairs worked out by hand."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfdistill.tasks import tooluse
from selfdistill.tasks.tooluse import reference_score
from selfdistill.tasks.tooluse_strict import Call, parse_calls, strict_score


def gold(*calls: tuple[str, str]) -> list[dict[str, str]]:
    return [{"Action": name, "Action_Input": text} for name, text in calls]


def react(*calls: tuple[str, str]) -> str:
    return "\n".join(f"Thought: t\nAction: {name}\nAction Input: {text}" for name, text in calls)


F = ("f", '{"a": 1}')
G = ("g", '{"b": 2}')
H = ("h", "{}")
ARGUMENTS = [
    ("equal", F, F, 1),
    ("another name", ("g", '{"a": 1}'), F, 0),
    ("name right, value wrong: the name of (name, a)", ("f", '{"a": 2}'), F, 1 / 2),
    ("argument missing", ("f", "{}"), F, 1 / 2),
    ("argument made up: name and a of (name, a, b)", ("f", '{"a": 1, "b": 2}'), F, 2 / 3),
    ("one of two wrong", ("f", '{"a": 1, "b": 3}'), ("f", '{"a": 1, "b": 2}'), 2 / 3),
    ("key of another case: name of (name, a, A)", ("f", '{"A": 1}'), F, 1 / 3),
    ("no JSON: name of (name, a, one made up)", ("f", "{'a': 1}"), F, 1 / 3),
    ("cut off", ("f", '{"a": 1'), F, 1 / 3),
    ("no object", ("f", "1"), F, 1 / 3),
    ("no JSON where nothing is wanted", ("h", "{oops}"), H, 1 / 2),
    ("nothing where nothing is wanted", ("h", ""), H, 1),
    ("1 is 1.0", ("f", '{"a": 1.0}'), F, 1),
    ("true is not 1", ("f", '{"a": true}'), F, 1 / 2),
    ("true is not 1 in a list either", ("f", '{"a": [true]}'), ("f", '{"a": [1]}'), 1 / 2),
    ("text is not a number", ("f", '{"a": "1"}'), F, 1 / 2),
    ("nested object", ("f", '{"a": {"b": {"c": 1}}}'), ("f", '{"a": {"b": {"c": 1}}}'), 1),
    ("nested object, other inside", ("f", '{"a": {"b": 1}}'), ("f", '{"a": {"b": 2}}'), 1 / 2),
    ("brace in text", ("f", '{"a": "}"}'), ("f", '{"a": "}"}'), 1),
    ("a label in text is no call", ("f", '{"a": "Action: g"}'), ("f", '{"a": "Action: g"}'), 1),
    ("fenced", ("f", '```json\n{"a": 1}\n```'), F, 1),
    ("text after it", ("f", '{"a": 1} and so on'), F, 1),
    ("the last of two equal keys counts", ("f", '{"a": 2, "a": 1}'), F, 1),
    ("unicode", ("f", '{"a": "ü"}'), ("f", '{"a": "\\u00fc"}'), 1),
    ("names that are no words", ("[Optional]up-date", "{}"), ("[Optional]up-date", "{}"), 1),
    ("absurd integer", ("f", '{"a": ' + "9" * 5000 + "}"), F, 1 / 3),
    ("absurd depth", ("f", '{"a": ' + "[" * 99_999), F, 1 / 3),
]


@pytest.mark.parametrize(("made", "wanted", "score"), [row[1:] for row in ARGUMENTS], ids=[row[0] for row in ARGUMENTS])
def test_one_call(made: tuple[str, str], wanted: tuple[str, str], score: float):
    assert strict_score(react(made), gold(wanted)) == pytest.approx(score)


CALLS = [
    ("same order", [F, G], [F, G], 1),
    ("other order: one of the two can be paired", [G, F], [F, G], 1 / 2),
    ("one missing", [F], [F, G], 1 / 2),
    ("one made up", [F, H, G], [F, G], 2 / 3),
    ("called twice", [F, F], [F], 1 / 2),
    ("the better of two counts", [("f", "{}"), F], [F], 1 / 2),
    ("half of one, all of the other", [("f", '{"a": 0}'), G], [F, G], (1 / 2 + 1) / 2),
    ("an input of the wrong call: name of (name, a, b), twice", [("f", G[1]), ("g", F[1])], [F, G], 1 / 3),
    ("last first, of three: two keep their order", [H, F, G], [F, G, H], 2 / 3),
    ("no calls, none wanted", [], [], 1),
    ("calls, none wanted", [F], [], 0),
    ("no calls", [], [F], 0),
]


@pytest.mark.parametrize(("made", "wanted", "score"), [row[1:] for row in CALLS], ids=[row[0] for row in CALLS])
def test_several_calls(made: list[tuple[str, str]], wanted: list[tuple[str, str]], score: float):
    assert strict_score(react(*made), gold(*wanted)) == pytest.approx(score)


def test_layouts():
    assert parse_calls('Action: f Action Input: {"a": 1} Action: g\nAction Input:\n\n{"b": 2}') == [
        Call("f", {"a": 1}),
        Call("g", {"b": 2}),
    ]
    assert parse_calls("Action:\nf\r\nAction Input: {}") == [Call("f", {})]
    assert parse_calls("Action: f\nObservation: x\nAction: g") == [Call("f", {}), Call("g", {})]
    assert parse_calls('reAction: f\nAction Input: {"a": 1}') == []


def test_inputs_are_kept_apart_where_the_reference_merges_them():
    mixed = react(("f", '{"a": 1, "b": 2}'), ("g", "{}"))
    assert reference_score(mixed, gold(F, G))
    assert strict_score(mixed, gold(F, G)) == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_a_gold_that_is_no_object_is_unscored():
    assert strict_score(react(F), gold(("f", "[1]"))) is None
    assert strict_score(react(F), gold(F, ("g", "{broken"))) is None


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(["Action:", "Action Input:", " f", "\n", '{"a": 1}', "{", "}", '"', "```"]), max_size=30)
)
def test_never_raises_and_stays_in_range(parts: list[str]):
    score = strict_score("".join(parts), gold(F, G))
    assert score is not None
    assert 0 <= score <= 1


def test_real_rows_can_all_be_won(real_data: Path):
    rows = tooluse.TASK.load_eval(real_data)
    perfect = [react(*((call["Action"], call["Action_Input"]) for call in row.reference)) for row in rows]
    assert [tooluse.TASK.scorers["strict"](text, row) for text, row in zip(perfect, rows, strict=True)] == [1.0] * 97
    assert sum(bool(tooluse.TASK.scorers["reference"](t, row)) for t, row in zip(perfect, rows, strict=True)) == 95
