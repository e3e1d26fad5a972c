"""Tests and intervals for two models on the same items."""

import pytest

from selfdistill.stats.paired import PairedTest, holm, mcnemar, paired_bootstrap, paired_interval, paired_test


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


def test_holm_by_hand() -> None:
    # sorted 0.01, 0.02, 0.04: 3 * 0.01, 2 * 0.02, 1 * 0.04 -> kept rising
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_only_items_that_both_scored_are_tested() -> None:
    found = paired_test([0.0, 1.0, None, 0.0, 1.0], [1.0, 1.0, 1.0, None, 0.0])
    assert (found.num_items, found.num_better, found.num_worse) == (3, 1, 1)
    assert found.change == 0
    assert found.p_value == 1
    assert found.detectable is None  # not even a change of all three would be found
    assert found.p_value_holm is None


def test_the_parts_of_a_test_by_hand() -> None:
    found = paired_test([0.0] * 38 + [1.0] * 60, [1.0] * 29 + [0.0] * 9 + [1.0] * 60)
    assert (found.num_items, found.num_better, found.num_worse) == (98, 29, 0)
    # Bonett and Price with 100 items: (29 + 1 - 1) / 100, half 1.96 sqrt((0.31 - 0.29^2) / 100)
    assert found.low == pytest.approx(0.29 - 0.0932, abs=1e-4)
    assert (found.change, found.high) == pytest.approx((29 / 98, 0.29 + 0.0932), abs=1e-4)
    assert found.p_value == pytest.approx(2 / 2**29)


def test_nothing_to_test_says_nothing() -> None:
    found = paired_test([None, 1.0], [1.0, None])
    assert (found.num_items, found.change, found.low, found.high, found.p_value) == (0, 0, -1, 1, 1)
    assert found.detectable is None


def test_a_test_refuses_lists_of_different_length() -> None:
    with pytest.raises(ValueError, match="argument 2"):
        paired_test([1.0], [1.0, None])


def won(better: int, worse: int) -> PairedTest:
    return paired_test([0.0] * better + [1.0] * worse, [1.0] * better + [0.0] * worse)


def test_the_verdict_needs_six_that_changed_alike() -> None:
    assert won(6, 0).verdict == "BETTER"
    assert won(0, 6).verdict == "WORSE"
    for better, worse in [(5, 0), (0, 5), (3, 3), (0, 0)]:
        assert won(better, worse).verdict == "NOT ENOUGH DATA"


def test_a_mean_against_most_of_the_items_is_no_verdict() -> None:
    # nine items lose a little and one wins all: p = 2 (1 + 10) / 1024 = 0.02, but the mean rose
    found = paired_test([0.1] * 9 + [0.0], [0.09] * 9 + [1.0])
    assert found.p_value == pytest.approx(22 / 1024)
    assert found.change > 0
    assert found.verdict == "NOT ENOUGH DATA"
