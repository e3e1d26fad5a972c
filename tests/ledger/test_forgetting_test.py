"""When a skill counts as lost."""

import math

import pytest

from selfdistill.ledger.forgetting_test import forgetting_exceeds, smallest_loss_refused
from selfdistill.stats.paired import paired_interval

Z95 = 1.6448536269514722
"""Normal quantile of one-sided 95%."""


def scores(*, lost: int, gained: int, same: int) -> tuple[list[float], list[float]]:
    return [1.0] * lost + [0.0] * gained + [1.0] * same, [0.0] * lost + [1.0] * gained + [1.0] * same


def test_bound_by_hand():
    # 98 items, so shares are of 100: (29 + 1) / 100 lost, (9 + 1) / 100 gained; centre -0.2,
    # half 1.645 sqrt((0.4 - 0.04) / 100) = 0.0987.
    old, new = scores(lost=29, gained=9, same=60)
    test = forgetting_exceeds(old, new, 0.10, 0.95)
    assert (test.num_items, test.change) == (98, pytest.approx(-20 / 98))
    assert test.bound == pytest.approx(-0.2 + 0.0987, abs=1e-4)
    assert test.refused
    assert not forgetting_exceeds(old, new, 0.11, 0.95).refused
    # z of 99% is 2.326: -0.2 + 2.326 * 0.06 = -0.0604
    assert forgetting_exceeds(old, new, 0.10, 0.99).bound == pytest.approx(-0.0604, abs=1e-4)
    assert not forgetting_exceeds(old, new, 0.10, 0.99).refused


def test_unchanged_scores_leave_room_for_what_was_not_asked():
    old, new = scores(lost=0, gained=0, same=98)
    test = forgetting_exceeds(old, new, 0.0, 0.95)
    assert test.bound == pytest.approx(Z95 * math.sqrt(0.02 / 100))
    assert not test.refused


def test_for_right_and_wrong_it_is_the_upper_end_of_the_paired_interval():
    old, new = scores(lost=7, gained=2, same=15)
    one_sided = forgetting_exceeds(old, new, 0.02, 0.975)  # the paired interval is two-sided, of 95%
    assert one_sided.bound == pytest.approx(paired_interval(old, new).high)


def test_fractions_by_hand():
    # differences -0.5, 0 and the added +1, -1: mean -0.125, mean square 2.25 / 4, variance 0.546875
    test = forgetting_exceeds([1.0, 0.5], [0.5, 0.5], 0.02, 0.95)
    assert test.change == -0.25
    assert test.bound == pytest.approx(-0.125 + Z95 * math.sqrt(0.546875 / 4))
    many = forgetting_exceeds([1.0, 0.5] * 50, [0.5, 0.5] * 50, 0.02, 0.95)
    assert many.refused
    assert many.bound == pytest.approx(-25 / 102 + Z95 * math.sqrt((14.5 / 102 - (25 / 102) ** 2) / 102))


def test_a_gain_is_never_refused_and_nothing_shows_nothing():
    old, new = scores(lost=0, gained=20, same=0)
    assert not forgetting_exceeds(old, new, 0.0, 0.95).refused
    nothing = forgetting_exceeds([], [], 0.0, 0.95)
    assert (nothing.num_items, nothing.change, nothing.bound, nothing.refused) == (0, 0.0, 1.0, False)


@pytest.mark.parametrize(
    ("num_items", "allowed", "lost"),  # the table of docs/ledger.md; by the formula of the first test
    [
        (4, 0.02, 4),
        (8, 0.02, 4),
        (24, 0.02, 5),
        (100, 0.02, 7),
        (400, 0.02, 15),
        (8, 0.05, 4),
        (24, 0.05, 6),
        (100, 0.05, 11),
        (400, 0.05, 29),
    ],
)
def test_smallest_loss_is_the_first_that_is_refused(num_items: int, allowed: float, lost: int):
    assert smallest_loss_refused(num_items, allowed, 0.95) == lost / num_items
    assert forgetting_exceeds(*scores(lost=lost, gained=0, same=num_items - lost), allowed, 0.95).refused
    assert not forgetting_exceeds(*scores(lost=lost - 1, gained=0, same=num_items - lost + 1), allowed, 0.95).refused


def test_three_items_can_not_show_even_a_total_loss():
    # mean -3/5, variance 1 - 0.36 = 0.64, half 1.645 sqrt(0.64 / 5) = 0.588: bound -0.012
    assert forgetting_exceeds([1.0] * 3, [0.0] * 3, 0.02, 0.95).bound == pytest.approx(-0.012, abs=1e-3)
    assert smallest_loss_refused(3, 0.02, 0.95) is None
    assert smallest_loss_refused(0, 0.02, 0.95) is None


@pytest.mark.parametrize("num_items", [8, 24, 60])
@pytest.mark.parametrize("gained", [0.01, 0.1, 0.3])
def test_a_loss_of_just_what_is_allowed_is_seldom_refused(num_items: int, gained: float):
    """The chance, added up over all outcomes, where each item is lost with chance gained + 0.02."""
    chance = 0.0
    for lost_count in range(num_items + 1):
        for gained_count in range(num_items + 1 - lost_count):
            same = num_items - lost_count - gained_count
            if forgetting_exceeds(*scores(lost=lost_count, gained=gained_count, same=same), 0.02, 0.95).refused:
                ways = math.comb(num_items, lost_count) * math.comb(num_items - lost_count, gained_count)
                chance += ways * (gained + 0.02) ** lost_count * gained**gained_count * (0.98 - 2 * gained) ** same
    assert chance <= 0.063


def test_lists_of_different_length_are_refused():
    with pytest.raises(ValueError, match="argument 2"):
        forgetting_exceeds([1.0], [], 0.02, 0.95)
