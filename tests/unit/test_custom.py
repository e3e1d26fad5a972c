import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from datasets.exceptions import DatasetGenerationError

from selfdistill.tasks.custom import custom_task, exact_match, load_rows
from selfdistill.types import Example, UserError

ROWS = [
    {"prompt": "two\nlines, a comma", "demonstration": 'a "quoted" ü'},
    {"prompt": "b", "demonstration": "c"},
]


def error(path: object) -> str:
    with pytest.raises(UserError) as caught:
        load_rows(str(path))
    message = str(caught.value)
    assert len(message.split()) <= 40
    return message


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
    with pytest.raises(UserError, match="has no split 'dev' but train, test"):
        load_rows(str(folder), split="dev")


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("a.jsonl", '{"prompt": "a"}\n{"prompt": \n', "a.jsonl line 2 column 12 is not valid JSON"),
        ("a.jsonl", "[\n{}\n]", "a.jsonl line 1 column 2 is not valid JSON"),
        ("a.jsonl", '\n["x"]', "a.jsonl line 2 is a list, not an object"),
        ("a.jsonl", '"x"', "a.jsonl line 1 is a text, not an object"),
        ("a.jsonl", '{"a": ' + "9" * 5000 + "}", "a.jsonl line 1 holds JSON too large"),
        ("a.jsonl", '{"a": ' + "[" * 5000 + "}", "a.jsonl line 1 holds JSON too large"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xff"}', "a.jsonl line 2 is not UTF-8 (byte 0xff)"),
        ("a.json", '{"a": 1}\n{"a": 2}\n', "a.json line 2 column 1 is not valid JSON (Extra data)"),
        ("a.json", '{"data": []}', "a.json holds a single object"),
        ("a.json", '[{"prompt": "a"}, 3]', "a.json row 2 is a number or constant, not an object"),
        ("a.json", "", "a.json column 1 is not valid JSON"),
        ("a.csv", "", "a.csv has no header"),
        ("a.csv", "\n\n", "a.csv has no header"),
        ("a.csv", "Hello there,General\n", "a.csv header has columns [Hello there, General]"),
        ("a.csv", "prompt;answer\na;b\n", "a.csv header has columns [prompt;answer]"),
        ("a.csv", "prompt,prompt\na,b\n", "names the column 'prompt' twice"),
        ("a.csv", "prompt,answer\na,b\na,b,c\n", "a.csv row 2 has 3 cells, its header 2"),
        ("a.csv", "prompt,answer\na\n", "a.csv row 1 has 1 cells, its header 2"),
        ("a.csv", 'prompt,answer\n"a,b\nc,d\n', "a.csv line 3 is not valid CSV"),
        ("a.csv", b"prompt,answer\n\xe9,b\n", "a.csv line 2 is not UTF-8 (byte 0xe9)"),
        ("a.parquet", "prompt", "a.parquet is not a readable Parquet file"),
        ("a.txt", "prompt", "ends in '.txt': give a file ending in .jsonl, .json"),
        ("rows", "prompt", "ends in 'no ending'"),
    ],
)
def test_unreadable_files(tmp_path: Path, name: str, content: str | bytes, part: str):
    assert part in error(write(tmp_path / name, content))


def test_folder_without_arrow(tmp_path: Path):
    assert "is not a readable Arrow folder" in error(tmp_path)


def test_missing_file_suggests_a_sibling(tmp_path: Path):
    write(tmp_path / "train.jsonl", "")
    message = error(tmp_path / "trian.jsonl")
    assert message.startswith("No such file: ")
    assert message.endswith("Did you mean 'train.jsonl'?")


@pytest.mark.parametrize("name", ["nothing", "data/trian.jsonl", "a/b/c", "owner/name:"])
def test_neither_a_file_nor_a_hub_id(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert "No such file" in error(name)


def test_empty_name():
    assert "No file was named" in error("")


def hub(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[tuple[str, str]]:
    asked: list[tuple[str, str]] = []

    def load_dataset(name: str, config: str | None, *, split: str) -> Any:
        asked.append((name, split))
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def test_hub_id_with_and_without_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    asked = hub(monkeypatch, datasets.Dataset.from_list(ROWS))
    assert load_rows("owner/na-me.v1") == (ROWS, "owner/na-me.v1:train")
    assert load_rows("owner/name:dev[:10%]", split="test") == (ROWS, "owner/name:dev[:10%]")
    assert asked == [("owner/na-me.v1", "train"), ("owner/name", "dev[:10%]")]


@pytest.mark.parametrize(
    ("raised", "part"),
    [
        (ConnectionError("Couldn't reach it"), "can't be loaded from the Hub (Couldn't reach it)"),
        (ValueError('Unknown split "train".'), "has no split 'train'"),
        (DatasetGenerationError("x " * 99), "can't be loaded from the Hub"),
    ],
)
def test_hub_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception, part: str):
    monkeypatch.chdir(tmp_path)
    hub(monkeypatch, raised)
    assert part in error("owner/name")


def test_hub_error_suggests_a_local_sibling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "my_folder").mkdir(parents=True)
    hub(monkeypatch, ConnectionError("offline"))
    assert "Did you mean 'my_folder'?" in error("data/my_foldr")


