"""``build``, and how ``eval`` chooses scorers."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from selfdistill import cli
from selfdistill.commands import build
from selfdistill.evaluate.scorer_choice import chosen_task, with_chosen_judge
from selfdistill.settings.commands import BuildOptions, EvalOptions
from selfdistill.tasks import TASKS
from selfdistill.types import UserError


def console() -> Console:
    return Console(file=io.StringIO(), width=200)


def printed(of: Console) -> str:
    assert isinstance(of.file, io.StringIO)
    return of.file.getvalue()


def public_row(number: int) -> dict[str, str]:
    return {
        "Question": f"Which {number}?",
        "Complex_CoT": "Hmm.",
        "Response": f"{number}.",
        "Ground-True Answer": f"N{number}",
    }


def source(folder: Path, count: int = 20) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(public_row(number)) + "\n" for number in range(count)))
    return str(path)


def test_medical(tmp_path: Path):
    out = console()
    build.run(BuildOptions(task="medical", source=source(tmp_path), output_dir=str(tmp_path / "data")), out)
    train, evaluation = (load(tmp_path / "data") for load in (TASKS["medical"].load_train, TASKS["medical"].load_eval))
    assert (len(train), len(evaluation)) == (18, 2)
    assert {row.reference for row in train + evaluation} == {f"N{number}" for number in range(20)}
    assert "20 of 20 rows" in printed(out)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["medical_data"]


def test_what_is_there_is_kept_unless_told(tmp_path: Path):
    options = BuildOptions(task="medical", source=source(tmp_path), output_dir=str(tmp_path / "data"))
    build.run(options, console())
    with pytest.raises(UserError, match="--overwrite"):
        build.run(options, console())
    options.source, options.overwrite, options.num_eval = source(tmp_path, 10), True, 3
    build.run(options, console())
    assert len(TASKS["medical"].load_train(tmp_path / "data")) == 7


def test_wiki(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "articles").mkdir()
    for name in ("flood", "storm"):
        (tmp_path / "articles" / f"{name}.txt").write_text(" ".join([name] * 30))

    def answer(prompt: str) -> str:
        word, name = "why" if "directly" in prompt else "how", prompt.split('"')[1]
        return "\n".join(f"Q: Number {n}: {word} was {name}?\nA: So {n}." for n in "ab")

    monkeypatch.setattr(build, "model_asker", lambda *_: lambda chats: [answer(chat[-1]["content"]) for chat in chats])
    out = console()
    options = BuildOptions(
        task="wiki", articles=str(tmp_path / "articles"), model_name="m", output_dir=str(tmp_path / "data")
    )
    build.run(options, out)
    train, evaluation = (load(tmp_path / "data") for load in (TASKS["wiki"].load_train, TASKS["wiki"].load_eval))
    # four questions: one is held out, one more is asked indirectly
    assert len(train) == 3
    assert [row.part for row in evaluation] == ["direct", "ood"]
    assert "2 passages of 2 articles" in printed(out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["medical", "--output_dir", "x"], "--source is missing"),
        (["wiki", "--output_dir", "x"], "--articles is missing"),
        (["wiki", "--output_dir", "x", "--articles", "a"], "--model_name is missing"),
        (
            ["wiki", "--output_dir", "x", "--articles", "a", "--model_name", "m", "--answers", "b"],
            "build wiki takes no --answers",
        ),
        (["medical", "--source", "x"], "--output_dir is missing"),
        (["medical", "--source", "x.csv", "--output_dir", "y"], "build reads no CSV"),
        (["medical", "--source", "x.jsonl", "--output_dir", "y"], "No such file"),
        (["medical", "--source", "x", "--output_dir", "y", "--model_name", "m"], "build medical takes no --model_name"),
        (["wiki", "--articles", "none", "--output_dir", "y", "--model_name", "m"], "--articles none is no folder"),
        (["medical", "--source", "x", "--output_dir", "y", "--num_eval", "0"], "--num_eval 0"),
    ],
)
def test_mistakes(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["build", *arguments]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert len(told.split()) <= 41  # the program's name and 40 words


def evaluation(**settings: Any) -> EvalOptions:
    return EvalOptions(output_dir="x", **settings)


def test_a_scorer_becomes_the_headline(tmp_path: Path):
    assert list(chosen_task("science", evaluation()).scorers) == ["reference"]
    assert list(chosen_task("science", evaluation(scorer="multiple_choice")).scorers) == [
        "multiple_choice",
        "reference",
    ]
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "answer": "b"}\n')
    own = evaluation(dataset_path=str(tmp_path / "rows.jsonl"), scorer="numeric")
    assert list(chosen_task("custom", own).scorers) == ["numeric"]
    own = evaluation(dataset_path=str(tmp_path / "rows.jsonl"))
    assert list(chosen_task("custom", own).scorers) == ["exact_match"]


def test_a_judge_is_asked_for_only_where_it_is_needed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SELFDISTILL_JUDGE_URL", "http://127.0.0.1:9")  # needs a model, were it used
    task = chosen_task("science", evaluation())
    assert with_chosen_judge(task, evaluation(), console()) == (task, None)
    medical = chosen_task("medical", evaluation())
    with pytest.raises(UserError, match="--judge_model is missing"):
        with_chosen_judge(medical, evaluation(), console())


def test_without_a_judge(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("SELFDISTILL_JUDGE_URL", raising=False)
    out = console()
    assert with_chosen_judge(chosen_task("wiki", evaluation()), evaluation(), out)[1] is None
    assert "strict, lenient stay unscored" in printed(out)
    options = evaluation(scorer="judge")
    task = chosen_task("science", options)
    assert list(task.scorers) == ["judge", "reference"]
    with pytest.raises(UserError, match="--scorer judge needs a judge"):
        with_chosen_judge(task, options, console())
    out, options = console(), evaluation(judge_url="http://a", judge_model="m")
    assert with_chosen_judge(chosen_task("science", options), options, out)[1] is None
    assert "no scorer that asks a judge" in printed(out)


def test_the_table_of_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    build.run(BuildOptions(task="medical", source=source(tmp_path), output_dir=str(tmp_path / "data")), console())
    folder = tmp_path / "data" / "medical_data"
    (folder / "eval_data").rename(folder / "kept")
    (folder / "train_data").rename(folder / "eval_data")  # all training rows become evaluation rows ...
    shutil.copytree(folder / "eval_data", folder / "train_data")  # ... and training rows
    monkeypatch.setenv("SELFDISTILL_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.main(["tasks"]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "medical" in line)
    assert "100.0%" in row
    assert "18" in row
