"""The page of the evidence and the check that all its figures come from the run folders."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from evidence_folders import METRIC, write_compare, write_evidence, write_report

from benchmarks.common import BEGIN, END, put
from evidence.check import problems
from evidence.compare_part import answer, chosen_runs, compare_part, fronts
from evidence.noise import dominated, points, sign_beyond_noise
from evidence.page import render
from selfdistill import run_folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return write_evidence(tmp_path / "runs")


@pytest.fixture
def page(runs: Path) -> Path:
    path = runs.parent / "page.md"
    path.write_text(put(f"# Page\n\n{BEGIN}\n{END}\n", render(runs)))
    return path


# -- noise -----------------------------------------------------------------------------------------


def test_a_difference_is_beyond_the_noise_where_its_t_interval_leaves_zero_out():
    # t = 4.303 and deviation 1 over three seeds: half a width of 4.303 / sqrt(3) = 2.48
    assert sign_beyond_noise([1, 2, 3]) == 0
    assert sign_beyond_noise([2, 3, 4]) == 1
    assert sign_beyond_noise([-2, -3, -4]) == -1
    assert sign_beyond_noise([5]) == 0
    assert sign_beyond_noise([0, 0, 0]) == 0


def entry(accuracy: float, kl: float) -> dict[str, Any]:
    return {"step": 1, "new_task": {"accuracy": accuracy}, "drift": {"kl_per_token": kl}}


def test_points_of_a_front_as_another_arm_sees_them():
    base = entry(0.2, 0)
    arm = {0: [entry(0.1, 0.1), entry(0.5, 0.4), entry(0.4, 0.5), entry(0.9, 0.6)]}
    arm[1] = arm[0]
    # at 0.5 the other's path is at 0.3 * 0.3 / 0.6 = 0.15; it never reaches 0.9
    other = {seed: [entry(0.8, 0.3)] for seed in (0, 1)}
    found = points(base, arm, other)
    assert [(point.accuracy, point.sign) for point in found] == [(0.5, 1), (0.9, None)]
    assert not dominated(found)
    assert dominated(found[:1])
    assert not dominated([])
    assert [point.sign for point in points(base, other, arm)] == [-1]


# -- answers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("drift", "seeds", "start"),
    [
        ({"sft": 0.4, "sdft": 0.1}, (0, 1, 2), "Yes. At every accuracy on the fronts of `sft`, `sdft` has less"),
        ({"sft": 0.1, "sdft": 0.4}, (0, 1, 2), "No. `sdft` is dominated by `sft`"),
        ({"sft": 0.4, "sdft": 0.1}, (0,), "Not decided by one seed."),
        ({"sft": 0.1, "sdft": 0.1}, (0, 1, 2), "Not decided by these seeds."),
    ],
)
def test_the_answer_of_a_comparison(tmp_path: Path, drift: dict[str, float], seeds: tuple[int, ...], start: str):
    write_compare(tmp_path, drift, seeds)
    found = json.loads((tmp_path / "compare.json").read_text())
    seen = fronts(found["base"], chosen_runs(found))
    text = answer(seen, {"sft": False, "sdft": True}, len(seeds))
    assert text.partition("?** ")[2].startswith(start)


def test_the_tables_of_a_comparison(tmp_path: Path):
    write_compare(tmp_path, {"sft": 0.4, "sdft": 0.1})
    settings = json.loads((tmp_path / "study.json").read_text())["settings"]
    lines = compare_part("compare-toy", json.loads((tmp_path / "compare.json").read_text()), settings)
    # drift over seeds: 0.8, 0.801, 0.802
    assert "| `sft` | 1e-4 | 80.0 ± 0.0 | 0.801 ± 0.001 | 3.701 ± 0.001 | 50.0 ± 0.0 | 5 ± 0 |" in lines
    assert "| `sdft` | `sft` | 2 | 0 | 2 | 0 | 0 |" in lines
    assert "| `sft` | `sdft`, dominates | 2 | 2 | 0 | 0 | 0 |" in lines


def test_the_page_of_a_sequence(runs: Path):
    text = render(runs)
    # forgetting of sft 60, 50, 60 points, of sdft 0: beyond the noise; at the end 60, 65, 60 against 80
    assert "**Does `sdft` forget less than `sft`?** Yes. **Is it better at the end?** Yes." in text
    assert "| `sdft` − `sft` | forgetting | −60.0, −50.0, −60.0 | −56.7 ± 5.8 | 100 | lower |" in text
    assert "| `sft` | 2. b | 33.3 ± 5.8 | 90.0 ± 0.0 |" in text
    assert "Some CPU, 2 cores" in text


# -- the check -------------------------------------------------------------------------------------


def test_a_page_from_the_folders_has_no_problem(runs: Path, page: Path):
    assert list(problems(runs, page)) == []


def test_a_study_that_grew_may_hold_answers_scored_by_an_earlier_version_of_the_file(runs: Path, page: Path):
    name, at, _ = METRIC.partition("@")
    path = runs / "compare-toy/sft/lr-0.0001/seed-1/eval/toy.samples.jsonl"
    for written in (path, path.with_name("toy.json")):
        swap_all(METRIC, f"{name}{at}00000000")(written)
    write_report(runs / "compare-toy")
    assert list(problems(runs, page)) == []
    swap_all(f'"{name}{at}00000000": 1.0', f'"{name}{at}00000000": 0.0')(path)
    assert next(problems(runs, page), None) is not None


def change_json(change: Callable[[Any], None]) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        value = json.loads(path.read_text())
        change(value)
        run_folder.write_json(path, value)

    return edit


def swap_all(old: str, new: str) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return edit


def swap(old: str, new: str) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return edit


@pytest.mark.parametrize(
    ("place", "edit"),
    [
        ("compare-toy/compare.json", change_json(lambda v: v["entries"][1]["new_task"].update(accuracy=0.9))),
        ("compare-toy/compare.json", change_json(lambda v: v["base"]["drift"].update(reference_nll=1.0))),
        ("compare-toy/compare.json", change_json(lambda v: v["tests"][0]["seeds"][0].update(p_value=0.01))),
        ("compare-toy/compare.json", change_json(lambda v: v["equal_skill"][0].update(accuracy=0.7))),
        ("compare-toy/sft/lr-0.0001/seed-1/cell.json", change_json(lambda v: v["entries"][1].update(wall_s=6.0))),
        ("compare-toy/sft/lr-0.0001/seed-1/eval/toy.samples.jsonl", swap('"completion": "yes"', '"completion": "no"')),
        ("compare-toy/tables/compare.csv", swap("0.8", "0.9")),
        ("compare-toy/report.md", swap("80.0", "90.0")),
        ("continual-1/continual.json", change_json(lambda v: v["runs"][1]["accuracy_matrix"][0].__setitem__(0, 0.8))),
        ("continual-1/continual.json", change_json(lambda v: v["runs"][0].update(forgetting=0.1))),
        ("continual-1/sft/stage-2-b/stage.json", change_json(lambda v: v["tasks"]["a"].update(num_correct=9))),
        ("continual-1/eval-before/a.samples.jsonl", swap('"completion": "no"', '"completion": "yes"')),
        ("../page.md", swap("56.7", "65.7")),
    ],
)
def test_one_figure_altered_is_found(runs: Path, page: Path, place: str, edit: Callable[[Path], None]):
    edit(runs / place)
    assert next(problems(runs, page), None) is not None
