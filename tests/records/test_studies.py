"""What the records of studies say of themselves."""

from selfdistill.records.studies import ArmRecord, Checkpoint, CompareRecord, Front, FrontPoint
from tests.support.study_records import checkpoint, measured


def compared(*checkpoints: Checkpoint) -> CompareRecord:
    arms = [
        ArmRecord(name=name, settings={}, learning_rate=1e-4, distils=name == "sdft", anchor_share=0.0)
        for name in ("sdft", "sft")
    ]
    return CompareRecord(
        dataset="toy",
        metric="m",
        arms=arms,
        seeds=[0, 1],
        budget="steps",
        budget_amount=4,
        base=checkpoint(0.0),
        checkpoints=list(checkpoints),
        tests=[],
        equal_skill=[],
        fronts=[],
        verdict="",
    )


def test_runs_of_the_chosen_rates_by_arm_and_seed_in_the_order_of_steps():
    late, early = checkpoint(0.5, step=4), checkpoint(0.25, step=2)
    other, passed_over = checkpoint(0.5, seed=1, step=2), checkpoint(0.9, learning_rate=1e-3, chosen=False)
    found = compared(late, passed_over, early, other).runs()
    assert found == {"sdft": {0: [early, late], 1: [other]}, "sft": {}}


def test_the_mean_over_prior_benchmarks_where_there_are_any():
    assert measured({"toy": 0.5}, arc=0.25, mmlu=0.75).prior_mean == 0.5
    assert measured({"toy": 0.5}).prior_mean is None
    assert checkpoint(0.5, prior={"arc": 0.25, "mmlu": 0.75}).prior_mean == 0.5
    assert checkpoint(0.5).prior_mean is None


def test_drift_where_it_was_measured():
    assert checkpoint(0.5, kl=0.25).kl_per_token == 0.25
    assert checkpoint(0.5, kl=None).kl_per_token is None


def test_a_front_is_dominated_where_the_other_has_less_drift_at_every_point():
    def front(*signs: int | None) -> Front:
        points = [FrontPoint(step=step, accuracy=0.1 * step, sign=sign) for step, sign in enumerate(signs)]
        return Front(arm="sdft", seen_from="sft", points=points)

    assert front(1, 1).dominated
    for signs in [(1, 0), (1, -1), (1, None), ()]:
        assert not front(*signs).dominated
