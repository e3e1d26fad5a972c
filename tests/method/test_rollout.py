"""Both engines on tiny models: the same greedy answers, ends of sequences, order, packing, what they sample from."""

from typing import Any

import pytest
import torch

from selfdistill.method.rollout.engine import Sampling
from selfdistill.method.rollout.generate import GenerateEngine
from selfdistill.method.rollout.own import OwnEngine
from selfdistill.models.adapters import lora
from selfdistill.models.attention import has_plain_attention

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14, 15], [16, 17], [18, 19, 20, 21]]
GREEDY = Sampling(max_new_tokens=12, temperature=0)
ENGINES: list[Any] = [OwnEngine, GenerateEngine]


def one_at_a_time(model: Any, prompt: list[int], eos: set[int], limit: int) -> tuple[int, ...]:
    """Greedy decoding as its definition says: no cache, no batch, no padding."""
    ids = list(prompt)
    for _ in range(limit):
        token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        ids.append(token)
        if token in eos:
            break
    return tuple(ids[len(prompt) :])


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3", "mistral"])
@pytest.mark.parametrize("batch_size", [1, 2, 64])
@pytest.mark.parametrize("engine", ENGINES)
def test_greedy_decoding_is_as_defined(tiny_model: Any, model_type: str, batch_size: int, engine: Any) -> None:
    options = {"sliding_window": None} if model_type == "mistral" else {}
    model = tiny_model(model_type, **options)
    assert has_plain_attention(model.config)
    free = [one_at_a_time(model, prompt, set(), 12) for prompt in PROMPTS]
    eos = {free[0][3], free[2][5]}  # ends some completions early and at different places
    expected = [one_at_a_time(model, prompt, eos, 12) for prompt in PROMPTS]
    assert len({len(ids) for ids in expected}) > 1
    rollouts = engine(model, eos, 0, batch_size=batch_size).generate(PROMPTS, GREEDY)
    assert [rollout.completion_ids for rollout in rollouts] == expected
    reasons = ["stop" if ids[-1] in eos else "length" for ids in expected]
    assert [rollout.finish_reason for rollout in rollouts] == reasons


@pytest.mark.parametrize("engine", ENGINES)
def test_an_end_that_is_the_last_allowed_token_is_a_stop(tiny_model: Any, engine: Any) -> None:
    model = tiny_model()
    ids = one_at_a_time(model, PROMPTS[0], set(), 4)
    limit = ids.index(ids[3]) + 1
    (rollout,) = engine(model, {ids[3]}, 0).generate(PROMPTS[:1], Sampling(max_new_tokens=limit, temperature=0))
    assert rollout.completion_ids == ids[:limit]
    assert rollout.finish_reason == "stop"


@pytest.mark.parametrize("engine", ENGINES)
def test_the_padding_token_may_be_sampled_and_is_kept(tiny_model: Any, engine: Any) -> None:
    """The pad id means nothing inside a completion: ids come back verbatim."""
    model = tiny_model()
    head = model.get_output_embeddings().weight
    with torch.no_grad():
        head[0] = head[5] * 50
        head[1] = -head[0]
    expected = one_at_a_time(model, PROMPTS[0], {2}, 6)
    assert 0 in expected or 1 in expected
    rollouts = engine(model, {2}, 0).generate(PROMPTS, Sampling(max_new_tokens=6, temperature=0))
    assert rollouts[0].completion_ids == expected


@pytest.mark.parametrize("engine", ENGINES)
def test_adapters_and_weights_of_the_moment_are_seen(tiny_model: Any, engine: Any) -> None:
    model: Any = lora(tiny_model(), r=2, alpha=2, dropout=0.0)

    def scale(factor: float) -> None:
        torch.manual_seed(0)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=factor)

    made = engine(model, {2}, 0)
    found = []
    for factor in (1.0, 3.0):
        scale(factor)
        made.sync()
        found.append([rollout.completion_ids for rollout in made.generate(PROMPTS, GREEDY)])
        assert found[-1] == [one_at_a_time(model, prompt, {2}, 12) for prompt in PROMPTS]
    assert found[0] != found[1]


