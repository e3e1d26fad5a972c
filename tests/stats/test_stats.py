"""The names that others take from ``selfdistill.stats``, each with a value worked out by hand."""

import pytest

from selfdistill.stats import (
    average_accuracy,
    average_incremental_accuracy,
    backward_transfer,
    forgetting,
    forward_transfer,
    learning_accuracy,
    mcnemar,
    pass_at_k,
    wilson_interval,
)

TWO_STAGES = [[0.8, 0.2], [0.6, 0.9]]


def test_scores_and_tests():
    assert pass_at_k(4, 2, 2) == pytest.approx(5 / 6)  # 1 - C(2, 2) / C(4, 2)
    # 5 of 10: centre 1/2, half width 1.96 / (1 + z^2 / 10) sqrt(0.025 + z^2 / 400) = 0.2634
    assert wilson_interval(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert mcnemar([0, 0, 0, 1, 1], [1, 1, 1, 0, 1]) == pytest.approx(2 * (1 + 4) / 16)  # 3 against 1 of 4 tosses


def test_sequences_of_tasks():
    assert average_accuracy(TWO_STAGES) == pytest.approx(0.75)
    assert average_incremental_accuracy(TWO_STAGES) == pytest.approx((0.8 + 0.75) / 2)
    assert learning_accuracy(TWO_STAGES) == pytest.approx(0.85)
    assert backward_transfer(TWO_STAGES) == pytest.approx(-0.2)
    assert forward_transfer(TWO_STAGES, [0.0, 0.05]) == pytest.approx(0.15)
    assert forgetting(TWO_STAGES) == pytest.approx(0.2)
