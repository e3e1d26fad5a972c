"""The report's tables of compare and continual, and which runs of a study it shows."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from selfdistill.records.studies import ArmTest, EqualSkill, Front, FrontPoint, SeedTest
from selfdistill.report.collect import collect
from selfdistill.report.contents import Estimate
from selfdistill.report.render import to_html
from selfdistill.stats.paired import PairedTest
from selfdistill.stats.seeds import OverSeeds
from tests.support.report_folders import (
    checkpoints,
    column,
    sequence,
    table,
    write_comparison,
    write_run,
    write_sequences,
)


def paired(change: float) -> PairedTest:
    return PairedTest(
        num_items=100,
        change=change,
        low=change - 0.125,
        high=change + 0.125,
        num_better=30,
        num_worse=10,
        p_value=0.01,
        detectable=0.1,
        p_value_holm=0.02,
    )


# -- compare ---------------------------------------------------------------------------------------------------------


def test_the_summary_takes_the_last_checkpoint_over_seeds(tmp_path: Path) -> None:
    write_comparison(tmp_path)
    summary = table(collect(tmp_path), "compare")
    assert [row[:4] for row in summary.rows] == [
        ["sdft", 3e-5, 2, 60.0],
        ["sdft", 1e-4, 2, 60.0],
        ["sft", 3e-5, 2, 60.0],
        ["sft", 1e-4, 2, 60.0],
    ]
    last = [
        each.skill.accuracy or 0.0
        for each in checkpoints()
        if (each.arm, each.learning_rate, each.step) == ("sdft", 3e-5, 60)
    ]
    assert summary.rows[0][4] == Estimate(value=sum(last) / 2, low=min(last), high=max(last))


def test_paired_tests_seed_by_seed_and_over_seeds(tmp_path: Path) -> None:
    seeds = [SeedTest(seed=seed, test=paired(change)) for seed, change in ((0, 0.25), (1, 0.125))]
    spread = OverSeeds(mean=0.1875, deviation=0.07, sign_consistency=1.0)
    write_comparison(tmp_path, tests=[ArmTest(first="sdft", second="sft", seeds=seeds, over_seeds=spread)])
    found = table(collect(tmp_path), "tests")
    assert column(found, "seed") == ["0", "1", "mean"]
    assert column(found, "second minus first") == [
        Estimate(value=0.25, low=0.125, high=0.375, num_total=100),
        Estimate(value=0.125, low=0.0, high=0.25, num_total=100),
        0.1875,
    ]
    assert column(found, "second better") == [30, 30, None]
    assert column(found, "p (Holm)") == [0.02, 0.02, None]
    assert column(found, "deviation over seeds") == [None, None, 0.07]


def test_equal_skill_has_a_line_for_each_of_a_pair(tmp_path: Path) -> None:
    level = EqualSkill(
        first="sdft",
        second="sft",
        accuracy=0.6,
        share=1.0,
        seeds=[0, 1],
        values={"sdft": {"kl_per_token": 0.1, "tokens": 100}, "sft": {"kl_per_token": 0.4, "tokens": 50}},
        differences={"kl_per_token": OverSeeds(mean=0.3, deviation=0.05, sign_consistency=1.0)},
    )
    write_comparison(tmp_path, equal_skill=[level])
    found = table(collect(tmp_path), "equal_skill")
    assert column(found, "arm") == ["sdft", "sft"]
    assert column(found, "KL per token") == [0.1, 0.4]
    assert column(found, "KL, second minus first") == [None, 0.3]
    assert "prior %" not in [c.title for c in found.columns]  # nothing measured it
    assert "At equal skill" in to_html(collect(tmp_path))


def test_fronts_are_counted_by_what_the_other_arm_has_there(tmp_path: Path) -> None:
    def front(arm: str, other: str, *signs: int | None) -> Front:
        points = [FrontPoint(step=1, accuracy=0.5, sign=sign) for sign in signs]
        return Front(arm=arm, seen_from=other, points=points)

    write_comparison(tmp_path, fronts=[front("sft", "sdft", 1, 1), front("sdft", "sft", 1, -1, -1, 0, None)])
    found = table(collect(tmp_path), "fronts")
    assert [c.title for c in found.columns] == [
        *("front of", "seen from", "points", "less drift", "more", "not decided", "not reached", "dominated")
    ]
    assert found.rows == [["sft", "sdft", 2, 2, 0, 0, 0, "yes"], ["sdft", "sft", 5, 1, 2, 1, 1, "no"]]
    assert "Fronts of skill against drift" in to_html(collect(tmp_path))


def test_rates_of_a_sweep_are_marked(tmp_path: Path) -> None:
    write_comparison(
        tmp_path, [replace(each, validation=0.5, chosen=each.learning_rate == 1e-4) for each in checkpoints()]
    )
    found = table(collect(tmp_path), "compare")
    assert column(found, "rate") == ["not chosen", "chosen"] * 2
    assert column(found, "validation %") == [0.5] * 4


def test_runs_with_a_rate_that_was_not_chosen_have_no_part_in_the_verdict(tmp_path: Path) -> None:
    made = []
    for arm in ("held", "plain"):
        for rate, after in ((1, 0.0), (2, 1.0)):
            place = f"{arm}/lr-{rate}/seed-0"
            write_run(tmp_path / place, [1.0 - after] * 12, [after] * 12)
            made.append(
                replace(checkpoints()[0], arm=arm, learning_rate=float(rate), run=place, chosen=rate == 2, seed=0)
            )
    assert collect(tmp_path).verdict == "WORSE"
    write_comparison(tmp_path, made)
    results = collect(tmp_path)
    assert results.verdict == "BETTER"
    assert results.shown == ["held/lr-2/seed-0", "plain/lr-2/seed-0"]
    assert len(results.runs) == 4


# -- continual -------------------------------------------------------------------------------------------------------


def test_the_accuracy_matrix_of_each_arm(tmp_path: Path) -> None:
    write_sequences(tmp_path, sequence("sdft"), sequence("sft"))
    results = collect(tmp_path)
    assert table(results, "accuracy_matrix_2").rows == [
        ["before training", 0.4, 0.3, 0.0],
        ["1. tooluse", 0.7, 0.3, 0.1],
        ["2. science", 0.6, 0.6, 0.1],
        ["3. assistant-tools", 0.5, 0.6, 0.8],
    ]
    summary = table(results, "continual")
    assert column(summary, "arm") == ["sdft", "sft"]
    # 0.7 - 0.5 of tooluse, 0.6 - 0.6 of science
    assert column(summary, "forgetting") == pytest.approx([0.1, 0.1])
    assert column(summary, "average accuracy %") == pytest.approx([1.9 / 3] * 2)


def test_a_single_sequence_has_tables_without_numbers(tmp_path: Path) -> None:
    write_sequences(tmp_path, sequence("sft"))
    assert table(collect(tmp_path), "accuracy_matrix").title == "Accuracy matrix of sft"


def test_sequences_have_a_normalised_matrix_and_what_each_stage_kept(tmp_path: Path) -> None:
    made = sequence("sdft", mmlu=0.4, arc=0.2)
    before = replace(made.before, prior={"mmlu": 0.5, "arc": 0.5})
    scaled: list[list[float | None]] = [[1.0, 0.0, None], [0.5, 1.0, None], [0.0, 1.0, None]]
    write_sequences(tmp_path, replace(made, before=before, normalized=scaled))
    found = table(collect(tmp_path), "normalized")
    assert found.rows[1] == ["2. science", 0.5, 1.0, None]  # the last task never rose above its base
    diagonal = re.findall(r'heat diagonal" data-sort="([^"]*)"', to_html(collect(tmp_path)))
    assert diagonal == ["0.7", "0.6", "0.8", "1.0", "1.0", ""]  # accuracies, then normalised
    kept = table(collect(tmp_path), "sequence")
    assert column(kept, "after stage") == ["before training", "1. tooluse", "2. science", "3. assistant-tools"]
    assert column(kept, "KL per token") == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert column(kept, "prior %")[:2] == pytest.approx([0.5, 0.3])
    assert column(kept, "arc %") == [0.5, 0.2, 0.2, 0.2]
    assert "Normalised accuracy matrix of sdft" in to_html(collect(tmp_path))
