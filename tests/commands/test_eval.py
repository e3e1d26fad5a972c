"""``selfdistill eval`` on a tiny model on a disk: files, folders, the table, and what is refused or said."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from selfdistill import run_folder
from selfdistill.evaluate import run as evaluate_run
from selfdistill.method.rollout.engine import RolloutEngine
from selfdistill.records.evaluations import DriftRecord, DriftSample, EvalRecord, SampleRecord
from selfdistill.records.runs import RunConfig
from selfdistill.run_folder import read_record, read_records
from tests.support.engines import Scripted, stopped
from tests.support.tiny import CHAT_TEMPLATE, byte_tokenizer
from tests.support.tiny_home import TinyHome, score, train

THINKING = CHAT_TEMPLATE + "{% if not thinking %}<think></think>{% endif %}"
"""Closes the model's thoughts before they begin, unless told to let it think."""


@pytest.fixture
def home(home: TinyHome) -> TinyHome:
    """With a slice of two benchmarks in ``data``."""
    arc = {"query": "Question: hot?", "choices": ["fire", "ice"], "gold": 0}
    problem = {"task_id": "H/0", "prompt": "def f():\n", "test": "def check(f): f()", "entry_point": "f"}
    home.rows(*[arc] * 5, name="data/prior/arc_easy.jsonl")
    home.rows(problem, name="data/prior/humaneval.jsonl")
    return home


def record(home: TinyHome, name: str = "assistant-tools", folder: str = "out") -> EvalRecord:
    return read_record(home.folder / folder / f"{name}.json", EvalRecord)


def samples(home: TinyHome, name: str = "assistant-tools", folder: str = "out") -> list[SampleRecord]:
    return read_records(home.folder / folder / f"{name}.samples.jsonl", SampleRecord)


def drift(home: TinyHome, folder: str = "out") -> DriftRecord:
    return read_record(home.folder / folder / "drift.json", DriftRecord)


def done(home: TinyHome, *argv: str) -> str:
    """What a command that must succeed prints."""
    said = home.run(*argv)
    assert said.code == 0, said
    return said.out


def names(home: TinyHome, folder: str = "out") -> list[str]:
    return sorted(path.name for path in (home.folder / folder).iterdir() if path.name != run_folder.LOCK)


def made_by_a_run(home: TinyHome, folder: str = "M", **settings: Any) -> None:
    """Makes the model in the folder one that a run of ours left there."""
    config = RunConfig(
        model_name="N",
        dataset="assistant-tools",
        num_training_rows=3,
        versions={},
        settings=settings,
        deviations_from_paper={},
    )
    run_folder.write_json(home.folder / folder / run_folder.RUN_CONFIG, config)


# -- files ---------------------------------------------------------------------------------------------------------


def test_a_data_set_has_two_files_and_the_references_show_the_same_objects(home: TinyHome) -> None:
    assert done(home, *score("assistant-tools")).endswith("Results are in out.\n")
    own = ["assistant-tools.json", "assistant-tools.samples.jsonl"]
    assert names(home) == [*own, "eval_responses.json", "eval_results.json"]
    assert home.read("out/eval_results.json") == home.read("out/assistant-tools.json")
    assert home.read("out/eval_responses.json") == home.lines("out/assistant-tools.samples.jsonl")
    found = record(home)
    assert (found.num_total, found.config.task, found.config.max_new_tokens) == (2, "assistant-tools", 4)
    assert len(samples(home)) == 2
    assert (found.config.facts["model_path"], found.config.facts["dtype"]) == ("M", "torch.float32")
    assert "torch" in found.config.facts["versions"]


def test_several_end_in_one_table_and_share_the_folder(home: TinyHome) -> None:
    shown = done(home, *score("assistant-tools, prior-quick,drift", "--data_dir=data"))
    assert shown.count("mean [95% interval]") == 1
    for name in ("exact_call", "tool_choice", "arc_easy", "KL from the base"):
        assert name in shown
    both = home.read("out/eval_results.json")
    assert list(both) == ["assistant-tools", "prior-quick", "drift"]
    for name in both:
        assert home.read(f"out/{name}.json") == both[name] == home.read(f"out/{name}/eval_results.json")
        assert home.read(f"out/{name}/eval_responses.json") == home.lines(f"out/{name}.samples.jsonl")
        assert len(home.lines(f"out/{name}.samples.jsonl")) == 2
    assert run_folder.evaluated_datasets(home.folder / "out") == ["assistant-tools", "prior-quick"]


