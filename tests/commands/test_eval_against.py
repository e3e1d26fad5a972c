"""``selfdistill eval --base_results``: changes from an earlier evaluation, row by row."""

import pytest

from selfdistill.records.evaluations import EvalRecord
from selfdistill.run_folder import read_record
from tests.support.tiny_home import TinyHome, score


@pytest.fixture
def home(home: TinyHome) -> TinyHome:
    """With another model, N, and a slice of a benchmark in ``data``."""
    home.model("N", initializer_range=0.3)
    questions = [{"query": f"Question: {n}?", "choices": ["fire", "ice"], "gold": n % 2} for n in range(5)]
    home.rows(*questions, name="data/prior/arc_easy.jsonl")
    return home


def record(home: TinyHome, name: str, folder: str = "out") -> EvalRecord:
    return read_record(home.folder / folder / f"{name}.json", EvalRecord)


def test_changes_are_tested_row_by_row_and_corrected_for_all_data_sets(home: TinyHome) -> None:
    home.run(*score("assistant-tools,prior-quick", "--data_dir=data", output="base"))
    names = "assistant-tools,prior-quick,drift"
    said = home.run(*score(names, "--data_dir=data", "--base_results=base", model="N"))
    assert said.code == 0
    assert "change from base" in said.out
    for name in ("assistant-tools", "prior-quick"):
        found = record(home, name).against_base
        assert found is not None
        assert found.test.num_items == 2
        assert found.base_accuracy == record(home, name, "base").accuracy
        assert found.accuracy == record(home, name).accuracy
        assert found.test.change == found.accuracy - found.base_accuracy
        assert found.test.p_value_holm == 1.0  # two rows can show nothing
        assert found.leak.num_rows == 2
        assert home.read(f"out/{name}/eval_results.json") == home.read(f"out/{name}.json")
    assert "against_base" not in home.read("out/drift.json")


def test_the_results_of_a_run_are_found_in_its_folder(home: TinyHome) -> None:
    home.run(*score("rows.jsonl", output="run/eval"))
    assert home.run(*score("rows.jsonl", "--base_results=run/eval", model="N")).code == 0
    assert record(home, "custom").against_base is not None


def test_results_of_another_test_are_refused_after_everything_is_written(home: TinyHome) -> None:
    home.run(*score("assistant-tools,prior-quick", "--data_dir=data", "--max_new_tokens=3", output="base"))
    names = "assistant-tools,prior-quick"
    said = home.run(*score(names, "--data_dir=data", "--base_results=base", model="N"))
    assert said.code == 2
    assert "assistant-tools can't be compared: max_new_tokens is 3 in one and 4 in the other" in said.err
    assert "Results are in out." in said.out
    assert record(home, "assistant-tools").num_total == 2
    assert record(home, "assistant-tools").against_base is None
    assert record(home, "prior-quick").against_base is not None
    assert home.read("out/eval_results.json")["prior-quick"] == home.read("out/prior-quick.json")


def test_rows_that_were_changed_meanwhile_are_another_test(home: TinyHome) -> None:
    home.run(*score("rows.jsonl", output="base"))
    home.rows({"prompt": "What is 0+1?", "demonstration": "one"})
    said = home.refused(*score("rows.jsonl", "--base_results=base"))
    assert said.startswith("custom can't be compared: revision is ")


def test_base_results_that_are_not_there_or_of_another_task(home: TinyHome) -> None:
    said = home.refused(*score("assistant-tools", "--base_results=nowhere"))
    assert "nowhere holds no results of assistant-tools. Name the --output_dir of an earlier eval." in said
    home.run(*score("prior-quick", "--data_dir=data", output="base"))
    said = home.refused(*score("assistant-tools", "--base_results=base"))
    assert "base holds no results of assistant-tools. It has prior-quick." in said
    assert not (home.folder / "out").exists()


def test_broken_base_results_are_a_users_error(home: TinyHome) -> None:
    home.run(*score("rows.jsonl", output="base"))
    (home.folder / "base" / "custom.json").write_text("{")
    assert "base/custom.json can't be read" in home.refused(*score("rows.jsonl", "--base_results=base"), code=6)
