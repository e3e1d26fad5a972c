"""A person's own rows: several sources, weights, held-out shares, limits, and rows that can't be used."""

import json
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest

from selfdistill.data.own import Reading, Side, mixed, own_evaluation, own_examples
from selfdistill.data.prompts import is_held_out, uniform
from selfdistill.settings.rows import RowOptions
from selfdistill.types import Example
from tests.support.hub import hub
from tests.support.mistakes import mistake


def write(path: Path, prompts: list[str]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"prompt": p, "demonstration": "d"}) + "\n" for p in prompts))
    return str(path)


def read(named: str, side: Side = "train", *, need: bool = True, **options: Any) -> Sequence[Example]:
    how = {name: options.pop(name) for name in ("columns", "split", "eval_share", "on_bad_row") if name in options}
    reading = Reading(rows=RowOptions(**how), **options)
    return own_examples(named, reading, side=side, prefix="x", need_demonstration=need)


def prompts(named: str, side: Side = "train", **options: Any) -> list[str]:
    return [row.prompt[0]["content"] for row in read(named, side, **options)]


def test_several_files_follow_each_other(tmp_path: Path) -> None:
    one, two = write(tmp_path / "b.jsonl", ["1", "2"]), write(tmp_path / "a.jsonl", ["3"])
    assert prompts(f"{one}, {two}") == ["1", "2", "3"]
    assert [row.id for row in read(f"{one},{two}")] == ["x/0", "x/1", "x/2"]
    assert prompts(str(tmp_path / "*.jsonl")) == ["3", "1", "2"]  # in the order of their names
    write(tmp_path / "deep" / "c.jsonl", ["4"])
    assert prompts(str(tmp_path / "**" / "*.jsonl")) == ["3", "1", "2", "4"]
    assert "No file fits the pattern" in mistake(read, str(tmp_path / "*.csv"))
    assert "No such file" in mistake(read, f"{one},{tmp_path / 'none.jsonl'}")


def test_a_name_with_a_comma_or_a_bracket_is_a_name(tmp_path: Path) -> None:
    assert prompts(write(tmp_path / "a,b.jsonl", ["1"])) == ["1"]
    assert prompts(write(tmp_path / "a[1].jsonl", ["2"])) == ["2"]


def test_a_mixture_draws_in_the_ratio_of_the_weights(tmp_path: Path) -> None:
    one = write(tmp_path / "a.jsonl", [f"a{n}" for n in range(2000)])
    two = write(tmp_path / "b.jsonl", [f"b{n}" for n in range(1000)])
    said: list[str] = []
    found = prompts(f"{one}:3,{two}:1", seed=1, say=said.append)
    counts = Counter(text[0] for text in found)
    assert counts["a"] == 2000  # ran out, which ended it
    assert counts["b"] == pytest.approx(2000 / 3, abs=75)  # three standard deviations: 3 sqrt(2000 * 1/3 * 4/3 * 0.7)
    for letter, count in counts.items():  # none twice, in their order
        assert [text for text in found if text[0] == letter] == [f"{letter}{n}" for n in range(count)]
    assert said == [f"mixture: 2,000 rows of {one}, {counts['b']:,} rows of {two}"]
    assert prompts(f"{one}:3,{two}:1", seed=1) == found
    assert prompts(f"{one}:3,{two}:1", seed=2) != found
    assert prompts(f"{one}:3,{two}", seed=1) == found  # no weight is a weight of 1
    assert prompts(f"{one}:3,{two}:1", seed=1, train_limit=50) == found[:50]


def test_the_draws_by_hand() -> None:
    rows = [[Example(id=f"{name}{n}", prompt=()) for n in range(9)] for name in "abc"]
    drawn = [row.id[0] for _, row in mixed([iter(each) for each in rows], [1.0, 1.0, 2.0], 7)][:8]
    points = [uniform(f"mixture/7/{k}") for k in range(8)]
    assert drawn == ["a" if point < 0.25 else "b" if point < 0.5 else "c" for point in points]
    assert len(set(drawn)) > 1