def test_results_of_a_run_lie_in_its_folder(home: TinyHome) -> None:
    done(home, *train())
    assert "Results are in out/eval." in done(home, *score("rows.jsonl", model="out", output=None))
    assert record(home, "custom", "out/eval").num_total == 2


def test_results_of_another_model_need_a_folder(home: TinyHome) -> None:
    assert "--output_dir is missing" in home.refused(*score("rows.jsonl", output=None))
    assert "rows.jsonl is a file" in home.refused(*score("rows.jsonl", output="rows.jsonl"))


def test_one_data_set_after_the_other_fills_the_same_folder(home: TinyHome) -> None:
    done(home, *score("prior-quick", "--data_dir=data"))
    done(home, *score("rows.jsonl"))
    done(home, *score("drift,assistant-tools"))
    done(home, *score("humaneval-quick", "--data_dir=data", "--allow_code_execution"))
    found = run_folder.evaluated_datasets(home.folder / "out")
    assert found == ["assistant-tools", "custom", "humaneval-quick", "prior-quick"]
    assert home.read("out/eval_results.json") == home.read("out/humaneval-quick.json")


def test_the_same_one_twice_is_refused_unless_told_to_replace_it(home: TinyHome) -> None:
    done(home, *score("prior-quick", "--data_dir=data"))
    before = home.files()
    for again in ("prior-quick", "prior-quick,drift", "drift,prior-quick"):
        said = home.refused(*score(again, "--data_dir=data"))
        assert "out/prior-quick.json exists" in said
        assert "--overwrite" in said
    assert home.files() == before
    done(home, *score("prior-quick", "--data_dir=data", "--limit=3", "--overwrite"))
    assert record(home, "prior-quick").num_total == 3


def test_completions_of_an_earlier_data_set_are_not_left_beside_the_results_of_several(home: TinyHome) -> None:
    done(home, *score("rows.jsonl"))
    assert (home.folder / "out" / "eval_responses.json").exists()
    done(home, *score("prior-quick,drift", "--data_dir=data"))
    assert list(home.read("out/eval_results.json")) == ["prior-quick", "drift"]
    assert not (home.folder / "out" / "eval_responses.json").exists()
    assert len(samples(home, "custom")) == 2


@pytest.mark.parametrize("file", ["eval_results.json", "eval_responses.json"])
@pytest.mark.parametrize("text", ['{"accuracy": 0.5}', '{"config": {"task": "tooluse"}}', '{"tooluse": 1}', "mine"])
def test_somebody_elses_results_under_the_references_names_are_not_replaced(
    home: TinyHome, file: str, text: str
) -> None:
    run_folder.write_text(home.folder / "out" / file, text)
    assert f"out/{file} exists" in home.refused(*score("rows.jsonl"))
    run_folder.write_text(home.folder / "several" / "drift" / file, text)
    said = home.refused(*score("prior-quick,drift", "--data_dir=data", output="several"))
    assert f"several/drift/{file} exists" in said
    done(home, *score("rows.jsonl", "--overwrite"))


# -- what is measured --------------------------------------------------------------------------------------------------


def test_drift_against_a_base(home: TinyHome) -> None:
    assert "no base model is known" in done(home, *score("drift"))
    assert drift(home).kl_per_token == 0
    home.model("N", initializer_range=0.3)
    assert "no base model" not in done(home, *score("drift", "--base_model=N", output="second"))
    found = drift(home, "second")
    assert found.kl_per_token > 0
    assert found.reference_nll != found.base_reference_nll
    assert found.format_leak_rate == 0
    assert (found.config["task"], found.config["base_model"], found.config["model_path"]) == ("drift", "N", "M")


def test_the_base_is_the_model_that_the_run_started_from(home: TinyHome) -> None:
    home.model("N", initializer_range=0.3)
    made_by_a_run(home)
    done(home, *score("drift"))
    assert drift(home).config["base_model"] == "N"
    assert drift(home).kl_per_token > 0


def test_several_completions(home: TinyHome) -> None:
    shown = done(home, *score("assistant-tools", "--num_samples=3", "--temperature=1.0"))
    assert "exact_call, pass@3" in shown
    assert "exact_call, majority vote" in shown
    assert list(record(home).pass_at_k) == ["1", "2", "3"]
    assert [len(row.completions) for row in samples(home)] == [3, 3]


