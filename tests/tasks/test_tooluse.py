"""The reference's tool-use score: its rule by hand, word for word, on absurd input and on the real rows."""

import json
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfdistill.tasks import tooluse
from selfdistill.tasks.tooluse import reference_score
from selfdistill.types import Example
from tests.support.mistakes import mistake


def gold(*calls: tuple[str, str]) -> list[dict[str, str]]:
    return [{"Action": action, "Action_Input": text} for action, text in calls]


def call(action: str, text: str) -> str:
    return f"Thought: think\nAction: {action}\nAction Input: {text}"


def same(text: str) -> tuple[str, list[dict[str, str]]]:
    """A completion and its gold with the very same input."""
    return call("f", text), gold(("f", text))


F = gold(("f", '{"a": 1}'))
EMPTY = gold(("f", "{}"))
TWO = gold(("f", '{"a": 1}'), ("g", '{"b": 2}'))
TWO_BAD = gold(("f", "?"), ("g", '{"b": 2}'))
BIG = "9" * 5000
DEEP = "[" * 5000 + "]" * 5000
DEEP_930 = "[" * 930 + "]" * 930  # json.loads may still take it, according to the depth of the stack

TABLE = [
    ("plain match", call("f", '{"a": 1}'), F, True),
    ("text around it is ignored", "Sure!\n" + call("f", '{"a": 1}') + "\nDone.", F, True),
    ("no action at all", "I cannot help.", F, False),
    ("empty completion against a call", "", F, False),
    ("empty completion against no calls", "", [], True),
    ("wrong action", call("g", '{"a": 1}'), F, False),
    ("wrong value", call("f", '{"a": 2}'), F, False),
    ("missing key", call("f", "{}"), F, False),
    ("extra key", call("f", '{"a": 1, "b": 2}'), F, False),
    ("key of another case", call("f", '{"A": 1}'), F, False),
    ("lower-case labels do not match", 'action: f\naction input: {"a": 1}', F, False),
    ("upper-case label does not match", 'ACTION: f\nAction Input: {"a": 1}', F, False),
    ("no space after the colons", 'Action:f\nAction Input:{"a": 1}', F, True),
    ("line breaks after the colons", 'Action:\n\nf\nAction Input:\n\n{"a": 1}', F, True),
    ("space before the colon", 'Action : f\nAction Input: {"a": 1}', F, False),
    ("bold label parts the name from the colon", 'Action:** f\nAction Input: {"a": 1}', F, False),
    ("a quoted name is no word", 'Action: "f"\nAction Input: {"a": 1}', F, False),
    ("a name ends at its first non-word", 'Action: f-x\nAction Input: {"a": 1}', F, True),
    ("a longer word is another name", 'Action: f_x\nAction Input: {"a": 1}', F, False),
    ("any text may precede the label", 'Final Action: f\nAction Input: {"a": 1}', F, True),
    ("label with no name takes the next word", 'Action:\nAction Input: {"a": 1}', F, False),
    ("input before action", 'Action Input: {"a": 1}\nAction: f', F, True),
    ("gold name with a hyphen never matches", call("f-x", '{"a": 1}'), gold(("f-x", '{"a": 1}')), False),
    ("unicode name is a word", call("größe", "{}"), gold(("größe", "{}")), True),
    ("unicode value, escaped or not", call("f", r'{"a": "\u00fc"}'), gold(("f", '{"a": "ü"}')), True),
    ("two calls", call("f", '{"a": 1}') + "\n" + call("g", '{"b": 2}'), TWO, True),
    ("order of calls is free", call("g", '{"b": 2}') + "\n" + call("f", '{"a": 1}'), TWO, True),
    ("inputs may hang on the wrong call", call("f", '{"b": 2}') + call("g", '{"a": 1}'), TWO, True),
    ("all inputs in one block", call("f", '{"a": 1, "b": 2}') + "\nAction: g", TWO, True),
    ("one call of two", call("f", '{"a": 1}'), TWO, False),
    ("repeated action counts twice", call("f", '{"a": 1}') * 2, F, False),
    ("repeated action against repeated gold", call("f", '{"a": 1}') * 2, F * 2, True),
    ("one action against repeated gold", call("f", '{"a": 1}'), F * 2, False),
    ("repeated input, one action", call("f", '{"a": 1}') + '\nAction Input: {"a": 1}', F, True),
    (
        "merged left to right: the last wins",
        call("f", '{"a": 1}') + "\n" + call("g", '{"a": 2}'),
        gold(("f", '{"a": 1}'), ("g", '{"a": 2}')),
        True,
    ),
    (
        "merged left to right: calls swapped, another wins",
        call("g", '{"a": 2}') + "\n" + call("f", '{"a": 1}'),
        gold(("f", '{"a": 1}'), ("g", '{"a": 2}')),
        False,
    ),
    ("a wrong input is mended by a later one", call("f", '{"a": 7}') + '\nAction Input: {"a": 1}', F, True),
    ("1 equals 1.0", call("f", '{"a": 1.0}'), F, True),
    ("1 equals true", call("f", '{"a": true}'), F, True),
    ("1 is not the text 1", call("f", '{"a": "1"}'), F, False),
    ("0 equals false and -0.0", call("f", '{"a": -0.0}'), gold(("f", '{"a": false}')), True),
    ("null is not a missing key", call("f", '{"a": null}'), EMPTY, False),
    ("order of keys is free", call("f", '{"b": 2, "a": 1}'), gold(("f", '{"a": 1, "b": 2}')), True),
    ("duplicate key: the last wins", call("f", '{"a": 9, "a": 1}'), F, True),
    ("white space in values counts", call("f", '{"a": "x "}'), gold(("f", '{"a": "x"}')), False),
    ("list value", call("f", '{"a": ["x", 1]}'), gold(("f", '{"a": ["x", true]}')), True),
    ("order in lists counts", call("f", '{"a": [2, 1]}'), gold(("f", '{"a": [1, 2]}')), False),
    ("input over several lines", call("f", '{\n  "a":\n 1\n}'), F, True),
    ("empty input", call("f", "{}"), EMPTY, True),
    ("no input at all against an empty one", "Action: f", EMPTY, True),
    ("text in place of an input", call("f", "none"), EMPTY, True),
    ("broken JSON is dropped", call("f", "{'a': 1}"), EMPTY, True),
    ("broken JSON does not match", call("f", "{'a': 1}"), F, False),
    ("trailing comma is broken JSON", call("f", '{"a": 1,}'), F, False),
    ("broken, then right", call("f", "{a: 1}") + '\nAction Input: {"a": 1}', F, True),
    ("unclosed brace gives no block", call("f", '{"a": 1'), EMPTY, True),
    ("unclosed block swallows the next", call("f", '{"a": 1') + '\nAction Input: {"a": 1}', F, False),
    ("text after the first brace is ignored", call("f", '{"a": 1}}}'), F, True),
    ("two objects in a row: the first counts", call("f", '{"a": 1}{"a": 2}'), F, True),
    ("fence between label and brace", call("f", '```json\n{"a": 1}\n```'), F, False),
    ("fence around the whole", "```\n" + call("f", '{"a": 1}') + "\n```", F, True),
    ("an array is no block", call("f", '[{"a": 1}]'), F, False),
    ("double braces are broken JSON", call("f", '{{"a": 1}}'), F, False),
    ("nested gold can't be won", *same('{"a": {"b": 1}}'), False),
    ("nested junk costs nothing", call("f", '{"a": {"b": 1}}'), EMPTY, True),
    ("empty nested object cuts too", *same('{"a": {}}'), False),
    ("brace inside a string cuts", *same('{"a": "}"}'), False),
    ("opening brace in a string is harmless", *same('{"a": "{"}'), True),
    ("an escaped brace is no brace", call("f", r'{"a": "\u007d"}'), gold(("f", '{"a": "}"}')), True),
    ("raw line break in a string is broken JSON", call("f", '{"a": "x\ny"}'), EMPTY, True),
    ("label inside an input counts as action", *same('{"a": "Action: g"}'), False),
    ("an integer of 300 digits", *same('{"a": ' + "9" * 300 + "}"), True),
    ("an integer of 5,000 digits", *same('{"a": ' + BIG + "}"), False),
    ("5,000 digits are not skipped as junk", call("f", '{"a": ' + BIG + "}"), EMPTY, False),
    ("nor mended by a later input", call("f", '{"a": ' + BIG + "}") + '\nAction Input: {"a": 1}', F, False),
    ("5,000 digits after a mistake are never read", call("f", '{"a": x, "b": ' + BIG + "}"), EMPTY, True),
    ("5,000 digits behind a point are a float", call("f", '{"a": 1.' + "0" * 5000 + "}"), F, True),
    ("arrays nested 100 deep", *same('{"a": ' + "[" * 100 + "]" * 100 + "}"), True),
    ("arrays nested 5,000 deep", call("f", '{"a": ' + DEEP + "}"), EMPTY, False),
    ("deep, then mended", call("f", '{"a": ' + DEEP + "}") + '\nAction Input: {"a": 1}', F, False),
    ("930 deep, then mended: the same on any stack", call("f", '{"a": ' + DEEP_930 + ', "a": 1}'), F, False),
    ("930 deep and unclosed", call("f", '{"a": ' + "[" * 930 + "}"), EMPTY, False),
    ("deep and unclosed", call("f", '{"a": ' + "[" * 5000 + "}"), EMPTY, False),
    ("depth after a mistake is never read", call("f", '{"a": x' + DEEP + "}"), EMPTY, True),
    ("brackets in a string are not depth", *same(json.dumps({"a": "[" * 5000})), True),
    ("many arrays side by side are not depth", *same(json.dumps({"a": [[]] * 5000})), True),
    ("json.loads gives one NaN object", *same('{"a": NaN}'), True),
    ("Infinity equals 1e999", call("f", '{"a": Infinity}'), gold(("f", '{"a": 1e999}')), True),
    ("gold unparsable is skipped", call("f", "{}"), gold(("f", "not json")), True),
    ("gold unparsable, completion with a key", call("f", '{"a": 1}'), gold(("f", "{a: 1}")), False),
    ("gold of text type is skipped", call("f", "{}"), gold(("f", '"abc"')), True),
    ("gold null is skipped", call("f", "{}"), gold(("f", "null")), True),
    ("gold array is skipped", call("f", "{}"), gold(("f", "[1, 2]")), True),
    ("gold array of pairs merges as dict.update does", call("f", '{"a": 1}'), gold(("f", '[["a", 1]]')), True),
    ("gold with white space around is parsed whole", call("f", '{"a": 1}'), gold(("f", ' {"a": 1}\n')), True),
    ("gold with trailing text is unparsable", call("f", '{"a": 1}'), gold(("f", '{"a": 1} ok')), False),
    ("gold unparsable, the other merged", call("f", "{}") + call("g", '{"b": 2}'), TWO_BAD, True),
    ("gold of 5,000 digits scores 0", call("f", "{}"), gold(("f", '{"a": ' + BIG + "}")), False),
]  # fmt: skip


