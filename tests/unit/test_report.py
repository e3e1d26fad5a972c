"""The report: from run folders to results, page, Markdown and CSV."""

import base64
import csv
import hashlib
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from report_folders import (
    SCRIPT,
    answers,
    as_json,
    compare_entries,
    continual_run,
    write_drift,
    write_eval,
    write_run,
    write_training,
)
from rich.console import Console

from selfdistill import run_folder
from selfdistill.commands import report as command
from selfdistill.report import render, wording
from selfdistill.report.collect import collect
from selfdistill.report.contents import BETTER, NOT_ENOUGH_DATA, WORSE, Comparison, Measure, Results
from selfdistill.report.plots import all_plots
from selfdistill.report.tables import Table, all_tables, to_csv
from selfdistill.settings.commands import ReportOptions
from selfdistill.types import UserError


def headline(results: Results) -> Comparison:
    (found,) = wording.headlines(results)
    return found


def visible(page: str) -> str:
    """The page without its scripts."""
    return re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)


def values(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that a plot draws."""
    return spec["datasets"][spec["data"]["name"]] if "name" in spec["data"] else spec["data"]["values"]


def table(results: Results, name: str) -> Table:
    return next(table for table in all_tables(results) if table.name == name)


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
    assert wording.reasons(headline(results))[1] == "So few rows could not have shown any change."


def test_without_an_evaluation_before_there_is_no_verdict(tmp_path: Path) -> None:
    write_eval(tmp_path / "eval", "science", answers("science", [1.0] * 20))
    results = collect(tmp_path)
    assert results.verdict == NOT_ENOUGH_DATA
    assert wording.reasons(headline(results)) == [
        "science was not scored before training, so there is nothing to compare with."
    ]


def test_evaluations_with_other_decoding_are_not_compared(tmp_path: Path) -> None:
    write_run(tmp_path, [0.0] * 20, [1.0] * 20)
    write_eval(tmp_path / "eval", "assistant-tools", answers("assistant-tools", [1.0] * 20), temperature=1.0)
    results = collect(tmp_path)
    assert headline(results).paired is None
    name = tmp_path.name
    assert results.warnings == [
        f"{name}: assistant-tools before and after differ in temperature, so they are not compared."
    ]


def test_only_rows_scored_both_times_count(tmp_path: Path) -> None:
    write_run(tmp_path, [0.0] * 20, [1.0] * 20)
    write_eval(tmp_path / "eval", "assistant-tools", answers("assistant-tools", [1.0] * 20)[:8])
    results = collect(tmp_path)
    paired = headline(results).paired
    assert paired is not None
    assert (paired.fixed, paired.change.num_total) == (8, 8)
    assert results.warnings == [f"{tmp_path.name}: only 8 rows of assistant-tools were scored both before and after."]


def test_unscored_rows_are_left_out_of_the_test(tmp_path: Path) -> None:
    write_run(tmp_path, [0.0] * 10, [1.0] * 10)
    path = tmp_path / "eval/assistant-tools.samples.jsonl"
    rows = list(run_folder.read_jsonl(path))
    rows[0]["scores"]["exact"] = None
    run_folder.write_jsonl(path, rows)
    results = collect(tmp_path)
    paired = headline(results).paired
    assert paired is not None
    assert paired.fixed == 9
    sample = next(sample for sample in results.samples if sample.id == "assistant-tools/eval/0")
    assert sample.status == ""


def test_parts_are_tested_apart(tmp_path: Path) -> None:
    results = collect(write_run(tmp_path, [0.0] * 30, [1.0] * 10 + [0.0] * 20))
    fixed = {c.part: c.paired.fixed for c in results.comparisons if c.paired}
    assert fixed == {"": 10, "new combinations": 10, "new phrasings": 0, "new tools": 0}


def test_verdict_is_about_the_task_that_was_trained(tmp_path: Path) -> None:
    write_run(tmp_path, [0.0] * 10, [1.0] * 10)
    for folder, score in (("eval-before", 1.0), ("eval", 0.0)):
        write_eval(tmp_path / folder, "arc", answers("arc", [score] * 10))
    results = collect(tmp_path)
    assert headline(results).dataset == "assistant-tools"
    assert results.verdict == BETTER
    assert [c.paired.verdict for c in results.comparisons if c.dataset == "arc" and not c.part and c.paired] == [WORSE]


def test_runs_of_a_study_share_the_evaluation_before(tmp_path: Path) -> None:
    write_eval(tmp_path / "eval-before", "assistant-tools", answers("assistant-tools", [0.0] * 10))
    for method, score in (("sdft", 1.0), ("sft", 0.0)):
        write_training(tmp_path / "runs" / method, method)
        write_eval(tmp_path / "runs" / method / "eval", "assistant-tools", answers("assistant-tools", [score] * 10))
    results = collect(tmp_path)
    assert [(c.run, wording.verdict(c)) for c in wording.headlines(results)] == [
        ("runs/sdft", BETTER),
        ("runs/sft", NOT_ENOUGH_DATA),
    ]
    assert results.verdict == NOT_ENOUGH_DATA
    (pair,) = results.between_runs
    assert (pair.first, pair.second, pair.paired.broke, pair.paired.verdict) == ("runs/sdft", "runs/sft", 10, WORSE)


def test_at_most_four_runs_are_shown_one_of_each_method_first(tmp_path: Path) -> None:
    for index, method in enumerate(["dft", "dft", "dft", "sdft", "sft", "sft"]):
        write_run(tmp_path / f"{index}", [0.0] * 6, [1.0] * 6, method)
    results = collect(tmp_path)
    assert results.shown == ["0", "1", "3", "4"]
    assert {run for sample in results.samples for run in sample.after} == {"0", "1", "3", "4"}
    assert len(results.runs) == 6


def test_a_format_that_leaks_is_a_warning(tmp_path: Path) -> None:
    write_run(tmp_path, [0.0] * 6, [1.0] * 6)
    write_drift(tmp_path / "eval-before", 0.0, 2.89, 0.02)
    write_drift(tmp_path / "eval", 0.45, 3.37, 0.84)
    results = collect(tmp_path)
    assert results.warnings == [
        f"{tmp_path.name}: the new task's format leaks into 84% of general answers (2% before)."
    ]
    assert table(results, "drift").rows == [["before", 0.0, 2.89, 0.02], ["after", 0.45, 3.37, 0.84]]


def test_an_answer_that_speaks_of_the_example_is_a_warning(tmp_path: Path) -> None:
    results = collect(write_run(tmp_path, [0.0] * 6, [1.0] * 6, right="As in the example above, call Ann"))
    assert results.warnings == [
        f"{tmp_path.name}: 6 of 6 completions speak of an example that only the teacher saw (0.0% before)."
    ]


def test_score_table(tmp_path: Path) -> None:
    scores = table(collect(write_run(tmp_path, [0.0] * 30, [1.0] * 6 + [0.0] * 24)), "scores")
    assert scores.title == "Scores before and after, scorer: exact"
    titles = [column.title for column in scores.columns]
    assert titles == [
        *("data set", "part", "rows", "before %", "after %", "change"),
        *("verdict", "fixed", "broke", "p", "could show"),
    ]
    row = dict(zip(titles, scores.rows[0], strict=True))
    assert (row["rows"], row["fixed"], row["broke"], row["verdict"], row["p"]) == (30, 6, 0, BETTER, 2 / 64)
    assert isinstance(row["after %"], Measure)
    assert row["after %"].value == 0.2


def test_csv_has_raw_numbers_and_intervals_in_columns(tmp_path: Path) -> None:
    run_folder.write_json(tmp_path / "compare.json", compare_entries())
    rows = list(csv.DictReader(to_csv(table(collect(tmp_path), "checkpoints")).splitlines()))
    entry = compare_entries()[0]
    assert len(rows) == 24
    assert float(rows[0]["new task"]) == entry["new_task"]["accuracy"]
    assert float(rows[0]["new task low"]) == entry["new_task"]["interval"][0]
    assert float(rows[0]["hellaswag"]) == entry["prior"]["hellaswag"]
    assert float(rows[0]["KL a token"]) == entry["drift"]["kl_per_token"]


def test_compare_summary_takes_the_last_checkpoint_over_seeds(tmp_path: Path) -> None:
    entries = compare_entries()
    run_folder.write_json(tmp_path / "compare.json", {"entries": entries})
    summary = table(collect(tmp_path), "compare")
    assert [row[:4] for row in summary.rows] == [
        ["sdft", 3e-5, 2, 60.0],
        ["sdft", 1e-4, 2, 60.0],
        ["sft", 3e-5, 2, 60.0],
        ["sft", 1e-4, 2, 60.0],
    ]
    last = [
        e["new_task"]["accuracy"] for e in entries if (e["method"], e["learning_rate"], e["step"]) == ("sdft", 3e-5, 60)
    ]
    assert summary.rows[0][4] == Measure(value=sum(last) / 2, low=min(last), high=max(last))


def test_pareto_plots_have_every_checkpoint(tmp_path: Path) -> None:
    run_folder.write_json(tmp_path / "compare.json", compare_entries())
    plots = {plot.name: plot.spec for plot in all_plots(collect(tmp_path))}
    assert set(plots) == {"pareto_prior", "pareto_drift"}
    drawn = plots["pareto_drift"]
    points = values({**drawn, **drawn["layer"][1]})
    assert [(p["kept"], p["skill"]) for p in points] == [
        (e["drift"]["kl_per_token"], 100 * e["new_task"]["accuracy"]) for e in compare_entries()
    ]


def test_accuracy_matrix_of_each_method(tmp_path: Path) -> None:
    run = continual_run()
    run_folder.write_json(tmp_path / "continual.json", {"runs": [{"method": "sdft", **run}, {"method": "sft", **run}]})
    results = collect(tmp_path)
    assert table(results, "accuracy_matrix_2").rows == [
        ["before training", 0.4, 0.3, 0.0],
        ["1. tooluse", 0.7, 0.3, 0.1],
        ["2. science", 0.6, 0.6, 0.1],
        ["3. assistant-tools", 0.5, 0.6, 0.8],
    ]
    summary = table(results, "continual")
    assert summary.rows[0][0] == "sdft"
    assert dict(zip([c.title for c in summary.columns], summary.rows[0], strict=True))["forgetting"] == 0.1
    page = render.to_html(results)
    diagonal = re.findall(r'diagonal" data-sort="([\d.]+)"', page)
    assert diagonal == ["0.7", "0.6", "0.8"] * 2


def test_single_sequence_without_a_method_name(tmp_path: Path) -> None:
    run_folder.write_json(tmp_path / "continual.json", continual_run())
    results = collect(tmp_path)
    assert table(results, "accuracy_matrix").title == "Accuracy matrix"
    assert "method" not in [column.title for column in table(results, "continual").columns]


def test_time_table_sums_the_parts_of_steps(tmp_path: Path) -> None:
    write_training(tmp_path, num_steps=4)
    assert table(collect(tmp_path), "time").rows == [["rollout", 12.0, 0.75], ["backward", 4.0, 0.25]]


def test_curves_show_what_metrics_hold(tmp_path: Path) -> None:
    write_training(tmp_path, num_steps=3)
    plots = {plot.name: plot.spec for plot in all_plots(collect(tmp_path))}
    assert [row["value"] for row in values(plots["divergence"])] == [0.6, 0.3, 0.6 / 3]
    assert set(plots) == {"loss", "divergence", "completion_tokens", "truncated_share", "positions"}


def test_results_file_is_strict_json_and_holds_what_the_page_shows(tmp_path: Path) -> None:
    write_run(tmp_path, [0.0] * 12, [1.0] * 12)
    metrics = tmp_path / run_folder.METRICS
    run_folder.append_jsonl(metrics, [{"step": 7, "loss": float("nan")}])
    render.write(collect(tmp_path), tmp_path)
    text = (tmp_path / "results.json").read_text(encoding="utf-8")
    results = json.loads(text, parse_constant=pytest.fail)
    assert results["verdict"] == BETTER
    assert results["comparisons"][0]["paired"]["fixed"] == 12
    assert results["samples"][0]["after"][tmp_path.name]["status"] == "fixed"
    assert results["runs"][0]["training"][-1] == {"step": 7, "loss": None}


def test_command_writes_all_files_and_prints_the_verdict(tmp_path: Path) -> None:
    write_run(tmp_path / "run", [0.0] * 12, [1.0] * 12)
    console = Console(record=True, width=200, file=io.StringIO())
    command.run(ReportOptions(folder=str(tmp_path / "run"), output=str(tmp_path / "out")), console)
    names = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert names == {
        "report.html",
        "report.md",
        "results.json",
        *(f"tables/{name}.csv" for name in ("scores", "training", "time")),
    }
    printed = console.export_text()
    assert "BETTER" in printed
    assert "12 fixed, 0 broke" in printed
    assert as_json(tmp_path / "out/results.json")["title"] == "run"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda folder: None, "holds no run: no run_config.json", id="empty folder"),
        pytest.param(lambda folder: folder.rmdir(), "is not a folder", id="no folder"),
        pytest.param(
            lambda folder: (folder / "compare.json").write_text("{"), "compare.json is not JSON", id="no JSON"
        ),
    ],
)
def test_errors_say_what_to_do(tmp_path: Path, make: Any, message: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    make(folder)
    with pytest.raises(UserError, match=message) as error:
        command.run(ReportOptions(folder=str(folder)), Console(quiet=True))
    assert len(str(error.value).split()) <= 40


def test_markdown_has_verdict_tables_and_versions(tmp_path: Path) -> None:
    write_run(tmp_path, [0.0] * 12, [1.0] * 12)
    text = render.to_markdown(collect(tmp_path))
    assert "**BETTER**: +100.0 points" in text
    assert "| data set | part | rows |" in text
    assert re.search(r"^\| --- \| --- \| ---: \|", text, re.MULTILINE)
    assert "model tiny, python 3.11" in text


def test_model_text_is_escaped_everywhere(tmp_path: Path) -> None:
    write_run(tmp_path, [0.0] * 12, [1.0] * 12, right=SCRIPT)
    path = tmp_path / run_folder.ROLLOUTS
    run_folder.write_jsonl(
        path,
        [
            {**row, "id": SCRIPT, "tokens": [SCRIPT, "", ""], "teacher_prompt": SCRIPT}
            for row in run_folder.read_jsonl(path)
        ],
    )
    results = collect(tmp_path)
    page = render.to_html(replace(results, title=SCRIPT, warnings=[SCRIPT]))
    assert "&lt;script&gt;window.injected" in page
    assert page.count("<script>") == 2
    assert "<img" not in visible(page)


def test_page_asks_for_nothing_and_runs_only_its_own_scripts(tmp_path: Path) -> None:
    page = render.to_html(collect(write_run(tmp_path, [0.0] * 12, [1.0] * 12)))
    head = page[: page.index("</head>")]
    assert re.findall(r'(?:src|href)="(?!#|data:)', visible(page)) == []
    assert "url(" not in head
    assert "@import" not in head
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    allowed = re.findall(r"sha256-([\w+/=]+)", policy.group(1).replace("&#43;", "+"))
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts] == allowed
    assert "default-src &#39;none&#39;" in policy.group(1)


def test_page_of_200_long_samples_and_four_methods_fits(tmp_path: Path) -> None:
    long = '{"tool": "x", "arguments": ["a"]} ' * 150
    for method in ("sdft", "sft", "dft", "cpt"):
        write_run(tmp_path / method, [0.0] * 240, [1.0] * 240, method, right=f"{method} {long}")
    results = collect(tmp_path)
    assert len(results.samples) == 200
    page = render.to_html(results)
    assert len(page.encode()) <= render.MAX_BYTES
    assert page.count('<article class="sample"') == 200
    assert "more characters]" in page
