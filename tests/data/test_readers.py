"""Reading rows from files, Arrow folders and the Hub."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from datasets.exceptions import DatasetGenerationError

from selfdistill.data.readers import load_rows, load_split
from selfdistill.errors import MissingDataError
from tests.support.hub import hub
from tests.support.mistakes import mistake

ROWS = [
    {"prompt": "two\nlines, a comma", "demonstration": 'a "quoted" ü'},
    {"prompt": "b", "demonstration": "c"},
]


def unreadable(path: object) -> str:
    """The message about a file, folder or Hub id that can't be read."""
    return mistake(load_rows, str(path))


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def as_jsonl(rows: list[dict[str, Any]]) -> str:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n"


def test_jsonl(tmp_path: Path):
    path = write(tmp_path / "my.jsonl", as_jsonl(ROWS))
    assert load_rows(str(path)) == (ROWS, "my.jsonl")


def test_jsonl_with_bom_crlf_blank_lines_and_line_separators(tmp_path: Path):
    text = '\ufeff{"prompt": "a\u2028b"}\r\n\r\n{"prompt": "c"}'
    path = write(tmp_path / "my.JSONL", text)
    assert load_rows(str(path))[0] == [{"prompt": "a\u2028b"}, {"prompt": "c"}]


def test_json(tmp_path: Path):
    path = write(tmp_path / "my.json", json.dumps(ROWS, indent=2))
    assert load_rows(str(path)) == (ROWS, "my.json")


def test_csv(tmp_path: Path):
    text = 'prompt, demonstration\r\n"two\nlines, a comma","a ""quoted"" ü"\r\n\r\nb,c\r\n'
    path = write(tmp_path / "my.csv", "\ufeff" + text)
    assert load_rows(str(path)) == (ROWS, "my.csv")


def test_csv_cell_longer_than_the_csv_module_allows(tmp_path: Path):
    path = write(tmp_path / "my.csv", "prompt,answer\n" + "x" * 200_000 + ",A\n")
    assert len(load_rows(str(path))[0][0]["prompt"]) == 200_000


def test_the_home_folder_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "my.jsonl", as_jsonl(ROWS))
    assert load_rows("~/my.jsonl") == (ROWS, "my.jsonl")


def test_parquet(tmp_path: Path):
    path = tmp_path / "my.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    assert load_rows(str(path)) == (ROWS, "my.parquet")


def test_arrow_folder(tmp_path: Path):
    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "mine"))
    assert load_rows(str(tmp_path / "mine")) == (ROWS, "mine")


def test_arrow_folder_with_splits(tmp_path: Path):
    train, test = (datasets.Dataset.from_list([row]) for row in ROWS)
    folder = tmp_path / "mine"
    datasets.DatasetDict({"train": train, "test": test}).save_to_disk(str(folder))
    assert load_rows(str(folder))[0] == ROWS[:1]
    assert load_rows(str(folder), split="test")[0] == ROWS[1:]
    assert load_rows(str(folder / "test"))[0] == ROWS[1:]
    assert "has no split 'dev' but test, train: name one with --split" in mistake(load_rows, str(folder), split="dev")


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("a.jsonl", '{"prompt": "a"}\n{"prompt": \n', "a.jsonl line 2 column 12 is not valid JSON"),
        ("a.jsonl", "[\n{}\n]", "a.jsonl line 1 column 2 is not valid JSON"),
        ("a.jsonl", '\n["x"]', "a.jsonl line 2 is a list, not an object"),
        ("a.jsonl", '"x"', "a.jsonl line 1 is a text, not an object"),
        ("a.jsonl", '{"a": ' + "9" * 5000 + "}", "a.jsonl line 1 holds JSON too large"),
        ("a.jsonl", '{"a": ' + "[" * 5000 + "]" * 5000 + "}", "a.jsonl line 1 nests values deeper than 200 levels"),
        ("a.json", '[{"a": ' + "[" * 200 + "]" * 200 + "}]", "a.json nests values deeper than 200 levels"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xff"}', "a.jsonl line 2 is not UTF-8 (byte 0xff)"),
        ("a.json", '{"a": 1}\n{"a": 2}\n', "a.json line 2 column 1 is not valid JSON (Extra data)"),
        ("a.json", '{"data": []}', "a.json holds a single object"),
        ("a.json", '[{"prompt": "a"}, 3]', "a.json row 2 is a number or constant, not an object"),
        ("a.json", "", "a.json column 1 is not valid JSON"),
        ("a.csv", "", "a.csv has no header"),
        ("a.csv", "\n\n", "a.csv has no header"),
        ("a.csv", "prompt,prompt\na,b\n", "names the column 'prompt' twice"),
        ("a.csv", "prompt,answer\na,b\na,b,c\n", "a.csv line 3 has 3 cells, its header 2"),
        ("a.csv", "prompt,answer\na\n", "a.csv line 2 has 1 cells, its header 2"),
        ("a.csv", 'prompt,answer\n"a,b\nc,d\n', "a.csv line 3 is not valid CSV"),
        ("a.csv", b"prompt,answer\n\xe9,b\n", "a.csv line 2 is not UTF-8 (byte 0xe9)"),
        ("a.parquet", "prompt", "a.parquet is not a readable Parquet file"),
        ("a.txt", "prompt", "ends in '.txt': give a file ending in .jsonl, .json"),
        ("rows", "prompt", "ends in 'no ending'"),
    ],
)
def test_unreadable_files(tmp_path: Path, name: str, content: str | bytes, part: str):
    assert part in unreadable(write(tmp_path / name, content))