def test_fewer_rows_are_completed_as_they_were_among_more(home: TinyHome) -> None:
    for limit, batch_size in ((4, 3), (2, 64)):
        flags = (f"--limit={limit}", f"--batch_size={batch_size}", "--temperature=1.0")
        done(home, *score("assistant-tools", *flags, output=f"out-{limit}"))
    among = {row.id: row.completion for row in samples(home, folder="out-4")}
    alone = {row.id: row.completion for row in samples(home, folder="out-2")}
    assert len(set(among.values())) == 4
    assert len(alone) == 2
    assert alone == {id: among[id] for id in alone}


def test_humaneval_needs_leave_to_run_programs(home: TinyHome) -> None:
    assert "--allow_code_execution" in home.refused(*score("humaneval-quick", "--data_dir=data"))
    done(home, *score("humaneval-quick", "--data_dir=data", "--allow_code_execution"))
    found = record(home, "humaneval-quick")
    assert (found.num_total, found.num_correct) == (1, 0)
    assert found.config.prompt == "plain text"
    assert found.config.facts["program_wall"] in ("seccomp + landlock", "seccomp")
    told = home.refused(*score("humaneval-quick", "--data_dir=data", "--allow_unconfined_code"))
    assert "without --allow_code_execution" in told


# -- the chat template's settings ----------------------------------------------------------------------------------


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    """Samples in the model's place."""
    made = Scripted(lambda _: stopped(256))

    def make(*_: Any, **__: Any) -> RolloutEngine:
        return made

    monkeypatch.setattr(evaluate_run, "make_engine", make)
    return made


def ends(engine: Scripted) -> set[str]:
    """What the prompts of the last call end with."""
    tokenizer = byte_tokenizer()
    return {str(tokenizer.decode(prompt)).rpartition("[assistant] ")[2] for prompt in engine.calls[-1][0]}


def kwargs_of(home: TinyHome, folder: str) -> dict[str, Any]:
    return record(home, "custom", folder).config.chat_template_kwargs


def test_the_chat_template_gets_what_the_run_gave_it_unless_told_otherwise(home: TinyHome, engine: Scripted) -> None:
    home.model(template=THINKING)
    done(home, *score("rows.jsonl", output="plain"))
    assert (ends(engine), kwargs_of(home, "plain")) == ({"<think></think>"}, {})
    made_by_a_run(home, chat_template_kwargs={"thinking": True})
    done(home, *score("rows.jsonl", output=None))
    assert (ends(engine), kwargs_of(home, "M/eval")) == ({""}, {"thinking": True})
    done(home, *score("rows.jsonl", '--chat_template_kwargs={"thinking": false}', output="told"))
    assert (ends(engine), kwargs_of(home, "told")) == ({"<think></think>"}, {"thinking": False})
    made_by_a_run(home, student_chat_template_kwargs={"thinking": True})
    done(home, *score("rows.jsonl", output="student"))
    assert (ends(engine), kwargs_of(home, "student")) == ({""}, {"thinking": True})
    done(home, *score("rows.jsonl", "--chat_template_kwargs={}", output="none"))
    assert (ends(engine), kwargs_of(home, "none")) == ({"<think></think>"}, {})


def test_so_do_drifts_prompts(home: TinyHome) -> None:
    home.model(template=THINKING)
    home.model("N", template=THINKING)
    done(home, *score("drift", output="plain"))
    made_by_a_run(home, chat_template_kwargs={"thinking": True})
    done(home, *score("drift", output="run"))
    for folder, end in (("plain", "<think></think>"), ("run", "[assistant] ")):
        rows = read_records(home.folder / folder / "drift.samples.jsonl", DriftSample)
        assert all(row.prompt.endswith(end) for row in rows)


# -- what is said and refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_prompt_longer_than_the_context_is_refused(home: TinyHome, kind: str) -> None:
    home.model(model_type=kind, max_position_embeddings=64)
    home.rows({"prompt": "Hi", "answer": "a"}, {"prompt": "x" * 300, "answer": "b"}, name="long.jsonl")
    said = home.refused(*score("long.jsonl"))
    assert said.startswith("custom/eval/1: the prompt has 321 tokens, the model reads 64")


