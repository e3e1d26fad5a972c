"""Divergences: by hand, against a dense oracle in fp64, and by properties that must hold."""

import itertools
import math

import pytest
import torch
from dense_oracle import Case, make_case, oracle, with_gradients
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from selfdistill.divergence import (
    CHUNK_ELEMENTS,
    chunked_divergence,
    chunked_logprobs,
    chunked_sampled_divergence,
    divergence,
    transform_logits,
)

LN2, LN3 = math.log(2), math.log(3)
KINDS = ("forward_kl", "reverse_kl", "jsd")
SUPPORTS = [
    {},
    {"top_k": 3, "top_k_of": "teacher"},
    {"top_k": 3, "top_k_of": "teacher", "tail": True},
    {"top_k": 3, "top_k_of": "student"},
    {"top_k": 3, "top_k_of": "student", "tail": True},
]
TRANSFORMS = [{}, {"temperature": 0.7}, {"logit_scale": 0.25}, {"softcap": 2.0}, {"clip": 0.4}]
VARIANTS = [
    {"kind": kind, **({"beta": beta} if kind == "jsd" else {}), **support, **transform}
    for kind, beta in [("forward_kl", 0.5), ("reverse_kl", 0.5), ("jsd", 0.5), ("jsd", 0.1), ("jsd", 0.9)]
    for support in SUPPORTS
    for transform in TRANSFORMS
]


def variant_name(variant: dict) -> str:
    return "-".join(f"{key}={value}" if key != "kind" else value for key, value in variant.items())


def logs(*probabilities: float) -> Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


def log_heads(p: list[float], q: list[float]) -> Case:
    """One token whose teacher has the probabilities ``p`` and whose student has ``q``."""
    one = torch.ones(1, 1, dtype=torch.float64)
    return Case(one, logs(*q)[:, None], one, logs(*p)[:, None])


# -- by hand ---------------------------------------------------------------------------------------

P, Q = [1 / 2, 1 / 4, 1 / 4], [1 / 4, 1 / 4, 1 / 2]
# forward  1/2 ln(2) + 1/4 ln(1) + 1/4 ln(1/2) = 1/4 ln 2; reverse is the same by symmetry
# jsd(1/2) m = [3/8, 1/4, 3/8]: KL(p||m) = 1/2 ln(4/3) + 1/4 ln(2/3) = 5/4 ln 2 - 3/4 ln 3 = KL(q||m)


def test_three_tokens_by_hand():
    p, q = logs(*P), logs(*Q)
    assert divergence(q, p, kind="forward_kl").item() == pytest.approx(LN2 / 4)
    assert divergence(q, p, kind="reverse_kl").item() == pytest.approx(LN2 / 4)
    assert divergence(q, p, kind="jsd").item() == pytest.approx(5 / 4 * LN2 - 3 / 4 * LN3)  # 0.0424


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


# -- against the oracle ----------------------------------------------------------------------------


def assert_agrees(case: Case, chunk_size: int | None, variant: dict, *, dtype=torch.float64, tolerance=1e-9) -> None:
    weights = torch.linspace(-1, 2, case.student_hidden.shape[0], dtype=torch.float64)
    values, hidden, head = with_gradients(
        lambda c: chunked_divergence(*c.tensors, chunk_size=chunk_size, **variant), case.to(dtype), weights
    )
    expected = with_gradients(lambda c: oracle(c, **variant), case.to(dtype).to(torch.float64), weights)
    assert values.dtype == torch.promote_types(dtype, torch.float32)
    assert hidden.dtype == head.dtype == dtype
    for ours, theirs in zip((values, hidden, head), expected, strict=True):
        scale = max(1.0, theirs.abs().max().item()) if theirs.numel() else 1.0
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("variant", VARIANTS, ids=variant_name)
def test_every_variant_agrees_with_the_oracle(variant):
    case = make_case(tokens=7, vocabulary=13, spread=2.0)
    assert_agrees(case, 3, variant)
    assert_agrees(case, 3, variant, dtype=torch.float32, tolerance=2e-5)


@given(
    tokens=st.integers(0, 6),
    vocabulary=st.integers(2, 23),
    extra=st.integers(0, 8),
    spread=st.sampled_from([0.0, 1e-3, 1.0, 30.0]),  # at 30 the likeliest token has all of fp32's probability
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(KINDS),
    beta=st.floats(0.01, 0.99),
    temperature=st.floats(0.5, 4.0),
    logit_scale=st.floats(0.1, 2.0),
    softcap=st.none() | st.floats(5.0, 50.0),
    clip=st.none() | st.floats(0.01, 5.0),
)
@settings(max_examples=120, deadline=None)
def test_any_shape_and_chunk_agrees_with_the_oracle(tokens, vocabulary, extra, spread, seed, **variant):
    chunk_size = 1 + extra % (tokens + 3)  # 1 .. N + 3
    assert_agrees(make_case(tokens, vocabulary, seed=seed, spread=spread), chunk_size, variant)


