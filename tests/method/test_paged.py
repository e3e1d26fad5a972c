"""Continuous batching gives what the other engines give, row by row."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.generation.continuous_batching.requests import RequestState

from selfdistill.method.rollout import paged
from selfdistill.method.rollout.engine import Sampling
from selfdistill.method.rollout.engines import describe, make_engine
from selfdistill.method.rollout.generate import GenerateEngine
from selfdistill.method.rollout.paged import PagedEngine, why_not_paged
from selfdistill.models.adapters import lora
from selfdistill.models.attention import NAME
from selfdistill.types import Rollout
from tests.support.mistakes import mistake
from tests.support.tiny import byte_tokenizer
from tests.support.training import make_trainer, steps, student

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14, 15], [16, 17], [18, 19, 20, 21]]
GREEDY = Sampling(max_new_tokens=12, temperature=0)
SAMPLED = Sampling(max_new_tokens=12, temperature=1.5, seeds=(1, 2, 3, 4, 5))
NUCLEUS = Sampling(max_new_tokens=12, temperature=1.2, top_p=0.8, seeds=(1, 2, 3, 4, 5))
new_enough = pytest.mark.skipif(
    tuple(map(int, transformers.__version__.split(".")[:2])) < paged.NEEDS, reason="needs a newer transformers"
)


# -- the same completions ----------------------------------------------------------------------------


@new_enough
@pytest.mark.parametrize("model_type", ["llama", "gemma2"])
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED, NUCLEUS], ids=["greedy", "sampled", "top_p"])
@pytest.mark.parametrize("batch_size", [2, 64])
def test_completions_are_those_of_generate(
    tiny_model: Any, model_type: str, sampling: Sampling, batch_size: int
) -> None:
    model = tiny_model(model_type)
    free = GenerateEngine(model, (), 0).generate(PROMPTS, sampling)
    eos = {free[0].completion_ids[3], free[2].completion_ids[5]}
    expected = GenerateEngine(model, eos, 0).generate(PROMPTS, sampling)
    assert len({len(rollout.completion_ids) for rollout in expected}) > 1
    done: list[int] = []
    assert PagedEngine(model, eos, 0, batch_size).generate(PROMPTS, sampling, done.append) == expected
    assert sum(done) == 5


@new_enough
def test_a_completion_depends_on_its_own_seed_and_prompt_alone(tiny_model: Any) -> None:
    engine = PagedEngine(tiny_model(), {2}, 0)
    whole = engine.generate(PROMPTS, SAMPLED)
    chosen = Sampling(max_new_tokens=12, temperature=1.5, seeds=(5, 1, 3))
    assert engine.generate([PROMPTS[4], PROMPTS[0], PROMPTS[2]], chosen) == [whole[4], whole[0], whole[2]]
    assert engine.generate([PROMPTS[0]], Sampling(max_new_tokens=12, temperature=1.5, seeds=(9,))) != whole[:1]


@new_enough
def test_a_sequence_that_had_to_leave_the_cache_goes_on_with_its_own_numbers(
    tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six pages of four tokens hold one sequence of 24 tokens, or the beginnings of several."""
    left: list[str] = []
    again = RequestState.create_equivalent_initial_request
    monkeypatch.setattr(
        RequestState, "create_equivalent_initial_request", lambda self: left.append(self.request_id) or again(self)
    )
    config = PagedEngine._config

    def small(self: Any, *arguments: Any) -> Any:
        chosen = config(self, *arguments)
        chosen.num_blocks = 6
        return chosen

    monkeypatch.setattr(paged, "PAGE", 4)
    monkeypatch.setattr(PagedEngine, "_config", small)
    sampling = Sampling(max_new_tokens=17, temperature=1.5, seeds=(1, 2, 3, 4, 5))
    model = tiny_model()
    assert PagedEngine(model, (), 0).generate(PROMPTS, sampling) == GenerateEngine(model, (), 0).generate(
        PROMPTS, sampling
    )
    assert left