@pytest.mark.parametrize(
    ("completion", "golden", "expected"),
    [pytest.param(*row[1:], id=row[0]) for row in TABLE],
)
def test_reference_score_by_hand(completion: str, golden: list[dict[str, str]], expected: bool):
    assert reference_score(completion, golden) is expected


def test_the_table_names_each_case_once():
    assert len({row[0] for row in TABLE}) == len(TABLE) >= 45


def test_gold_input_that_is_absent_is_skipped():
    assert reference_score(call("f", "{}"), [{"Action": "f", "Action_Input": None}]) is True


def naive_score(completion: str, golden: list[dict[str, str]]) -> bool:
    """The rule word for word, without care for speed or absurd input."""
    inputs: dict[str, Any] = {}
    for block in re.findall(r"Action Input:\s*({.*?})", completion, re.DOTALL):
        try:
            parsed = json.loads(block)
        except json.JSONDecodeError:
            continue
        inputs = {**inputs, **parsed}
    golden_inputs: dict[str, Any] = {}
    for item in golden:
        golden_inputs = {**golden_inputs, **json.loads(item["Action_Input"])}
    actions = re.findall(r"Action:\s*(\w+)", completion)
    return sorted(actions) == sorted(item["Action"] for item in golden) and inputs == golden_inputs


