"""``selfdistill eval`` with a tiny model in the model's place: files, folders, the table, comparisons."""

import io
import json

import pytest
import torch
from rich.console import Console

from selfdistill.commands import eval as command
from selfdistill.models import loading
from selfdistill.settings.commands import EvalOptions
from selfdistill.types import UserError


@pytest.fixture(autouse=True)
def model(monkeypatch, tiny_model, tokenizer):
    made = tiny_model(vocab_size=len(tokenizer), max_position_embeddings=4096)
    other = tiny_model(vocab_size=len(tokenizer), max_position_embeddings=4096, initializer_range=0.3)
    monkeypatch.setattr(loading, "load_model", lambda name, **_: other if name == "base" else made)
    monkeypatch.setattr(loading, "load_tokenizer", lambda name: tokenizer)
    return made


@pytest.fixture
def data_dir(tmp_path):
    folder = tmp_path / "data"
    (folder / "prior").mkdir(parents=True)
    arc = {"query": "Question: hot?", "choices": ["fire", "ice"], "gold": 0}
    (folder / "prior" / "arc_easy.jsonl").write_text((json.dumps(arc) + "\n") * 5)
    problem = {"task_id": "H/0", "prompt": "def f():\n", "test": "def check(f): f()", "entry_point": "f"}
    (folder / "prior" / "humaneval.jsonl").write_text(json.dumps(problem) + "\n")
    return folder


@pytest.fixture
def evaluate(tmp_path, data_dir):
    """Runs the command; returns what it printed."""

    def run(dataset_name, folder="out", **options):
        console = Console(file=io.StringIO(), width=200)
        settings = {"limit": 2, "max_new_tokens": 4, "data_dir": str(data_dir)} | options
        command.run(EvalOptions(dataset_name=dataset_name, output_dir=str(tmp_path / folder), **settings), console)
        return console.file.getvalue()

    return run


def read(tmp_path, *names):
    return json.loads(tmp_path.joinpath(*names).read_text())


def test_one_data_set_has_its_files_in_the_folder_itself(evaluate, tmp_path):
    evaluate("assistant-tools")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["eval_responses.json", "eval_results.json"]
    numbers = read(tmp_path, "out", "eval_results.json")
    assert numbers["num_total"] == 2
    assert numbers["config"]["task"] == "assistant-tools"
    assert len(read(tmp_path, "out", "eval_responses.json")) == 2


def test_several_end_in_one_table_and_a_folder_each(evaluate, tmp_path):
    shown = evaluate("assistant-tools, prior-quick,drift")
    assert shown.count("mean [95% interval]") == 1
    for name in ("exact_call", "tool_choice", "arc_easy", "KL from the base"):
        assert name in shown
    both = read(tmp_path, "out", "eval_results.json")
    assert list(both) == ["assistant-tools", "prior-quick", "drift"]
    for name in both:
        assert read(tmp_path, "out", name, "eval_results.json") == both[name]
        assert len(read(tmp_path, "out", name, "eval_responses.json")) == 2


def test_drift_against_a_base(evaluate, tmp_path):
    assert "no base model is known" in evaluate("drift")
    assert read(tmp_path, "out", "eval_results.json")["kl_per_token"] == 0
    assert "no base model" not in evaluate("drift", "second", base_model="base")
    numbers = read(tmp_path, "second", "eval_results.json")
    assert numbers["kl_per_token"] > 0
    assert numbers["reference_nll"] != numbers["base_reference_nll"]
    assert numbers["format_leak_rate"] == 0
    assert numbers["config"]["base_model"] == "base"


def test_the_base_is_the_model_that_the_run_started_from(evaluate, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "run_config.json").write_text(json.dumps({"model_name": "base", "dataset": "assistant-tools"}))
    evaluate("drift", model_path=str(run))
    assert read(tmp_path, "out", "eval_results.json")["config"]["base_model"] == "base"


def test_several_completions(evaluate, tmp_path):
    shown = evaluate("assistant-tools", num_samples=3, temperature=1.0)
    assert "exact_call, pass@3" in shown
    assert "exact_call, majority vote" in shown
    numbers = read(tmp_path, "out", "eval_results.json")
    assert list(numbers["pass_at_k"]) == ["1", "2", "3"]
    assert [len(row["completions"]) for row in read(tmp_path, "out", "eval_responses.json")] == [3, 3]


def test_humaneval_needs_leave_to_run_programs(evaluate, tmp_path):
    with pytest.raises(UserError, match="--allow_code_execution"):
        evaluate("humaneval-quick")
    evaluate("humaneval-quick", allow_code_execution=True)
    numbers = read(tmp_path, "out", "eval_results.json")
    assert (numbers["num_total"], numbers["num_correct"]) == (1, 0)
    assert numbers["config"]["prompt"] == "plain text"


def test_changes_from_an_earlier_eval_are_tested_row_by_row(evaluate, tmp_path, model):
    evaluate("assistant-tools,prior-quick", "base")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.5
    shown = evaluate("assistant-tools,prior-quick,drift", "tuned", base_results=str(tmp_path / "base"))
    assert "change from base" in shown
    both = read(tmp_path, "tuned", "eval_results.json")
    found = both["prior-quick"]["against_base"]
    assert found["num_rows"] == 2
    assert found["change"] == both["prior-quick"]["accuracy"] - found["base_accuracy"]
    assert found["p_value_holm"] == 1.0  # two rows can show nothing
    assert found["leak"]["num_rows"] == 2
    assert "against_base" not in both["drift"]
    assert read(tmp_path, "tuned", "prior-quick", "eval_results.json") == both["prior-quick"]


def test_results_of_another_test_are_refused_after_everything_is_written(evaluate, tmp_path):
    evaluate("assistant-tools", "base", max_new_tokens=3)
    with pytest.raises(UserError, match="max_new_tokens is 3 in one and 4 in the other"):
        evaluate("assistant-tools", base_results=str(tmp_path / "base"))
    assert read(tmp_path, "out", "eval_results.json")["num_total"] == 2


def test_base_results_that_are_not_there_or_of_another_task(evaluate, tmp_path):
    with pytest.raises(UserError, match="holds no results of assistant-tools"):
        evaluate("assistant-tools", base_results=str(tmp_path / "nowhere"))
    evaluate("prior-quick", "base")
    with pytest.raises(UserError, match="holds results of prior-quick, not of assistant-tools"):
        evaluate("assistant-tools", base_results=str(tmp_path / "base"))


def test_results_are_not_overwritten_unasked(evaluate):
    evaluate("prior-quick")
    for names in ("prior-quick", "prior-quick,drift"):
        with pytest.raises(UserError, match="--overwrite"):
            evaluate(names)
    evaluate("prior-quick", overwrite=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset_name": "prior-quik"}, "Did you mean 'prior-quick'"),
        ({"dataset_name": "tooluze"}, "Did you mean 'tooluse'"),
        ({"dataset_name": " , "}, "names no task"),
        ({"num_samples": 2}, "--num_samples 2"),
        ({"num_samples": 0}, "--num_samples 0"),
        ({"dataset_name": "prior-quick", "data_dir": None}, "--data_dir"),
    ],
)
def test_mistakes(evaluate, options, message, monkeypatch, tmp_path):
    monkeypatch.delenv("SELFDISTILL_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=message) as caught:
        evaluate(**{"dataset_name": "assistant-tools", "data_dir": None} | options)
    assert len(str(caught.value).split()) <= 40
