"""rollout_engine vllm with vLLM itself, in fp32 on a CPU: its tokens and probabilities are transformers' own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from selfdistill.errors import EngineError
from selfdistill.evaluate.run import evaluate_model
from selfdistill.method.rollout import vllm
from selfdistill.method.rollout.copies import CopyOptions, logprob_error
from selfdistill.method.rollout.engine import Sampling
from selfdistill.method.rollout.generate import GenerateEngine
from selfdistill.method.rollout.vllm import VLLMEngine
from selfdistill.models.adapters import lora
from selfdistill.types import Example, Rollout
from tests.support.engines import Scripted
from tests.support.tiny import byte_tokenizer, random_model
from tests.support.toy_task import toy_task
from tests.support.training import make_trainer, steps, weights
from tests.support.vllm_server import SIZES, small

LENGTHS = (3, 40, 7, 1, 22)
PROMPTS = [[(11 * place + 5 * length) % 290 for place in range(length)] for length in LENGTHS]
EOS = {256}
LORA: dict[str, Any] = {
    "peft_config": LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
}


def engine(model: Any) -> VLLMEngine:
    return VLLMEngine(model, EOS, 0, 64, CopyOptions(longest=200, rows=8))


@torch.no_grad()
def changed(model: Any, which: str = "") -> Any:
    torch.manual_seed(7)
    for name, parameter in model.named_parameters():
        if which in name:
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def greedy(model: Any) -> list[Rollout]:
    return GenerateEngine(model, EOS, 0).generate(PROMPTS, Sampling(max_new_tokens=24, temperature=0))


def ids(rollouts: list[Rollout]) -> list[tuple[int, ...]]:
    return [rollout.completion_ids for rollout in rollouts]


@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_greedy_tokens_are_transformers_before_and_after_a_change_of_the_weights(family: str) -> None:
    model = random_model(family, vocab_size=300, max_position_embeddings=512, **SIZES)
    made = engine(model)
    first = made.generate(PROMPTS, Sampling(max_new_tokens=24, temperature=0))
    assert ids(first) == ids(greedy(model))
    changed(model)
    made.sync()
    second = made.generate(PROMPTS, Sampling(max_new_tokens=24, temperature=0))
    assert ids(second) == ids(greedy(model)) != ids(first)


def test_sampled_tokens_depend_on_their_own_seed_and_their_logprobs_are_the_model_s() -> None:
    model, seeds = small(), (1, 2, 3, 4, 2**63 - 1)
    made = engine(model)

    def sampled(prompts: list[list[int]], seeds: tuple[int, ...]) -> list[Rollout]:
        return made.generate(prompts, Sampling(max_new_tokens=24, temperature=0.7, seeds=seeds, logprobs=True))

    found = sampled(PROMPTS, seeds)
    for prompt, rollout in zip(PROMPTS, found, strict=True):
        assert logprob_error(model, prompt, rollout, 0.7) < 1e-3
        assert (rollout.finish_reason == "stop") == (rollout.completion_ids[-1] in EOS)
        assert rollout.finish_reason == "stop" or len(rollout.completion_ids) == 24
    assert len(set(ids(found))) == 5
    assert ids(sampled([PROMPTS[3]], (4,))) == [found[3].completion_ids]
    assert ids(sampled(PROMPTS[::-1], seeds[::-1]))[::-1] == ids(found)


def test_a_completion_ends_at_each_of_our_ids() -> None:
    """Ids that the model's config does not name, too: with a few hundred of them completions are short."""
    model = small()
    made = VLLMEngine(model, set(range(100, 300)), 0, 64, CopyOptions(longest=200, rows=8))
    found = made.generate(PROMPTS, Sampling(max_new_tokens=64, seeds=(1, 2, 3, 4, 5)))
    for rollout in found:
        assert rollout.finish_reason == "stop"
        assert rollout.completion_ids[-1] >= 100
        assert all(id < 100 for id in rollout.completion_ids[:-1])


def test_an_adapter_is_sampled_with_as_it_is_now() -> None:
    model: Any = lora(small(), r=4, alpha=8, dropout=0.0)
    made = engine(model)
    before = made.generate(PROMPTS, Sampling(max_new_tokens=24, temperature=0))
    for _ in range(2):
        changed(model, "lora_")
        made.sync()
        found = made.generate(PROMPTS, Sampling(max_new_tokens=24, temperature=0))
        assert ids(found) == ids(greedy(model)) != ids(before)
        before = found


