"""Completions that both models read as they grow: whom each token is from, and that both read the same prefix."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from selfdistill.method.rollout.engine import Sampling
from selfdistill.method.rollout.own import OwnEngine
from selfdistill.method.rollout.sampling import uniforms
from selfdistill.method.rollout.together import OTHER_STREAM, Prompts, Together, accept, interleave
from selfdistill.types import Rollout
from tests.support.tiny import random_model

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14, 15], [16, 17], [18, 19, 20, 21]]
SHOWN = [[30, *prompt, 31] for prompt in PROMPTS]
HOT = Sampling(max_new_tokens=12, temperature=1.5, seeds=(1, 2, 3, 4, 5))
V = 40


def other_model(scale: float = 1.0, noise: float = 0.3) -> Any:
    """A model with other weights, whose logits are ``scale`` times as large."""
    model: Any = random_model()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
        model.get_output_embeddings().weight.mul_(scale)
    return model


def interleaved(teacher: Any, top_k: int, batch_size: int = 64, student: Any = None) -> Together:
    engine = OwnEngine(student or random_model(), {2}, 0, batch_size)
    judge = partial(interleave, top_k=top_k)
    return Together(engine=engine, teacher=teacher, context=nullcontext, judge=judge, ends=False)


def accepted(teacher: Any, batch_size: int = 64, student: Any = None) -> Together:
    engine = OwnEngine(student or random_model(), {2}, 0, batch_size)
    return Together(engine=engine, teacher=teacher, context=nullcontext, judge=accept, ends=True)


def prompts(asked: list[list[int]] = PROMPTS, shown: list[list[int]] = SHOWN) -> list[Prompts]:
    return [Prompts(student, teacher) for student, teacher in zip(asked, shown, strict=True)]


def distribution(model: Any, ids: list[int], temperature: float = 1.5) -> Tensor:
    """[V] fp64: the next token's probabilities by the model's own forward pass."""
    with torch.no_grad():
        return (model(input_ids=torch.tensor([ids])).logits[0, -1].double() / temperature).softmax(-1)


# -- judges ------------------------------------------------------------------------------------------


def test_a_token_passes_with_probability_p_over_q() -> None:
    """p = .1 and q = .4: a quarter of the draws; p = .6 and q = .5: all."""
    logits = torch.tensor([[0.1, 0.6, 0.3]]).log().repeat(4, 1)
    tokens, drawn = torch.tensor([0, 0, 1, 1]), torch.tensor([0.2, 0.3, 0.0, 0.999])
    logprobs = torch.tensor([0.4, 0.4, 0.5, 0.5]).log()
    written, stopped = accept(tokens, logprobs, logits, Sampling(max_new_tokens=1), drawn)
    assert stopped.tolist() == [False, True, False, False]
    assert torch.equal(written, tokens)


def test_a_token_outside_the_teachers_top_k_is_replaced() -> None:
    logits = torch.tensor([[0.1, 0.6, 0.3]]).log().repeat(4, 1)
    tokens, drawn = torch.tensor([0, 1, 2, 0]), torch.tensor([0.05, 0.5, 0.5, 0.8])
    judged = [interleave(tokens, logits[:, 0], logits, Sampling(max_new_tokens=1), drawn, top_k=k) for k in (1, 2, 3)]
    assert [stopped.tolist() for _, stopped in judged] == [
        [True, False, True, True],
        [True, False, False, True],
        [False] * 4,
    ]
    # the teacher draws 0 below .1, 1 below .7, and 2 above
    assert [written.tolist() for written, _ in judged] == [[0, 1, 1, 2], [0, 1, 2, 2], [0, 1, 2, 0]]


def test_likeliest_tokens_of_the_same_rank_are_all_in() -> None:
    logits = torch.tensor([[1.0, 1.0, 0.0]])
    for token, outside in ((0, False), (1, False), (2, True)):
        _, stopped = interleave(
            torch.tensor([token]), logits[:, 0], logits, Sampling(max_new_tokens=1), torch.tensor([0.5]), top_k=1
        )
        assert stopped.tolist() == [outside]


def test_the_judge_has_random_numbers_of_its_own() -> None:
    own, other = (
        uniforms([seed ^ flipped for seed in (1, 2, 3)], 8, torch.device("cpu")) for flipped in (0, OTHER_STREAM)
    )
    assert own is not None
    assert other is not None
    assert not torch.isin(own, other).any()


# -- where nothing can differ ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "temperature"),
    [
        pytest.param(partial(interleaved, top_k=V), 1.5, id="all tokens are in"),
        pytest.param(partial(interleaved, top_k=1), 1e-3, id="nobody takes another than the likeliest"),
        pytest.param(accepted, 1.5, id="accepted"),
    ],
)
@pytest.mark.parametrize("batch_size", [2, 64])
def test_a_teacher_that_is_the_student_lets_every_draw_pass(
    made: Callable[..., Together], temperature: float, batch_size: int
) -> None:
    student, sampling = random_model(), replace(HOT, temperature=temperature)
    same = made(teacher=student, batch_size=batch_size, student=student)
    found = same.generate(prompts(PROMPTS, PROMPTS), sampling)
    alone = OwnEngine(student, {2}, 0).generate(PROMPTS, sampling)
    assert [each.completion_ids for each in found] == [each.completion_ids for each in alone]
    assert [each.finish_reason for each in found] == [each.finish_reason for each in alone]
    assert len({len(each.completion_ids) for each in found}) > 1 or temperature < 1
    if same.ends:
        assert [each.accepted for each in found] == [len(each.completion_ids) for each in found]
    assert {each.replaced for each in found} == {None if same.ends else ()}


def test_a_teacher_with_all_mass_on_one_sequence_writes_it() -> None:
    teacher = other_model(scale=1e6)
    found = interleaved(teacher, top_k=1, batch_size=2).generate(prompts(), HOT)
    for shown, rollout in zip(SHOWN, found, strict=True):
        ids = list(shown)
        for token in rollout.completion_ids:
            assert distribution(teacher, ids)[token] > 0.999
            ids.append(token)
        assert len(rollout.completion_ids) == 12 or rollout.completion_ids[-1] == 2
    assert any(rollout.replaced for rollout in found)


# -- distributions -----------------------------------------------------------------------------------


def first_tokens(made: Together, count: int = 4000) -> tuple[list[Rollout], Tensor]:
    """Completions of one token for the first prompt, and how often each token was written, [V]."""
    sampling = Sampling(max_new_tokens=1, temperature=1.5, seeds=tuple(range(count)))
    rollouts = made.generate([Prompts(PROMPTS[0], SHOWN[0])] * count, sampling)
    return rollouts, torch.bincount(torch.tensor([each.completion_ids[0] for each in rollouts]), minlength=V)


def chi_square(counts: Tensor, expected: Tensor) -> float:
    """Pearson's statistic, in standard deviations above its mean; tokens expected less than five times are one."""
    wanted = expected * counts.sum()
    rare = wanted < 5
    seen = torch.cat([counts[~rare], counts[rare].sum()[None]]).double()
    wanted = torch.cat([wanted[~rare], wanted[rare].sum()[None]])
    seen, wanted = seen[wanted > 0], wanted[wanted > 0]
    freedom = len(seen) - 1
    return float((((seen - wanted) ** 2 / wanted).sum() - freedom) / (2 * freedom) ** 0.5)


