"""Rows in any of the accepted schemas become Examples, or short errors that name the row."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfdistill.data.rows import example_from_row, examples_from_rows
from selfdistill.errors import UserError
from selfdistill.types import Example
from tests.support.mistakes import mistake

USER = {"role": "user", "content": "hi"}
ASSISTANT = {"role": "assistant", "content": "hello"}
SYSTEM = {"role": "system", "content": "be kind"}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}],
}
TOOL = {"role": "tool", "content": "42"}


def read(row: dict[str, Any], need: bool = True) -> Example:
    return example_from_row(row, where="my.jsonl row 3", id="custom/2", need_demonstration=need)


def error(row: dict[str, Any], need: bool = True) -> str:
    """The message about a bad row, which begins with the row's name."""
    message = mistake(read, row, need)
    assert message.startswith("my.jsonl row 3")
    return message


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "hi", "demonstration": "hello"},
        {"prompt": [USER], "demonstration": [ASSISTANT]},
        {"prompt": "hi", "completion": "hello"},
        {"prompt": [USER], "completion": [ASSISTANT]},
        {"prompt": "hi", "privileged_context": "hello"},
        {"prompt": "hi", "golden_response": ["hello"]},
        {"prompt": "hi", "golden_response": "hello"},
        {"messages": [USER, ASSISTANT]},
        {"messages": [USER], "output_text": "hello"},
        {"prompt": "", "messages": [USER, ASSISTANT]},
        {"prompt": "hi", "completion": "hello", "demonstration": " ", "golden_response": "\u200b"},
        {"prompt": "hi", "completion": "hello", "messages": None, "demonstration": None, "n": 1},
    ],
)
def test_schemas(row: dict[str, Any]):
    example = read(row)
    assert example == Example(id="custom/2", prompt=(USER,), demonstration=(ASSISTANT,))


def test_golden_response_is_joined_by_newlines():
    row = {"prompt": "hi", "golden_response": ["a", "", "b"]}
    assert read(row).demonstration_text == "a\n\nb"


def test_privileged_context_of_any_turns_becomes_one_text():
    row = {"prompt": "hi", "privileged_context": [USER, ASSISTANT]}
    assert read(row).demonstration == ({"role": "assistant", "content": "hi\nhello"},)


@pytest.mark.parametrize(
    ("turns", "length"),
    [
        ([USER, ASSISTANT], 1),
        ([SYSTEM, USER, ASSISTANT, USER, ASSISTANT], 4),
        ([USER, CALL, TOOL, ASSISTANT], 1),
        ([USER, ASSISTANT, ASSISTANT], 1),
        ([USER, CALL, TOOL, CALL, TOOL, TOOL, ASSISTANT], 1),
        ([USER, CALL, TOOL, USER, CALL, TOOL, ASSISTANT], 4),
        ([USER, CALL], 1),
        ([USER, TOOL, ASSISTANT], 2),
        ([USER, ASSISTANT, SYSTEM, ASSISTANT], 3),
    ],
)
def test_messages_are_split_before_the_last_run_of_assistant_turns(turns: list, length: int):
    example = read({"messages": turns})
    assert example.prompt == tuple(turns[:length])
    assert example.demonstration == tuple(turns[length:])


def test_messages_without_an_answer_are_all_prompt_in_evaluation():
    example = read({"messages": [USER, CALL, TOOL], "answer": "A"}, need=False)
    assert example.prompt == (USER, CALL, TOOL)
    assert example.demonstration == ()
    assert example.reference == "A"


def test_none_valued_keys_are_dropped_at_every_depth():
    padded = {
        "role": "assistant",
        "content": None,
        "name": None,
        "tool_calls": [
            {
                "type": "function",
                "id": None,
                "function": {"name": "f", "arguments": {"x": 1, "y": None}},
            }
        ],
    }
    example = read({"messages": [USER | {"tool_calls": None}, padded]})
    assert example.prompt == (USER,)
    assert example.demonstration == (CALL,)


