"""Targets worked out by hand, at their ends, and by what defines them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from selfdistill.method import targets
from selfdistill.method.targets import TARGETS, references, target_log_probs
from tests.support.dense_oracle import logs

KINDS = list(TARGETS)


def random_logs(tokens: int, vocabulary: int, seed: int, spread: float, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (
        (spread * torch.randn(tokens, vocabulary, generator=generator, dtype=torch.float64)).log_softmax(-1).to(dtype)
    )


def kl(log_a: Tensor, log_b: Tensor) -> Tensor:
    log_a, log_b = log_a.double(), log_b.double()
    return (log_a.exp() * (log_a - log_b)).sum(-1)


def of(kind, *models: Tensor, **options) -> list[float]:
    """Probabilities of a target of one token."""
    rows = [model[None] for model in models]
    return target_log_probs(kind, *rows, **options)[0].exp().tolist()


# -- by hand ---------------------------------------------------------------------------------------


def test_the_teacher_is_itself():
    assert of("teacher", logs(0.5, 0.5), logs(0.9, 0.1)) == pytest.approx([0.9, 0.1])


def test_a_mix_by_hand():
    q, p, r = logs(0.01, 0.99), logs(4 / 5, 1 / 5), logs(1 / 2, 1 / 2)
    # half and half: sqrt(4/5 1/2) : sqrt(1/5 1/2) = 2 : 1
    assert of("mix", q, p, r, weight=0.5) == pytest.approx([2 / 3, 1 / 3])
    # a quarter of the teacher: 4 ** (1/4) = sqrt 2
    assert of("mix", q, p, r, weight=0.25) == pytest.approx([math.sqrt(2) / (1 + math.sqrt(2)), 1 / (1 + math.sqrt(2))])
    # with the student instead of the start model, which is as far on the other side
    assert of("mix", logs(1 / 10, 9 / 10), logs(9 / 10, 1 / 10), weight=0.5) == pytest.approx([1 / 2, 1 / 2])


def test_a_budget_by_hand():
    """The student is even and the teacher's odds are 9, so the target's are 9 ** s: 3 at s = 1/2, where it is
    [3/4, 1/4] and its distance from the student 3/4 log 3/2 + 1/4 log 1/2."""
    q, p = logs(1 / 2, 1 / 2), logs(9 / 10, 1 / 10)
    budget = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert budget == pytest.approx(0.13081, abs=1e-5)
    assert of("budget", q, p, budget=budget) == pytest.approx([3 / 4, 1 / 4], abs=1e-3)
    # the teacher itself is at a distance of 0.9 log 1.8 + 0.1 log 0.2 = 0.36806
    assert of("budget", q, p, budget=0.36) != pytest.approx([9 / 10, 1 / 10], abs=1e-3)
    assert of("budget", q, p, budget=0.37) == pytest.approx([9 / 10, 1 / 10])


def test_every_token_has_a_share_of_its_own():
    q = torch.stack([logs(1 / 2, 1 / 2), logs(1 / 2, 1 / 2), logs(1 / 5, 4 / 5)])
    p = torch.stack([logs(9 / 10, 1 / 10), logs(81 / 82, 1 / 82), logs(1 / 5, 4 / 5)])
    found = target_log_probs("budget", q, p, budget=0.13081).exp()
    # odds of 9 ** (1/2) and 81 ** (1/4) are both 3; the third teacher is its student
    expected = torch.tensor([[3 / 4, 1 / 4], [3 / 4, 1 / 4], [1 / 5, 4 / 5]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def test_a_contrast_by_hand():
    q, r = logs(0.01, 0.01, 0.98), logs(1 / 2, 1 / 4, 1 / 4)
    own, other = logs(3 / 5, 1 / 5, 1 / 5), logs(1 / 5, 3 / 5, 1 / 5)
    # 1/2 * 3 : 1/4 / 3 : 1/4 * 1 = 18 : 1 : 3
    assert of("contrast", q, own, r, other_log_probs=other[None]) == pytest.approx([18 / 22, 1 / 22, 3 / 22])


# -- ends ------------------------------------------------------------------------------------------

FEW = {"tokens": st.integers(1, 5), "vocabulary": st.integers(2, 30), "seed": st.integers(0, 10_000)}
SPREAD = st.sampled_from([0.0, 1e-3, 1.0, 5.0, 20.0])


@given(**FEW, spread=SPREAD)
@settings(max_examples=40, deadline=None)
def test_the_ends_are_the_reference_and_the_teacher(tokens, vocabulary, seed, spread):
    q, p, r = (random_logs(tokens, vocabulary, 3 * seed + n, spread) for n in range(3))
    near = {"atol": 1e-12, "rtol": 0}
    torch.testing.assert_close(target_log_probs("mix", q, p, r, weight=0), r, **near)
    torch.testing.assert_close(target_log_probs("mix", q, p, weight=0), q, **near)
    torch.testing.assert_close(target_log_probs("mix", q, p, r, weight=1), p, **near)
    torch.testing.assert_close(target_log_probs("budget", q, p, budget=0), q, **near)
    torch.testing.assert_close(target_log_probs("budget", q, p, budget=math.inf), p, **near)
    torch.testing.assert_close(target_log_probs("contrast", q, p, r, other_log_probs=p), r, **near)


def test_outcomes_that_a_model_rules_out_stay_numbers():
    q, p = logs(1 / 2, 1 / 2, 0), logs(0, 1 / 2, 1 / 2)
    assert of("mix", q, p, weight=0.5) == [0, 1, 0]
    assert of("mix", q, p, weight=0) == pytest.approx([1 / 2, 1 / 2, 0])
    assert of("mix", q, p, weight=1) == pytest.approx([0, 1 / 2, 1 / 2])
    # a token without the first outcome is at a distance of log 2 from the student, however small its share
    assert of("budget", q, p, budget=1.0) == pytest.approx([0, 1 / 2, 1 / 2])
    assert of("budget", logs(1 / 2, 1 / 4, 1 / 4), logs(0.9, 0.1, 0), budget=0.4)[2] == 0


# -- what defines a budget ---------------------------------------------------------------------------


@given(**FEW, spread=SPREAD, budget=st.floats(1e-4, 8.0), single=st.booleans())
@settings(max_examples=150, deadline=None)
def test_every_token_spends_its_budget_or_reaches_the_teacher(tokens, vocabulary, seed, spread, budget, single):
    dtype = torch.float32 if single else torch.float64
    q, p = (random_logs(tokens, vocabulary, 2 * seed + n, spread, dtype) for n in range(2))
    found = target_log_probs("budget", q, p, budget=budget)
    assert found.dtype == dtype
    torch.testing.assert_close(kl(found, q), kl(p, q).clamp(max=budget), atol=1e-3, rtol=0)


@given(**FEW, budget=st.floats(0.01, 2.0))
@settings(max_examples=40, deadline=None)
def test_nothing_within_the_budget_is_nearer_to_the_teacher(tokens, vocabulary, seed, budget):
    q, p = (random_logs(tokens, vocabulary, 2 * seed + n, 2.0) for n in range(2))
    found = target_log_probs("budget", q, p, budget=budget)
    generator = torch.Generator().manual_seed(seed)
    for size in (0.01, 0.1, 1.0):
        noise = torch.randn(found.shape, generator=generator, dtype=torch.float64)
        other = (found + size * noise).log_softmax(-1)
        worse = (kl(other, p) >= kl(found, p) - 1e-3) | (kl(other, q) > budget)
        assert worse.all()


def test_the_search_is_short(monkeypatch):
    """Of eight steps of bisection alone one would not come so near."""
    monkeypatch.setattr(targets, "MOST_STEPS", 8)
    q, p = (random_logs(200, 500, seed, 3.0) for seed in (1, 2))
    for budget in (0.01, 0.5, 3.0):
        torch.testing.assert_close(
            kl(target_log_probs("budget", q, p, budget=budget), q),
            torch.full((200,), budget).double(),
            atol=1e-3,
            rtol=0,
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_large_vocabulary_of_far_apart_models(dtype):
    q, p = (random_logs(20, 20_000, seed, 6.0, dtype) for seed in (1, 2))
    for budget in (0.01, 0.5, 5.0):
        found = target_log_probs("budget", q, p, budget=budget)
        torch.testing.assert_close(kl(found, q), kl(p, q).clamp(max=budget), atol=1e-3, rtol=0)


# -- all of them -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_targets_are_normalised_new_and_without_gradient(kind, dtype):
    models = [random_logs(4, 9, seed, 2.0, dtype).requires_grad_() for seed in range(4)]
    found = target_log_probs(kind, *models[:3], other_log_probs=models[3], weight=0.3, budget=0.2)
    torch.testing.assert_close(found.logsumexp(-1), torch.zeros(4, dtype=dtype), atol=1e-6, rtol=0)
    assert found.dtype == dtype
    assert not found.requires_grad
    assert all(found.data_ptr() != model.data_ptr() for model in models)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("other", {}, "kind must be one of teacher, mix, budget, contrast, not 'other'"),
        ("mix", {}, "target mix needs weight"),
        ("budget", {}, "target budget needs budget"),
        ("contrast", {}, "target contrast needs start and other"),
        ("mix", {"weight": 1.5}, "weight must lie between 0 and 1, not 1.5"),
        ("mix", {"weight": math.nan}, "weight must lie between 0 and 1, not nan"),
        ("budget", {"budget": -1.0}, "budget must be at least 0, not -1.0"),
        ("budget", {"budget": math.nan}, "budget must be at least 0, not nan"),
    ],
)
def test_what_is_missing_or_out_of_range(kind, options, message):
    with pytest.raises(ValueError, match=message):
        of(kind, logs(0.5, 0.5), logs(0.5, 0.5), **options)


def test_what_a_target_reads():
    assert {kind: references(kind, "start") for kind in KINDS} == {
        "teacher": (),
        "mix": ("start",),
        "budget": (),
        "contrast": ("start", "other"),
    }
    assert references("mix", "student") == ()
    assert references("contrast", "student") == ("start", "other")
