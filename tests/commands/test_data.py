"""``data``, and the flags about rows in the commands that read them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from selfdistill.data import inspection
from selfdistill.data.prompts import uniform
from tests.support.tiny_home import QUICK, TinyHome, train

RENAMED = [{"frage": f"What is {n}+1?", "antwort": str(n + 1)} for n in range(6)]


@pytest.fixture(autouse=True)
def no_embedded_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELFDISTILL_CACHE", str(tmp_path / "no cache"))


def test_what_is_understood(home: TinyHome) -> None:
    home.rows({"question": "a", "answer": "b"}, {"x": "y"}, name="qa.jsonl")
    said = home.run("data", "qa.jsonl")
    assert said.code == 0
    assert "2 rows, 1 of them bad (0 empty), format question/answer" in said.out
    assert "bad: qa.jsonl line 2 has columns [x]" in said.out
    assert "[user] a" in said.out
    said = home.run("data", "qa.jsonl", "--model_name=M")
    assert "tokens" in said.out
    assert "[user] a<|end|>\n[assistant] b<|end|>\n[user] a<|end|>\n[assistant] " in said.out  # what the teacher reads


def test_of_many_rows_a_sample_is_counted_in_tokens_and_all_in_characters(
    home: TinyHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "ALL_MEASURED", 1)
    said = home.run("data", "rows.jsonl", "--model_name=M").out
    assert "tokens of 1 rows" in said
    assert "characters of all rows" in said
    assert home.run("data", "rows.jsonl").out.count("characters") == 1  # without a tokenizer there is one table


def test_as_one_json_object(home: TinyHome) -> None:
    home.rows({"prompt": "<|end|>", "demonstration": "abc"}, {"x": "y"}, name="a.jsonl")
    said = home.run("data", "a.jsonl", "--json", "--model_name=M")
    found = json.loads(said.out)
    assert (found["format"], found["num_rows"], found["num_bad"], found["duplicates"]) == (
        "prompt/demonstration",
        2,
        1,
        0,
    )
    [bad] = found["bad_rows"]
    assert (bad["file"], bad["line"]) == ("a.jsonl", 2)
    assert found["lengths"]["demonstration"]["longest"] == 3  # tokens of this tokenizer are bytes
    assert found["first_special"] == "a.jsonl line 1: <|end|>"
    assert found["example"]["student prompt"].startswith("[user] <|end|>")


def test_the_exit_code_is_2_if_no_row_can_be_used(home: TinyHome) -> None:
    home.rows({"x": "y"}, name="bad.jsonl")
    assert home.run("data", "bad.jsonl").code == 2
    assert home.run("data", "bad.jsonl", "--json").code == 2
    assert home.run("data", "bad.jsonl", "rows.jsonl").code == 0
    assert "bad.jsonl line 1" in home.refused("data", "bad.jsonl", "rows.jsonl", "--on_bad_row=error")
    assert "Name your rows" in home.refused("data")


def test_without_a_tokenizer_nothing_heavy_is_loaded(home: TinyHome) -> None:
    code = (
        "import sys; from selfdistill.cli import main\n"
        "assert main(['data', 'rows.jsonl']) == 0\n"
        "print([name for name in ('torch', 'transformers', 'peft', 'datasets') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=home.folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_training_on_columns_of_other_names(home: TinyHome) -> None:
    home.rows(*RENAMED)
    assert "no known format" in home.refused(*train())
    said = home.run(*train("--columns=prompt=frage,demonstration=antwort", "--dry_run"))
    assert said.code == 0, said.err
    assert "[user] What is 0+1?" in said.out
    assert "there is no column 'fragen', but [frage, antwort]" in home.refused(
        *train("--columns=prompt=fragen,demonstration=antwort")
    )


def test_training_never_sees_the_rows_that_are_held_out(home: TinyHome) -> None:
    texts = [f"What is {n}?" for n in range(20)]
    home.rows(*({"prompt": text, "demonstration": "x"} for text in texts))
    held = [text for text in texts if uniform(text.lower()) < 0.5]
    assert 0 < len(held) < 20
    said = home.run(*train("--eval_share=0.5", "--method=sft"))
    assert f"{20 - len(held)} rows" in said.out
    flags = ("--dataset_path=rows.jsonl", "--eval_share=0.5", "--dtype=float32", "--max_new_tokens=2")
    assert home.run("eval", "--model_path=out", *flags).code == 0
    samples = home.lines("out/eval/custom.samples.jsonl")
    assert [row["prompt"][0]["content"] for row in samples] == held


def test_bad_rows_are_skipped_where_rows_are_read(home: TinyHome) -> None:
    good = [{"prompt": f"What is {n}?", "demonstration": "x", "answer": "x"} for n in range(6)]
    home.rows(*good, {"prompt": "", "demonstration": "x"})
    told = "rows.jsonl: 1 of 7 rows skipped. The first: rows.jsonl line 7: the prompt is empty"
    skip, model = "--on_bad_row=skip", "--model_name=M"
    assert "rows.jsonl line 7" in home.refused(*train())
    assert told in home.run(*train(skip, "--dry_run")).out
    rows = ("--dataset_path=rows.jsonl", skip, "--dtype=float32")
    assert told in home.run("preflight", *rows, model, "--num_rows=2", "--max_completion_length=8").out
    assert told in home.run("eval", *rows, "--model_path=M", "--max_new_tokens=2", "--output_dir=e").out
    study = ("--methods=sft", "--seeds=0", "--prior=none", "--drift_prompts=0", "--checkpoints=1", "--max_new_tokens=2")
    said = home.run("compare", *rows, model, *study, "--output_dir=c", *QUICK[1:])
    assert said.out.count(told) == 1, said


def test_continued_pre_training_on_text(home: TinyHome) -> None:
    home.rows(*({"text": f"Text {n}."} for n in range(3)))
    assert home.run(*train("--method=cpt")).code == 0
    assert "only train --method cpt reads" in home.refused(*train("--method=sft", output="other"))


def test_control_tokens_in_rows_are_warned_of(home: TinyHome) -> None:
    home.rows({"prompt": "a", "demonstration": "b"}, {"prompt": "Explain <|end|>", "demonstration": "c"})
    said = home.run(*train("--dry_run")).out
    assert "Warning: 1 of 2 rows hold the text of a control token" in said
    assert "the first is custom/train/1: <|end|>" in said