@given(
    tokens=st.integers(1, 5),
    vocabulary=st.integers(2, 23),
    chunk_size=st.integers(1, 8),
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(KINDS),
    beta=st.floats(0.01, 0.99),
    top_k=st.integers(1, 25),
    top_k_of=st.sampled_from(["teacher", "student"]),
    tail=st.booleans(),
)
@settings(max_examples=120, deadline=None)
def test_any_top_k_agrees_with_the_oracle(tokens, vocabulary, chunk_size, seed, **variant):
    assert_agrees(make_case(tokens, vocabulary, seed=seed, spread=3.0), chunk_size, variant)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("support", [{}, {"top_k": 5}, {"top_k": 5, "tail": True}], ids=variant_name)
def test_logits_beyond_the_exponents_of_fp32_stay_finite(kind, support):
    case = make_case(tokens=8, vocabulary=29, spread=1000.0)
    for dtype in (torch.float32, torch.bfloat16):
        values, hidden, head = with_gradients(
            lambda c: chunked_divergence(*c.tensors, kind=kind, **support), case.to(dtype), torch.ones(8)
        )
        assert torch.isfinite(values).all()
        assert torch.isfinite(hidden).all()
        assert torch.isfinite(head).all()
        assert values.max() > 0.5  # not by being flushed to nothing


@pytest.mark.parametrize("variant", VARIANTS[:: len(TRANSFORMS)], ids=variant_name)
def test_bf16_inputs_give_fp32_values(variant):
    # logits are rounded to bf16, as the model's own are: 8 bits of values up to about 4
    assert_agrees(make_case(6, 17, spread=1.0), 4, variant, dtype=torch.bfloat16, tolerance=0.05)


def test_bf16_head_gradient_adds_up_in_fp32():
    tokens, vocabulary = 600, 2
    case = Case(
        torch.ones(tokens, 1), torch.zeros(vocabulary, 1), torch.ones(tokens, 1), logs(3 / 4, 1 / 4)[:, None].float()
    ).to(torch.bfloat16)
    # q = [1/2, 1/2], p = [3/4, 1/4]: each token's gradient is q - p = [-1/4, 1/4], and 600 of them are -150, 150.
    # A bf16 sum of quarters stops at 64, where a quarter is below half of the last bit.
    _, _, head = with_gradients(lambda c: chunked_divergence(*c.tensors, chunk_size=1), case, torch.ones(tokens))
    assert head.flatten().tolist() == pytest.approx([-150, 150], rel=0.01)


