"""The divergence from a teacher of whom only the likeliest tokens are known: by hand, and against the dense oracle."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from selfdistill.method.top_k import LEAST_TAIL, chunked_top_k_divergence, with_tail
from tests.support.dense_oracle import VARIANTS, Case, log_heads, logs, make_case, oracle, variant_name, with_gradients

KNOWN = [
    variant
    for variant in VARIANTS
    if variant.get("top_k_of") == "teacher" and not (variant.get("tail") and "temperature" in variant)
]
ONE = torch.ones(1, 1, dtype=torch.float64)


def likeliest(case: Case, top_k: int, logit_scale: float = 1.0, softcap: float | None = None) -> tuple[Tensor, Tensor]:
    """Ids and log-probabilities at temperature 1 of the teacher's likeliest tokens."""
    logits = case.teacher_hidden @ case.teacher_head.T * logit_scale
    if softcap is not None:
        logits = (logits / softcap).tanh() * softcap
    found = logits.log_softmax(-1).topk(top_k)
    return found.indices, found.values


def of_case(case: Case, **options: Any) -> Tensor:
    """``chunked_top_k_divergence`` where the oracle's teacher is at hand."""
    top_k = options.pop("top_k")
    options.pop("top_k_of", None)
    ids, log_probs = likeliest(case, top_k, options.get("logit_scale", 1.0), options.get("softcap"))
    tail = options.pop("tail", False)
    return chunked_top_k_divergence(case.student_hidden, case.student_head, ids, log_probs, tail=tail, **options)


P, Q = [0.5, 0.3, 0.1, 0.1], [0.25, 0.25, 0.25, 0.25]
"""The two likeliest of p are 0 and 1; the others have 0.2 by p and 0.5 by q."""
MIXED = [0.375, 0.275, 0.35]
ROOT = 5**0.5 / (5**0.5 + 3**0.5)
"""At temperature 2 the square roots of 5/8 and 3/8 are renormalised."""


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"kind": "forward_kl"}, 0.5 * math.log(2) + 0.3 * math.log(1.2) + 0.2 * math.log(0.4)),
        ({"kind": "reverse_kl"}, 0.25 * math.log(0.5) + 0.25 * math.log(0.25 / 0.3) + 0.5 * math.log(2.5)),
        (
            {"kind": "jsd"},
            0.5 * sum(p * math.log(p / m) for p, m in zip((0.5, 0.3, 0.2), MIXED, strict=True))
            + 0.5 * sum(q * math.log(q / m) for q, m in zip((0.25, 0.25, 0.5), MIXED, strict=True)),
        ),
        ({"tail": False}, 0.625 * math.log(1.25) + 0.375 * math.log(0.75)),
        ({"tail": False, "temperature": 2.0}, ROOT * math.log(2 * ROOT) + (1 - ROOT) * math.log(2 - 2 * ROOT)),
        # the entries of the forward KL are p (log p - log q) - p + q
        ({"vocab_clip": 0.05}, 0.05 + (0.3 * math.log(1.2) - 0.05) + 0.05),
    ],
    ids=str,
)
def test_by_hand(options: dict[str, Any], expected: float) -> None:
    case = log_heads(P, Q)
    found = chunked_top_k_divergence(ONE, case.student_head, torch.tensor([[1, 0]]), logs(0.3, 0.5)[None], **options)
    assert found.tolist() == [pytest.approx(expected, rel=1e-12)]


def test_the_gradient_by_hand() -> None:
    """q - p for the two; of the tail each other token has its share, q - 0.2 q / 0.5."""
    head = log_heads(P, Q).student_head.requires_grad_()
    chunked_top_k_divergence(ONE, head, torch.tensor([[0, 1]]), logs(0.5, 0.3)[None]).sum().backward()
    assert head.grad is not None
    assert head.grad.flatten().tolist() == pytest.approx([-0.25, -0.05, 0.15, 0.15])


@pytest.mark.parametrize("variant", [*KNOWN, {"top_k": 4, "tail": True, "vocab_clip": 0.1}], ids=variant_name)
def test_values_and_gradients_are_those_of_a_teacher_at_hand(variant: dict[str, Any]) -> None:
    case, weights = make_case(tokens=7, vocabulary=13, spread=2.0), torch.linspace(-1, 2, 7, dtype=torch.float64)
    expected = with_gradients(lambda c: oracle(c, **variant), case, weights)
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 5e-5)):
        found = with_gradients(lambda c: of_case(c, chunk_size=3, **variant), case.to(dtype), weights)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(
                ours.double(), theirs, rtol=0, atol=tolerance * max(1.0, float(theirs.abs().max()))
            )


def test_weights_give_the_gradient_in_the_forward_pass() -> None:
    case, weights = make_case(tokens=6, vocabulary=11), torch.linspace(0.5, 2, 6, dtype=torch.float64)
    later = with_gradients(lambda c: of_case(c, top_k=3, tail=True), case, weights)
    at_once = with_gradients(lambda c: of_case(c, top_k=3, tail=True, weights=weights), case, torch.ones(6))
    torch.testing.assert_close(at_once[0], later[0] * weights)
    for ours, theirs in zip(at_once[1:], later[1:], strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_tail_below_the_rounding_of_a_sum_has_a_floor() -> None:
    found = with_tail(torch.tensor([[0.75, 0.25], [0.5, 0.25]]).log())
    assert found.exp()[:, 2].tolist() == pytest.approx([LEAST_TAIL, 0.25], rel=1e-4)
    case = log_heads(P, Q)
    for kind in ("forward_kl", "reverse_kl", "jsd"):
        value = chunked_top_k_divergence(
            ONE, case.student_head, torch.tensor([[0, 1]]), logs(0.75, 0.25)[None], kind=kind
        )
        assert 0 < float(value) < 10


@pytest.mark.parametrize(
    ("ids", "log_probs", "options", "words"),
    [
        ([[0, 1]], [[-1.0]], {}, r"ids \(1, 2\) and log_probs \(1, 1\) must be \[N, k\]"),
        ([[0], [1]], [[-1.0], [-1.0]], {}, "for the 1 rows of student_hidden"),
        ([[0, 1, 2, 3]], [[-1.0, -2.0, -3.0, -4.0]], {}, "below the vocabulary's 4, not 4"),
        ([[0]], [[-1.0]], {"temperature": 0.5}, "temperature must be 1 with a tail, not 0.5"),
        ([[0]], [[-1.0]], {"kind": "kl"}, "kind must be one of"),
        ([[0]], [[-1.0]], {"clip": 0.0}, "clip must be positive"),
    ],
)
def test_what_can_not_be_computed_is_refused(ids: Any, log_probs: Any, options: dict[str, Any], words: str) -> None:
    head = log_heads(P, Q).student_head
    with pytest.raises(ValueError, match=words):
        chunked_top_k_divergence(ONE, head, torch.tensor(ids), torch.tensor(log_probs), **options)
