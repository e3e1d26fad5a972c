"""The report's tables of compare and continual, and which runs of a study it shows."""

from pathlib import Path
from typing import Any

from report_folders import as_json, compare_entries, continual_run, write_run

from selfdistill import run_folder
from selfdistill.report.collect import collect
from selfdistill.report.contents import Measure
from selfdistill.report.render import to_html
from selfdistill.report.tables import Table, all_tables

TESTS = [
    {
        "first": "sdft",
        "second": "sft",
        "seeds": [
            {
                "seed": seed,
                "change": change,
                "interval": [change - 0.1, change + 0.1],
                "num_rows": 100,
                "second_better": 30,
                "first_better": 10,
                "p_value": 0.01,
                "p_value_holm": 0.02,
            }
            for seed, change in ((0, 0.2), (1, 0.1))
        ],
        "over_seeds": {"mean": 0.15, "deviation": 0.07, "sign_consistency": 1.0},
    }
]
EQUAL = [
    {
        "first": "sdft",
        "second": "sft",
        "accuracy": 0.6,
        "share": 1.0,
        "seeds": [0, 1],
        "values": {"sdft": {"kl_per_token": 0.1, "tokens": 100}, "sft": {"kl_per_token": 0.4, "tokens": 50}},
        "differences": {"kl_per_token": {"mean": 0.3, "deviation": 0.05, "sign_consistency": 1.0}},
    }
]


def table(folder: Path, name: str) -> Table:
    return next(found for found in all_tables(collect(folder)) if found.name == name)


def column(found: Table, title: str) -> list[Any]:
    place = [c.title for c in found.columns].index(title)
    return [row[place] for row in found.rows]


def test_paired_tests_seed_by_seed_and_over_seeds(tmp_path: Path) -> None:
    run_folder.write_json(tmp_path / "compare.json", {"entries": compare_entries(), "tests": TESTS})
    found = table(tmp_path, "tests")
    assert column(found, "seed") == ["0", "1", "mean"]
    assert column(found, "second minus first") == [
        Measure(value=0.2, low=0.1, high=0.30000000000000004, num_total=100),
        Measure(value=0.1, low=0.0, high=0.2, num_total=100),
        0.15,
    ]
    assert column(found, "p (Holm)") == [0.02, 0.02, None]
    assert column(found, "deviation over seeds") == [None, None, 0.07]


def test_equal_skill_has_a_line_for_each_of_a_pair(tmp_path: Path) -> None:
    run_folder.write_json(tmp_path / "compare.json", {"entries": compare_entries(), "equal_skill": EQUAL})
    found = table(tmp_path, "equal_skill")
    assert column(found, "method") == ["sdft", "sft"]
    assert column(found, "KL a token") == [0.1, 0.4]
    assert column(found, "KL, second minus first") == [None, 0.3]
    assert "prior %" not in [c.title for c in found.columns]  # nothing measured it
    assert "At equal skill" in to_html(collect(tmp_path))


def test_rates_of_a_sweep_are_marked(tmp_path: Path) -> None:
    entries = [
        {**e, "validation": {"accuracy": 0.5}, "chosen": e["learning_rate"] == 1e-4, "run": "x"}
        for e in compare_entries()
    ]
    run_folder.write_json(tmp_path / "compare.json", {"entries": entries})
    found = table(tmp_path, "compare")
    assert column(found, "rate") == ["not chosen", "chosen"] * 2
    assert column(found, "validation %") == [0.5] * 4


def test_runs_with_a_rate_that_was_not_chosen_have_no_part_in_the_verdict(tmp_path: Path) -> None:
    entries = []
    for arm in ("held", "plain"):
        for rate, after in ((1, 0.0), (2, 1.0)):
            write_run(tmp_path / arm / f"lr-{rate}" / "seed-0", [1.0 - after] * 12, [after] * 12)
            facts = {"method": arm, "learning_rate": float(rate), "run": f"{arm}/lr-{rate}/seed-0"}
            entries.append({**compare_entries()[0], **facts, "chosen": rate == 2})
    results = collect(tmp_path)
    assert results.verdict == "WORSE"
    run_folder.write_json(tmp_path / "compare.json", {"entries": entries})
    results = collect(tmp_path)
    assert results.verdict == "BETTER"
    assert results.shown == ["held/lr-2/seed-0", "plain/lr-2/seed-0"]
    assert len(results.runs) == 4


def test_sequences_have_a_normalised_matrix_and_what_each_stage_kept(tmp_path: Path) -> None:
    drift = {"kl_per_token": 0.1, "reference_nll": 2.9, "format_leak_rate": 0.0}
    stages = [
        {"stage": n, "task": task, "prior": {"mmlu": 0.4, "arc": 0.2 * n}, "drift": drift, "step": 5, "tokens": 10}
        for n, task in enumerate(("tooluse", "science", "assistant-tools"), 1)
    ]
    run = continual_run() | {
        "method": "sdft",
        "normalized": [[1.0, 0.0, None], [0.5, 1.0, None], [0.0, 1.0, None]],
        "before": {"prior": {"mmlu": 0.5, "arc": 0.5}, "drift": {**drift, "kl_per_token": 0.0}},
        "stages": stages,
    }
    run_folder.write_json(tmp_path / "continual.json", run | {"runs": [run]})
    found = table(tmp_path, "normalized")
    assert found.rows[1] == ["2. science", 0.5, 1.0]  # the last task never rose above its base
    kept = table(tmp_path, "sequence")
    assert column(kept, "after stage") == ["before training", "1. tooluse", "2. science", "3. assistant-tools"]
    assert column(kept, "KL a token") == [0.0, 0.1, 0.1, 0.1]
    assert column(kept, "prior %")[:2] == [0.5, (0.4 + 0.2) / 2]
    assert "Normalised accuracy matrix of sdft" in to_html(collect(tmp_path))
    assert as_json(tmp_path / "continual.json")["tasks"] == run["tasks"]
