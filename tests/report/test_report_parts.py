"""The report's pure functions: choices of samples, series, diffs, plots, and how values are written."""

from pathlib import Path
from typing import Any

import pytest

from selfdistill import run_folder
from selfdistill.report import formats, render
from selfdistill.report.collect import collect
from selfdistill.report.contents import Answer, AnsweredRow, Estimate, PositionMean
from selfdistill.report.diff import word_diff
from selfdistill.report.plots import all_plots, pareto_front, thinned
from selfdistill.report.samples import choose
from selfdistill.report.training import mean_by_position, spread
from tests.support.report_folders import checkpoints, drawn_values, rollout, write_comparison, write_training


def _sample(index: int, status: str) -> AnsweredRow:
    answer = Answer(completion="", score=0.0, num_tokens=1, finish_reason="stop", status=status)
    return AnsweredRow(dataset="d", id=str(index), part="", prompt="", reference="", before=None, after={"run": answer})


def test_choose_takes_all_of_the_rare_and_an_even_share_of_the_rest() -> None:
    samples = [_sample(i, "broke" if i == 50 else "fixed" if i < 50 else "same") for i in range(101)]
    chosen = choose(samples, 21)
    counts = {status: sum(sample.status == status for sample in chosen) for status in ("broke", "fixed", "same")}
    assert counts == {"broke": 1, "fixed": 10, "same": 10}
    assert [int(sample.id) for sample in chosen] == sorted(int(sample.id) for sample in chosen)


def test_choose_takes_everything_if_it_fits() -> None:
    samples = [_sample(i, "same") for i in range(5)]
    assert choose(samples, 5) == samples


def test_spread_keeps_both_ends() -> None:
    assert spread(list(range(10)), 4) == [0, 3, 6, 9]
    assert spread([1, 2], 4) == [1, 2]


def test_mean_by_position() -> None:
    found = mean_by_position(
        [
            rollout(1, per_token_kl=[4.0, 1.0]),
            rollout(1, loss_positions=[1], per_token_kl=[2.0]),
            rollout(2, per_token_kl=[0.5, None]),  # no number came of it
            rollout(3, loss_positions=[1], per_token_kl=[0.1]),
            rollout(3, target="tokens", per_token_kl=[], per_token_cross_entropy=[9.0, 9.0]),
            rollout(3, target="start", per_token_kl=[7.0, 7.0]),
            rollout(3, per_token_kl=[]),  # its values were not recorded
        ]
    )
    assert found == [
        PositionMean(phase="early", position=1, divergence=3.0, num_rollouts=2),
        PositionMean(phase="early", position=2, divergence=1.0, num_rollouts=1),
        PositionMean(phase="middle", position=1, divergence=0.5, num_rollouts=1),
        PositionMean(phase="late", position=1, divergence=0.1, num_rollouts=1),
    ]


def test_rollout_tokens_carry_their_divergence_or_none(tmp_path: Path) -> None:
    write_training(tmp_path)
    (run,) = collect(tmp_path).runs
    assert run.rollouts[0].tokens == ["call", " Ann", " now"]
    assert run.rollouts[0].per_token == [None, 2.0, 0.1]


def test_curves_show_what_metrics_hold(tmp_path: Path) -> None:
    write_training(tmp_path, num_steps=3)
    plots = {plot.name: plot.spec for plot in all_plots(collect(tmp_path))}
    assert [row["value"] for row in drawn_values(plots["divergence"])] == [0.6, 0.3, 0.6 / 3]
    assert set(plots) == {"loss", "divergence", "completion_tokens", "truncated_share", "positions"}


