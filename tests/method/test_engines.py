"""What every rollout engine keeps to: batches, modes, the context, and nothing of the model's own wishes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import GenerationConfig

from selfdistill.method.rollout.engine import Sampling, in_batches
from selfdistill.method.rollout.engines import describe, make_engine
from selfdistill.method.rollout.generate import GenerateEngine
from selfdistill.method.rollout.own import OwnEngine, why_not_own
from selfdistill.models.adapters import lora
from selfdistill.types import Rollout
from tests.support.engines import Scripted, stopped
from tests.support.mistakes import mistake
from tests.support.tiny import byte_tokenizer
from tests.support.training import make_trainer, script, steps, student

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14, 15], [16, 17], [18, 19, 20, 21]]
SEEDED = Sampling(max_new_tokens=10, temperature=1.5, seeds=(1, 2, 3, 4, 5))
ENGINES: list[Any] = [OwnEngine, GenerateEngine]


# -- the protocol ------------------------------------------------------------------------------------


class Eventful(Scripted):
    """Keeps the order of calls, and the first weight that each of them saw."""

    def __init__(self, model: Any) -> None:
        super().__init__(script())
        self.events: list[tuple[str, float]] = []
        self._weight = model.model.norm.weight

    def sync(self) -> None:
        self.events.append(("sync", float(self._weight.detach()[0])))

    def generate(self, prompts: Any, sampling: Sampling, on_done: Any = None) -> list[Rollout]:
        self.events.append(("generate", float(self._weight.detach()[0])))
        return super().generate(prompts, sampling, on_done)


@pytest.mark.parametrize(
    ("settings", "calls"),
    [({}, 3), ({"method": "offline"}, 3), ({"method": "offline", "anchor_share": 0.5}, 6), ({"method": "sft"}, 0)],
    ids=str,
)
def test_weights_are_told_to_the_engine_before_every_call(tmp_path: Path, settings: dict[str, Any], calls: int) -> None:
    model = student()
    engine = Eventful(model)
    chosen = {"max_steps": 3, "num_train_epochs": 3, "max_completion_length": 64, **settings}
    options = {"anchor_dataset": [{"prompt": "Say"}]}
    make_trainer(tmp_path, model=model, engine=engine, options=options, **chosen).train()
    assert [name for name, _ in engine.events] == ["sync", "generate"] * calls
    assert all(synced == used for (_, synced), (_, used) in zip(engine.events[::2], engine.events[1::2], strict=True))
    if not settings:
        assert len({weight for _, weight in engine.events}) == 3  # a step lies between two calls


@pytest.mark.parametrize(
    ("elsewhere", "cap", "asked"),
    [(True, 2.0, True), (True, None, False), (False, 2.0, True), (False, None, True)],
)
def test_logprobs_are_asked_for_where_they_correct_something_or_cost_nothing(
    tmp_path: Path, elsewhere: bool, cap: float | None, asked: bool
) -> None:
    engine = Scripted(script(), samples_elsewhere=elsewhere)
    make_trainer(tmp_path, engine=engine, sampler_correction_cap=cap).train()
    assert [sampling.logprobs for _, sampling in engine.calls] == [asked]


@pytest.mark.parametrize("name", ["own", "generate"])
def test_engines_that_sample_from_the_weights_in_training_need_no_correction(tmp_path: Path, name: str) -> None:
    trainer = make_trainer(tmp_path, rollout_engine=name)
    assert not trainer.step.engine.samples_elsewhere
    trainer.train()
    assert "importance_weight" not in steps(tmp_path)[0]


def test_a_step_says_how_completions_are_sampled(tmp_path: Path) -> None:
    engine = Scripted(script())
    settings = {"temperature": 0.7, "top_p": 0.9, "max_completion_length": 6}
    make_trainer(tmp_path, engine=engine, **settings).train()
    ((prompts, sampling),) = engine.calls
    assert len(prompts) == len(sampling.seeds or ()) == 8
    assert (sampling.temperature, sampling.top_p, sampling.max_new_tokens) == (0.7, 0.9, 6)
    assert sampling.context == 512


# -- batches and the context -----------------------------------------------------------------------------


class Completed:
    """Stands for an engine's decoding: completes as far as it may, and keeps what it was given."""

    def __init__(self) -> None:
        self.batches: list[tuple[list[int], int, Any]] = []

    def __call__(self, prompts: list[Sequence[int]], sampling: Sampling) -> list[Rollout]:
        self.batches.append(([len(prompt) for prompt in prompts], sampling.max_new_tokens, sampling.seeds))
        return [stopped(*([prompt[0]] * sampling.max_new_tokens)) for prompt in prompts]