def test_weights_that_say_nothing(tmp_path: Path) -> None:
    one = write(tmp_path / "a.jsonl", ["1"])
    assert "a weight is a source's share beside others" in mistake(read, f"{one}:2")
    assert f"{one}:0 takes no rows" in mistake(read, f"{one}:0,{one}:1")
    assert "weights are for training rows" in mistake(read, f"{one}:2,{one}:1", "eval")
    other, share = write(tmp_path / "b.jsonl", ["2"]), uniform("1") + 1e-6
    assert "which ends the mixture" in mistake(read, f"{one}:1000000,{other}:1", eval_share=share)


# -- held out ------------------------------------------------------------------------------------------------------


def test_a_share_of_the_prompts_is_held_out(tmp_path: Path) -> None:
    texts = [f"question {n // 2}" for n in range(2000)]  # each prompt twice
    path = write(tmp_path / "rows.jsonl", texts)
    train, held = prompts(path, eval_share=0.1), prompts(path, "held_out", eval_share=0.1)
    assert Counter(train) + Counter(held) == Counter(texts)
    assert set(train).isdisjoint(held)
    assert len(held) == pytest.approx(200, abs=57)  # three standard deviations of 1,000 pairs: 6 sqrt(1000 * 0.09)
    assert held == [text for text in texts if uniform(text) < 0.1]
    fewer = write(tmp_path / "fewer.jsonl", [text.upper() for text in texts[::-1][:500]])
    assert {text.lower() for text in prompts(fewer, "held_out", eval_share=0.1)} <= set(held)
    # the held-out rows of a mixture are those of all its sources
    assert len(prompts(f"{path}:3,{fewer}:1", "held_out", eval_share=0.1)) == len(held) + len(
        prompts(fewer, "held_out", eval_share=0.1)
    )


def test_the_number_of_a_text_by_hand() -> None:
    # sha256("") = e3b0c442 98fc1c14 ...
    assert uniform("") == (0xE3B0C44298FC1C14 >> 11) / 2**53
    row = Example(id="x", prompt=({"role": "user", "content": ""},))
    assert (is_held_out(row, 0.88), is_held_out(row, 0.9)) == (False, True)  # 0xe3 / 256 = 0.887, and more


def test_a_share_that_leaves_none(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ["1"])
    side = uniform("1")
    said = mistake(read, path, eval_share=side + 1e-6)
    assert said.endswith("of the 1 rows of a.jsonl leaves none to train on. Lower it.")
    assert mistake(read, path, "held_out", eval_share=side - 1e-6).endswith("leaves none to evaluate on. Raise it.")


# -- splits ---------------------------------------------------------------------------------------------------------