@pytest.mark.parametrize("variant", VARIANTS, ids=variant_name)
def test_gradcheck(variant):
    hidden, head, teacher_hidden, teacher_head = make_case(tokens=3, vocabulary=6, spread=1.5, hidden=3).tensors

    def values(student_hidden: Tensor, student_head: Tensor) -> Tensor:
        return chunked_divergence(student_hidden, student_head, teacher_hidden, teacher_head, chunk_size=2, **variant)

    assert torch.autograd.gradcheck(values, (hidden.requires_grad_(), head.requires_grad_()))


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
    hidden = case.student_hidden.requires_grad_()
    values = chunked_divergence(*case.tensors)
    (gradient,) = torch.autograd.grad(values.sum(), hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest tensor that any operation returns."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.numel = max([self.numel, *sizes])
        return result


TOKENS, VOCABULARY, CHUNK = 64, 97, 4


@pytest.mark.parametrize(
    "options", [{"kind": k, **s} for k in KINDS for s in SUPPORTS] + ["sampled", "logprobs"], ids=str
)
def test_no_tensor_of_tokens_by_vocabulary(options):
    leaves = [tensor.float().requires_grad_() for tensor in make_case(TOKENS, VOCABULARY).tensors]
    token_ids = torch.arange(TOKENS)
    with LargestTensor() as chunked:
        if options == "logprobs":
            values = chunked_logprobs(leaves[0], leaves[1], token_ids, chunk_size=CHUNK)
        elif options == "sampled":
            values = chunked_sampled_divergence(*leaves, token_ids, chunk_size=CHUNK)
        else:
            values = chunked_divergence(*leaves, chunk_size=CHUNK, **options)
        values.sum().backward()
    head, chunk = VOCABULARY * 7, VOCABULARY * CHUNK
    assert chunked.numel <= max(head, chunk, TOKENS * 7)
    with LargestTensor() as dense:  # the measure does see such a tensor where there is one
        oracle(Case(*leaves)).sum().backward()
    assert dense.numel == TOKENS * VOCABULARY


def test_default_chunks_hold_eight_million_logits():
    vocabulary = CHUNK_ELEMENTS // 3
    zeros = torch.zeros(7, 1)
    with LargestTensor() as largest:
        values = chunked_divergence(zeros, torch.zeros(vocabulary, 1), zeros, torch.zeros(vocabulary, 1))
    assert largest.numel == 3 * vocabulary
    assert values.tolist() == [0.0] * 7


# -- the sampled token -----------------------------------------------------------------------------


def test_sampled_token_by_hand():
    case = log_heads([1 / 2, 1 / 4, 1 / 4], [1 / 4, 1 / 4, 1 / 2])
    rows = Case(case.student_hidden.expand(3, 1), case.student_head, case.teacher_hidden.expand(3, 1), case.teacher_head)
    token_ids = torch.tensor([0, 1, 2])
    # ln q(y)/p(y): ln 1/2, 0, ln 2
    assert chunked_sampled_divergence(*rows.tensors, token_ids).tolist() == pytest.approx([-LN2, 0, LN2])
    clipped = chunked_sampled_divergence(*rows.tensors, token_ids, clip=0.5)
    assert clipped.tolist() == pytest.approx([-0.5, 0, 0.5])


@pytest.mark.parametrize("options", [{}, {"temperature": 0.6, "logit_scale": 0.5, "softcap": 3.0}], ids=str)
def test_sampled_token_is_right_in_expectation(options):
    case = make_case(tokens=1, vocabulary=7, spread=2.0)
    token_ids = torch.arange(7)  # every token that could be sampled ...
    logits = transform_logits(
        case.student_hidden @ case.student_head.T,
        options.get("temperature", 1.0),
        options.get("logit_scale", 1.0),
        options.get("softcap"),
    )
    q = logits.softmax(-1)[0]  # ... as often as the student samples it

    def sampled(c: Case) -> Tensor:
        rows = c.student_hidden.expand(7, -1), c.student_head, c.teacher_hidden.expand(7, -1), c.teacher_head
        return (q * chunked_sampled_divergence(*rows, token_ids, chunk_size=3, **options)).sum()[None]

    estimate = with_gradients(sampled, case, torch.ones(1))
    exact = with_gradients(lambda c: oracle(c, kind="reverse_kl", **options), case, torch.ones(1))
    for ours, theirs in zip(estimate, exact, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_sampled_token_gradient_is_the_clipped_ratio_times_the_score():
    case, token_ids = make_case(4, 6, spread=2.0), torch.tensor([0, 5, 2, 2])
    ratio = (
        (case.student_hidden @ case.student_head.T).log_softmax(-1)
        - (case.teacher_hidden @ case.teacher_head.T).log_softmax(-1)
    )[torch.arange(4), token_ids].clamp(-1, 1)
    assert ratio.abs().max() == 1  # the clip matters here

    def score(c: Case) -> Tensor:
        return ratio * (c.student_hidden @ c.student_head.T).log_softmax(-1)[torch.arange(4), token_ids]

    ours = with_gradients(lambda c: chunked_sampled_divergence(*c.tensors, token_ids, clip=1.0), case, torch.ones(4))
    expected = with_gradients(score, case, torch.ones(4))
    torch.testing.assert_close(ours[1:], expected[1:])


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.5}, {"logit_scale": 0.25}, {"softcap": 2.0}], ids=variant_name
)
def test_logprobs_are_minus_the_cross_entropy(options):
    case, token_ids = make_case(7, 11, spread=2.0), torch.tensor([0, 10, 3, 3, 7, 1, 5])

    def dense(c: Case) -> Tensor:
        logits = c.student_hidden @ c.student_head.T * options.get("logit_scale", 1.0)
        if "softcap" in options:
            logits = 2 * torch.tanh(logits / 2)
        logits = logits / options.get("temperature", 1.0)
        return -torch.nn.functional.cross_entropy(logits, token_ids, reduction="none")

    def ours(c: Case) -> Tensor:
        return chunked_logprobs(c.student_hidden, c.student_head, token_ids, chunk_size=3, **options)

    weights = torch.linspace(1, 2, 7)
    for a, b in zip(with_gradients(ours, case, weights), with_gradients(dense, case, weights), strict=True):
        torch.testing.assert_close(a, b)
    hidden, head = case.student_hidden.requires_grad_(), case.student_head.requires_grad_()
    assert torch.autograd.gradcheck(lambda h, w: chunked_logprobs(h, w, token_ids, chunk_size=4, **options), (hidden, head))


def test_no_tokens_give_no_values_and_zero_gradients():
    case, none = make_case(0, 9), torch.empty(0, dtype=torch.int64)
    for values in (
        lambda c: chunked_divergence(*c.tensors),
        lambda c: chunked_sampled_divergence(*c.tensors, none),
        lambda c: chunked_logprobs(c.student_hidden, c.student_head, none),
    ):
        result, hidden, head = with_gradients(values, case, torch.empty(0))
        assert result.shape == (0,)
        assert hidden.shape == (0, 5)
        assert (head == 0).all()


# -- mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "kl"}, "kind must be forward_kl, reverse_kl or jsd, not 'kl'"),
        ({"kind": "jsd", "beta": 0.0}, "beta must lie strictly between 0 and 1, not 0.0"),
        ({"kind": "jsd", "beta": 1.0}, "beta must lie strictly between 0 and 1, not 1.0"),
        ({"temperature": 0.0}, "temperature must be positive, not 0.0"),
        ({"temperature": math.nan}, "temperature must be positive, not nan"),
        ({"top_k": 0}, "top_k must be at least 1, not 0"),
        ({"top_k": 2, "top_k_of": "techer"}, "top_k_of must be teacher or student, not 'techer'"),
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