def of_lengths(*lengths: int) -> list[list[int]]:
    return [[10 + index] * length for index, length in enumerate(lengths)]


def test_batches_are_of_like_length_the_longest_first_and_come_back_in_order() -> None:
    complete, done = Completed(), list[int]()
    prompts = of_lengths(2, 9, 4, 7, 3)
    rollouts = in_batches(prompts, Sampling(max_new_tokens=1, seeds=(0, 1, 2, 3, 4)), 2, complete, done.append)
    assert complete.batches == [([9, 7], 1, (1, 3)), ([4, 3], 1, (2, 4)), ([2], 1, (0,))]
    assert done == [2, 2, 1]
    assert [rollout.completion_ids for rollout in rollouts] == [(10 + index,) for index in range(5)]


def test_the_context_cuts_long_rows_alone() -> None:
    complete = Completed()
    settings = Sampling(max_new_tokens=10, context=16, seeds=(0, 1, 2, 3))
    rollouts = in_batches(of_lengths(12, 2, 15, 6), settings, 8, complete)
    assert [len(rollout.completion_ids) for rollout in rollouts] == [4, 10, 1, 10]
    assert [(lengths, limit) for lengths, limit, _ in complete.batches] == [([15], 1), ([12], 4), ([6, 2], 10)]


def test_a_prompt_that_fills_the_context_is_refused_before_anything_is_sampled() -> None:
    complete = Completed()
    with pytest.raises(ValueError, match="prompt 1 has 16 tokens, the model reads 16"):
        in_batches(of_lengths(2, 16), Sampling(max_new_tokens=10, context=16), 8, complete)
    assert complete.batches == []


@pytest.mark.parametrize("engine", ENGINES)
def test_no_completion_goes_beyond_the_models_positions(tiny_model: Any, engine: Any) -> None:
    """The positions of a gpt2 are a table: to read beyond its end would fail."""
    if engine is OwnEngine:
        model = tiny_model(max_position_embeddings=12)
    else:
        model = tiny_model("gpt2", n_embd=16, n_layer=1, n_head=2, n_positions=12)
    settings = Sampling(max_new_tokens=10, context=12, seeds=(1, 2, 3, 4, 5))
    rollouts = engine(model, (), 0).generate(PROMPTS, settings)
    assert [len(rollout.completion_ids) for rollout in rollouts] == [9, 10, 5, 10, 8]
    assert {rollout.finish_reason for rollout in rollouts} == {"length"}


@pytest.mark.parametrize("engine", ENGINES)
def test_no_prompts_give_no_completions(tiny_model: Any, engine: Any) -> None:
    assert engine(tiny_model(), {2}, 0).generate([], Sampling(max_new_tokens=3)) == []


# -- modes -------------------------------------------------------------------------------------------


def modes(model: nn.Module) -> dict[str, bool]:
    return {name: module.training for name, module in model.named_modules()}


@pytest.mark.parametrize("engine", ENGINES)
def test_completions_are_sampled_without_dropout_and_modes_come_back(tiny_model: Any, engine: Any) -> None:
    still = engine(tiny_model(), {2}, 0).generate(PROMPTS, SEEDED)
    model: Any = tiny_model(attention_dropout=0.9)
    model.train()
    model.model.layers[0].eval()  # whoever trains may have put a part into eval mode
    before = modes(model)
    assert engine(model, {2}, 0).generate(PROMPTS, SEEDED) == still
    assert modes(model) == before
    assert before[""]
    assert not before["model.layers.0"]


