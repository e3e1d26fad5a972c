"""The page of the evidence and the check that all its figures come from the run folders."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.common import BEGIN, END, put
from evidence.changes_part import changes_part
from evidence.check import problems
from evidence.compare_part import compare_part
from evidence.measured import anchored, measured, winners
from evidence.page import PAGE, render, study_settings
from evidence.teachers_part import teachers_part
from selfdistill import run_folder
from selfdistill.evaluate.advice import FILE, Measured
from selfdistill.records.studies import CompareRecord
from tests.support.evidence_folders import METRIC, write_compare, write_evidence, write_report


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return write_evidence(tmp_path / "runs")


@pytest.fixture
def page(runs: Path) -> Path:
    path = runs.parent / "page.md"
    path.write_text(put(f"# Page\n\n{BEGIN}\n{END}\n", render(runs)))
    return path


# -- the parts of the page -------------------------------------------------------------------------------------------


def test_the_part_of_a_comparison_has_its_answer(tmp_path: Path) -> None:
    write_compare(tmp_path, {"sft": 0.4, "sdft": 0.1})
    lines = part_of(tmp_path)
    assert lines[0] == "### compare-toy"
    assert lines[2].startswith("Task `toy`, 10 evaluation rows, base 0.0%; 4 steps of 8 prompts, seeds 0, 1, 2, 2 che")
    assert lines[4].startswith("**Does self-distillation keep more at the same skill?** Yes. At every accuracy on the")


def test_the_tables_of_a_comparison(tmp_path: Path) -> None:
    write_compare(tmp_path, {"sft": 0.4, "sdft": 0.1})
    lines = part_of(tmp_path)
    # drift over seeds: 0.8, 0.801, 0.802
    assert "| `sft` | 1e-4 | 80.0 ± 0.0 | 0.801 ± 0.001 | 3.701 ± 0.001 | 50.0 ± 0.0 | 5 ± 0 |" in lines
    assert "| `sdft` | `sft` | 2 | 0 | 2 | 0 | 0 |" in lines
    assert "| `sft` | `sdft`, dominates | 2 | 2 | 0 | 0 | 0 |" in lines


def test_the_part_of_single_changes_says_what_each_removes(tmp_path: Path) -> None:
    write_compare(tmp_path, {"sft-anchored": 0.1, "sdft": 0.4, "budget": 0.2, "worse": 0.7}, seeds=(0,))
    found = run_folder.read_record(tmp_path / run_folder.COMPARE, CompareRecord)
    lines = changes_part("changes-toy", found, study_settings(tmp_path))
    assert lines[2].startswith(
        "Task `toy`, 10 evaluation rows, base 0.0%; 4 steps of 8 prompts, seeds 0, 2 checkpoints"
    )
    # at 80%: sdft drifts by 0.8, sft-anchored by 0.2, a gap of 0.6; of it budget removes 0.4 and worse adds 0.6
    assert [line.rpartition("80.0 | ")[2] for line in lines[-4:]] == [
        "0.200 | 0.800 | 0.200 | 100 | 5 |",
        "0.800 | 0.800 | 0.200 | 0 | 5 |",
        "0.400 | 0.800 | 0.200 | 67 | 5 |",
        "1.400 | 0.800 | 0.200 | -100 | 5 |",
    ]
    assert lines[-2].startswith("| `budget` | 80.0 | 80.0 | 0.400 | 80.0 |")


def test_the_part_of_the_teachers(tmp_path: Path) -> None:
    told = [
        {"name": "paper", "accuracy": 0.25, "kl_per_token": 0.5, "refused": ""},
        {"name": "system", "accuracy": None, "kl_per_token": None, "refused": "System role not supported"},
        {"name": "prior_turn x2", "accuracy": None, "kl_per_token": None, "refused": ""},  # over a length limit
    ]
    run_folder.write_json(tmp_path / "toy.json", {"num_rows": 8, "base_accuracy": 0.125, "templates": told})
    lines = teachers_part([tmp_path / "toy.json"])
    assert lines[0] == "### teachers"
    assert lines[-3:] == [
        "| task | rows | student % | paper %, KL | system %, KL | prior_turn x2 %, KL |",
        "|---|--:|--:|--:|--:|--:|",
        "| `toy` | 8 | 12.5 | 25.0, 0.500 | refused |  |",
    ]


def test_an_arm_wins_that_every_arm_of_the_other_kind_is_dominated_by(tmp_path: Path) -> None:
    write_compare(tmp_path, {"sft": 0.4, "sft-anchored": 0.05, "sdft": 0.1})
    found = run_folder.read_record(tmp_path / run_folder.COMPARE, CompareRecord)
    assert winners(found) == ["sft-anchored"]  # sdft dominates sft alone
    outcome = measured("m", {"toy": found})
    assert (outcome.model, outcome.tasks[0].name, outcome.tasks[0].base_accuracy) == ("m", "toy", 0.0)
    assert outcome.arms["sft-anchored"] == {"method": "sft-anchored"}


def test_what_anchors_leave_of_the_drift_of_sft(tmp_path: Path) -> None:
    write_compare(tmp_path, {"sft": 0.4, "sft-anchored": 0.05})
    found = run_folder.read_record(tmp_path / run_folder.COMPARE, CompareRecord)
    assert anchored(found) is None  # there both have settings of their own
    plain, held = (replace(arm, settings={"method": "sft"}) for arm in found.arms)
    held = replace(held, settings={"method": "sft", "anchor_share": 0.25}, anchor_share=0.25)
    # at 80%, over seeds, 0.1 more by a thousandth for each seed, and 0.8
    assert anchored(replace(found, arms=[plain, held])) == pytest.approx(0.101 / 0.801)


def test_what_a_preflight_knows_is_what_the_page_says() -> None:
    known = run_folder.read_record(FILE, Measured)
    sections = re.split(r"^### ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    parts = {part.partition("\n")[0]: part for part in sections if part.startswith("compare-")}
    assert [task.name for task in known.tasks] == list(parts)
    for task in known.tasks:
        part = parts[task.name]
        assert f"base {100 * task.base_accuracy:.1f}%" in part
        beaten = set(re.findall(r"^\| `([\w-]+)` \| `([\w-]+)`, dominates", part, re.MULTILINE))
        distils = {arm: settings["method"] == "sdft" for arm, settings in known.arms.items()}
        won = [a for a in distils if all((b, a) in beaten for b in distils if distils[b] != distils[a])]
        assert task.winners == won


def part_of(folder: Path) -> list[str]:
    found = run_folder.read_record(folder / run_folder.COMPARE, CompareRecord)
    return compare_part("compare-toy", found, study_settings(folder))


def test_the_page_of_a_sequence(runs: Path) -> None:
    text = render(runs)
    # forgetting of sft 60, 50, 60 points, of sdft 0: beyond the noise; at the end 60, 65, 60 against 80
    assert "**Does `sdft` forget less than `sft`?** Yes. **Is it better at the end?** Yes." in text
    assert "| `sdft` − `sft` | forgetting | −60.0, −50.0, −60.0 | −56.7 ± 5.8 | 100 | lower |" in text
    assert "| `sft` | 2. b | 33.3 ± 5.8 | 90.0 ± 0.0 |" in text
    assert "Some CPU, 2 cores" in text


def test_seeds_that_only_some_arms_ran_count_where_both_of_a_pair_did(runs: Path) -> None:
    def without_sdft(record: Any) -> None:
        record["runs"] = [run for run in record["runs"] if run["arm"] != "sdft"]

    change_json(without_sdft)(runs / "continual-1" / run_folder.CONTINUAL)
    text = render(runs)
    assert "| `sdft` − `sft` | forgetting | −60.0, −60.0 | −60.0 ± 0.0 | 100 | lower |" in text
    assert re.search(r"^\| `sft` \| \S+ \| 3 \|.*^\| `sdft` \| \S+ \| 2 \|", text, re.MULTILINE | re.DOTALL)


# -- the check -------------------------------------------------------------------------------------


def test_a_page_from_the_folders_has_no_problem(runs: Path, page: Path) -> None:
    assert list(problems(runs, page)) == []


def test_a_study_that_grew_may_hold_answers_scored_by_an_earlier_version_of_the_file(runs: Path, page: Path) -> None:
    name, at, _ = METRIC.partition("@")
    path = runs / "compare-toy/sft/lr-0.0001/seed-1/eval/toy.samples.jsonl"
    for written in (path, path.with_name("toy.json")):
        swap(METRIC, f"{name}{at}00000000", -1)(written)
    write_report(runs / "compare-toy")
    assert list(problems(runs, page)) == []
    swap(f'"{name}{at}00000000": 1.0', f'"{name}{at}00000000": 0.0', -1)(path)
    assert next(problems(runs, page), None) is not None


def change_json(change: Callable[[Any], None]) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        value = json.loads(path.read_text())
        change(value)
        run_folder.write_json(path, value)

    return edit


def swap(old: str, new: str, count: int = 1) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, count))

    return edit


@pytest.mark.parametrize(
    ("place", "edit"),
    [
        ("compare-toy/compare.json", change_json(lambda v: v["checkpoints"][1]["skill"].update(accuracy=0.9))),
        ("compare-toy/compare.json", change_json(lambda v: v["base"]["drift"].update(reference_nll=1.0))),
        ("compare-toy/compare.json", change_json(lambda v: v["tests"][0]["seeds"][0]["test"].update(p_value=0.01))),
        ("compare-toy/compare.json", change_json(lambda v: v["equal_skill"][0].update(accuracy=0.7))),
        ("compare-toy/compare.json", change_json(lambda v: v["fronts"][0]["points"][0].update(sign=0))),
        ("compare-toy/compare.json", change_json(lambda v: v.update(verdict="No."))),
        ("compare-toy/base.json", change_json(lambda v: v["measured"]["tasks"]["toy"].update(accuracy=0.1))),
        ("compare-toy/sft/lr-0.0001/seed-1/eval/drift.json", change_json(lambda v: v.update(format_leak_rate=0.1))),
        ("compare-toy/sft/lr-0.0001/seed-1/cell.json", change_json(lambda v: v["checkpoints"][1].update(seconds=6.0))),
        ("compare-toy/sft/lr-0.0001/seed-1/eval/toy.samples.jsonl", swap('"completion": "yes"', '"completion": "no"')),
        ("compare-toy/tables/compare.csv", swap("0.8", "0.9")),
        ("compare-toy/report.md", swap("80.0", "90.0")),
        ("continual-1/continual.json", change_json(lambda v: v["runs"][1]["accuracy_matrix"][0].__setitem__(0, 0.8))),
        ("continual-1/continual.json", change_json(lambda v: v["runs"][0].update(forgetting=0.1))),
        (
            "continual-1/sft/stage-2-b/stage.json",
            change_json(lambda v: v["measured"]["tasks"]["a"].update(num_correct=9)),
        ),
        ("continual-1/eval-before/a.samples.jsonl", swap('"completion": "no"', '"completion": "yes"')),
        ("../page.md", swap("56.7", "65.7")),
    ],
)
def test_one_figure_altered_is_found(runs: Path, page: Path, place: str, edit: Callable[[Path], None]) -> None:
    edit(runs / place)
    assert next(problems(runs, page), None) is not None
