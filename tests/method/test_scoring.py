"""Scores of given tokens: the settings' divergence, importance weights by hand, and both roles on the same tokens."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from selfdistill.method.scoring import (
    Predictions,
    chosen_target,
    divergences,
    importance_weights,
    in_parts,
    logprobs,
    predictions,
    token_divergences,
    whole_sample,
)
from selfdistill.models.output_head import HeadTransform
from selfdistill.settings.method import MethodConfig
from selfdistill.types import PromptPair
from tests.support.dense_oracle import Case, dense_target, make_case, oracle
from tests.support.engines import stopped
from tests.support.examples import example
from tests.support.tiny import random_model

CPU = torch.device("cpu")
LN2 = math.log(2)


def pair(student: list[int], teacher: list[int] | None = None) -> PromptPair:
    return PromptPair(
        example=example(), student_ids=tuple(student), teacher_ids=None if teacher is None else tuple(teacher)
    )


# -- the settings' divergence ----------------------------------------------------------------------

CASE = make_case(tokens=7, vocabulary=13, spread=2.0)
TOKENS = torch.tensor([0, 12, 3, 3, 7, 1, 5])
SCALE, CAP = 0.5, 3.0


def sides(case: Case) -> tuple[Predictions, Predictions]:
    transform = HeadTransform(scale=SCALE, softcap=CAP)
    return (
        Predictions(hidden=case.student_hidden, head=case.student_head, transform=transform),
        Predictions(hidden=case.teacher_hidden, head=case.teacher_head, transform=transform),
    )


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {}),
        ({"divergence": "reverse_kl"}, {"kind": "reverse_kl"}),
        ({"divergence": "jsd", "divergence_beta": 0.25}, {"kind": "jsd", "beta": 0.25}),
        ({"temperature": 0.5}, {"temperature": 0.5}),
        ({"divergence_clip": 0.4}, {"clip": 0.4}),
        ({"vocab_clip": 0.02}, {"vocab_clip": 0.02}),
        ({"divergence_support": "top_k", "divergence_top_k": 3}, {"top_k": 3}),
        ({"divergence_support": "full", "divergence_top_k": 3}, {}),
        (
            {
                "divergence_support": "top_k",
                "divergence_top_k": 3,
                "divergence_top_k_of": "student",
                "divergence_tail": True,
            },
            {"top_k": 3, "top_k_of": "student", "tail": True},
        ),
    ],
    ids=str,
)
def test_settings_say_how_a_token_is_compared(settings: dict[str, Any], expected: dict[str, Any]):
    dense = oracle(CASE, logit_scale=SCALE, softcap=CAP, **expected)
    config = MethodConfig(**settings)
    torch.testing.assert_close(divergences(*sides(CASE), TOKENS, config), dense)
    weights = torch.linspace(1, 2, 7, dtype=torch.float64)
    torch.testing.assert_close(divergences(*sides(CASE), TOKENS, config, weights=weights), dense * weights)


@pytest.mark.parametrize(
    ("settings", "kind", "numbers"),
    [
        ({"target": "mix", "target_weight": 0.3, "target_reference": "student"}, "mix", {"weight": 0.3}),
        ({"target": "budget", "target_budget": 0.4}, "budget", {"budget": 0.4}),
    ],
    ids=str,
)
def test_settings_say_what_takes_the_teachers_place(settings: dict[str, Any], kind: str, numbers: dict[str, float]):
    config = MethodConfig(**settings)
    dense = oracle(CASE, logit_scale=SCALE, softcap=CAP, target=dense_target(kind, **numbers))
    found = divergences(*sides(CASE), TOKENS, config, target=chosen_target(config, ()))
    torch.testing.assert_close(found, dense, atol=1e-3, rtol=0)


def test_the_teachers_place_is_its_own_by_default():
    assert chosen_target(MethodConfig(), ()) is None


def dense_logprobs(hidden: Tensor, head: Tensor, temperature: float = 1.0) -> Tensor:
    """[N] log-probabilities of TOKENS, the plain way."""
    logits = CAP * torch.tanh(hidden @ head.T * SCALE / CAP) / temperature
    return logits.log_softmax(-1)[torch.arange(len(TOKENS)), TOKENS]


def test_the_sampled_token_alone_may_be_compared():
    config = MethodConfig(divergence="reverse_kl", divergence_support="sampled", temperature=0.5, divergence_clip=0.7)
    ratio = dense_logprobs(CASE.student_hidden, CASE.student_head, 0.5) - dense_logprobs(
        CASE.teacher_hidden, CASE.teacher_head, 0.5
    )
    assert ratio.abs().max() > 0.7
    torch.testing.assert_close(divergences(*sides(CASE), TOKENS, config), ratio.clamp(-0.7, 0.7))


def test_logprobs_are_of_the_transformed_logits():
    student, _ = sides(CASE)
    expected = dense_logprobs(CASE.student_hidden, CASE.student_head, 0.7)
    torch.testing.assert_close(logprobs(student, TOKENS, temperature=0.7), expected)
    weights = -torch.ones(7, dtype=torch.float64)
    torch.testing.assert_close(logprobs(student, TOKENS, temperature=0.7, weights=weights), -expected)


def test_detached_predictions_carry_no_gradient():
    leaves = [tensor.clone().requires_grad_() for tensor in CASE.tensors[:2]]
    student = Predictions(hidden=leaves[0], head=leaves[1], transform=HeadTransform(scale=1.0, softcap=None))
    assert logprobs(student, TOKENS).requires_grad
    assert not logprobs(student.detach(), TOKENS).requires_grad


# -- importance weights ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cap", "first", "second"),
    [
        # ratios 2, 4, 1 of the first rollout and 1/2 of the second; (2 + 4 + 1) / 3
        (10.0, 7 / 3, 1 / 2),
        (3.0, 2.0, 1 / 2),  # (2 + 3 + 1) / 3
        (2.0, 5 / 3, 1 / 2),  # (2 + 2 + 1) / 3
        (0.25, 1 / 4, 1 / 4),
    ],
)
def test_importance_weights_by_hand(cap: float, first: float, second: float):
    trainer = torch.tensor([LN2 - 3, 2 * LN2 - 5, -1.0, -LN2 - 2])
    sampler = torch.tensor([-3.0, -5.0, -1.0, -2.0])
    weights = importance_weights(trainer, sampler, [3, 1], cap)
    assert weights.tolist() == pytest.approx([first] * 3 + [second])


def test_importance_weights_of_one_set_of_weights_are_one():
    same = torch.tensor([-0.5, -100.0, -3.0])
    assert importance_weights(same, same, [1, 2], 2.0).tolist() == [1.0, 1.0, 1.0]
    assert importance_weights(same, same, [1, 0, 2], 2.0).tolist() == [1.0, 1.0, 1.0]  # one without a loss token


# -- a model in both roles -------------------------------------------------------------------------

PAIRS = [pair([3, 4], [5, 6, 7, 3, 4]), pair([8], [9] * 6), pair([10, 11, 12], [13]), pair([14, 15], [16, 14, 15])]
COMPLETIONS = [stopped(20, 21, 2), stopped(22, 23, 24, 25, 2), stopped(), stopped(26)]


def alone(model: PreTrainedModel, prompt: tuple[int, ...], completion: tuple[int, ...]) -> Tensor:
    """[completion length, V] log-probabilities of the positions that predict the completion."""
    ids = torch.tensor([[*prompt, *completion]])
    return model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].log_softmax(-1)


@pytest.mark.parametrize("batch_size", [1, 2, 16])
@torch.no_grad()
def test_token_divergences_are_those_of_each_completion_alone(batch_size: int):
    student, teacher = random_model("llama"), random_model("llama", initializer_range=0.4)
    found = token_divergences(student, teacher, PAIRS, COMPLETIONS, pad_token_id=0, batch_size=batch_size)
    assert [len(values) for values in found] == [3, 5, 0, 1]
    for values, each, rollout in zip(found, PAIRS, COMPLETIONS, strict=True):
        if not rollout.completion_ids:
            continue
        assert each.teacher_ids is not None
        log_q = alone(student, each.student_ids, rollout.completion_ids)
        log_p = alone(teacher, each.teacher_ids, rollout.completion_ids)
        torch.testing.assert_close(values, (log_p.exp() * (log_p - log_q)).sum(-1), rtol=1e-4, atol=1e-5)
        assert values.min() > 1e-3


@pytest.mark.parametrize("same", [None, [3, 4, 5]])
def test_a_model_does_not_differ_from_itself_on_the_same_prompt(same: list[int] | None):
    model = random_model("llama")
    (values,) = token_divergences(model, model, [pair([3, 4, 5], same)], [stopped(6, 7, 2)], pad_token_id=0)
    assert values.tolist() == pytest.approx([0.0] * 3, abs=1e-6)


@torch.no_grad()
def test_predictions_are_those_of_the_positions_before_the_tokens():
    model = random_model("gemma2", final_logit_softcapping=3.0)
    samples = [whole_sample(each, rollout) for each, rollout in zip(PAIRS, COMPLETIONS, strict=True)]
    ((indices, part),) = in_parts(samples, 0, CPU)
    found = logprobs(predictions(model, part.student), part.token_ids).split(part.counts)
    assert sorted(indices) == [0, 1, 3]
    for index, values in zip(indices, found, strict=True):
        ids = COMPLETIONS[index].completion_ids
        dense = alone(model, PAIRS[index].student_ids, ids)
        torch.testing.assert_close(values, dense[torch.arange(len(ids)), torch.tensor(ids)], rtol=1e-4, atol=1e-4)


# -- parts -----------------------------------------------------------------------------------------


def test_all_tokens_of_a_whole_sample_are_looked_at():
    sample = whole_sample(PAIRS[0], COMPLETIONS[0], "tokens")
    assert (sample.loss_positions, sample.target) == ((0, 1, 2), "tokens")
    assert whole_sample(PAIRS[0], stopped()).loss_positions == ()


@pytest.mark.parametrize(("batch_size", "sizes"), [(1, [1] * 5), (2, [2, 2, 1]), (3, [3, 2]), (4, [3, 2]), (5, [5])])
def test_parts_are_of_like_size_and_length(batch_size: int, sizes: list[int]):
    samples = [whole_sample(pair([1] * length), stopped(5, 2)) for length in (2, 9, 4, 7, 3)]
    found = list(in_parts(samples, 0, CPU, batch_size))
    assert [len(indices) for indices, _ in found] == sizes
    assert [index for indices, _ in found for index in indices] == [1, 3, 2, 4, 0]  # the longest first
    for indices, part in found:
        assert part.samples == tuple(samples[index] for index in indices)
        assert part.token_ids.tolist() == [5, 2] * len(indices)


def test_samples_without_a_token_are_in_no_part():
    samples = [whole_sample(pair([1]), stopped()), whole_sample(pair([1]), stopped(2))]
    assert [indices for indices, _ in in_parts(samples, 0, CPU, 1)] == [[1]]
    assert list(in_parts(samples[:1], 0, CPU)) == list(in_parts([], 0, CPU)) == []