def test_the_splits_of_a_folder_of_files(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    write(folder / "train-00000-of-00002.jsonl", ["1"])
    write(folder / "data" / "train-00001-of-00002.jsonl", ["2"])
    write(folder / "validation" / "0000.jsonl", ["3"])
    write(folder / "notes" / "other.jsonl", ["no"])
    assert sorted(prompts(str(folder))) == ["1", "2"]
    assert prompts(str(folder), "eval") == ["3"]
    assert prompts(str(folder), split="validation") == ["3"]
    assert prompts(str(folder), "eval", split="train") == ["3"]  # names the split to train on
    assert sorted(prompts(str(folder), "eval", split="train", for_evaluation=True)) == ["1", "2"]
    assert own_evaluation(str(folder)) == str(folder)
    assert "has no split 'dev' but" in mistake(read, str(folder), split="dev")


def test_files_of_no_split_are_read_for_everything(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    write(folder / "a.jsonl", ["1"])
    write(folder / "contest.jsonl", ["2"])  # holds "test", but is not called so
    assert prompts(str(folder)) == prompts(str(folder), "eval") == ["1", "2"]
    assert own_evaluation(str(folder)) is None
    assert "has no splits. Leave it out." in mistake(read, str(folder), split="train")
    assert "is a file, which has no splits" in mistake(read, str(folder / "a.jsonl"), split="train")


def test_configurations_of_a_copy_of_a_hub_data_set(tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    write(repo / "main" / "train.jsonl", ["1"])
    write(repo / "soc" / "train.jsonl", ["2"])
    assert f"those of main, soc: name one of these, as in {repo}:main" in mistake(read, str(repo))
    assert prompts(f"{repo}:soc") == ["2"]
    assert f"The folder {repo} has no 'sic' but main, soc" in mistake(read, f"{repo}:sic")
    assert prompts(f"{repo}:main:2,{repo}:soc:1", train_limit=3) in (["1"], ["2"], ["1", "2"], ["2", "1"])


def test_the_split_of_a_hub_data_set_to_evaluate_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = hub(monkeypatch, ValueError('Unknown split "test". Should be one of ["train"].'))
    assert "has no split 'test'" in mistake(read, "owner/name", "eval")
    assert [split for _, _, split in asked] == ["test", "validation", "valid", "val", "eval", "dev"]
    asked = hub(monkeypatch, datasets.Dataset.from_list([{"prompt": "a", "demonstration": "b"}]))
    assert prompts("owner/name", split="train[:5]") == ["a"]
    assert asked == [("owner/name", None, "train[:5]")]


# -- bad rows and limits ----------------------------------------------------------------------------------------------


def test_bad_rows_are_skipped_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = ['{"prompt": "1", "demonstration": "d"}', "{oops", '{"prompt": " ", "demonstration": "d"}', "", "[]"]
    path.write_text("\n".join([*lines, '{"prompt": "2", "demonstration": "d"}']) + "\n")
    assert "a.jsonl line 2 column 2 is not valid JSON" in mistake(read, str(path))
    said: list[str] = []
    assert [row.id for row in read(str(path), on_bad_row="skip", say=said.append)] == ["x/0", "x/4"]
    [text] = said
    assert text.startswith("a.jsonl: 3 of 5 rows skipped. The first: a.jsonl line 2 column 2 is not valid JSON")
    path.write_text("\n".join(lines[1:]))
    said_of_none = mistake(read, str(path), on_bad_row="skip")
    assert said_of_none.startswith(f"None of the 3 rows of {path} can be used; the first: a.jsonl line 1")


GOOD = [json.dumps({"prompt": number, "demonstration": "d"}) for number in "13"]


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("a.csv", "prompt,demonstration\n1,d\n2\n3,d\n", "a.csv line 3"),
        ("a.json", f"[{GOOD[0]}, 5, {GOOD[1]}]", "a.json row 2"),
        ("a.jsonl", GOOD[0].encode() + b"\n\xff\n" + GOOD[1].encode(), "a.jsonl line 2"),
    ],
)
def test_bad_rows_of_every_kind_of_file(tmp_path: Path, name: str, content: str | bytes, place: str) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert mistake(read, str(path)).startswith(place)
    said: list[str] = []
    assert prompts(str(path), on_bad_row="skip", say=said.append) == ["1", "3"]
    assert f"The first: {place}" in said[0]


def test_a_limit_reads_no_further(tmp_path: Path) -> None:
    path = tmp_path / "big.jsonl"
    line = json.dumps({"prompt": "p" * 1000, "demonstration": "d"}) + "\n"
    path.write_text(line * 8 + "{oops\n" + line * 20_000)
    tracemalloc.start()
    assert len(read(str(path), train_limit=8)) == 8  # does not meet the bad line
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000  # of 20 MB
    assert "line 9" in mistake(read, str(path), train_limit=9)


def test_columns_of_no_part_of_a_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ["1"])
    assert "rows have no part 'prompts'. Did you mean 'prompt'?" in mistake(read, path, columns="prompts=prompt")