@pytest.mark.parametrize("engine", ENGINES)
def test_modes_come_back_after_an_error(tiny_model: Any, engine: Any) -> None:
    model = tiny_model().train()
    before, own = modes(model), model.generation_config
    for broken in (Sampling(max_new_tokens=3, context=4), Sampling(max_new_tokens=3, seeds=(1,))):
        with pytest.raises(ValueError, match=r"tokens, the model reads 4|1 seeds for 5 prompts"):
            engine(model, {2}, 0).generate(PROMPTS, broken)
        assert modes(model) == before
        assert model.generation_config is own


# -- the model's own generation config -------------------------------------------------------------------

WISHES: list[dict[str, Any]] = [
    {"repetition_penalty": 5.0},
    {"do_sample": True, "temperature": 0.01},
    {"do_sample": True, "top_k": 1},
    {"do_sample": True, "min_p": 0.9},
    {"do_sample": True, "typical_p": 0.2},
    {"no_repeat_ngram_size": 1},
    {"suppress_tokens": list(range(3, 30))},
    {"sequence_bias": [[[7], 50.0]]},
    {"num_beams": 4},
    {"num_beams": 2, "num_return_sequences": 2},
    {"forced_eos_token_id": 7},
    {"min_new_tokens": 9},
    {"max_new_tokens": 1},
    {"eos_token_id": list(range(30))},
    {"stop_strings": ["a"]},
]


@pytest.mark.parametrize("wishes", WISHES, ids=lambda wishes: next(iter(wishes)))
@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "lora"])
def test_generate_does_nothing_of_what_the_models_generation_config_asks_for(
    tiny_model: Any, wishes: dict[str, Any], wrapped: bool
) -> None:
    for sampling in (SEEDED, Sampling(max_new_tokens=10, temperature=0)):
        plain: Any = tiny_model()
        expected = GenerateEngine(plain, {2}, 0).generate(PROMPTS, sampling)
        model: Any = tiny_model()
        model.generation_config = own = GenerationConfig(**wishes)
        asked = lora(model, r=2, alpha=2, dropout=0.0) if wrapped else model
        assert GenerateEngine(asked, {2}, 0).generate(PROMPTS, sampling) == expected  # type: ignore[arg-type]
        assert model.generation_config is own


# -- which engine a model gets -----------------------------------------------------------------------------


def louder(model: Any) -> Any:
    """The model's own forward pass does something to a layer that our loop does not know."""
    mlp = model.model.layers[0].mlp
    forward = mlp.forward
    mlp.forward = lambda hidden: forward(hidden) * 1.5
    return model


class OtherNorm(nn.Module):
    """A norm without the fields that our loop reads."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(hidden, dim=-1)


def unusual(model: Any) -> Any:
    model.model.layers[0].input_layernorm = OtherNorm()
    return model


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3", "mistral"])
def test_a_known_model_gets_our_own_loop(tiny_model: Any, model_type: str) -> None:
    model = tiny_model(model_type, vocab_size=300, **({"sliding_window": None} if model_type == "mistral" else {}))
    assert why_not_own(model) is None
    engine = make_engine(model, byte_tokenizer())
    assert type(engine) is OwnEngine
    assert describe(engine) == "own"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(lambda tiny: tiny("gemma2", vocab_size=300), "does not know models of type gemma2", id="family"),
        pytest.param(
            lambda tiny: tiny("mistral", vocab_size=300, sliding_window=4), "does not know models", id="sliding window"
        ),
        pytest.param(lambda tiny: louder(student()), "other logits than this model of type llama", id="other logits"),
        pytest.param(lambda tiny: unusual(student()), "fails on this model of type llama", id="other modules"),
    ],
)
def test_any_other_model_gets_transformers_generate(tiny_model: Any, make: Any, reason: str) -> None:
    model = make(tiny_model)
    assert reason in str(why_not_own(model))
    engine = make_engine(model, byte_tokenizer())
    assert type(engine) is GenerateEngine
    assert describe(engine) == "generate"
    text = mistake(make_engine, model, byte_tokenizer(), name="own")
    assert reason in text
    assert "Take rollout_engine auto or generate." in text


def test_the_question_leaves_the_model_as_it_was(tiny_model: Any) -> None:
    model = tiny_model(attention_dropout=0.5).train()
    before = modes(model)
    assert why_not_own(model) is None
    assert modes(model) == before
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_engine_of_ones_own_goes_by_its_class() -> None:
    assert describe(Scripted(script())) == "Scripted"