@pytest.mark.parametrize("options", [None, LORA], ids=["all weights", "adapter"])
def test_a_run_has_weights_near_1_and_a_step_is_that_of_the_same_rollouts(tmp_path: Path, options: Any) -> None:
    settings: dict[str, Any] = {"max_steps": 3, "options": options, "temperature": 0.8}
    trainer = make_trainer(tmp_path / "vllm", model=small(), rollout_engine="vllm", **settings)
    sampled: list[list[Rollout]] = []
    generate = trainer.step.engine.generate
    trainer.step.engine.generate = lambda *given: (sampled.append(generate(*given)), sampled[-1])[1]  # type: ignore[method-assign]
    trainer.train()
    assert [line["importance_weight"] for line in steps(tmp_path / "vllm")] == [pytest.approx(1.0, abs=1e-3)] * 3

    rollouts = iter([rollout for batch in sampled for rollout in batch])
    engine_of_the_same = Scripted(lambda prompt: next(rollouts))
    other = make_trainer(tmp_path / "same", model=small(), engine=engine_of_the_same, **settings)
    other.train()
    expected = weights(other)
    for name, weight in weights(trainer).items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-4)
    torch.testing.assert_close(
        [line["loss"] for line in steps(tmp_path / "vllm")],
        [line["loss"] for line in steps(tmp_path / "same")],
        rtol=1e-3,
        atol=0,
    )


def test_bf16_weights_are_near_1_too(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, model=small(dtype=torch.bfloat16), rollout_engine="vllm", max_steps=2)
    trainer.train()
    assert [line["importance_weight"] for line in steps(tmp_path)] == [pytest.approx(1.0, abs=0.1)] * 2


def test_an_evaluation_is_that_of_our_own_engine() -> None:
    model, rows = small(), [Example(id=name, prompt=({"role": "user", "content": name * 9},)) for name in "abc"]
    task = toy_task(scorers={"length": lambda completion, _: len(completion) / 99})
    found = [
        evaluate_model(model, byte_tokenizer(), task, rows, Sampling(max_new_tokens=20, temperature=0), engine=name)
        for name in ("generate", "vllm")
    ]
    texts = [[sample.completion for sample in result.samples] for result in found]
    assert texts[0] == texts[1]
    assert found[1].config.facts["rollout_engine"] == "vllm"


def test_weights_that_vllm_does_not_get_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    made = engine(model)
    monkeypatch.setattr(vllm, "base_weights", lambda _: small(tie_word_embeddings=True).state_dict().items())
    changed(model)
    with pytest.raises(EngineError, match="gives other log-probabilities than the model"):
        made.generate(PROMPTS, Sampling(max_new_tokens=8, seeds=(1, 2, 3, 4, 5)))


def test_a_vllm_that_breaks_is_a_clear_error_and_the_run_goes_on(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"max_steps": 3, "save_strategy": "steps", "save_steps": 1, "rollout_engine": "vllm"}
    whole = make_trainer(tmp_path / "whole", model=small(), **settings)
    whole.train()
    cut = make_trainer(tmp_path / "cut", model=small(), **settings)
    generate, calls = vllm._held.llm.generate, list[int]()

    def breaks(*given: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) > 4:  # two looks at the weights and two steps
            raise RuntimeError("EngineCore encountered an issue")
        return generate(*given, **options)

    vllm._held.llm.generate = breaks
    with pytest.raises(EngineError, match="vLLM failed while it sampled: EngineCore encountered an issue"):
        cut.train()
    again = make_trainer(tmp_path / "cut", model=small(), **settings)
    again.train(resume_from_checkpoint=True)
    expected = weights(whole)
    assert all(torch.equal(weight, expected[name]) for name, weight in weights(again).items())


def test_random_numbers_and_threads_are_as_without_vllm() -> None:
    model, set_threads, state = small(), torch.set_num_threads, torch.get_rng_state()
    vllm._held.end()
    made = engine(model)
    made.generate(PROMPTS, Sampling(max_new_tokens=4, seeds=(1, 2, 3, 4, 5)))
    assert torch.set_num_threads is set_threads
    assert torch.equal(torch.get_rng_state(), state)
    made.close()
    assert vllm._held.llm is None
