"""Paired tests, equal skill and the choice of a rate, with answers worked out by hand."""

from typing import Any

import pytest

from selfdistill.records.studies import Checkpoint
from selfdistill.studies.analysis import at_skill, best_rate, equal_skill, paired_tests
from tests.support.study_records import checkpoint

BASE = checkpoint(0.2, prior={"a": 0.6, "b": 0.4})


def drifts(path: list[Checkpoint], level: float) -> tuple[float, float]:
    """KL and tokens at a level of skill."""
    found = at_skill(path, level)
    return found["kl_per_token"], found["tokens"]


def test_values_between_two_checkpoints_lie_on_a_line() -> None:
    path = [checkpoint(0.0, 0.0), checkpoint(0.4, 0.1, tokens=100), checkpoint(0.8, 0.5, tokens=300)]
    assert drifts(path, 0.6) == pytest.approx((0.3, 200))
    assert drifts(path, 0.4) == pytest.approx((0.1, 100))
    assert drifts(path, 0.0) == (0.0, 0)
    with pytest.raises(ValueError, match="no checkpoint reaches"):
        at_skill(path, 0.81)


def test_the_point_nearest_to_the_base_with_so_much_skill_counts() -> None:
    path = [checkpoint(0.0, 0.0), checkpoint(0.5, 0.1), checkpoint(0.2, 0.9), checkpoint(0.9, 1.0)]
    assert at_skill(path, 0.25)["kl_per_token"] == pytest.approx(0.05)
    assert at_skill(path, 0.55)["kl_per_token"] == pytest.approx(0.95)  # halfway from .2 to .9
    nearer_again = [*path, checkpoint(0.95, 0.4, tokens=700)]
    assert drifts(nearer_again, 0.55) == (0.4, 700)
    assert drifts(nearer_again, 0.95) == (0.4, 700)
    # and where the skill sinks again: from (.8, .6) to (.4, .2) it is .5 at a quarter of the way before the end
    sinking = [checkpoint(0.0, 0.0), checkpoint(0.8, 0.6, tokens=100), checkpoint(0.4, 0.2, tokens=200)]
    assert drifts(sinking, 0.5) == pytest.approx((0.3, 175))


def test_where_drift_was_not_measured_the_first_time_counts() -> None:
    path = [checkpoint(0.0, None), checkpoint(0.5, None, tokens=100), checkpoint(0.9, None, tokens=200)]
    assert at_skill(path, 0.5)["tokens"] == 100


def test_a_measure_that_a_checkpoint_lacks_is_left_out() -> None:
    path = [checkpoint(0.0, 0.0), checkpoint(0.5, None)]
    assert set(at_skill(path, 0.5)) == {"tokens", "seconds"}


def test_equal_skill_of_two_arms_and_two_seeds() -> None:
    runs = {
        "sdft": {0: [checkpoint(0.4, 0.1), checkpoint(0.8, 0.2)], 1: [checkpoint(0.6, 0.1)]},
        "sft": {0: [checkpoint(1.0, 0.8)], 1: [checkpoint(0.7, 0.5)], 2: [checkpoint(0.9, 9.0)]},
    }
    full, half = equal_skill(BASE, runs)
    assert (full.first, full.second, full.share) == ("sdft", "sft", 1.0)
    assert full.seeds == [0, 1]  # seed 2 has no partner
    assert full.accuracy == pytest.approx(0.6)  # sdft's seed 1 gets no higher
    # sdft: seed 0 halfway between .1 and .2, seed 1 at .1; sft: .8 * .4/.8 and .5 * .4/.5
    assert full.values["sdft"]["kl_per_token"] == pytest.approx((0.15 + 0.1) / 2)
    assert full.values["sft"]["kl_per_token"] == pytest.approx((0.4 + 0.4) / 2)
    assert full.differences["kl_per_token"].mean == pytest.approx((0.25 + 0.3) / 2)
    assert full.differences["kl_per_token"].sign_consistency == 1.0
    assert (half.accuracy, half.share) == (pytest.approx(0.4), 0.5)  # halfway from the base's .2
    assert half.values["sdft"]["kl_per_token"] == pytest.approx((0.1 + 0.05) / 2)
    assert "prior" not in full.values["sdft"]  # no checkpoint has one


def test_prior_is_the_mean_over_benchmarks() -> None:
    runs = {
        "a": {0: [checkpoint(0.4, prior={"a": 0.4, "b": 0.2})]},
        "b": {0: [checkpoint(0.4, prior={"a": 0.6, "b": 0.4})]},
    }
    found = equal_skill(BASE, runs)[0].values
    assert {arm: values["prior"] for arm, values in found.items()} == pytest.approx({"a": 0.3, "b": 0.5})


@pytest.mark.parametrize("rows", [3, 7, 60, 97, 100])
def test_the_highest_level_is_what_was_reached_whatever_the_numbers(rows: int) -> None:
    """0.29 + (0.85 - 0.29) is more than 0.85 in floating point."""
    for right in range(rows):
        base = checkpoint(right / rows, 0.0)
        for top in range(right + 1, rows + 1):
            runs = {arm: {0: [checkpoint(top / rows, 0.5)]} for arm in ("a", "b")}
            assert equal_skill(base, runs)[0].accuracy == top / rows


def test_arms_that_learn_nothing_are_not_compared_at_equal_skill() -> None:
    assert equal_skill(BASE, {"a": {0: [checkpoint(0.2)]}, "b": {0: [checkpoint(0.9)]}}) == []


def test_paired_tests_by_hand() -> None:
    first = [0.0] * 6 + [1.0] * 2 + [None]
    second = [1.0] * 6 + [1.0, 0.0] + [1.0]
    (pair,) = paired_tests({"a": {0: first, 1: first}, "b": {0: second, 1: first}})
    assert [each.seed for each in pair.seeds] == [0, 1]
    one, two = (each.test for each in pair.seeds)
    assert (one.num_items, one.num_better, one.num_worse) == (8, 6, 1)
    assert one.change == pytest.approx(5 / 8)
    assert one.p_value == pytest.approx(2 * (1 + 7) / 2**7)
    assert one.p_value_holm == pytest.approx(2 * 0.125)
    assert two.p_value == two.p_value_holm == 1.0
    assert pair.over_seeds.mean == pytest.approx(5 / 16)


def test_three_arms_make_three_pairs() -> None:
    scores: dict[str, Any] = {name: {0: [1.0, 0.0]} for name in "abc"}
    assert [(p.first, p.second) for p in paired_tests(scores)] == [("a", "b"), ("a", "c"), ("b", "c")]


def test_best_rate_is_the_lowest_of_equals() -> None:
    assert best_rate({1e-5: 0.5, 3e-5: 0.7, 1e-4: 0.7}) == 3e-5