def test_values_may_be_nested(tmp_path: Path):
    deep = '{"prompt": "' + "[" * 300 + '", "a": ' + "[" * 198 + "1" + "]" * 198 + "}\n"
    assert len(load_rows(str(write(tmp_path / "a.jsonl", deep)))[0]) == 1


def test_folder_without_rows(tmp_path: Path):
    write(tmp_path / "notes.txt", "x")
    assert "holds no rows: give a folder with files ending in .jsonl" in unreadable(tmp_path)


def test_a_broken_arrow_folder(tmp_path: Path):
    write(tmp_path / "state.json", "{}")
    write(tmp_path / "dataset_info.json", "{}")
    assert "is not a readable Arrow folder" in unreadable(tmp_path)


def test_missing_file_suggests_a_sibling(tmp_path: Path):
    write(tmp_path / "train.jsonl", "")
    message = unreadable(tmp_path / "trian.jsonl")
    assert message.startswith("No such file: ")
    assert message.endswith("Did you mean 'train.jsonl'?")


@pytest.mark.parametrize("name", ["nothing", "data/trian.jsonl", "a/b/c", "owner/name:"])
def test_neither_a_file_nor_a_hub_id(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert "No such file" in unreadable(name)


def test_empty_name():
    assert "No file was named" in unreadable("")


def test_hub_id_with_configuration_and_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    asked = hub(monkeypatch, datasets.Dataset.from_list(ROWS))
    assert load_rows("owner/na-me.v1") == (ROWS, "owner/na-me.v1")
    assert load_rows("owner/name:main", split="dev[:10%]") == (ROWS, "owner/name")
    assert load_rows("owner/name@refs/pr/3")[0] == ROWS
    assert load_rows("owner/name:en-20.1@v2")[0] == ROWS
    assert asked == [
        ("owner/na-me.v1", None, "train"),
        ("owner/name", "main", "dev[:10%]"),
        ("owner/name", None, "train", "refs/pr/3"),
        ("owner/name", "en-20.1", "train", "v2"),
    ]


@pytest.mark.parametrize(
    ("raised", "part"),
    [
        (ConnectionError("Couldn't reach it"), "can't be loaded from the Hub (Couldn't reach it)"),
        (ValueError('Unknown split "train".'), "has no split 'train'"),
        (DatasetGenerationError("x " * 99), "can't be loaded from the Hub"),
        (
            ValueError("Config name is missing.\nPlease pick one among the available configs: ['main', 'soc']\nSo."),
            "name one of its configurations (main soc), as in owner/name:CONFIG",
        ),
        (ValueError("BuilderConfig 'x' not found. Available: ['main', 'soc']"), "configurations (main soc)"),
    ],
)
def test_hub_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception, part: str):
    monkeypatch.chdir(tmp_path)
    hub(monkeypatch, raised)
    assert part in unreadable("owner/name")


def test_hub_error_suggests_a_local_sibling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "my_folder").mkdir(parents=True)
    hub(monkeypatch, ConnectionError("offline"))
    assert "Did you mean 'my_folder'?" in unreadable("data/my_foldr")


def test_local_folder_goes_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    asked = hub(monkeypatch, ConnectionError("not to be asked"))
    datasets.Dataset.from_list(ROWS).save_to_disk("owner/name")
    assert load_rows("owner/name") == (ROWS, "name")
    assert asked == []


# -- the Arrow folders of benchmarks ------------------------------------------------------------------------------


@pytest.mark.parametrize("data_dir", [None, Path("nowhere")])
def test_data_that_are_not_at_hand_are_another_error_than_bad_rows(data_dir: Path | None):
    with pytest.raises(MissingDataError, match=r"x_data/train_data.*--data_dir or SELFDISTILL_DATA"):
        load_split(data_dir, "x_data/train_data", prefix="x/train")


def test_a_split_names_its_bad_rows_by_folder_and_number(tmp_path: Path):
    datasets.Dataset.from_list([{"prompt": "a", "answer": "A"}, {"prompt": "b", "answer": None}]).save_to_disk(
        str(tmp_path / "x_data" / "eval_data")
    )
    message = mistake(load_split, tmp_path, "x_data/eval_data", prefix="x/eval", reference="answer")
    assert message == "x_data/eval_data row 2 has no answer: every row needs one."
    message = mistake(load_split, tmp_path, "x_data/eval_data", prefix="x/train")
    assert message.startswith("x_data/eval_data row 1 has no demonstration")


def test_a_split_may_convert_its_rows(tmp_path: Path):
    datasets.Dataset.from_list([{"q": "a"}, {"q": "b"}]).save_to_disk(str(tmp_path / "x"))
    seen: list[str] = []

    def convert(row: Mapping[str, Any], where: str) -> dict[str, Any]:
        seen.append(where)
        return {"prompt": row["q"], "answer": row["q"].upper()}

    examples = load_split(tmp_path, "x", prefix="x/eval", reference="answer", convert=convert)
    assert [(row.id, row.reference) for row in examples] == [("x/eval/0", "A"), ("x/eval/1", "B")]
    assert seen == ["x row 1", "x row 2"]