def test_other_keys_are_kept_and_the_row_is_not_touched():
    turn = {"role": "assistant", "content": "hello", "reasoning_content": "hm", "train": False}
    row = {"messages": [USER, dict(turn, weight=None)]}
    assert read(row).demonstration == (turn,)
    assert row["messages"][1]["weight"] is None


ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    "tools",
    [[ADD], (ADD,), json.dumps([ADD]), [ADD["function"]], [ADD | {"strict": None}]],
    ids=["list", "tuple", "text", "bare", "null"],
)
def test_definitions_of_tools_are_read_beside_any_prompt(tools: Any) -> None:
    for row in (
        {"prompt": "hi", "completion": "hello"},
        {"messages": [USER, ASSISTANT]},
        {"instruction": "a", "output": "b"},
    ):
        assert read({**row, "tools": tools}).tools == (ADD,)
        assert read({**row, "tools": tools}) == replace(read(row), tools=(ADD,))


@pytest.mark.parametrize("empty", [None, "", " ", [], "[]"])
def test_no_definitions_of_tools(empty: Any) -> None:
    assert read({"prompt": "hi", "completion": "hello", "tools": empty}).tools == ()


@pytest.mark.parametrize(
    "wrong", ["add", "{}x", 3, {"name": "add"}, ["add"], [{"type": "function"}], [{"function": 1}]]
)
def test_definitions_of_tools_that_are_none(wrong: Any) -> None:
    assert "tools is" in error({"prompt": "hi", "completion": "hello", "tools": wrong})


def parts(*texts: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text, "image": None} for text in texts]


def test_typed_text_parts_become_one_text():
    turns = [{"role": "user", "content": parts("h", "i")}, {"role": "assistant", "content": parts("hello")}]
    assert read({"messages": turns}) == Example(id="custom/2", prompt=(USER,), demonstration=(ASSISTANT,))
    assert read({"prompt": turns[:1], "completion": turns[1:]}).prompt == (USER,)
    context = {"prompt": "hi", "privileged_context": [{"role": "tool", "content": parts("a", "b")}]}
    assert read(context).demonstration_text == "ab"
    assert read({"messages": [USER, CALL | {"content": parts("Let me ", "see.")}]}).demonstration == (
        CALL | {"content": "Let me see."},
    )


def test_parts_without_text_are_refused():
    picture = {"role": "user", "content": [*parts("hi"), {"type": "image", "image": "a.png", "text": None}]}
    assert "content is [{'type': 'text'" in error({"messages": [picture, ASSISTANT]})
    assert "the prompt is empty" in error({"messages": [{"role": "user", "content": []}, ASSISTANT]})


GOLD = [{"Action": "f", "Action_Input": "{}"}]


@pytest.mark.parametrize(
    ("columns", "reference"),
    [
        ({}, None),
        ({"answer": "A"}, "A"),
        ({"reference": "A"}, "A"),
        ({"reference": "A", "answer": "B"}, "A"),
        ({"reference": None, "answer": "B"}, "B"),
        ({"answer": 42}, 42),
        ({"answer": 0}, 0),
        ({"answer": ["2", "two"]}, ["2", "two"]),
        ({"answer": "  "}, None),
        ({"golden_answer": GOLD}, GOLD),
    ],
)
def test_reference(columns: dict[str, Any], reference: Any):
    assert read({"prompt": "hi", **columns}, need=False).reference == reference
    assert read({"prompt": "hi", "demonstration": "x", **columns}).reference == reference


