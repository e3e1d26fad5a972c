"""Paired tests, equal skill and the choice of a rate, with answers worked out by hand."""

import pytest

from selfdistill.studies.analysis import at_skill, best_rate, equal_skill, paired_tests


def entry(accuracy, kl=0.0, **more):
    return {"new_task": {"accuracy": accuracy}, "drift": {"kl_per_token": kl}, **more}


BASE = entry(0.2, 0.0, prior={"a": 0.6, "b": 0.4}, tokens=0, wall_s=0.0)


def test_values_between_two_checkpoints_lie_on_a_line():
    path = [entry(0.0, 0.0, tokens=0), entry(0.4, 0.1, tokens=100), entry(0.8, 0.5, tokens=300)]
    assert at_skill(path, 0.6) == pytest.approx({"kl_per_token": 0.3, "tokens": 200})
    assert at_skill(path, 0.4) == pytest.approx({"kl_per_token": 0.1, "tokens": 100})
    assert at_skill(path, 0.0) == {"kl_per_token": 0.0, "tokens": 0}
    with pytest.raises(ValueError, match="no checkpoint reaches"):
        at_skill(path, 0.81)


def test_the_first_time_a_level_is_reached_counts():
    path = [entry(0.0, 0.0), entry(0.5, 0.1), entry(0.2, 0.9), entry(0.9, 1.0)]
    assert at_skill(path, 0.25) == pytest.approx({"kl_per_token": 0.05})
    assert at_skill(path, 0.55) == pytest.approx({"kl_per_token": 0.95})  # halfway from .2 to .9


def test_equal_skill_of_two_arms_and_two_seeds():
    runs = {
        "sdft": {0: [entry(0.4, 0.1), entry(0.8, 0.2)], 1: [entry(0.6, 0.1)]},
        "sft": {0: [entry(1.0, 0.8)], 1: [entry(0.7, 0.5)], 2: [entry(0.9, 9.0)]},
    }
    full, half = equal_skill(BASE, runs)
    assert (full["first"], full["second"], full["share"]) == ("sdft", "sft", 1.0)
    assert full["seeds"] == [0, 1]  # seed 2 has no partner
    assert full["accuracy"] == pytest.approx(0.6)  # sdft's seed 1 gets no higher
    # sdft: seed 0 halfway between .1 and .2, seed 1 at .1; sft: .8 * .4/.8 and .5 * .4/.5
    assert full["values"]["sdft"]["kl_per_token"] == pytest.approx((0.15 + 0.1) / 2)
    assert full["values"]["sft"]["kl_per_token"] == pytest.approx((0.4 + 0.4) / 2)
    assert full["differences"]["kl_per_token"]["mean"] == pytest.approx((0.25 + 0.3) / 2)
    assert full["differences"]["kl_per_token"]["sign_consistency"] == 1.0
    assert half["accuracy"] == pytest.approx(0.4)  # halfway from the base's .2
    assert half["values"]["sdft"]["kl_per_token"] == pytest.approx((0.1 + 0.05) / 2)
    assert "prior" not in full["values"]["sdft"]  # no checkpoint has one


def test_prior_is_the_mean_over_benchmarks():
    runs = {
        "a": {0: [entry(0.4, prior={"a": 0.4, "b": 0.2})]},
        "b": {0: [entry(0.4, prior={"a": 0.6, "b": 0.4})]},
    }
    found = equal_skill(BASE, runs)[0]
    assert found["values"] == {
        "a": pytest.approx({"kl_per_token": 0.0, "prior": 0.3}),
        "b": pytest.approx({"kl_per_token": 0.0, "prior": 0.5}),
    }


def test_arms_that_learn_nothing_are_not_compared_at_equal_skill():
    assert equal_skill(BASE, {"a": {0: [entry(0.2)]}, "b": {0: [entry(0.9)]}}) == []


def test_paired_tests_by_hand():
    first = [0.0] * 6 + [1.0] * 2 + [None]
    second = [1.0] * 6 + [1.0, 0.0] + [1.0]
    (pair,) = paired_tests({"a": {0: first, 1: first}, "b": {0: second, 1: first}})
    one, two = pair["seeds"]
    assert (one["seed"], one["num_rows"], one["second_better"], one["first_better"]) == (0, 8, 6, 1)
    assert one["change"] == pytest.approx(5 / 8)
    assert one["p_value"] == pytest.approx(2 * (1 + 7) / 2**7)
    assert one["p_value_holm"] == pytest.approx(2 * 0.125)
    assert two["p_value"] == two["p_value_holm"] == 1.0
    assert pair["over_seeds"]["mean"] == pytest.approx(5 / 16)


def test_three_arms_make_three_pairs():
    scores = {name: {0: [1.0, 0.0]} for name in "abc"}
    assert [(p["first"], p["second"]) for p in paired_tests(scores)] == [("a", "b"), ("a", "c"), ("b", "c")]


def test_best_rate_is_the_lowest_of_equals():
    assert best_rate({1e-5: 0.5, 3e-5: 0.7, 1e-4: 0.7}) == 3e-5
