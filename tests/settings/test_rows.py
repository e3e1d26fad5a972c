"""How a person's own rows are read, and what names them."""

from pathlib import Path
from typing import Any

import pytest

from selfdistill.settings import flat
from selfdistill.settings.evaluate import EvalOptions
from selfdistill.settings.rows import RowOptions
from selfdistill.settings.sources import Source, named_paths, sources
from selfdistill.settings.study import CompareOptions, ContinualOptions
from selfdistill.settings.train import TrainOptions
from tests.support.mistakes import mistake, refusal


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a.jsonl", [Source("a.jsonl")]),
        ("a.jsonl:2, b/*.jsonl:0.5", [Source("a.jsonl", 2.0), Source("b/*.jsonl", 0.5)]),
        ("owner/name:en@v1:2,b", [Source("owner/name:en@v1", 2.0), Source("b")]),
        ("owner/name:en,b", [Source("owner/name:en"), Source("b")]),
    ],
)
def test_sources(text: str, found: list[Source]) -> None:
    assert sources(text) == found


def test_a_file_that_is_there_is_one_source(tmp_path: Path) -> None:
    path = tmp_path / "a,b.jsonl:2"
    path.touch()
    assert sources(str(path)) == [Source(str(path))]


def test_sources_without_a_name() -> None:
    assert "a file without a name" in mistake(sources, "a.jsonl,")
    assert "a file without a name" in mistake(sources, "")


def test_what_a_pattern_names_is_what_may_not_be_deleted(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).touch()
    names = [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]
    options = flat.build(TrainOptions, {"dataset_path": f"{tmp_path}/*.jsonl:2,x.jsonl:1"})
    assert [path for path in flat.input_paths(options) if path.endswith("jsonl")] == [*names, "x.jsonl"]
    assert named_paths(f"{tmp_path}/*.csv") == [f"{tmp_path}/*.csv"]


def test_every_source_knows_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    options = flat.with_home(flat.build(TrainOptions, {"dataset_path": "~/a.jsonl:2,b.jsonl,~/c.jsonl"}))
    assert options.source.dataset_path == f"{tmp_path}/a.jsonl:2,b.jsonl,{tmp_path}/c.jsonl"


def test_the_map_of_columns() -> None:
    assert RowOptions().column_map() == {}
    given = RowOptions(columns="prompt=My question, answer=a=b")
    assert given.column_map() == {"prompt": "My question", "answer": "a=b"}
    for wrong in ("", "prompt", "prompt=", "=x", "prompt=a,"):
        assert "write it as prompt=question,demonstration=answer" in mistake(RowOptions(columns=wrong).column_map)
    assert "gives prompt twice" in mistake(RowOptions(columns="prompt=a,prompt=b").column_map)


GIVEN = [{"columns": "prompt=q"}, {"split": "dev"}, {"eval_share": 0.2}, {"on_bad_row": "skip"}]


@pytest.mark.parametrize("options_class", [TrainOptions, EvalOptions, CompareOptions])
@pytest.mark.parametrize("given", GIVEN, ids=str)
def test_they_are_for_own_rows(options_class: type, given: dict[str, Any]) -> None:
    place = {"output_dir": "not there"}
    [name] = given
    assert mistake(flat.build(options_class, given | place).check).startswith(f"--{name} goes with --dataset_path")
    assert refusal(flat.build(options_class, given | place | {"dataset_path": "r.jsonl"}).check) is None


def test_they_are_for_stages_of_own_rows() -> None:
    place: dict[str, Any] = {"output_dir": "not there", "split": "dev"}
    assert "--split goes with" in mistake(flat.build(ContinualOptions, place | {"stages": "science"}).check)
    assert refusal(flat.build(ContinualOptions, place | {"stages": "science,a.jsonl"}).check) is None


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_a_share_is_between_none_and_all(share: float) -> None:
    assert "is not above 0 and below 1" in mistake(RowOptions(eval_share=share).check, own=True)
    assert "exclude each other" in mistake(RowOptions(eval_share=0.1).check, own=True, eval_path="e.jsonl")
