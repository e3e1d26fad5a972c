"""The same rows in every format give the same prompts and demonstrations, byte for byte; and rows that are unclear."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from selfdistill.data.own import Reading, own_examples
from selfdistill.data.rows import example_from_row
from selfdistill.settings.rows import RowOptions
from selfdistill.types import Example
from tests.support.mistakes import mistake

PAIRS = [
    ("What is 2 + 2?", "4"),
    ("two\nlines", "a\n\nb"),
    ('a "quoted", word', "it's, so"),
    ("naïve café 日本 🙂", "Привет"),
    ("e\u0301 decomposed", "é composed"),
    ("a\u2028b\u2029c\x85d", "\u00a0x\u00a0"),
    (" leading and trailing ", "\ttab\t"),
    ("carriage\r\nreturn", "x\ry"),
    ("null", "true"),
    ("007", "1e5"),
    ("back\\slash \\n", "{'a': 1}"),
    ("<b>&amp;</b>", "[1, 2]"),
]
PDS = [{"prompt": p, "demonstration": d} for p, d in PAIRS]
CHATS = [[{"role": "user", "content": p}, {"role": "assistant", "content": d}] for p, d in PAIRS]


def as_jsonl(folder: Path, rows: list[Any]) -> str:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "rows.jsonl").write_bytes(text.encode())
    return str(folder / "rows.jsonl")


def as_json(folder: Path) -> str:
    (folder / "rows.json").write_text(json.dumps(PDS))
    return str(folder / "rows.json")


def as_csv(folder: Path) -> str:
    with (folder / "rows.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("prompt", "demonstration"), *PAIRS])
    return str(folder / "rows.csv")


def as_parquet(folder: Path) -> str:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(PDS), folder / "rows.parquet")
    return str(folder / "rows.parquet")


def as_dataset_dict(folder: Path) -> str:
    other = datasets.Dataset.from_list([{"prompt": "other", "demonstration": "row"}])
    datasets.DatasetDict({"train": datasets.Dataset.from_list(PDS), "test": other}).save_to_disk(str(folder / "rows"))
    return str(folder / "rows")


def as_folder(folder: Path) -> str:
    (folder / "clone" / "data").mkdir(parents=True)
    for number, part in enumerate((PDS[:5], PDS[5:])):
        table = pyarrow.Table.from_pylist(part)
        pyarrow.parquet.write_table(table, folder / "clone" / "data" / f"train-{number:05}-of-00002.parquet")
    return str(folder / "clone")


def renamed(one: str, other: str) -> Callable[[Path], str]:
    return lambda folder: as_jsonl(folder, [{one: p, other: d} for p, d in PAIRS])


def share_gpt(folder: Path) -> str:
    turns = [[{"from": "human", "value": p}, {"from": "gpt", "value": d}] for p, d in PAIRS]
    return as_jsonl(folder, [{"conversations": each} for each in turns])


FORMATS: dict[str, tuple[Callable[[Path], str], str | None]] = {
    "jsonl": (lambda folder: as_jsonl(folder, PDS), None),
    "json": (as_json, None),
    "csv": (as_csv, None),
    "parquet": (as_parquet, None),
    "DatasetDict folder": (as_dataset_dict, None),
    "folder of Parquet files": (as_folder, None),
    "messages": (lambda folder: as_jsonl(folder, [{"messages": chat} for chat in CHATS]), None),
    "prompt, completion": (renamed("prompt", "completion"), None),
    "Alpaca": (
        lambda folder: as_jsonl(folder, [{"instruction": p, "input": "", "output": d, "text": "x"} for p, d in PAIRS]),
        None,
    ),
    "ShareGPT": (share_gpt, None),
    "question, answer": (renamed("question", "answer"), None),
    "input, output": (renamed("input", "output"), None),
    "columns": (renamed("User said", "chosen"), "prompt=User said,demonstration=chosen"),
    "columns of messages": (
        lambda folder: as_jsonl(folder, [{"prompt": "no", "dialog": chat} for chat in CHATS]),
        "messages=dialog",
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_rows_in_every_format(name: str, tmp_path: Path) -> None:
    write, columns = FORMATS[name]
    reading = Reading(rows=RowOptions(columns=columns))
    examples = own_examples(write(tmp_path), reading, side="train", prefix="x", need_demonstration=True)
    found = [(row.id, *[(role, said.encode()) for role, said in turns(row)]) for row in examples]
    assert found == [(f"x/{n}", ("user", p.encode()), ("assistant", d.encode())) for n, (p, d) in enumerate(PAIRS)]


def read(row: dict[str, Any], **options: Any) -> Example:
    return example_from_row(row, where="r.jsonl line 1", id="x/0", **options)


def refused(row: dict[str, Any], **options: Any) -> str:
    return mistake(read, row, **options)


def turns(example: Example) -> list[tuple[str, str]]:
    return [(turn["role"], turn["content"]) for turn in (*example.prompt, *example.demonstration)]


def test_the_page_shows_rows_that_are_read() -> None:
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    rows = [json.loads(row) for row in re.findall(r"^\| .*? \| `(\{.*?\})` \|", page, flags=re.MULTILINE)]
    assert len(rows) == 11
    for row in rows[:-1]:
        example = read(row)
        asked = "Add.\n\n2 + 2?" if "instruction" in row else "2 + 2?"
        assert turns(example) == [("user", asked), ("assistant", "4")], row
    assert read(rows[-1], raw_text=True).demonstration_text == "Two and two is four."


def test_alpaca_input_and_system() -> None:
    row = {"instruction": "Translate.", "input": "Haus", "output": "house", "system": "Be brief."}
    assert turns(read(row)) == [("system", "Be brief."), ("user", "Translate.\n\nHaus"), ("assistant", "house")]
    assert turns(read(row | {"system": "", "input": None})) == [("user", "Translate."), ("assistant", "house")]
    assert "instruction is 5: it must be text" in refused(row | {"instruction": 5})


def test_share_gpt_roles() -> None:
    said = [("system", "s"), ("human", "a"), ("gpt", "b"), ("observation", "t"), ("user", "c"), ("assistant", "d")]
    row = {"conversations": [{"from": speaker, "value": text} for speaker, text in said]}
    roles = ["system", "user", "assistant", "tool", "user", "assistant"]
    assert [role for role, _ in turns(read(row))] == roles
    assert [role for role, _ in turns(read({"conversations": row["conversations"][1:], "system": "s"}))] == roles
    assert read({"conversations": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})
    assert "a turn from 'narrator'" in refused({"conversations": [{"from": "narrator", "value": "x"}]})
    assert "value is None: it must be text" in refused({"conversations": [{"from": "human"}]})
    assert "conversations is 'x'" in refused({"conversations": "x"})


def test_an_answer_to_a_question_is_shown_and_scored() -> None:
    example = read({"question": "1 + 1?", "answer": "2"})
    assert (example.demonstration_text, example.reference) == ("2", "2")
    number = read({"question": "1 + 1?", "answer": 2}, need_demonstration=False)
    assert (number.demonstration, number.reference) == ((), 2)
    assert "has no demonstration" in refused({"question": "1 + 1?", "answer": 2})


def test_text_is_for_continued_pre_training_alone() -> None:
    example = read({"text": "Some text."}, raw_text=True)
    assert (example.prompt, example.demonstration_text) == ((), "Some text.")
    assert "only train --method cpt reads" in refused({"text": "Some text."})
    assert "text is empty" in refused({"text": " "}, raw_text=True)
    both = {"text": "x", "prompt": "a", "demonstration": "b"}
    assert turns(read(both, raw_text=True)) == [("user", "a"), ("assistant", "b")]


CHAT = [{"role": "user", "content": "B"}, {"role": "assistant", "content": "C"}]


@pytest.mark.parametrize(
    ("row", "names"),
    [
        ({"prompt": "A", "messages": CHAT}, "prompt and messages"),
        ({"messages": CHAT, "conversations": CHAT}, "messages and conversations"),
        ({"prompt": "A", "completion": "b", "demonstration": "c"}, "demonstration and completion"),
    ],
)
def test_two_columns_that_say_the_same_thing(row: dict[str, Any], names: str) -> None:
    assert f"has both {names}. Keep one" in refused(row)


def test_of_two_columns_one_may_be_named() -> None:
    row = {"prompt": "A", "messages": CHAT, "completion": "D"}
    assert turns(read(row, columns={"messages": "messages"})) == [("user", "B"), ("assistant", "C")]
    named = {"prompt": "prompt", "demonstration": "completion"}
    assert turns(read(row, columns=named)) == [("user", "A"), ("assistant", "D")]


def test_a_prompt_of_invisible_characters_is_empty() -> None:
    assert "the prompt is empty" in refused({"prompt": "\u200b\ufeff", "demonstration": "x"})
    assert "demonstration is empty" in refused({"prompt": "x", "demonstration": "\u00ad"})


def test_arguments_of_calls_that_are_text_are_read() -> None:
    def arguments(value: Any) -> Any:
        call = {"type": "function", "function": {"name": "mul", "arguments": value}}
        row = {"messages": [CHAT[0], {"role": "assistant", "tool_calls": [call]}]}
        (turn,) = read(row).demonstration
        assert turn["content"] == ""
        return turn["tool_calls"][0]["function"]["arguments"]

    assert arguments('{"a": 1}') == arguments({"a": 1}) == {"a": 1}
    assert (arguments("not JSON"), arguments("[1]")) == ("not JSON", "[1]")


# -- names of columns ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "flag"),
    [
        ({"question": "a", "response": "b"}, "prompt=question,demonstration=response"),
        ({"Query": "a", "Answer_text": "b", "id": "1"}, "prompt=Query,demonstration=Answer_text"),
        ({"prompts": "a", "demonstrations": "b"}, "prompt=prompts,demonstration=demonstrations"),
        ({"dialogue": CHAT}, "messages=dialogue"),
        ({"Open Question": "a", "Best Answer": "b"}, "'prompt=Open Question,demonstration=Best Answer'"),
        ({"x": "a", "y": "b"}, "prompt=...,demonstration=..."),
    ],
)
def test_an_unknown_format_is_answered_with_the_flag(row: dict[str, Any], flag: str) -> None:
    assert refused(row).endswith(f"Try --columns {flag}")


def test_a_column_that_is_not_there_is_named_with_those_that_are() -> None:
    said = refused({"question": "a", "answer": "b"}, columns={"prompt": "query"})
    assert "--columns prompt=query: there is no column 'query', but [question, answer]" in said
