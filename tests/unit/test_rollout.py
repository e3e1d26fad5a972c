"""Both engines on tiny models: same greedy answers, EOS handling, order, packing, sampling."""

import pytest
import torch

from selfdistill.method.rollout.batched import BatchedEngine, make_engine, sample
from selfdistill.method.rollout.engine import Sampling
from selfdistill.method.rollout.hf_generate import GenerateEngine
from selfdistill.models.attention import has_plain_attention

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14, 15], [16, 17], [18, 19, 20, 21]]
GREEDY = Sampling(max_new_tokens=12, temperature=0)


def one_at_a_time(model, prompt, eos, limit):
    """Greedy decoding as its definition says: no cache, no batch, no padding."""
    ids = list(prompt)
    for _ in range(limit):
        token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        ids.append(token)
        if token in eos:
            break
    return tuple(ids[len(prompt) :])


def engines(model, eos, **options):
    return GenerateEngine(model, eos, 0, **options), BatchedEngine(model, eos, 0, **options)


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3", "mistral"])
@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_both_engines_decode_greedily_as_defined(tiny_model, model_type, batch_size):
    options = {"sliding_window": None} if model_type == "mistral" else {}
    model = tiny_model(model_type, **options)
    assert has_plain_attention(model.config)
    free = [one_at_a_time(model, prompt, set(), 12) for prompt in PROMPTS]
    eos = {free[0][3], free[2][5]}  # ends some completions early and at different places
    expected = [one_at_a_time(model, prompt, eos, 12) for prompt in PROMPTS]
    lengths = {len(ids) for ids in expected}
    assert len(lengths) > 1
    for engine in engines(model, eos, batch_size=batch_size):
        rollouts = engine.generate(PROMPTS, GREEDY)
        assert [rollout.completion_ids for rollout in rollouts] == expected
        reasons = ["stop" if ids[-1] in eos else "length" for ids in expected]
        assert [rollout.finish_reason for rollout in rollouts] == reasons


def test_an_eos_that_is_the_last_allowed_token_is_a_stop(tiny_model):
    model = tiny_model()
    ids = one_at_a_time(model, PROMPTS[0], set(), 4)
    for engine in engines(model, {ids[3]}):
        if ids[3] in ids[:3]:
            pytest.skip("the tiny model repeats itself")
        (rollout,) = engine.generate(PROMPTS[:1], Sampling(max_new_tokens=4, temperature=0))
        assert rollout.completion_ids == ids
        assert rollout.finish_reason == "stop"


def test_pad_token_may_be_sampled_and_kept(tiny_model):
    """The pad id means nothing inside a completion: ids come back verbatim."""
    model = tiny_model()
    with torch.no_grad():
        model.get_output_embeddings().weight[0] = model.get_output_embeddings().weight[5] * 50
        model.get_output_embeddings().weight[1] = -model.get_output_embeddings().weight[0]
    expected = one_at_a_time(model, PROMPTS[0], {2}, 6)
    assert 0 in expected or 1 in expected
    for engine in engines(model, {2}):
        rollouts = engine.generate(PROMPTS, Sampling(max_new_tokens=6, temperature=0))
        assert rollouts[0].completion_ids == expected


def test_lora_and_weights_of_the_moment_are_seen(tiny_model):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny_model(), LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    model.eval()
    engine = BatchedEngine(model, {2}, 0)
    first = engine.generate(PROMPTS, GREEDY)
    assert [r.completion_ids for r in first] == [one_at_a_time(model, p, {2}, 12) for p in PROMPTS]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.mul_(-3)
    second = engine.generate(PROMPTS, GREEDY)
    assert [r.completion_ids for r in second] == [one_at_a_time(model, p, {2}, 12) for p in PROMPTS]
    assert first != second


def test_sampling_follows_the_models_distribution(tiny_model):
    model = tiny_model()
    logits = model(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1].detach()
    temperature = 2.0
    expected = (logits / temperature).softmax(-1)
    count = 4000
    for engine in engines(model, {2}, batch_size=count):
        torch.manual_seed(0)
        settings = Sampling(max_new_tokens=1, temperature=temperature)
        rollouts = engine.generate([PROMPTS[0]] * count, settings)
        counts = torch.zeros(40)
        for rollout in rollouts:
            counts[rollout.completion_ids[0]] += 1
        # five standard deviations of a binomial share
        assert ((counts / count - expected).abs() < 5 * (expected * (1 - expected) / count).sqrt() + 1e-3).all()


def test_logprobs_are_those_of_the_sampled_tokens(tiny_model):
    model = tiny_model()
    torch.manual_seed(0)
    settings = Sampling(max_new_tokens=6, temperature=0.5, logprobs=True)
    for prompt, rollout in zip(PROMPTS, BatchedEngine(model, {2}, 0).generate(PROMPTS, settings), strict=True):
        ids = torch.tensor([[*prompt, *rollout.completion_ids]])
        log_probs = (model(input_ids=ids).logits[0] / 0.5).log_softmax(-1)
        for position, (token, logprob) in enumerate(zip(rollout.completion_ids, rollout.logprobs, strict=True)):
            assert logprob == pytest.approx(float(log_probs.detach()[len(prompt) + position - 1, token]), abs=1e-4)


def test_top_p_by_hand():
    # probabilities 0.5, 0.3, 0.15, 0.05: the smallest set that reaches 0.7 is the first two
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().repeat(3000, 1)
    torch.manual_seed(0)
    tokens, _ = sample(logits, Sampling(max_new_tokens=1, top_p=0.7))
    assert set(tokens.tolist()) == {0, 1}
    assert (tokens == 0).float().mean() == pytest.approx(0.5 / 0.8, abs=0.05)
    tokens, _ = sample(logits, Sampling(max_new_tokens=1, top_p=0.1))
    assert set(tokens.tolist()) == {0}


def test_other_architectures_fall_back_to_generate(tiny_model):
    assert isinstance(make_engine(tiny_model("gemma2"), {2}, 0), GenerateEngine)
    assert isinstance(make_engine(tiny_model("mistral", sliding_window=4), {2}, 0), GenerateEngine)
    assert isinstance(make_engine(tiny_model("llama"), {2}, 0), BatchedEngine)
