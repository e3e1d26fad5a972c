"""One difference for each seed: mean, spread, and whether its sign stands out of the noise."""

import math

import pytest

from selfdistill.stats.seeds import over_seeds, sign_beyond_noise


def test_over_seeds_by_hand():
    found = over_seeds([0.1, 0.3, -0.1])
    assert found.mean == pytest.approx(0.1)
    assert found.deviation == pytest.approx(math.sqrt((0 + 0.04 + 0.04) / 2))
    assert found.sign_consistency == pytest.approx(2 / 3)


def test_one_seed_has_no_spread_and_agrees_with_itself():
    for value in (0.0, -0.2):
        found = over_seeds([value])
        assert (found.mean, found.deviation, found.sign_consistency) == (value, 0.0, 1.0)


def test_a_seed_without_a_difference_agrees_with_no_sign():
    assert over_seeds([0.3, 0.0]).sign_consistency == 0.5


def test_no_seed_is_refused():
    with pytest.raises(ValueError, match="at least one seed"):
        over_seeds([])


@pytest.mark.parametrize(
    ("seeds", "most"),
    [
        # Seeds one away from the mean, as many above as below; s is their sample deviation, so half the interval's
        # width is t s / sqrt(n): the mean must be larger than that.
        pytest.param([-1, 1], 12.706, id="two: s = sqrt 2, t = 12.706 for 1 degree of freedom"),
        pytest.param([-1, 0, 1], 4.303 / math.sqrt(3), id="three: s = 1, t = 4.303 for 2"),
        pytest.param([-1, -1, 1, 1], 3.182 * math.sqrt(4 / 3) / 2, id="four: s = sqrt 4/3, t = 3.182 for 3"),
        pytest.param([-1, 1] * 5, 2.262 * math.sqrt(10 / 9 / 10), id="ten: s = sqrt 10/9, t = 2.262 for 9"),
        pytest.param(
            [-1, 1] * 10, 2.262 * math.sqrt(20 / 19 / 20), id="twenty: t as of ten, which is on the safe side"
        ),
    ],
)
def test_a_sign_counts_where_the_t_interval_leaves_out_zero(seeds: list[float], most: float):
    for sign in (1, -1):
        assert sign_beyond_noise([each + sign * 1.001 * most for each in seeds]) == sign
        assert sign_beyond_noise([each + sign * 0.999 * most for each in seeds]) == 0


def test_too_little_to_tell_and_no_noise_at_all():
    assert sign_beyond_noise([]) == 0
    assert sign_beyond_noise([5.0]) == 0
    assert sign_beyond_noise([0.0, 0.0]) == 0
    assert sign_beyond_noise([0.5, 0.5, 0.5]) == 1
    assert sign_beyond_noise([-0.5, -0.5]) == -1
