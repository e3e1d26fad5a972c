"""Every variant's value and gradient against the dense fp64 oracle, and the memory that neither pass may take."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from selfdistill.method.chunked import LIMITS
from selfdistill.method.divergence import chunked_divergence, chunked_logprobs, chunked_sampled_divergence
from tests.support.dense_oracle import (
    KINDS,
    SUPPORTS,
    TRANSFORMS,
    VARIANTS,
    Case,
    chunk_target,
    logs,
    make_case,
    oracle,
    variant_name,
    with_gradients,
)


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
    spread=st.sampled_from([0.0, 1e-3, 1.0, 8.0]),  # at 8 and low temperature most probabilities are below fp32's
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


def test_no_tokens_give_no_values_and_zero_gradients():
    case, none = make_case(0, 9), torch.empty(0, dtype=torch.int64)
    for values in (
        lambda c: chunked_divergence(*c.tensors),
        lambda c: chunked_sampled_divergence(*c.tensors, token_ids=none),
        lambda c: chunked_logprobs(c.student_hidden, c.student_head, none),
    ):
        result, hidden, head = with_gradients(values, case, torch.empty(0))
        assert result.shape == (0,)
        assert hidden.shape == (0, 5)
        assert (head == 0).all()


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
            values = chunked_sampled_divergence(*leaves, token_ids=token_ids, chunk_size=CHUNK)
        else:
            values = chunked_divergence(*leaves, chunk_size=CHUNK, **options)
        values.sum().backward()
    head, chunk = VOCABULARY * 7, VOCABULARY * CHUNK
    assert chunked.numel <= max(head, chunk, TOKENS * 7)
    with LargestTensor() as dense:  # the measure does see such a tensor where there is one
        oracle(Case(*leaves)).sum().backward()
    assert dense.numel == TOKENS * VOCABULARY


@pytest.mark.parametrize(("target", "references"), [("mix", 1), ("budget", 0), ("contrast", 2)])
def test_no_such_tensor_for_a_target(target, references):
    cases = [make_case(TOKENS, VOCABULARY, seed=seed) for seed in range(1 + references)]
    leaves = [tensor.float().requires_grad_() for tensor in cases[0].tensors]
    others = [(case.teacher_hidden.float(), case.teacher_head.float()) for case in cases[1:]]
    numbers = {"mix": {"weight": 0.5}, "budget": {"budget": 0.1}}.get(target, {})
    with LargestTensor() as chunked:
        held = chunk_target(target, others, **numbers)
        chunked_divergence(*leaves, chunk_size=CHUNK, target=held).sum().backward()
    assert chunked.numel <= max(VOCABULARY * 7, VOCABULARY * CHUNK, TOKENS * 7)


@pytest.mark.parametrize(("rows", "vocabulary"), [(100, 80), (64, 2_000)])
def test_default_chunks_hold_so_many_logits_and_at_least_64_rows(monkeypatch, rows, vocabulary):
    assert (LIMITS["cpu"].logits, LIMITS["cpu"].fewest_rows) == (2**23, 64)
    monkeypatch.setitem(LIMITS, "cpu", replace(LIMITS["cpu"], logits=8_000))
    zeros = torch.zeros(150, 1)
    with LargestTensor() as largest:
        values = chunked_divergence(zeros, torch.zeros(vocabulary, 1), zeros, torch.zeros(vocabulary, 1))
    assert largest.numel == rows * vocabulary
    assert values.tolist() == [0.0] * 150


@pytest.mark.parametrize("weights", [None, torch.linspace(0.1, 2, 7, dtype=torch.float64)])
def test_the_gradient_of_the_head_is_the_same_in_tiles(monkeypatch, weights):
    case = make_case(tokens=7, vocabulary=13, spread=2.0)

    def gradients():
        return with_gradients(lambda c: chunked_divergence(*c.tensors, weights=weights), case, torch.ones(7).double())

    whole = gradients()
    three_rows = 3 * case.tensors[1].shape[1] + 1  # the last tile has one
    monkeypatch.setitem(LIMITS, "cpu", replace(LIMITS["cpu"], tile_elements=three_rows))
    for ours, theirs in zip(gradients(), whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("variant", VARIANTS, ids=variant_name)
def test_gradients_made_along_with_the_values_are_those_of_the_weighted_sum(variant):
    case = make_case(tokens=7, vocabulary=13, spread=2.0)
    weights = torch.linspace(0.1, 2, 7, dtype=torch.float64)
    ones = torch.full((7,), 3.0, dtype=torch.float64)
    values, hidden, head = with_gradients(
        lambda c: chunked_divergence(*c.tensors, chunk_size=3, weights=weights, **variant), case, ones
    )
    expected = with_gradients(lambda c: oracle(c, **variant) * weights, case, ones)
    for ours, theirs in zip((values, hidden, head), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_with_weights_every_token_must_have_the_same_gradient():
    case = make_case(tokens=3, vocabulary=5)
    hidden = case.student_hidden.clone().requires_grad_()
    values = chunked_divergence(hidden, *case.tensors[1:], weights=torch.ones(3, dtype=torch.float64))
    with pytest.raises(ValueError, match="sum the values"):
        values.backward(torch.tensor([1.0, 1.0, 2.0], dtype=torch.float64))


def test_weights_of_another_length_are_refused():
    case = make_case(tokens=3, vocabulary=5)
    with pytest.raises(ValueError, match=r"weights \(2,\)"):
        chunked_divergence(*case.tensors, weights=torch.ones(2, dtype=torch.float64))