TEXTS = ["Action:", "Action Input:", " ", "\n", "f", "g", '{"a": 1}', '{"a": 1', *'{}[]",1']
PIECES = st.sampled_from([*TEXTS, "{}", call("f", '{"a": 1}'), call("g", '{"b": 2}')])
COMPLETIONS = st.lists(PIECES, max_size=25).map("".join)


@settings(deadline=None)
@given(COMPLETIONS, st.sampled_from([[], F, EMPTY, TWO]))
def test_agrees_with_the_rule_word_for_word(completion: str, golden: list[dict[str, str]]):
    assert reference_score(completion, golden) is naive_score(completion, golden)


@settings(deadline=None)
@given(st.text() | COMPLETIONS, st.lists(st.tuples(st.text(), st.text() | COMPLETIONS)))
def test_never_raises(completion: str, calls: list[tuple[str, str]]):
    assert reference_score(completion, gold(*calls)) in (True, False)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@settings(deadline=None)
@given(JSON_VALUES, JSON_VALUES)
def test_never_raises_on_any_json(ours: object, golds: object):
    completion = call("f", json.dumps(ours))
    assert reference_score(completion, gold(("f", json.dumps(golds)))) in (True, False)


UNITS = ["Action Input: {", "Action:", "Action: \n", "Action Input:  ", 'Action Input: {"', "{", "}"]


