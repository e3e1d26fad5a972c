"""Divergences by hand, and properties that must hold; ``test_divergence_oracle.py`` compares every variant."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from selfdistill.method.divergence import (
    chunked_divergence,
    chunked_logprobs,
    chunked_sampled_divergence,
    divergence,
    transform_logits,
)
from tests.support.dense_oracle import (
    KINDS,
    VARIANTS,
    Case,
    log_heads,
    logs,
    make_case,
    oracle,
    variant_name,
    with_gradients,
)

LN2, LN3 = math.log(2), math.log(3)


# -- by hand ---------------------------------------------------------------------------------------

P, Q = [1 / 2, 1 / 4, 1 / 4], [1 / 4, 1 / 8, 5 / 8]
BY_HAND = {
    # 1/2 ln 2 + 1/4 ln 2 + 1/4 ln(2/5) = ln 2 - 1/4 ln 5 = 0.2908
    "forward_kl": LN2 - math.log(5) / 4,
    # 1/4 ln(1/2) + 1/8 ln(1/2) + 5/8 ln(5/2) = 5/8 ln 5 - ln 2 = 0.3128
    "reverse_kl": 5 / 8 * math.log(5) - LN2,
    # with the mean m = [3/8, 3/16, 7/16]: 1/2 [3/4 ln(4/3) + 1/4 ln(4/7)] + 1/2 [3/8 ln(2/3) + 5/8 ln(10/7)] = 0.0734
    "jsd": (3 * math.log(4 / 3) + math.log(4 / 7)) / 8 + (3 * math.log(2 / 3) + 5 * math.log(10 / 7)) / 16,
}


@pytest.mark.parametrize("kind", KINDS)
def test_three_tokens_by_hand(kind):
    assert divergence(logs(*Q), logs(*P), kind=kind).item() == pytest.approx(BY_HAND[kind])
    # the same from hidden states and heads, alone and times a weight
    case = log_heads(P, Q)
    weights = torch.tensor([3.0], dtype=torch.float64)
    assert chunked_divergence(*case.tensors, kind=kind).item() == pytest.approx(BY_HAND[kind])
    assert chunked_divergence(*case.tensors, kind=kind, weights=weights).item() == pytest.approx(3 * BY_HAND[kind])


def test_the_gradient_of_three_tokens_by_hand():
    # forward KL: q - p for each logit; the heads hold the logits, so that is the head's gradient
    gradient = with_gradients(lambda c: chunked_divergence(*c.tensors), log_heads(P, Q), torch.ones(1))[2]
    assert gradient.flatten().tolist() == pytest.approx([-1 / 4, -1 / 8, 3 / 8])


def test_direction_by_hand():
    p, q = logs(1 / 2, 1 / 2), logs(1 / 4, 3 / 4)
    # KL(p||q) = 1/2 ln 2 + 1/2 ln(2/3) = ln 2 - 1/2 ln 3 = 0.1438
    assert divergence(q, p, kind="forward_kl").item() == pytest.approx(LN2 - LN3 / 2)
    # KL(q||p) = 1/4 ln(1/2) + 3/4 ln(3/2) = 3/4 ln 3 - ln 2 = 0.1308
    assert divergence(q, p, kind="reverse_kl").item() == pytest.approx(3 / 4 * LN3 - LN2)


def test_beta_is_the_teachers_weight():
    p, q = logs(1 - 1e-30, 1e-30), logs(1e-30, 1 - 1e-30)  # as good as disjoint
    # m = [beta, 1 - beta]: beta ln(1/beta) + (1 - beta) ln(1/(1 - beta)), for 1/4: 1/4 ln 4 + 3/4 ln(4/3)
    assert divergence(q, p, kind="jsd", beta=0.25).item() == pytest.approx(2 * LN2 - 3 / 4 * LN3)
    lopsided = divergence(logs(1 / 2, 1 / 2), p, kind="jsd", beta=0.25).item()
    # p = [1, 0], q = [1/2, 1/2], m = [5/8, 3/8]: 1/4 ln(8/5) + 3/4 (1/2 ln(4/5) + 1/2 ln(4/3))
    assert lopsided == pytest.approx(math.log(8 / 5) / 4 + 3 / 8 * (math.log(4 / 5) + math.log(4 / 3)))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # teacher's two likeliest of P = [1/2, 1/4, 1/8, 1/8] are tokens 0, 1; Q = [1/8, 1/2, 1/4, 1/8]
        # renormalised p = [2/3, 1/3], q = [1/5, 4/5]: 2/3 ln(10/3) + 1/3 ln(5/12)
        ({"top_k": 2}, 2 / 3 * math.log(10 / 3) + math.log(5 / 12) / 3),
        # with tail p = [1/2, 1/4, 1/4], q = [1/8, 1/2, 3/8]: 1/2 ln 4 + 1/4 ln(1/2) + 1/4 ln(2/3)
        ({"top_k": 2, "tail": True}, LN2 - LN2 / 4 + (LN2 - LN3) / 4),
        # student's are tokens 1, 2: p = [2/3, 1/3], q = [2/3, 1/3]
        ({"top_k": 2, "top_k_of": "student"}, 0.0),
        # with tail p = [1/4, 1/8, 5/8], q = [1/2, 1/4, 1/4]: 1/4 ln(1/2) + 1/8 ln(1/2) + 5/8 ln(5/2)
        ({"top_k": 2, "top_k_of": "student", "tail": True}, 5 / 8 * math.log(5 / 2) - 3 / 8 * LN2),
        # a k as large as the vocabulary leaves nothing out: 1/2 ln 4 + 1/4 ln(1/2) + 1/8 ln(1/2) + 0
        ({"top_k": 4, "tail": True}, LN2 - 3 / 8 * LN2),
        ({"top_k": 9}, LN2 - 3 / 8 * LN2),
        ({"clip": 0.25}, 0.25),
        ({"clip": 0.75}, LN2 - 3 / 8 * LN2),
    ],
    ids=str,
)
def test_supports_and_clip_by_hand(options, expected):
    case = log_heads([1 / 2, 1 / 4, 1 / 8, 1 / 8], [1 / 8, 1 / 2, 1 / 4, 1 / 8])
    assert chunked_divergence(*case.tensors, **options).item() == pytest.approx(expected, abs=1e-12)


def test_transform_by_hand():
    raw = torch.tensor([0.0, 4.0])
    # scale: 4 * 1/2 = 2; cap: 2 tanh(2/2) = 2 tanh 1; temperature: / 4
    assert transform_logits(raw, 4.0, 0.5, 2.0).tolist() == pytest.approx([0.0, math.tanh(1) / 2])
    assert transform_logits(raw, 2.0, 1.0, None).tolist() == [0.0, 2.0]


# -- minus infinity, at the dense level ------------------------------------------------------------


@st.composite
def logits_with_holes(draw):
    """Student's and teacher's logits [V] and a mask of the tokens that both have."""
    vocabulary = draw(st.integers(2, 12))
    number = st.floats(-50, 50)
    student = draw(st.lists(number, min_size=vocabulary, max_size=vocabulary))
    teacher = draw(st.lists(number, min_size=vocabulary, max_size=vocabulary))
    shared = draw(st.lists(st.booleans(), min_size=vocabulary, max_size=vocabulary).filter(any))
    as_tensor = torch.tensor([student, teacher], dtype=torch.float64)
    return as_tensor[0], as_tensor[1], torch.tensor(shared)


@given(logits_with_holes(), st.sampled_from(KINDS), st.floats(0.01, 0.99))
@settings(max_examples=150, deadline=None)
def test_tokens_that_neither_has_count_for_nothing(drawn, kind, beta):
    student, teacher, shared = drawn

    def value_and_gradient(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        leaf = student.clone().requires_grad_()
        value = divergence(leaf.log_softmax(-1), teacher.log_softmax(-1), kind=kind, beta=beta)
        (gradient,) = torch.autograd.grad(value, leaf)
        return value.detach(), gradient

    holes = [logits.masked_fill(~shared, -math.inf) for logits in (student, teacher)]
    value, gradient = value_and_gradient(*holes)
    expected, expected_gradient = value_and_gradient(student[shared], teacher[shared])
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gradient[shared], expected_gradient, rtol=1e-9, atol=1e-12)
    assert (gradient[~shared] == 0).all()


def test_token_that_one_side_lacks_by_hand():
    whole, half = logs(1.0, 0.0), logs(1 / 2, 1 / 2)
    assert whole.tolist() == [0.0, -math.inf]
    # p = [1, 0], q = [1/2, 1/2]: KL(p||q) = ln 2, and the missing token adds 0 ln 0 = 0
    assert divergence(half, whole, kind="forward_kl").item() == pytest.approx(LN2)
    assert divergence(whole, half, kind="reverse_kl").item() == pytest.approx(LN2)
    assert divergence(half, whole, kind="reverse_kl").item() == math.inf  # 1/2 ln(1/2 / 0)
    assert divergence(whole, half, kind="forward_kl").item() == math.inf
    # m = [3/4, 1/4]: 1/2 ln(4/3) + 1/2 (1/2 ln(2/3) + 1/2 ln 2) = 3/2 ln 2 ... - 3/4 ln 3
    expected = math.log(4 / 3) / 2 + (math.log(2 / 3) + LN2) / 4
    assert divergence(half, whole, kind="jsd").item() == pytest.approx(expected)
    assert divergence(whole, half, kind="jsd").item() == pytest.approx(expected)


# -- properties ------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS, ids=variant_name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_identical_inputs_give_exactly_zero(variant, dtype):
    hidden, head, *_ = make_case(9, 31, spread=4.0).to(dtype).tensors
    same = Case(hidden, head, hidden, head)
    values, grad_hidden, grad_head = with_gradients(
        lambda c: chunked_divergence(*c.tensors, chunk_size=4, **variant), same, torch.ones(9)
    )
    assert values.tolist() == [0.0] * 9
    assert grad_hidden.abs().max() < 1e-5
    assert grad_head.abs().max() < 1e-5


@given(st.integers(0, 10_000), st.sampled_from(KINDS), st.floats(0.01, 0.99))
@settings(max_examples=40, deadline=None)
def test_jsd_is_bounded_and_nothing_is_negative(seed, kind, beta):
    values = chunked_divergence(*make_case(4, 9, seed=seed, spread=20.0).tensors, kind=kind, beta=beta)
    assert values.min() >= -1e-12
    if kind == "jsd":
        assert values.max() <= -(beta * math.log(beta) + (1 - beta) * math.log(1 - beta)) + 1e-12


def test_gradients_reach_the_student_only():
    leaves = [tensor.clone().requires_grad_() for tensor in make_case(4, 9).tensors]
    chunked_divergence(*leaves).sum().backward()
    assert [leaf.grad is not None for leaf in leaves] == [True, True, False, False]


def test_a_frozen_head_gets_no_gradient_and_hidden_states_do():
    hidden, head, teacher_hidden, teacher_head = make_case(4, 9).tensors
    hidden.requires_grad_()
    chunked_divergence(hidden, head, teacher_hidden, teacher_head).sum().backward()
    expected = with_gradients(oracle, make_case(4, 9), torch.ones(4))[1]
    torch.testing.assert_close(hidden.grad, expected)
    assert head.grad is None


def test_clipped_token_has_no_gradient():
    case = log_heads([1 / 2, 1 / 2], [1 / 4, 3 / 4])  # 0.1438 nats
    assert with_gradients(lambda c: chunked_divergence(*c.tensors, clip=0.1), case, torch.ones(1))[1].item() == 0
    assert with_gradients(lambda c: chunked_divergence(*c.tensors, clip=0.2), case, torch.ones(1))[1].item() != 0


def test_second_derivatives_are_refused():
    case = make_case(2, 5)
    hidden, _ = case.student_hidden.requires_grad_(), case.student_head.requires_grad_()
    values = chunked_divergence(*case.tensors)
    (gradient,) = torch.autograd.grad(values.square().sum(), hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


# -- mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "kl"}, "kind must be one of forward_kl, reverse_kl, jsd, not 'kl'"),
        ({"kind": "jsd", "beta": 0.0}, "beta must lie strictly between 0 and 1, not 0.0"),
        ({"kind": "jsd", "beta": 1.0}, "beta must lie strictly between 0 and 1, not 1.0"),
        ({"temperature": 0.0}, "temperature must be positive, not 0.0"),
        ({"temperature": math.nan}, "temperature must be positive, not nan"),
        ({"top_k": 0}, "top_k must be at least 1, not 0"),
        ({"top_k": 2, "top_k_of": "both"}, "top_k_of must be teacher or student, not 'both'"),
        ({"clip": 0.0}, "clip must be positive, not 0.0"),
        ({"softcap": 0.0}, "softcap must be positive, not 0.0"),
        ({"chunk_size": 0}, "chunk_size must be at least 1, not 0"),
    ],
    ids=str,
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        chunked_divergence(*make_case(2, 5).tensors, **options)


def test_beta_is_ignored_by_both_kls():
    for kind, beta in itertools.product(("forward_kl", "reverse_kl"), (0.0, 1.0)):
        assert chunked_divergence(*make_case(2, 5).tensors, kind=kind, beta=beta).shape == (2,)


def test_shapes_that_disagree():
    hidden, head, teacher_hidden, teacher_head = make_case(3, 5).tensors
    ids = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="student_hidden has 3 rows and teacher_hidden 2"):
        chunked_divergence(hidden, head, teacher_hidden[:2], teacher_head)
    with pytest.raises(ValueError, match="vocabulary has 5 entries and the teacher's 4"):
        chunked_divergence(hidden, head, teacher_hidden, teacher_head[:4])
    with pytest.raises(ValueError, match=r"teacher_hidden \(3, 6\) and teacher_head \(5, 7\) disagree on H"):
        chunked_divergence(hidden, head, teacher_hidden[:, :6], teacher_head)
    with pytest.raises(ValueError, match=r"token_ids \(2,\) and hidden \(3, 5\) disagree on N"):
        chunked_sampled_divergence(hidden, head, teacher_hidden, teacher_head, ids)
    with pytest.raises(ValueError, match=r"token_ids \(2,\) and hidden \(3, 5\) disagree on N"):
        chunked_logprobs(hidden, head, ids)
    with pytest.raises(ValueError, match="temperature must be positive"):
        chunked_logprobs(hidden[:2], head, ids, temperature=-1.0)