BAD_ROWS = [
    ({"demonstration": "x"}, "no prompt: add a column prompt"),
    ({"prompt": None, "demonstration": "x"}, "no prompt"),
    ({"prompt": "", "demonstration": "x"}, "prompt is empty"),
    ({"prompt": " \n", "demonstration": "x"}, "prompt is empty"),
    ({"prompt": [], "demonstration": "x"}, "prompt is empty"),
    ({"messages": [ASSISTANT]}, "prompt is empty"),
    ({"prompt": [SYSTEM, {"role": "user", "content": ""}], "demonstration": "x"}, "last user turn"),
    ({"prompt": ["hi", "you"], "demonstration": "x"}, "prompt is ['hi', 'you']: it must be text"),
    ({"prompt": 5, "demonstration": "x"}, "prompt is 5: it must be text"),
    ({"prompt": USER, "demonstration": "x"}, "prompt is {'role': 'user', "),
    ({"prompt": "hi", "demonstration": ["x", "y"]}, "demonstration is ['x', 'y']"),
    ({"prompt": "hi", "completion": 7}, "completion is 7"),
    ({"prompt": "hi", "demonstration": ""}, "demonstration is empty"),
    ({"prompt": "hi", "demonstration": []}, "demonstration is empty"),
    ({"prompt": "hi", "golden_response": []}, "golden_response is empty"),
    ({"prompt": "hi", "golden_response": ["a", 1]}, "golden_response is ['a', 1]"),
    ({"prompt": "hi", "completion": [USER, ASSISTANT]}, "begins with role user"),
    ({"prompt": "hi", "completion": [CALL, TOOL]}, "ends with tool"),
    ({"prompt": "hi"}, "no demonstration: add a column"),
    ({"prompt": "hi", "answer": "A"}, "no demonstration: add a column"),
    ({"messages": [USER]}, "no demonstration: messages must end with an assistant turn"),
    ({"messages": [USER, CALL, TOOL]}, "no demonstration: messages must end"),
    ({"messages": "hi"}, "messages is text"),
    ({"messages": ["hi"]}, "messages is ['hi']"),
    ({"messages": [{"role": "human", "content": "hi"}, ASSISTANT]}, "role 'human'; use one of"),
    ({"messages": [{"from": "user", "value": "hi"}, ASSISTANT]}, "role None; use one of"),
    ({"messages": [{"role": "user"}, ASSISTANT]}, "a turn of role user without content"),
    ({"messages": [{"role": "user", "content": ["a", "b"]}, ASSISTANT]}, "content is ['a', 'b']"),
    ({"messages": [{"role": "user", "content": 5}, ASSISTANT]}, "content is 5"),
    ({"messages": [USER, {**ASSISTANT, "tool_calls": "f()"}]}, "tool_calls 'f()'"),
    ({"prompt": [USER, ASSISTANT], "demonstration": "x"}, "ends in an assistant turn"),
    ({"messages": [USER, ASSISTANT], "output_text": "x"}, "ends in an assistant turn"),
    ({"prompt": "hi", "completion": "x", "golden_answer": ["f"]}, "golden_answer is ['f']"),
    ({"prompt": "hi", "completion": "x", "golden_answer": [{"name": "f"}]}, "golden_answer is"),
    ({}, "has columns []"),
]


@pytest.mark.parametrize(("row", "part"), BAD_ROWS)
def test_bad_rows_name_what_is_wrong(row: dict[str, Any], part: str):
    assert part in error(row)


def test_unknown_columns_are_named():
    message = error({"question": "q", "response": "r"})
    assert "has columns [question, response], which is no known format; the nearest is prompt/demonstration." in message
    assert message.endswith("Try --columns prompt=question,demonstration=response")


def test_many_long_columns_and_values_stay_within_forty_words():
    for row in (
        {f"the {index}th column of a very wide table": 1 for index in range(50)},
        {"prompt": [1] * 1000, "demonstration": "x"},
        {"messages": [{"role": "a b c d e f g h i j k l m n o p", "content": "x"}]},
    ):
        assert error(row)


def test_a_demonstration_is_optional_only_on_request():
    assert read({"prompt": "hi"}, need=False).demonstration == ()
    assert "empty" in error({"prompt": "hi", "demonstration": " "}, need=False)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "tool_calls", "text"]), inner)
        | st.just(USER)
        | st.just(ASSISTANT)
    ),
    max_leaves=8,
)
COLUMNS = st.sampled_from(
    ["prompt", "messages", "demonstration", "completion", "golden_response", "golden_answer", "x"]
)


@settings(deadline=None)
@given(st.dictionaries(COLUMNS, VALUES), st.booleans())
def test_any_row_gives_an_example_or_a_short_error(row: dict[str, Any], need: bool):
    try:
        example = read(row, need)
    except UserError as caught:
        words = str(caught).split()
    else:
        words = []
        assert example.prompt[-1]["role"] != "assistant"
        assert example.demonstration_text.strip() or not need
    assert len(words) <= 40


def test_examples_from_rows_numbers_rows_from_one_and_ids_from_zero():
    rows = [{"prompt": "a", "demonstration": "b"}, {"prompt": "c", "demonstration": "d"}]
    examples = examples_from_rows(rows, source="my.csv", prefix="custom/train")
    assert [example.id for example in examples] == ["custom/train/0", "custom/train/1"]
    message = mistake(examples_from_rows, [*rows, {"prompt": "e"}], source="my.csv", prefix="x")
    assert message.startswith("my.csv row 3 has no demonstration")


def test_empty_data_set():
    assert "my.jsonl has no rows" in mistake(examples_from_rows, [], source="my.jsonl", prefix="x")
