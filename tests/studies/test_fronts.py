"""Fronts of skill against drift, and the answer that they give."""

import pytest

from selfdistill.records.studies import Checkpoint, Front, FrontPoint
from selfdistill.stats.seeds import sign_beyond_noise
from selfdistill.studies.analysis import Runs
from selfdistill.studies.fronts import front_points, fronts, verdict
from tests.support.study_records import checkpoint

BASE = checkpoint(0.2, 0.0, arm="", step=0)
KINDS = {"sft": False, "sdft": True}
Seeds = dict[int, list[Checkpoint]]


def points(*accuracies_and_drifts: tuple[float, float]) -> list[Checkpoint]:
    return [checkpoint(accuracy, kl, step=step) for step, (accuracy, kl) in enumerate(accuracies_and_drifts, start=1)]


def test_a_difference_is_beyond_the_noise_where_its_t_interval_leaves_zero_out() -> None:
    # t = 4.303 and deviation 1 over three seeds: half a width of 4.303 / sqrt(3) = 2.48
    assert sign_beyond_noise([1, 2, 3]) == 0
    assert sign_beyond_noise([2, 3, 4]) == 1
    assert sign_beyond_noise([-2, -3, -4]) == -1
    assert sign_beyond_noise([5]) == 0
    assert sign_beyond_noise([0, 0, 0]) == 0


def test_points_of_a_front_as_another_arm_sees_them() -> None:
    # 0.1 is below the base, and (0.4, 0.5) is beaten by (0.5, 0.4)
    arm: Seeds = dict.fromkeys((0, 1), points((0.1, 0.1), (0.5, 0.4), (0.4, 0.5), (0.9, 0.6)))
    other: Seeds = dict.fromkeys((0, 1), points((0.8, 0.3)))
    # at 0.5 the other's path is at 0.3 * 0.3 / 0.6 = 0.15; it never reaches 0.9
    assert front_points(BASE, arm, other) == [
        FrontPoint(step=2, accuracy=0.5, sign=1),
        FrontPoint(step=4, accuracy=0.9, sign=None),
    ]
    # the arm first reaches 0.8 between its last two checkpoints, at 0.5 + 0.1 * 0.4 / 0.5 = 0.58
    assert front_points(BASE, other, arm) == [FrontPoint(step=1, accuracy=0.8, sign=-1)]


def test_seeds_that_only_one_arm_has_are_left_out() -> None:
    arm = {0: points((0.5, 0.4)), 1: points((0.5, 0.4)), 2: points((1.0, 0.0))}
    other = {0: points((0.5, 0.1)), 1: points((0.5, 0.1)), 7: points((0.3, 9.0))}
    assert front_points(BASE, arm, other) == [FrontPoint(step=1, accuracy=0.5, sign=1)]


def test_a_front_is_dominated_where_the_other_arm_has_less_drift_at_every_point() -> None:
    def front(*signs: int | None) -> Front:
        return Front(arm="a", seen_from="b", points=[FrontPoint(step=1, accuracy=0.5, sign=sign) for sign in signs])

    assert front(1, 1).dominated
    assert not front(1, 0).dominated
    assert not front(1, None).dominated
    assert not front().dominated


def runs(drifts: dict[str, float], seeds: tuple[int, ...] = (0, 1, 2)) -> Runs:
    """Arms that are all at 0.5 and then at 0.8, an arm of a drift of d having moved by d and then by 2 d."""
    return {
        arm: {seed: points((0.5, kl + 0.001 * seed), (0.8, 2 * kl + 0.001 * seed)) for seed in seeds}
        for arm, kl in drifts.items()
    }


def test_every_arm_sees_every_other_arms_front() -> None:
    found = fronts(BASE, runs({"sft": 0.4, "sdft": 0.1}))
    assert [(front.arm, front.seen_from, front.dominated) for front in found] == [
        ("sft", "sdft", True),
        ("sdft", "sft", False),
    ]
    assert [[point.sign for point in front.points] for front in found] == [[1, 1], [-1, -1]]


@pytest.mark.parametrize(
    ("drifts", "seeds", "start"),
    [
        ({"sft": 0.4, "sdft": 0.1}, (0, 1, 2), "Yes. At every accuracy on the fronts of `sft`, `sdft` has less drift"),
        ({"sft": 0.1, "sdft": 0.4}, (0, 1, 2), "No. `sdft` is dominated by `sft`, by more than the noise of 3 seeds."),
        ({"sft": 0.4, "sdft": 0.1}, (0,), "Not decided by one seed."),
        ({"sft": 0.1, "sdft": 0.1}, (0, 1, 2), "Not decided by these seeds."),
    ],
)
def test_the_answer_of_a_comparison(drifts: dict[str, float], seeds: tuple[int, ...], start: str) -> None:
    assert verdict(fronts(BASE, runs(drifts, seeds)), KINDS, len(seeds)).startswith(start)


def test_the_arms_with_a_teacher_win_only_against_all_without_one() -> None:
    kinds = {"sft": False, "dft": False, "sdft": True}
    found = fronts(BASE, runs({"sft": 0.4, "dft": 0.05, "sdft": 0.1}))
    assert verdict(found, kinds, 3) == "No. `sdft` is dominated by `dft`, by more than the noise of 3 seeds."
    found = fronts(BASE, runs({"sft": 0.4, "dft": 0.3, "sdft": 0.1}))
    assert verdict(found, kinds, 3).startswith("Yes. At every accuracy on the fronts of `sft` and `dft`, `sdft` has")


def test_an_arm_that_lost_is_named_where_another_one_is_undecided() -> None:
    kinds = {"sft": False, "far": True, "near": True}
    found = fronts(BASE, runs({"sft": 0.1, "far": 0.4, "near": 0.1}))
    assert verdict(found, kinds, 3) == (
        "Not decided by these seeds. No arm without a teacher dominates `near`, and no arm with one dominates `sft` "
        "by more than the noise of 3 seeds; `far` is dominated by `sft`. On its own front `sft` has less drift than "
        "`far` at 2 of 2 points, more at none."
    )


def test_an_arm_that_is_ahead_as_far_as_it_gets_is_named() -> None:
    # sdft is at 0.5 with 0.1 nats where sft has 0.4, and never gets to 0.8
    shorter = {seed: points((0.5, 0.1 + 0.001 * seed)) for seed in (0, 1, 2)}
    assert verdict(fronts(BASE, {**runs({"sft": 0.4}), "sdft": shorter}), KINDS, 3) == (
        "Not decided by these seeds. No arm without a teacher dominates `sdft`, and no arm with one dominates `sft` "
        "by more than the noise of 3 seeds. On its own front `sdft` has less drift than `sft` at 1 of 1 points, more "
        "at none."
    )


def test_without_arms_of_both_kinds_the_question_is_not_asked() -> None:
    found = fronts(BASE, runs({"sft": 0.4, "dft": 0.1}))
    assert verdict(found, {"sft": False, "dft": False}, 3).startswith("Not asked: every arm is of the same kind.")


def test_without_drift_or_a_second_arm_nothing_was_measured() -> None:
    unmoved = checkpoint(0.2, None)
    assert fronts(unmoved, {"sft": {0: [unmoved]}, "sdft": {0: [unmoved]}}) == []
    assert fronts(BASE, runs({"sdft": 0.1})) == []
    assert verdict([], KINDS, 3).startswith("Not measured: it takes drift (--drift_prompts)")