@pytest.mark.parametrize("engine", ENGINES)
def test_sampling_follows_the_models_distribution(tiny_model: Any, engine: Any) -> None:
    model = tiny_model()
    count, temperature = 4000, 2.0
    logits = model(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1].detach()
    expected = (logits / temperature).softmax(-1)
    settings = Sampling(max_new_tokens=1, temperature=temperature, seeds=tuple(range(count)))
    rollouts = engine(model, {2}, 0, batch_size=count).generate([PROMPTS[0]] * count, settings)
    counts = torch.bincount(torch.tensor([rollout.completion_ids[0] for rollout in rollouts]), minlength=40)
    # five standard deviations of a binomial share
    assert ((counts / count - expected).abs() < 5 * (expected * (1 - expected) / count).sqrt() + 1e-3).all()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("batch_size", [2, 64])
def test_logprobs_are_those_of_the_sampled_tokens(tiny_model: Any, engine: Any, batch_size: int) -> None:
    """At the sampling temperature, before top_p; only where they are asked for."""
    model = tiny_model()
    settings = Sampling(max_new_tokens=6, temperature=0.5, top_p=0.9, logprobs=True, seeds=(1, 2, 3, 4, 5))
    for prompt, rollout in zip(PROMPTS, engine(model, {2}, 0, batch_size).generate(PROMPTS, settings), strict=True):
        ids = torch.tensor([[*prompt, *rollout.completion_ids]])
        log_probs = (model(input_ids=ids).logits[0].detach() / 0.5).log_softmax(-1)
        expected = log_probs[len(prompt) - 1 : -1].gather(-1, ids[0, len(prompt) :, None])[:, 0]
        assert rollout.logprobs == pytest.approx(expected.tolist(), abs=1e-4)
    plain = engine(model, {2}, 0).generate(PROMPTS, Sampling(max_new_tokens=2, seeds=(1, 2, 3, 4, 5)))
    assert {rollout.logprobs for rollout in plain} == {None}


# -- seeds by row ------------------------------------------------------------------------------------


def sampled(engine: Any, which: list[int], limit: int = 12) -> dict[int, tuple[int, ...]]:
    """Completions of some of the prompts, each with the seed that it always has."""
    settings = Sampling(max_new_tokens=limit, temperature=1.5, seeds=tuple(100 + index for index in which))
    rollouts = engine.generate([PROMPTS[index] for index in which], settings)
    return dict(zip(which, (rollout.completion_ids for rollout in rollouts), strict=True))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_completion_depends_on_its_own_seed_and_prompt_alone(tiny_model: Any, engine: Any) -> None:
    """Not on the prompts beside it, their order, or how many are decoded together."""
    model = tiny_model()
    whole = sampled(engine(model, {2}, 0), [0, 1, 2, 3, 4])
    assert len(set(whole.values())) == 5
    for batch_size in (1, 2, 3):
        assert sampled(engine(model, {2}, 0, batch_size=batch_size), [0, 1, 2, 3, 4]) == whole
    assert sampled(engine(model, {2}, 0), [4, 2, 0, 3, 1]) == whole
    for index, completion in whole.items():
        assert sampled(engine(model, {2}, 0), [index]) == {index: completion}


def test_both_engines_draw_the_same_tokens(tiny_model: Any) -> None:
    model = tiny_model()
    own, generate = (sampled(engine(model, {2}, 0, 2), [0, 1, 2, 3, 4]) for engine in ENGINES)
    assert own == generate


@pytest.mark.parametrize("engine", ENGINES)
def test_a_shorter_limit_cuts_the_same_completion(tiny_model: Any, engine: Any) -> None:
    model = tiny_model()
    long, short = (sampled(engine(model, {2}, 0), [0, 1, 2], limit) for limit in (12, 5))
    assert short == {index: ids[:5] for index, ids in long.items()}


@pytest.mark.parametrize("engine", ENGINES)
def test_the_same_prompt_with_two_seeds_has_two_completions(tiny_model: Any, engine: Any) -> None:
    settings = Sampling(max_new_tokens=12, temperature=1.5, seeds=(1, 2, 1))
    first, second, third = engine(tiny_model(), {2}, 0).generate([PROMPTS[0]] * 3, settings)
    assert first == third != second


@pytest.mark.parametrize("engine", ENGINES)
def test_seeds_leave_torchs_own_random_numbers_alone(tiny_model: Any, engine: Any) -> None:
    model = tiny_model()
    before = torch.random.get_rng_state()
    sampled(engine(model, {2}, 0), [0, 1, 2])
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("engine", ENGINES)
def test_without_seeds_torchs_state_decides(tiny_model: Any, engine: Any) -> None:
    made = engine(tiny_model(), {2}, 0, batch_size=2)
    settings = Sampling(max_new_tokens=12, temperature=1.5)
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(made.generate(PROMPTS, settings))
    assert found[0] == found[1] != found[2]
