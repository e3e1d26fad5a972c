"""Weights of tokens, worked out by hand."""

import math

import pytest
import torch

from selfdistill.method.token_weights import (
    LEAST,
    TOKEN_WEIGHTS,
    certainty,
    chunked_entropies,
    early,
    late,
    prefix_support,
    token_weights,
)


def test_a_token_counts_as_its_prefix_is_supported():
    q = torch.tensor([0.5, 0.2, 0.8, 0.9, 0.3, 0.4])
    p = torch.tensor([0.25, 0.4, 0.2, 0.0009, 0.1, 0.4])
    # p / q: 1/2, 2, 1/4, 1/1000 in the first completion, 1/3 and 1 in the second; each token has those before it
    found = prefix_support(p.log(), q.log(), [4, 2])
    assert found.tolist() == pytest.approx([1, 1 / 2, 1 / 2, 1 / 8, 1, 1 / 3])


def test_no_tokens_have_no_weights():
    assert prefix_support(torch.zeros(0), torch.zeros(0), []).tolist() == []


def test_positions():
    places = torch.tensor([0.0, 1.0, 2.0, 4.0])
    assert early(places, 2.0).tolist() == pytest.approx([1, math.sqrt(0.5), 1 / 2, 1 / 4])
    assert late(places, 1.0).tolist() == pytest.approx([1 / 2, 3 / 4, 7 / 8, 31 / 32])


def test_a_teacher_between_four_tokens_counts_a_quarter():
    assert certainty(torch.tensor([0.0, math.log(4)])).tolist() == pytest.approx([1, 1 / 4])


def test_entropies_in_chunks():
    hidden, head = torch.eye(3).double(), torch.zeros(4, 3).double()
    head[:, 1] = torch.tensor([0.5, 0.25, 0.125, 0.125]).log()
    found = chunked_entropies(hidden, head, chunk_size=2)
    # even, then 1/2 log 2 + 1/4 log 4 + 2/8 log 8 = 7/4 log 2, then even
    assert found.tolist() == pytest.approx([math.log(4), 1.75 * math.log(2), math.log(4)])
    # at temperature 1/2 the probabilities are squared: 16, 4, 1, 1 of 22
    squared = torch.tensor([16, 4, 1, 1]) / 22
    colder = chunked_entropies(hidden, head, temperature=0.5)[1]
    assert float(colder) == pytest.approx(float(-(squared * squared.log()).sum()))


def test_only_what_a_row_reads_is_computed_and_none_is_zero():
    asked: list[str] = []

    def known(name: str, value: object):
        return lambda: asked.append(name) or value

    facts = {
        "positions": known("positions", torch.tensor([0.0, 5000.0])),
        "half_life": known("half_life", 1.0),
        "entropies": known("entropies", torch.zeros(2)),
    }
    assert token_weights("one", facts) is None
    assert asked == []
    found = token_weights("position", facts)
    assert asked == ["positions", "half_life"]
    assert found is not None
    assert found.tolist() == pytest.approx([1, LEAST])


def test_every_row_reads_what_there_is():
    names = {"teacher_logprobs", "student_logprobs", "counts", "positions", "entropies", "half_life"}
    assert {name for spec in TOKEN_WEIGHTS.values() for name in spec.reads} == names