@pytest.mark.parametrize("unit", UNITS)
def test_time_is_linear(unit: str):
    """A quadratic scan of a million characters would take minutes."""
    start = time.process_time()
    for completion in (unit * (1_000_000 // len(unit)), unit * (1_000_000 // len(unit)) + "}"):
        reference_score(completion, F)
    assert time.process_time() - start < 5


def test_time_is_linear_in_unclosed_strings():
    start = time.process_time()
    # The mistake \x lies behind half a million escaped quotes of a string that is never closed.
    reference_score('Action Input: {"a": "' + r"\"" * 500_000 + r"\x}", F)
    assert time.process_time() - start < 5


def test_a_row_without_gold_is_unscored():
    example = Example(id="x", prompt=({"role": "user", "content": "hi"},))
    assert tooluse.TASK.scorers["reference"]("Action: f", example) is None


def test_missing_data_and_rows_without_gold(tmp_path: Path):
    assert "tooluse_data/train_data" in mistake(tooluse.TASK.load_train, None)
    rows = [{"prompt": "a", "golden_answer": F}, {"prompt": "b", "golden_answer": None}]
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "tooluse_data" / "eval_data"))
    assert "eval_data row 2 has no golden_answer" in mistake(tooluse.TASK.load_eval, tmp_path)


def test_training_data(real_data: Path):
    examples = tooluse.TASK.load_train(real_data)
    assert len(examples) == 1154
    assert examples[17].id == "tooluse/train/17"
    scorer = tooluse.TASK.scorers["reference"]
    lost = [row.id for row in examples if not scorer(row.demonstration_text, row)]
    # All three call createIn-AppMessage, and an action ends at the hyphen.
    assert lost == ["tooluse/train/352", "tooluse/train/622", "tooluse/train/1065"]


def test_evaluation_data_and_its_ceiling(real_data: Path):
    examples = tooluse.TASK.load_eval(real_data)
    assert len(examples) == 97
    assert not any(example.demonstration for example in examples)
    ideal = [
        "\n".join(call(item["Action"], item["Action_Input"]) for item in example.reference) for example in examples
    ]
    scorer = tooluse.TASK.scorers["reference"]
    scores = Counter(scorer(text, row) for text, row in zip(ideal, examples, strict=True))
    assert scores == {1.0: 95, 0.0: 2}