def test_with_a_top_k_of_the_whole_vocabulary_tokens_are_the_students() -> None:
    student, teacher = random_model(), other_model()
    q, p = distribution(student, PROMPTS[0]), distribution(teacher, SHOWN[0])
    rollouts, counts = first_tokens(interleaved(teacher, top_k=V, student=student))
    assert chi_square(counts, q) < 4
    assert chi_square(counts, p) > 20
    assert {each.replaced for each in rollouts} == {()}


def test_with_a_smaller_one_the_teacher_fills_what_it_took_out() -> None:
    student, teacher = random_model(), other_model()
    q, p = distribution(student, PROMPTS[0]), distribution(teacher, SHOWN[0])
    kept = torch.zeros(V, dtype=torch.bool).index_fill(0, p.topk(5).indices, True)
    mixed = q * kept + q[~kept].sum() * p
    rollouts, counts = first_tokens(interleaved(teacher, top_k=5, student=student))
    assert chi_square(counts, mixed) < 4
    assert chi_square(counts, q) > 20
    replaced, share = sum(each.replaced == (0,) for each in rollouts) / 4000, float(q[~kept].sum())
    assert abs(replaced - share) < 5 * (share * (1 - share) / 4000) ** 0.5


def test_as_many_are_accepted_as_the_distributions_overlap() -> None:
    """The sum of min(p, q) of draws from q."""
    student, teacher = random_model(), other_model()
    q, p = distribution(student, PROMPTS[0]), distribution(teacher, SHOWN[0])
    rollouts, counts = first_tokens(accepted(teacher, student=student))
    share = float(torch.minimum(p, q).sum())
    found = sum(each.accepted == 1 for each in rollouts) / 4000
    assert 0.1 < share < 0.9
    assert abs(found - share) < 5 * (share * (1 - share) / 4000) ** 0.5
    assert chi_square(counts, q) < 4  # what is rejected stands there, too, as the last token
    assert all(
        (each.finish_reason == "rejected") == (each.accepted == 0) for each in rollouts if each.completion_ids != (2,)
    )


