"""Every target with every divergence, in chunks, against the dense fp64 oracle: values, gradients and memory."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from selfdistill.method.divergence import (
    DIVERGENCES,
    chunked_divergence,
    chunked_sampled_divergence,
    divergence,
)
from selfdistill.method.targets import TARGETS
from tests.support.dense_oracle import (
    KINDS,
    SUPPORTS,
    Case,
    chunk_target,
    dense_target,
    log_heads,
    logs,
    make_case,
    oracle,
    variant_name,
    with_gradients,
)

TARGET_CASES = [
    ("teacher", 0, {}),
    ("mix", 0, {"weight": 0.3}),
    ("mix", 1, {"weight": 0.6}),
    ("budget", 0, {"budget": 0.2}),
    ("contrast", 2, {}),
]
TARGET_NAMES = ["teacher", "mix-student", "mix-start", "budget", "contrast"]


def references(count: int, tokens: int, vocabulary: int, dtype: torch.dtype = torch.float64):
    cases = [make_case(tokens, vocabulary, seed=10 + n, spread=1.0) for n in range(count)]
    return [(case.teacher_hidden.to(dtype), case.teacher_head.to(dtype)) for case in cases]


def assert_agrees(kind, count, numbers, variant, *, dtype=torch.float64, tolerance, spread=1.5, weighted=False):
    case = make_case(tokens=7, vocabulary=13, spread=spread)
    others = references(count, 7, 13)
    weights = torch.linspace(-1, 2, 7, dtype=torch.float64)
    factor = torch.linspace(0.1, 2, 7, dtype=torch.float64) if weighted else None
    target = chunk_target(kind, [(h.to(dtype), w.to(dtype)) for h, w in others], **numbers)

    def ours(c: Case) -> Tensor:
        given = None if factor is None else factor.to(dtype)
        return chunked_divergence(*c.tensors, chunk_size=3, target=target, weights=given, **variant)

    def theirs(c: Case) -> Tensor:
        values = oracle(c, target=dense_target(kind, **numbers), references=others, **variant)
        return values if factor is None else values * factor

    outer = torch.ones(7) if weighted else weights
    found = with_gradients(ours, case.to(dtype), outer)
    expected = with_gradients(theirs, case, outer)
    for one, other in zip(found, expected, strict=True):
        scale = max(1.0, other.abs().max().item())
        torch.testing.assert_close(one.double(), other, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize(("kind", "count", "numbers"), TARGET_CASES, ids=TARGET_NAMES)
@pytest.mark.parametrize("divergence_kind", KINDS)
@pytest.mark.parametrize("support", SUPPORTS, ids=variant_name)
@pytest.mark.parametrize("weighted", [False, True])
def test_every_target_and_divergence_agrees_with_the_oracle(kind, count, numbers, divergence_kind, support, weighted):
    loose = 2e-4 if kind == "budget" else 0.0  # how near its budget a token is
    variant = {"kind": divergence_kind, **support}
    assert_agrees(kind, count, numbers, variant, tolerance=1e-9 + loose, weighted=weighted)
    assert_agrees(kind, count, numbers, variant, dtype=torch.float32, tolerance=2e-5 + loose, weighted=weighted)


@pytest.mark.parametrize(("kind", "count", "numbers"), TARGET_CASES, ids=TARGET_NAMES)
@pytest.mark.parametrize("divergence_kind", KINDS)
@pytest.mark.parametrize(
    "transform",
    [{"temperature": 0.7, "logit_scale": 0.5}, {"softcap": 2.0}, {"clip": 0.3}, {"vocab_clip": 0.02}],
    ids=variant_name,
)
def test_every_target_reads_transformed_logits(kind, count, numbers, divergence_kind, transform):
    loose = 1e-3 if kind == "budget" else 0.0
    assert_agrees(kind, count, numbers, {"kind": divergence_kind, **transform}, tolerance=1e-9 + loose)


@pytest.mark.parametrize(("kind", "count", "numbers"), TARGET_CASES, ids=TARGET_NAMES)
def test_the_sampled_token_is_compared_with_the_target(kind, count, numbers):
    """The mean over the student's own tokens is the reverse KL from the target."""
    case, others, ids = make_case(1, 6, spread=1.5), references(count, 1, 6), torch.arange(6)
    wide = Case(*(t.expand(6, -1) if t.shape[0] == 1 else t for t in case.tensors))
    wide_others = [(hidden.expand(6, -1), head) for hidden, head in others]
    q = (case.student_hidden @ case.student_head.T).softmax(-1)[0]
    found = chunked_sampled_divergence(*wide.tensors, ids, target=chunk_target(kind, wide_others, **numbers))
    expected = oracle(case, kind="reverse_kl", target=dense_target(kind, **numbers), references=others)
    assert float((q * found).sum()) == pytest.approx(float(expected), abs=1e-3 if kind == "budget" else 1e-9)