def test_local_folder_goes_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    asked = hub(monkeypatch, ConnectionError("not to be asked"))
    datasets.Dataset.from_list(ROWS).save_to_disk("owner/name")
    assert load_rows("owner/name") == (ROWS, "name")
    assert asked == []


@pytest.mark.parametrize(
    ("completion", "reference", "score"),
    [
        (" A\n", "A", 1.0),
        ("A", " A ", 1.0),
        ("a", "A", 0.0),
        ("A.", "A", 0.0),
        ("42", 42, 1.0),
        ("x", None, None),
        ("x", {"any": "thing"}, None),
        ("Action: f\nAction Input: {}", [{"Action": "f", "Action_Input": "{}"}], 1.0),
        ("Action: g\nAction Input: {}", [{"Action": "f", "Action_Input": "{}"}], 0.0),
    ],
)
def test_exact_match(completion: str, reference: Any, score: float | None):
    prompt = ({"role": "user", "content": "q"},)
    assert exact_match(completion, Example(id="x", prompt=prompt, reference=reference)) == score


def test_exact_match_falls_back_on_the_demonstration():
    turn = {"role": "assistant", "content": "yes"}
    example = Example(id="x", prompt=({"role": "user", "content": "q"},), demonstration=(turn,))
    assert exact_match("yes ", example) == 1.0
    assert exact_match("no", example) == 0.0


def test_task_from_files(tmp_path: Path):
    train = write(tmp_path / "train.jsonl", as_jsonl(ROWS))
    held_out = write(tmp_path / "test.csv", "prompt,answer\nq,A\n")
    task = custom_task(str(train), str(held_out))
    assert [row.id for row in task.load_train(None)] == ["custom/train/0", "custom/train/1"]
    (example,) = task.load_eval(None)
    assert example.reference == "A"
    assert list(task.scorers) == ["exact_match"]
    assert not task.needs_data_dir


def test_revision_follows_the_evaluation_rows_and_the_scorers(tmp_path: Path):
    one = str(write(tmp_path / "one.csv", "prompt,answer\nq,A\n"))
    two = str(write(tmp_path / "two.csv", "prompt,answer\nq,B\n"))
    revision = custom_task(one, one).revision
    assert custom_task(two, one).revision == revision
    assert custom_task(None, two).revision != revision
    assert custom_task(None, one, scorers={"other": exact_match}).revision != revision


def test_data_that_were_not_named(tmp_path: Path):
    path = str(write(tmp_path / "a.jsonl", as_jsonl(ROWS)))
    with pytest.raises(UserError, match="No evaluation data"):
        custom_task(path, None).load_eval(None)
    with pytest.raises(UserError, match="No training data"):
        custom_task(None, path).load_train(None)


def test_missing_file_is_found_when_the_task_is_made(tmp_path: Path):
    with pytest.raises(UserError, match="No such file"):
        custom_task(str(tmp_path / "a.jsonl"), None)


def test_nothing_to_score_against(tmp_path: Path):
    path = str(write(tmp_path / "a.jsonl", '{"prompt": "q"}\n'))
    with pytest.raises(UserError, match="nothing to score against"):
        custom_task(None, path).load_eval(None)
    own = custom_task(None, path, scorers={"mine": lambda completion, _: float(len(completion))})
    assert len(own.load_eval(None)) == 1


def test_empty_file_and_bad_row_are_named(tmp_path: Path):
    empty = write(tmp_path / "empty.jsonl", "")
    with pytest.raises(UserError, match=r"empty\.jsonl has no rows"):
        custom_task(str(empty), None).load_train(None)
    bad = write(tmp_path / "bad.jsonl", as_jsonl([*ROWS, {"prompt": "q"}]))
    with pytest.raises(UserError, match=r"bad\.jsonl row 3 has no demonstration"):
        custom_task(str(bad), None).load_train(None)


def test_hub_split_of_evaluation_is_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    asked = hub(monkeypatch, datasets.Dataset.from_list(ROWS))
    task = custom_task("owner/name", "owner/name")
    task.load_train(None)
    task.load_eval(None)
    assert asked == [("owner/name", "train"), ("owner/name", "test")]