@new_enough
def test_the_context_cuts_long_rows_alone(tiny_model: Any) -> None:
    model = tiny_model(max_position_embeddings=12)
    settings = Sampling(max_new_tokens=10, context=12, seeds=(1, 2, 3, 4, 5))
    rollouts = PagedEngine(model, (), 0).generate(PROMPTS, settings)
    assert [len(rollout.completion_ids) for rollout in rollouts] == [9, 10, 5, 10, 8]
    with pytest.raises(ValueError, match="prompt 0 has 3 tokens, the model reads 3"):
        PagedEngine(model, (), 0).generate(PROMPTS, Sampling(max_new_tokens=3, context=3))
    assert PagedEngine(model, (), 0).generate([], GREEDY) == []


@new_enough
def test_adapters_and_weights_of_the_moment_are_seen(tiny_model: Any) -> None:
    model: Any = lora(tiny_model(), r=2, alpha=2, dropout=0.0)
    engine, found = PagedEngine(model, {2}, 0), list[list[Rollout]]()
    for factor in (1.0, 3.0):
        torch.manual_seed(0)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=factor)
        found.append(engine.generate(PROMPTS, GREEDY))
        assert found[-1] == GenerateEngine(model, {2}, 0).generate(PROMPTS, GREEDY)
    assert found[0] != found[1]


@new_enough
def test_a_training_step_is_that_of_another_engine(tmp_path: Path) -> None:
    found = []
    for name in ("paged", "generate"):
        trainer = make_trainer(tmp_path / name, rollout_engine=name)
        assert describe(trainer.step.engine) == name
        assert not trainer.step.engine.samples_elsewhere
        trainer.train()
        found.append([line["loss"] for line in steps(tmp_path / name)])
    assert found[0] == found[1]


# -- what it leaves --------------------------------------------------------------------------------------


@pytest.fixture
def everything_comes_back(tiny_model: Any) -> Iterator[Any]:
    """A model whose modes and attention, and torch's random state, must be the same after the test."""
    model = tiny_model(attention_dropout=0.5, dtype=torch.bfloat16).train()
    model.model.layers[0].eval()
    model.set_attn_implementation(NAME)
    before = {name: module.training for name, module in model.named_modules()}
    state = torch.random.get_rng_state()
    yield model
    assert {name: module.training for name, module in model.named_modules()} == before
    assert model.config._attn_implementation == NAME
    assert torch.equal(torch.random.get_rng_state(), state)


@new_enough
def test_modes_attention_and_random_numbers_come_back(everything_comes_back: Any) -> None:
    rollouts = PagedEngine(everything_comes_back, (), 0).generate(PROMPTS, SAMPLED)
    assert [len(rollout.completion_ids) for rollout in rollouts] == [12] * 5


@new_enough
def test_an_error_of_transformers_is_raised(everything_comes_back: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers itself would report it and return what it has."""
    monkeypatch.setattr(everything_comes_back.model.norm, "forward", lambda _: 1 / 0)
    with pytest.raises(RuntimeError, match="continuous batching failed: division by zero"):
        PagedEngine(everything_comes_back, (), 0).generate(PROMPTS, SAMPLED)


# -- for which models it is ------------------------------------------------------------------------------


@new_enough
def test_a_model_that_it_suits(tiny_model: Any) -> None:
    model = tiny_model("gemma2", vocab_size=300)
    assert why_not_paged(model) is None
    assert describe(make_engine(model, byte_tokenizer(), name="paged")) == "paged"


@new_enough
def test_models_that_it_does_not_suit(tiny_model: Any) -> None:
    text = mistake(make_engine, tiny_model("mamba", vocab_size=300), byte_tokenizer(), name="paged")
    assert "fails on this model of type mamba" in text
    model: Any = student()
    forward = model.forward
    model.forward = lambda *arguments, **options: negative(forward(*arguments, **options), options)
    text = mistake(make_engine, model, byte_tokenizer(), name="paged")
    assert text == (
        "rollout_engine paged: Continuous batching gives other logits than this model of type llama. Take "
        "rollout_engine auto or generate."
    )


def negative(output: Any, options: dict[str, Any]) -> Any:
    """Other logits than those that continuous batching gets."""
    if options.get("use_cache") is False and "cu_seq_lens_q" not in options:
        output.logits = -output.logits
    return output


def test_an_older_transformers_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers, "__version__", "5.23.1")
    text = mistake(make_engine, student(), byte_tokenizer(), name="paged")
    assert text.startswith("rollout_engine paged: It needs transformers 5.24 or newer, this is 5.23.1. Take ")
