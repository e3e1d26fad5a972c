"""A 3 x 3 accuracy matrix by hand, and the rest of the plain numbers."""

import math

import pytest

from selfdistill.stats import scores as metrics

R = [
    [0.80, 0.20, 0.10],
    [0.90, 0.70, 0.30],
    [0.60, 0.50, 0.90],
]
BASE = [0.05, 0.10, 0.25]


def test_accuracies_by_hand():
    assert metrics.average_accuracy(R) == pytest.approx((0.6 + 0.5 + 0.9) / 3)
    # stage means over seen tasks: 0.8; (0.9 + 0.7) / 2; (0.6 + 0.5 + 0.9) / 3
    assert metrics.average_incremental_accuracy(R) == pytest.approx((0.8 + 0.8 + 2 / 3) / 3)
    assert metrics.learning_accuracy(R) == pytest.approx((0.8 + 0.7 + 0.9) / 3)


def test_transfer_by_hand():
    # (0.6 - 0.8) and (0.5 - 0.7)
    assert metrics.backward_transfer(R) == pytest.approx(-0.2)
    # R[0][1] - base = 0.2 - 0.1; R[1][2] - base = 0.3 - 0.25
    assert metrics.forward_transfer(R, BASE) == pytest.approx((0.1 + 0.05) / 2)


def test_forgetting_compares_with_the_best_earlier_score():
    # task 0: best 0.9 - 0.6; task 1: best 0.7 - 0.5
    assert metrics.forgetting(R) == pytest.approx((0.3 + 0.2) / 2)
    assert metrics.forgetting(R) != pytest.approx(-metrics.backward_transfer(R))


def test_one_task_forgets_nothing():
    assert metrics.backward_transfer([[0.5]]) == 0
    assert metrics.forward_transfer([[0.5]], [0.1]) == 0
    assert metrics.forgetting([[0.5]]) == 0


@pytest.mark.parametrize("matrix", [[], [[1.0, 2.0]], [[1.0], [1.0]]])
def test_matrix_must_be_square(matrix):
    for function in (metrics.average_accuracy, metrics.forgetting, metrics.backward_transfer):
        with pytest.raises(ValueError, match="square"):
            function(matrix)


def test_forward_transfer_needs_a_base_score_per_task():
    with pytest.raises(ValueError, match="2 scores for 3 tasks"):
        metrics.forward_transfer(R, BASE[:2])


def test_pass_at_k_by_hand():
    # of 4 samples 1 is right: two draws miss it with 3/4 * 2/3 = 1/2
    assert metrics.pass_at_k(4, 1, 2) == pytest.approx(0.5)
    assert metrics.pass_at_k(4, 0, 4) == 0
    assert metrics.pass_at_k(4, 3, 2) == 1  # two draws can't both be the one wrong sample
    assert metrics.pass_at_k(10, 4, 1) == pytest.approx(0.4)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 1, 0), (4, 1, 5)])
def test_pass_at_k_refuses(n, c, k):
    with pytest.raises(ValueError, match="must lie in"):
        metrics.pass_at_k(n, c, k)


def test_holm_by_hand():
    # sorted 0.01, 0.02, 0.04: 3 * 0.01, 2 * 0.02, 1 * 0.04 -> kept rising
    assert metrics.holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert metrics.holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert metrics.holm([]) == []


def test_over_seeds_by_hand():
    found = metrics.over_seeds([0.1, 0.3, -0.1])
    assert found["mean"] == pytest.approx(0.1)
    assert found["deviation"] == pytest.approx(math.sqrt((0 + 0.04 + 0.04) / 2))
    assert found["sign_consistency"] == pytest.approx(2 / 3)
    assert metrics.over_seeds([0.0]) == {"mean": 0.0, "deviation": 0.0, "sign_consistency": 1.0}
    with pytest.raises(ValueError, match="at least one seed"):
        metrics.over_seeds([])