def test_evaluations_during_training_are_drawn_but_for_those_without_a_score(tmp_path: Path) -> None:
    write_training(tmp_path, num_steps=3)
    scores = {1: 0.25, 2: None, 3: 0.5}
    lines = [{"step": step, "eval/accuracy": score, "eval/num_scored": 4} for step, score in scores.items()]
    run_folder.append_jsonl(tmp_path / run_folder.METRICS, lines)
    results = collect(tmp_path)
    plots = {plot.name: plot.spec for plot in all_plots(results)}
    assert [(row["step"], row["value"]) for row in drawn_values(plots["eval_accuracy"])] == [(1, 0.25), (3, 0.5)]
    assert "eval_drift" not in plots
    assert [row["step"] for row in results.runs[0].training] == [1, 2, 3]


def test_pareto_plots_have_every_checkpoint(tmp_path: Path) -> None:
    write_comparison(tmp_path)
    plots = {plot.name: plot.spec for plot in all_plots(collect(tmp_path))}
    assert set(plots) == {"pareto_prior", "pareto_drift"}
    drawn = plots["pareto_drift"]
    points = drawn_values({**drawn, **drawn["layer"][1]})
    assert [(p["kept"], p["skill"]) for p in points] == [
        (each.kl_per_token, 100 * (each.skill.accuracy or 0.0)) for each in checkpoints()
    ]


def test_pareto_front() -> None:
    points = [{"kept": kept, "skill": skill} for kept, skill in ((1, 9), (2, 7), (2, 8), (3, 3), (4, 5))]
    more = [(p["kept"], p["skill"]) for p in pareto_front(points, more_is_better=True)]
    assert more == [(1, 9), (2, 8), (4, 5)]
    less = [(p["kept"], p["skill"]) for p in pareto_front(points, more_is_better=False)]
    assert less == [(1, 9)]


def test_thinned_averages_neighbours() -> None:
    assert thinned([(1, 1.0), (2, 3.0), (3, 5.0)], 2) == [(1.5, 2.0), (3.0, 5.0)]


@pytest.mark.parametrize(
    ("before", "after", "ours", "theirs"),
    [
        pytest.param('{"tool": "a"}', '{"tool": "b"}', ["a"], ["b"], id="one word"),
        pytest.param("call Ann now", "call Ann", [" now"], [], id="a word less"),
        pytest.param("call Ann", "call Ann", [], [], id="equal"),
        pytest.param("call Ann", "no idea at all", [], [], id="rewritten: nothing is marked"),
        pytest.param("", "call", [], [], id="empty"),
    ],
)
def test_word_diff(before: str, after: str, ours: list[str], theirs: list[str]) -> None:
    a, b = word_diff(before, after)
    assert "".join(text for _, text in a) == before
    assert "".join(text for _, text in b) == after
    assert [text for marked, text in a if marked] == ours
    assert [text for marked, text in b if marked] == theirs


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("percent", Estimate(value=0.68, low=0.633, high=0.724), "68.0 [63.3, 72.4]"),
        ("percent", 0.123, "12.3"),
        ("percent", Estimate(value=None), "unscored"),
        ("points", Estimate(value=-0.04, low=-0.1, high=0.02), "−4.0 [−10.0, +2.0]"),
        ("points", -0.0001, "0.0"),
        ("p", 0.00001, "<0.0001"),
        ("p", 0.0391, "0.0391"),
        ("rate", 1e-4, "1e-4"),
        ("rate", 2.5e-5, "2.5e-5"),
        ("count", 21927, "21,927"),
        ("number", 3.1, "3.10"),
        ("number", -0.06, "−0.060"),
        ("number", 144.2, "144"),
        ("number", 0, "0"),
        ("text", None, ""),
    ],
)
def test_cell_text(kind: str, value: Any, text: str) -> None:
    assert formats.cell_text(kind, value) == text


@pytest.mark.parametrize(("value", "level"), [(None, 0), (0.0, 0), (0.5, 4), (2.0, 9), (10.0, 9)])
def test_shade_grows_with_the_square_root(value: float | None, level: int) -> None:
    assert render.shade(value) == level  # 9 sqrt(0.5 / 2) = 4.5, rounded to even