# -- caches ------------------------------------------------------------------------------------------


def test_every_judgement_is_of_the_prefix_that_was_written() -> None:
    student, teacher = random_model(), other_model()
    found = interleaved(teacher, top_k=4, batch_size=3, student=student).generate(prompts(), HOT)
    assert sum(len(each.replaced or ()) for each in found) > 5
    assert any(place not in (each.replaced or ()) for each in found for place in range(len(each.completion_ids)))
    assert HOT.seeds is not None
    judged = uniforms([seed ^ OTHER_STREAM for seed in HOT.seeds], 12, torch.device("cpu"))
    drawn = uniforms(HOT.seeds, 12, torch.device("cpu"))
    assert judged is not None
    assert drawn is not None
    for row, (asked, shown, rollout) in enumerate(zip(PROMPTS, SHOWN, found, strict=True)):
        for place, token in enumerate(rollout.completion_ids):
            before = list(rollout.completion_ids[:place])
            p, q = distribution(teacher, [*shown, *before]), distribution(student, [*asked, *before])
            draw = int((q.cumsum(0) <= drawn[row, place]).sum())
            outside = int((p > p[draw]).sum()) >= 4
            assert (place in (rollout.replaced or ())) == outside
            assert token == (int((p.cumsum(0) <= judged[row, place]).sum()) if outside else draw)


def test_a_completion_ends_with_the_first_token_that_did_not_pass() -> None:
    student, teacher = random_model(), other_model()
    found = accepted(teacher, batch_size=3, student=student).generate(prompts(), HOT)
    judged = uniforms([seed ^ OTHER_STREAM for seed in HOT.seeds or ()], 12, torch.device("cpu"))
    assert judged is not None
    for row, (asked, shown, rollout) in enumerate(zip(PROMPTS, SHOWN, found, strict=True)):
        ids = rollout.completion_ids
        for place, token in enumerate(ids):
            p, q = distribution(teacher, [*shown, *ids[:place]]), distribution(student, [*asked, *ids[:place]])
            assert bool(judged[row, place] < p[token] / q[token]) == (place < (rollout.accepted or 0))
        assert rollout.accepted == len(ids) - (rollout.finish_reason == "rejected")
    assert "rejected" in {each.finish_reason for each in found}


@pytest.mark.parametrize("made", [partial(interleaved, top_k=4), accepted])
def test_a_completion_depends_on_its_own_seed_and_prompts_alone(made: Callable[..., Together]) -> None:
    student, teacher = random_model(), other_model(noise=0.05)
    asked = prompts(PROMPTS, PROMPTS)
    whole = made(teacher=teacher, student=student).generate(asked, HOT)
    assert len({len(each.completion_ids) for each in whole}) > 1
    for batch_size in (1, 2):
        assert made(teacher=teacher, batch_size=batch_size, student=student).generate(asked, HOT) == whole
    for row, each in enumerate(whole):
        own = Sampling(max_new_tokens=12, temperature=1.5, seeds=(row + 1,))
        assert made(teacher=teacher, student=student).generate(asked[row : row + 1], own) == [each]


def test_the_longer_prompt_decides_how_much_fits_the_context() -> None:
    sampling = Sampling(max_new_tokens=10, temperature=1.5, seeds=(1,), context=12)
    engine = OwnEngine(random_model(), (), 0)
    made = Together(
        engine=engine, teacher=random_model(), context=nullcontext, judge=partial(interleave, top_k=V), ends=False
    )
    (rollout,) = made.generate([Prompts([5, 6], [7] * 9)], sampling)
    assert (len(rollout.completion_ids), rollout.finish_reason) == (3, "length")
