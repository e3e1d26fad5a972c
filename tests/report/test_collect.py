"""From run folders to results: verdicts, what is compared with what, warnings."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from selfdistill import run_folder
from selfdistill.records.ledger import GateVerdict, Skill, Version
from selfdistill.report import wording
from selfdistill.report.collect import collect
from selfdistill.report.contents import Comparison, Results
from selfdistill.report.write import write_files
from selfdistill.stats.paired import BETTER, NOT_ENOUGH_DATA, WORSE, PairedTest
from tests.support.mistakes import mistake
from tests.support.report_folders import TASK, answers, as_json, write_drift, write_eval, write_run, write_training


def headline(results: Results) -> Comparison:
    (found,) = wording.headlines(results)
    return found


def paired(comparison: Comparison) -> PairedTest:
    assert comparison.test is not None
    return comparison.test


# -- verdicts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        pytest.param([0.0] * 12, [1.0] * 6 + [0.0] * 6, BETTER, id="six fixed: p = 0.031"),
        pytest.param([0.0] * 12, [1.0] * 5 + [0.0] * 7, NOT_ENOUGH_DATA, id="five fixed: p = 0.063"),
        pytest.param([1.0] * 12, [0.0] * 6 + [1.0] * 6, WORSE, id="six broken"),
        pytest.param([1.0] * 12, [1.0] * 12, NOT_ENOUGH_DATA, id="nothing changed"),
    ],
)
def test_verdict(tmp_path: Path, before: list[float], after: list[float], verdict: str) -> None:
    results = collect(write_run(tmp_path, before, after))
    assert results.verdict == verdict
    assert wording.verdict(headline(results)) == verdict


def test_verdict_is_worded_with_change_test_and_power(tmp_path: Path) -> None:
    # 8 fixed and 1 broken of 18: change 7/18, p = 2 (1 + 9) / 512;
    # interval 0.35 +- 1.96 sqrt((0.45 + 0.1 - 0.35^2) / 20);
    # d sqrt(18) = 1.96 sqrt(0.5) + 0.8416 sqrt(0.5 - d^2) at d = 0.437.
    results = collect(write_run(tmp_path, [0.0] * 17 + [1.0], [1.0] * 8 + [0.0] * 10))
    first, second = wording.reasons(headline(results))
    assert first == (
        "+38.9 points, 95% interval [+6.3, +63.7], over the same 18 rows of assistant-tools: "
        "8 fixed, 1 broke (exact McNemar test, p = 0.0391)."
    )
    assert second == "The smallest change 18 rows could have shown is 43.7 points (80% chance, 5% level)."


def test_five_rows_could_not_have_shown_anything(tmp_path: Path) -> None:
    results = collect(write_run(tmp_path, [0.0] * 5, [1.0] * 5))
    assert results.verdict == NOT_ENOUGH_DATA
    assert wording.reasons(headline(results))[1] == "So few rows can't show any change."


def test_without_an_evaluation_before_there_is_no_verdict(tmp_path: Path) -> None:
    write_eval(tmp_path / "eval", answers([1.0] * 20, "science"), "science")
    results = collect(tmp_path)
    assert results.verdict == NOT_ENOUGH_DATA
    assert wording.reasons(headline(results)) == [
        "science was not scored before training, so there is nothing to compare with."
    ]


def test_parts_are_tested_apart(tmp_path: Path) -> None:
    results = collect(write_run(tmp_path, [0.0] * 30, [1.0] * 10 + [0.0] * 20))
    fixed = {c.part: paired(c).num_better for c in results.comparisons}
    assert fixed == {"": 10, "new combinations": 10, "new phrasings": 0, "new tools": 0}


def test_verdict_is_about_the_task_that_was_trained(tmp_path: Path) -> None:
    write_run(tmp_path, [0.0] * 10, [1.0] * 10)
    for folder, score in (("eval-before", 1.0), ("eval", 0.0)):
        write_eval(tmp_path / folder, answers([score] * 10, "arc"), "arc")
    results = collect(tmp_path)
    assert headline(results).dataset == TASK
    assert results.verdict == BETTER
    assert [paired(c).verdict for c in results.comparisons if c.dataset == "arc" and not c.part] == [WORSE]


# -- what is compared with what --------------------------------------------------------------------------------------


def test_evaluations_with_other_decoding_are_not_compared(tmp_path: Path) -> None:
    write_run(tmp_path, [0.0] * 20, [1.0] * 20)
    write_eval(tmp_path / "eval", answers([1.0] * 20), temperature=1.0)
    results = collect(tmp_path)
    assert headline(results).test is None
    assert results.warnings == [
        f"{tmp_path.name}: assistant-tools before and after differ in temperature, so they are not compared."
    ]
    assert wording.reasons(headline(results)) == [
        "Before and after were not scored on the same rows in the same way, so they are not compared."
    ]


def test_rows_with_the_same_id_but_another_prompt_are_not_compared(tmp_path: Path) -> None:
    write_run(tmp_path, [0.0] * 20, [1.0] * 20)
    first, *others = answers([1.0] * 20)
    asked = replace(first, example=replace(first.example, prompt=({"role": "user", "content": "Another question?"},)))
    write_eval(tmp_path / "eval", [asked, *others])
    results = collect(tmp_path)
    assert headline(results).test is None
    assert results.verdict == NOT_ENOUGH_DATA
    assert results.warnings == [
        f"{tmp_path.name}: assistant-tools before and after differ in the prompts, so they are not compared."
    ]


def test_two_runs_with_other_prompts_are_not_compared_with_each_other(tmp_path: Path) -> None:
    for run, text in (("a", "Which tool fits?"), ("b", "Which one?"), ("c", "Which tool fits?")):
        samples = answers([1.0] * 6)
        prompt = ({"role": "user", "content": text},)
        asked = [replace(each, example=replace(each.example, prompt=prompt)) for each in samples]
        write_eval(tmp_path / run / "eval", asked)
    assert [(pair.first, pair.second) for pair in collect(tmp_path).between_runs] == [("a", "c")]


def test_only_rows_scored_both_times_count(tmp_path: Path) -> None:
    write_run(tmp_path, [0.0] * 20, [1.0] * 20)
    write_eval(tmp_path / "eval", answers([1.0] * 20)[:8])
    results = collect(tmp_path)
    test = paired(headline(results))
    assert (test.num_better, test.num_items) == (8, 8)
    assert results.warnings == [f"{tmp_path.name}: only 8 rows of assistant-tools were scored both before and after."]


def test_unscored_rows_are_left_out_of_the_test(tmp_path: Path) -> None:
    write_run(tmp_path, [0.0] * 10, [1.0] * 10)
    write_eval(tmp_path / "eval", answers([None, *[1.0] * 9]))
    results = collect(tmp_path)
    assert paired(headline(results)).num_better == 9
    sample = next(sample for sample in results.samples if sample.id == "assistant-tools/eval/0")
    assert sample.status == ""


def test_runs_of_a_study_share_the_evaluation_before(tmp_path: Path) -> None:
    write_eval(tmp_path / "eval-before", answers([0.0] * 10))
    for method, score in (("sdft", 1.0), ("sft", 0.0)):
        write_training(tmp_path / "runs" / method, method)
        write_eval(tmp_path / "runs" / method / "eval", answers([score] * 10))
    results = collect(tmp_path)
    assert [(c.run, wording.verdict(c)) for c in wording.headlines(results)] == [
        ("runs/sdft", BETTER),
        ("runs/sft", NOT_ENOUGH_DATA),
    ]
    assert results.verdict == NOT_ENOUGH_DATA
    (pair,) = results.between_runs
    assert (pair.first, pair.second, pair.test.num_worse, pair.test.verdict) == ("runs/sdft", "runs/sft", 10, WORSE)


def test_at_most_four_runs_are_shown_one_of_each_method_first(tmp_path: Path) -> None:
    for index, method in enumerate(["dft", "dft", "dft", "sdft", "sft", "sft"]):
        write_run(tmp_path / f"{index}", [0.0] * 6, [1.0] * 6, method)
    results = collect(tmp_path)
    assert results.shown == ["0", "1", "3", "4"]
    assert {run for sample in results.samples for run in sample.after} == {"0", "1", "3", "4"}
    assert len(results.runs) == 6


# -- where runs are looked for ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["eval", "scores"])
def test_what_eval_wrote_into_a_runs_folder_is_found_by_any_name(tmp_path: Path, name: str) -> None:
    write_training(tmp_path)
    write_eval(tmp_path / name, answers([1.0] * 6))
    (comparison, *_) = collect(tmp_path).comparisons
    assert (comparison.dataset, comparison.after.value) == (TASK, 1.0)


def test_a_folder_that_eval_wrote_is_shown_alone(tmp_path: Path) -> None:
    write_eval(tmp_path, answers([1.0] * 6))
    write_eval(tmp_path, answers([0.0] * 6, "arc"), "arc")
    results = collect(tmp_path)
    assert [run.name for run in results.runs] == [tmp_path.name]
    assert {c.dataset: c.after.value for c in results.comparisons if not c.part} == {"arc": 0.0, TASK: 1.0}


def test_a_folder_with_drift_alone_is_shown(tmp_path: Path) -> None:
    write_drift(tmp_path, 0.4, 3.0, 0.1)
    (found,) = collect(tmp_path).drift
    assert (found.run, found.when, found.drift.kl_per_token) == (tmp_path.name, "after", 0.4)


def test_checkpoints_and_hidden_folders_are_no_runs(tmp_path: Path) -> None:
    write_run(tmp_path, [0.0] * 6, [1.0] * 6)
    for name in ("checkpoint-2", "earlier-1", ".staging"):
        write_training(tmp_path / name)
    assert [run.name for run in collect(tmp_path).runs] == [tmp_path.name]


def test_a_folder_without_runs_and_a_broken_file_are_refused(tmp_path: Path) -> None:
    assert "holds no run: no run_config.json, results of eval" in mistake(collect, tmp_path)
    write_run(tmp_path, [0.0] * 6, [1.0] * 6)
    (tmp_path / "eval" / "assistant-tools.json").write_text('{"accuracy": "good"}')
    said = mistake(collect, tmp_path)
    assert f"{tmp_path / 'eval' / 'assistant-tools.json'} can't be read (accuracy: " in said
    assert said.endswith("Run the command that wrote it again.")


def test_a_broken_line_of_metrics_is_refused(tmp_path: Path) -> None:
    write_training(tmp_path)
    with (tmp_path / run_folder.METRICS).open("a") as file:
        file.write("{\n")
    assert "metrics.jsonl has a line that is not JSON" in mistake(collect, tmp_path)


# -- warnings --------------------------------------------------------------------------------------------------------


def test_a_format_that_leaks_is_a_warning(tmp_path: Path) -> None:
    write_run(tmp_path, [0.0] * 6, [1.0] * 6)
    write_drift(tmp_path / "eval-before", 0.0, 2.89, 0.02)
    write_drift(tmp_path / "eval", 0.45, 3.37, 0.84)
    assert collect(tmp_path).warnings == [
        f"{tmp_path.name}: the new task's format leaks into 84% of general answers (2% before)."
    ]


def test_an_answer_that_speaks_of_the_example_is_a_warning(tmp_path: Path) -> None:
    results = collect(write_run(tmp_path, [0.0] * 6, [1.0] * 6, right="As in the example above, call Ann"))
    assert results.warnings == [
        f"{tmp_path.name}: 6 of 6 completions speak of an example that only the teacher saw (0.0% before)."
    ]


def test_a_skill_that_made_a_ledger_refuse_the_model_is_a_warning(tmp_path: Path) -> None:
    write_run(tmp_path, [0.0] * 6, [1.0] * 6)
    facts = {"skill": "arc", "compared_with": 1, "num_items": 50, "smallest_loss": 0.1}
    lost = GateVerdict(**facts, then=0.8, now=0.5, change=-0.3, bound=-0.123, refused=True)
    skill = Skill(
        name="new",
        source="x.jsonl",
        rows_sha256="",
        num_rows=1,
        items_sha256="",
        num_items=1,
        metric="exact",
        task=None,
        scorer=None,
        max_new_tokens=8,
    )
    version = Version(
        number=2,
        parent=1,
        created="2026-01-02",
        refused=True,
        skill=skill,
        method={},
        max_forgetting=0.0,
        confidence=0.9,
        verdicts=(lost, replace(lost, skill="kept", refused=False)),
    )
    run_folder.write_json(tmp_path / run_folder.GATE, version)
    assert collect(tmp_path).warnings == [
        f"{tmp_path.name}: refused by the ledger's gate: arc fell from 80.0% to 50.0% over 50 items, at least 12.3 "
        "points beyond noise."
    ]


# -- results.json ----------------------------------------------------------------------------------------------------


def test_results_file_is_strict_json_and_holds_what_the_page_shows(tmp_path: Path) -> None:
    write_run(tmp_path, [0.0] * 12, [1.0] * 12)
    run_folder.append_jsonl(tmp_path / run_folder.METRICS, [{"step": 7, "loss": float("nan")}])
    write_files(collect(tmp_path), tmp_path)
    text = (tmp_path / "results.json").read_text(encoding="utf-8")
    results = json.loads(text, parse_constant=pytest.fail)
    assert results["format"] == run_folder.FORMAT
    assert results["verdict"] == BETTER
    assert results["comparisons"][0]["test"]["num_better"] == 12
    assert results["samples"][0]["after"][tmp_path.name]["status"] == "fixed"
    assert results["runs"][0]["training"][-1] == {"step": 7, "loss": None}
    assert results["runs"][0]["config"] == as_json(tmp_path / run_folder.RUN_CONFIG)