def test_completions_that_the_context_cuts_short_are_said(home: TinyHome) -> None:
    home.model(max_position_embeddings=64)
    home.rows({"prompt": "Hi", "answer": "a"}, {"prompt": "x" * 40, "answer": "b"}, name="short.jsonl")
    assert "context" not in done(home, *score("short.jsonl", "--max_new_tokens=3"))
    shown = done(home, *score("short.jsonl", "--max_new_tokens=10", output="second"))
    assert "the model's context leaves 1 rows fewer tokens than --max_new_tokens" in shown
    assert record(home, "custom", "second").config.facts["rows_short_of_context"] == 1


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([["2", "two"], "2"], None),  # any of the list counts
        (["2", {"value": 2}], "1 of 2 rows of custom can't be scored by exact_match: row 2 has an answer of type dict"),
        (["2", None], "1 of 2 rows of custom can't be scored by exact_match: row 2 has no answer"),
    ],
)
def test_rows_that_can_not_be_scored_are_named(home: TinyHome, answers: Sequence[Any], said: str | None) -> None:
    home.rows(*({"prompt": "1+1?", "answer": answer} for answer in answers), name="answers.jsonl")
    shown = done(home, *score("answers.jsonl"))
    if said is None:
        assert "Warning" not in shown
        assert record(home, "custom").num_unscored == 0
    else:
        assert f"Warning: {said}" in shown
        assert record(home, "custom").num_unscored == 1


@pytest.mark.parametrize(
    ("name", "flag", "said"),
    [
        ("assistant-tools,prior-quick", "--base_model=N", "--base_model changes nothing for assistant-tools, prior-"),
        ("drift", "--base_results=out", "--base_results changes nothing for drift"),
        ("assistant-tools", "--allow_code_execution", "--allow_code_execution changes nothing for assistant-tools"),
        ("drift", "--num_samples=2 --temperature=1", "--temperature changes nothing for drift"),
        ("drift,prior-quick", "--max_new_tokens=9", "--max_new_tokens changes nothing for drift, prior-quick"),
        ("prior-quick", "--seed=1", "--seed changes nothing for prior-quick"),
        ("assistant-tools", "--top_p=0.5", "--top_p 0.5 changes nothing in greedy decoding"),
        ("assistant-tools", "--num_samples=2", "--num_samples 2 of greedy decoding are all the same"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(home: TinyHome, name: str, flag: str, said: str) -> None:
    assert said in home.refused(*score(name, *flag.split(), "--data_dir=data"))


@pytest.mark.parametrize(
    ("name", "flag", "said"),
    [
        ("prior-quik", "", "Did you mean 'prior-quick'"),
        ("tooluze", "", "Did you mean 'tooluse'"),
        (" , ", "", "names no task"),
        ("assistant-tools", "--num_samples=0", "num_samples: 0 is not at least 1"),
        ("assistant-tools", "--temperature=-1", "--temperature -1.0 is not between 0"),
        ("prior-quick", "", "--data_dir"),
        ("prior-quick,drift", "", "--data_dir"),
    ],
)
def test_mistakes(home: TinyHome, name: str, flag: str, said: str) -> None:
    (home.folder / "data").rename(home.folder / "elsewhere")
    assert said in home.refused(*score(name, *flag.split()))
    assert not (home.folder / "out").exists()


def test_a_model_without_a_chat_template_is_refused_where_one_is_needed(home: TinyHome) -> None:
    home.model(template=None)
    for name in ("rows.jsonl", "drift"):
        assert "has no chat template" in home.refused(*score(name))
    done(home, *score("prior-quick", "--data_dir=data"))


def test_a_broken_run_config_is_a_users_error(home: TinyHome) -> None:
    run_folder.write_text(home.folder / "M" / "run_config.json", json.dumps({"format": 99}))
    assert "run_config.json can't be read (its format is 99" in home.refused(*score("rows.jsonl"))


def test_a_qlora_run_is_scored_in_4_bits_as_it_was_trained(home: TinyHome) -> None:
    assert home.run(*train("--lora_r=2", "--quantize=4bit")).code == 0
    wanted = ("--dataset_path=rows.jsonl", "--max_new_tokens=4", "--dtype=float32")
    assert home.run("eval", "--model_path=out", "--quantize=4bit", "--output_dir=four", *wanted).code == 0
    assert record(home, "custom", "four").config.facts["quantize"] == "4bit"
    assert home.run("eval", "--model_path=out", "--output_dir=whole", *wanted).code == 0
    assert "quantize" not in record(home, "custom", "whole").config.facts
