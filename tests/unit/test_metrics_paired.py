"""Tests and intervals for two models on the same items."""

import math

import pytest

from selfdistill.stats.scores import detectable_difference, mcnemar, paired_bootstrap, paired_interval


@pytest.mark.parametrize(
    ("a_wins", "b_wins", "p_value"),
    [
        pytest.param(0, 0, 1.0, id="no item differs"),
        pytest.param(1, 0, 1.0, id="one toss"),
        pytest.param(0, 5, 2 / 32, id="five alike are not enough"),
        pytest.param(0, 6, 2 / 64, id="six alike are"),
        pytest.param(1, 6, 2 * (1 + 7) / 128, id="one of seven"),
        pytest.param(6, 1, 2 * (1 + 7) / 128, id="the same the other way round"),
        pytest.param(3, 3, 1.0, id="even: doubling the tail passes 1"),
    ],
)
def test_mcnemar_counts_only_items_that_differ(a_wins: int, b_wins: int, p_value: float) -> None:
    a_scores = [1.0] * a_wins + [0.0] * b_wins + [1.0, 0.0, 0.0]
    b_scores = [0.0] * a_wins + [1.0] * b_wins + [1.0, 0.0, 0.0]
    assert mcnemar(a_scores, b_scores) == pytest.approx(p_value)


def test_mcnemar_of_thousands_of_items_does_not_overflow() -> None:
    assert mcnemar([0.0] * 5000, [1.0] * 5000) == 0.0
    assert mcnemar([0, 1] * 1500, [1, 0] * 1500) == 1.0


def test_mcnemar_refuses_lists_of_different_length() -> None:
    with pytest.raises(ValueError, match="argument 2"):
        mcnemar([1.0], [1.0, 0.0])


def test_paired_interval_is_bonett_and_prices() -> None:
    # 98 items, so shares are of 100: (29 + 1) / 100 and (9 + 1) / 100; centre 0.2, half 1.96 sqrt((0.4 - 0.04) / 100).
    a_scores = [0] * 29 + [1] * 9 + [1] * 60
    b_scores = [1] * 29 + [0] * 9 + [1] * 60
    assert paired_interval(a_scores, b_scores) == pytest.approx((20 / 98, 0.2 - 0.1176, 0.2 + 0.1176), abs=1e-4)


def test_paired_interval_is_not_a_point_where_nothing_changed() -> None:
    difference, low, high = paired_interval([1.0] * 98, [1.0] * 98)
    # (0 + 1) / 100 either way: half 1.96 sqrt(0.02 / 100) = 0.0277
    assert (difference, low, high) == pytest.approx((0.0, -0.0277, 0.0277), abs=1e-4)


def test_paired_interval_of_nothing_says_nothing() -> None:
    assert paired_interval([], []) == (0.0, -1.0, 1.0)


def test_partial_credit_is_bootstrapped() -> None:
    a_scores, b_scores = [0.0, 0.5] * 20, [0.25, 0.75] * 20
    assert paired_interval(a_scores, b_scores) == pytest.approx((0.25, 0.25, 0.25))


def test_bootstrap_of_coin_tosses_has_the_normal_width() -> None:
    # 100 differences of +-1: standard error of the mean 0.1, so about 0.196 either way; the same seed, the same answer.
    a_scores, b_scores = [0.0, 1.0] * 50, [1.0, 0.0] * 50
    difference, low, high = paired_bootstrap(a_scores, b_scores)
    assert difference == 0.0
    assert (low, high) == pytest.approx((-0.196, 0.196), abs=0.021)
    assert paired_bootstrap(a_scores, b_scores) == (difference, low, high)


def test_bootstrap_refuses_nothing() -> None:
    with pytest.raises(ValueError, match="at least one item"):
        paired_bootstrap([], [])


def test_detectable_difference_solves_connors_formula() -> None:
    difference = detectable_difference(97, changed_share=0.3)
    needed = (1.959964 * math.sqrt(0.3) + 0.841621 * math.sqrt(0.3 - difference**2)) ** 2 / difference**2
    assert needed == pytest.approx(97, rel=1e-4)
    assert difference == pytest.approx(0.154, abs=0.001)


def test_detectable_difference_where_nothing_changed_takes_all_changes_one_way() -> None:
    # d = (1.96 + 0.8416 sqrt(1 - d))^2 / 400 = 0.0195
    assert detectable_difference(400, changed_share=0.0) == pytest.approx(0.0195, abs=1e-4)


def test_detectable_difference_is_never_under_six_items() -> None:
    assert detectable_difference(6, changed_share=0.0) == 1.0
    assert detectable_difference(5, changed_share=0.0) == math.inf
