"""A 3 x 3 accuracy matrix by hand."""

import pytest

from selfdistill.stats.continual import (
    average_accuracy,
    average_incremental_accuracy,
    backward_transfer,
    forgetting,
    forward_transfer,
    learning_accuracy,
    normalized,
)

R = [
    [0.80, 0.20, 0.10],
    [0.90, 0.70, 0.30],
    [0.60, 0.50, 0.90],
]
BASE = [0.05, 0.10, 0.25]


def test_accuracies_by_hand():
    assert average_accuracy(R) == pytest.approx((0.6 + 0.5 + 0.9) / 3)
    # stage means over seen tasks: 0.8; (0.9 + 0.7) / 2; (0.6 + 0.5 + 0.9) / 3
    assert average_incremental_accuracy(R) == pytest.approx((0.8 + 0.8 + 2 / 3) / 3)
    assert learning_accuracy(R) == pytest.approx((0.8 + 0.7 + 0.9) / 3)


def test_transfer_by_hand():
    # (0.6 - 0.8) and (0.5 - 0.7)
    assert backward_transfer(R) == pytest.approx(-0.2)
    # R[0][1] - base = 0.2 - 0.1; R[1][2] - base = 0.3 - 0.25
    assert forward_transfer(R, BASE) == pytest.approx((0.1 + 0.05) / 2)


def test_forgetting_compares_with_the_best_earlier_score():
    # task 0: best 0.9 - 0.6; task 1: best 0.7 - 0.5
    assert forgetting(R) == pytest.approx((0.3 + 0.2) / 2)
    assert forgetting(R) != pytest.approx(-backward_transfer(R))


def test_a_task_that_got_better_is_forgotten_less_than_nothing():
    assert forgetting([[0.5, 0.0], [0.7, 0.9]]) == pytest.approx(-0.2)


def test_one_task_forgets_nothing():
    assert backward_transfer([[0.5]]) == 0
    assert forward_transfer([[0.5]], [0.1]) == 0
    assert forgetting([[0.5]]) == 0


def test_scores_between_the_untrained_model_and_the_best():
    # task 0 from 0.2 to 0.6: 0.4 is half way; task 1 never rose above its base
    assert normalized([[0.6, 0.1], [0.4, 0.3]], [0.2, 0.3]) == [[pytest.approx(1), None], [pytest.approx(0.5), None]]
    # below its base a task is negative: (0.1 - 0.2) / (0.6 - 0.2)
    assert normalized([[0.6, 0.1], [0.1, 0.5]], [0.2, 0.1])[1] == [pytest.approx(-0.25), pytest.approx(1)]


@pytest.mark.parametrize("matrix", [[], [[1.0, 2.0]], [[1.0], [1.0]]])
def test_matrix_must_be_square(matrix: list[list[float]]):
    for function in (average_accuracy, average_incremental_accuracy, learning_accuracy, forgetting, backward_transfer):
        with pytest.raises(ValueError, match="square"):
            function(matrix)
    for function in (forward_transfer, normalized):
        with pytest.raises(ValueError, match="square"):
            function(matrix, [0.0])


def test_what_looks_at_the_base_needs_a_score_of_it_for_each_task():
    for function in (forward_transfer, normalized):
        with pytest.raises(ValueError, match="2 scores for 3 tasks"):
            function(R, BASE[:2])
