"""Means, Wilson's interval, pass@k, and what a number of items can show."""

import math

import pytest

from selfdistill.stats.scores import detectable_difference, mean, pass_at_k, wilson_interval


def test_the_mean_of_nothing_is_no_number():
    assert mean([1, 2, 6]) == 3
    assert math.isnan(mean([]))


def test_wilson_by_hand():
    # 2 of 3 with z = 1.96: centre (2/3 + z^2 / 6) / (1 + z^2 / 3) = 0.5731, half width 0.3654
    assert wilson_interval(2, 3) == pytest.approx((0.2077, 0.9385), abs=1e-4)
    # 50 of 100, symmetrical: half width z / (1 + z^2 / 100) sqrt(0.0025 + z^2 / 40000) = 0.0962
    assert wilson_interval(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)


def test_wilson_stays_inside_and_does_not_shrink_to_a_point():
    # none of n: the upper end is z^2 / (n + z^2), here 3.8415 / 13.8415
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson_interval(10, 10) == pytest.approx((1 - 0.2775, 1.0), abs=1e-4)
    assert wilson_interval(0, 0) == (0, 1)


def test_partial_credit_counts_as_a_fraction_of_a_right_answer():
    low, high = wilson_interval(2.5, 5)
    assert low + high == pytest.approx(1)


@pytest.mark.parametrize(("correct", "total"), [(-1, 3), (4, 3), (0.5, 0)])
def test_wilson_refuses(correct: float, total: int):
    with pytest.raises(ValueError, match="num_correct"):
        wilson_interval(correct, total)


def test_pass_at_k_by_hand():
    # of 4 samples 1 is right: two draws miss it with 3/4 * 2/3 = 1/2
    assert pass_at_k(4, 1, 2) == pytest.approx(0.5)
    assert pass_at_k(4, 0, 4) == 0
    assert pass_at_k(4, 3, 2) == 1  # two draws can't both be the one wrong sample
    assert pass_at_k(10, 4, 1) == pytest.approx(0.4)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 1, 0), (4, 1, 5)])
def test_pass_at_k_refuses(n: int, c: int, k: int):
    with pytest.raises(ValueError, match="must lie in"):
        pass_at_k(n, c, k)


def test_detectable_difference_solves_connors_formula():
    difference = detectable_difference(97, changed_share=0.3)
    needed = (1.959964 * math.sqrt(0.3) + 0.841621 * math.sqrt(0.3 - difference**2)) ** 2 / difference**2
    assert needed == pytest.approx(97, rel=1e-4)
    assert difference == pytest.approx(0.154, abs=0.001)


def test_detectable_difference_where_nothing_changed_takes_all_changes_one_way():
    # d = (1.96 + 0.8416 sqrt(1 - d))^2 / 400 = 0.0195
    assert detectable_difference(400, changed_share=0.0) == pytest.approx(0.0195, abs=1e-4)


def test_detectable_difference_is_never_under_six_items():
    assert detectable_difference(6, changed_share=0.0) == 1.0
    assert detectable_difference(5, changed_share=0.0) == math.inf