def test_a_target_is_constant_in_the_gradient():
    """Held to a mix with itself, a student moves as if the mix were another model's."""
    case = make_case(tokens=4, vocabulary=7, spread=1.5)
    target = chunk_target("mix", [], weight=0.4)
    ones = torch.ones(4)
    _, hidden, _ = with_gradients(lambda c: chunked_divergence(*c.tensors, target=target), case, ones)
    q, p = (
        x.softmax(-1) for x in (case.student_hidden @ case.student_head.T, case.teacher_hidden @ case.teacher_head.T)
    )
    t = q**0.6 * p**0.4
    t = t / t.sum(-1, keepdim=True)
    torch.testing.assert_close(hidden, (q - t) @ case.student_head, atol=1e-12, rtol=0)


# -- the bound on a vocabulary entry ---------------------------------------------------------------------


def test_a_bound_on_an_entry_by_hand():
    """p = [3/4, 1/4], q = [1/4, 3/4]. The terms of the forward KL are 3/4 log 3 - 1/2 = 0.32396 and
    -1/4 log 3 + 1/2 = 0.22535, in all 1/2 log 3 = 0.54931; with a bound of 0.3 they are 0.3 and 0.22535."""
    p, q = logs(3 / 4, 1 / 4), logs(1 / 4, 3 / 4)
    assert float(divergence(q, p, kind="forward_kl")) == pytest.approx(0.5 * math.log(3))
    assert float(divergence(q, p, kind="forward_kl", vocab_clip=1.0)) == pytest.approx(0.5 * math.log(3))
    assert float(divergence(q, p, kind="forward_kl", vocab_clip=0.3)) == pytest.approx(0.52535, abs=1e-5)
    assert float(divergence(q, p, kind="reverse_kl", vocab_clip=0.1)) == pytest.approx(0.2)


def test_a_bounded_entry_still_moves_towards_the_teacher():
    """The entry's own gradient is gone; that of the others makes room for it."""
    case = log_heads([0.9, 0.05, 0.05], [0.1, 0.45, 0.45])
    values, _, head = with_gradients(lambda c: chunked_divergence(*c.tensors, vocab_clip=0.5), case, torch.ones(1))
    # terms: 0.9 log 9 - 0.8 = 1.17750, bounded by 0.5; twice 0.05 log(1/9) + 0.4 = 0.29014
    assert values.item() == pytest.approx(0.5 + 2 * 0.29014, abs=1e-4)
    # (q_j - p_j) 1[not bounded] + q_j (P - Q), where P = 0.1 and Q = 0.9 lie on the entries that are not bounded
    assert head.flatten().tolist() == pytest.approx([-0.08, 0.4 - 0.36, 0.4 - 0.36])


def test_a_bound_on_one_half_of_the_terms_would_drive_it_away():
    """Why the terms are what they are: p (log p - log q), with a bound, is of both signs."""
    logits, p = logs(0.1, 0.45, 0.45).requires_grad_(), torch.tensor([0.9, 0.05, 0.05]).double()
    value = (p * (p.log() - logits.log_softmax(-1))).clamp(max=0.1).sum()
    value.backward()
    assert value < 0
    assert logits.grad is not None
    assert logits.grad[0] > 0  # down, although the teacher is at 0.9


@given(
    tokens=st.integers(1, 5),
    vocabulary=st.integers(2, 20),
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(KINDS),
    clip=st.floats(1e-3, 1.0),
    spread=st.sampled_from([0.0, 1.0, 8.0]),
)
@settings(max_examples=60, deadline=None)
def test_bounded_values_lie_between_zero_and_the_divergence(tokens, vocabulary, seed, kind, clip, spread):
    case = make_case(tokens, vocabulary, seed=seed, spread=spread)
    whole = chunked_divergence(*case.tensors, kind=kind)
    bounded = chunked_divergence(*case.tensors, kind=kind, vocab_clip=clip)
    assert (bounded >= -1e-12).all()
    assert (bounded <= whole + 1e-9).all()
    assert (bounded <= vocabulary * clip + 1e-12).all()
    never = chunked_divergence(*case.tensors, kind=kind, vocab_clip=1e9)
    torch.testing.assert_close(never, whole, atol=1e-9, rtol=1e-9)


def test_what_has_no_terms_takes_no_bound(monkeypatch):
    plain = type(DIVERGENCES["forward_kl"])(values=DIVERGENCES["forward_kl"].values)
    monkeypatch.setitem(DIVERGENCES, "forward_kl", plain)
    with pytest.raises(ValueError, match="vocab_clip: forward_kl has no terms to bound"):
        chunked_divergence(*make_case(2, 3).tensors, vocab_clip=0.5)


def test_a_reference_of_other_tokens_or_another_vocabulary_is_refused():
    case = make_case(3, 5)
    for others, message in (
        (references(1, 2, 5), "student_hidden has 3 rows and reference_0_hidden 2"),
        (references(1, 3, 4), "the student's vocabulary has 5 entries and the reference_0's 4"),
    ):
        with pytest.raises(ValueError, match=message):
            chunked_divergence(*case.tensors, target=chunk_target("mix", others, weight=0.5))


def test_every_target_has_its_case():
    assert {kind for kind, _, _ in TARGET_CASES} == set(TARGETS)
