"""Functions of the sampled token: by hand, in expectation, and against cross-entropy."""

import math

import pytest
import torch
from torch import Tensor

from selfdistill.method.divergence import chunked_logprobs, chunked_sampled_divergence, transform_logits
from tests.support.dense_oracle import Case, log_heads, make_case, oracle, variant_name, with_gradients

LN2 = math.log(2)


def test_sampled_token_by_hand():
    case = log_heads([1 / 2, 1 / 4, 1 / 4], [1 / 4, 1 / 4, 1 / 2])
    rows = Case(
        case.student_hidden.expand(3, 1), case.student_head, case.teacher_hidden.expand(3, 1), case.teacher_head
    )
    token_ids = torch.tensor([0, 1, 2])
    # ln q(y)/p(y): ln 1/2, 0, ln 2
    assert chunked_sampled_divergence(*rows.tensors, token_ids=token_ids).tolist() == pytest.approx([-LN2, 0, LN2])
    clipped = chunked_sampled_divergence(*rows.tensors, token_ids=token_ids, clip=0.5)
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
        return (q * chunked_sampled_divergence(*rows, token_ids=token_ids, chunk_size=3, **options)).sum()[None]

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

    ours = with_gradients(
        lambda c: chunked_sampled_divergence(*c.tensors, token_ids=token_ids, clip=1.0), case, torch.ones(4)
    )
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
    assert torch.autograd.gradcheck(
        lambda h, w: chunked_logprobs(h, w, token_ids, chunk_size=4, **options), (hidden, head)
    )
