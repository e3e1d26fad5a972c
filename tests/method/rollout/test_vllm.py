"""The engine of vLLM in this process, with a stand-in for vLLM: what it is asked for, what it answers."""

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from selfdistill.errors import EngineError
from selfdistill.method.rollout import vllm
from selfdistill.method.rollout.copies import CopyOptions
from selfdistill.method.rollout.engine import Sampling
from selfdistill.method.rollout.engines import describe, make_engine
from selfdistill.method.rollout.generate import GenerateEngine
from selfdistill.method.rollout.vllm import VLLMEngine, cache_bytes
from selfdistill.models.adapters import lora
from tests.support.fake_vllm import FakeLLM, vllm_installed
from tests.support.mistakes import mistake
from tests.support.tiny import byte_tokenizer
from tests.support.training import make_trainer, steps, student, weights

PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13]]
SAMPLING = Sampling(max_new_tokens=6, temperature=0.8, seeds=(1, 2**62, 3), logprobs=True)
EOS = {2, 77}


@pytest.fixture
def llm(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeLLM]]:
    threads = torch.set_num_threads
    with vllm_installed(monkeypatch) as made:
        yield made
    assert torch.set_num_threads is threads


def engine(model: Any, **options: Any) -> VLLMEngine:
    return VLLMEngine(model, EOS, 0, 64, CopyOptions(**options))


def with_adapter(model: Any) -> Any:
    adapted: Any = lora(model, r=4, alpha=8, dropout=0.0)
    change(adapted, "lora_B")
    return adapted


@torch.no_grad()
def change(model: Any, which: str = "") -> None:
    torch.manual_seed(7)
    for name, parameter in model.named_parameters():
        if which in name:
            parameter.add_(0.2 * torch.randn_like(parameter))


# -- what is asked for ---------------------------------------------------------------------------------------------


def test_vllm_is_made_of_the_config_for_the_longest_row(llm: type[FakeLLM]) -> None:
    engine(student(), longest=300, rows=5)
    (made,) = llm.made
    assert made.settings == {
        "load_format": "dummy",
        "skip_tokenizer_init": True,
        "dtype": "float32",
        "max_num_seqs": 64,
        "seed": 0,
        "generation_config": "vllm",
        "logprobs_mode": "processed_logprobs",
        "enable_prefix_caching": False,
        "distributed_executor_backend": "uni",
        "enforce_eager": True,
        "max_model_len": 300,
        # five rows of three blocks and one more; a token has 2 layers x key and value x 1 head of 8 x 4 bytes
        "kv_cache_memory_bytes": (5 * 3 + 1) * 128 * (2 * 2 * 8 * 4),
    }
    assert made.config.architectures == ["LlamaForCausalLM"]
    assert cache_bytes(made.config, 2, 128, 1) == 2 * 128 * (2 * 2 * 8 * 2)


def test_a_prompt_has_its_own_seed_and_limit_and_ends_at_our_ids_alone(llm: type[FakeLLM]) -> None:
    engine(student()).generate([[5] * 507, [6]], Sampling(max_new_tokens=8, seeds=(3, 2**62), top_p=0.9, context=512))
    first, second = llm.made[0].parameters
    assert vars(second) == {
        "max_tokens": 8,
        "temperature": 1.0,
        "top_p": 0.9,
        "seed": 2**62,
        "logprobs": None,
        "stop_token_ids": [2, 77],
        "ignore_eos": True,
        "detokenize": False,
    }
    assert (first.max_tokens, first.seed) == (5, 3)
    assert llm.made[0].settings["max_model_len"] == 512


def test_answers_are_those_of_the_weights_in_order(llm: type[FakeLLM]) -> None:
    model, done = student(), list[int]()
    found = engine(model).generate(PROMPTS, SAMPLING, done.append)
    own = GenerateEngine(model, EOS, 0).generate(PROMPTS, SAMPLING)
    assert [rollout.completion_ids for rollout in found] == [rollout.completion_ids for rollout in own]
    assert [rollout.finish_reason for rollout in found] == [rollout.finish_reason for rollout in own]
    for one, other in zip(found, own, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)
    assert done == [3]
    assert engine(model).generate([], Sampling(max_new_tokens=6)) == []
    with pytest.raises(ValueError, match="prompt 0 has 3 tokens, the model reads 3"):
        engine(model).generate(PROMPTS, Sampling(max_new_tokens=1, context=3))


def test_weights_are_copied_after_sync_and_not_before(llm: type[FakeLLM]) -> None:
    model = student()
    made = engine(model)
    before = made.generate(PROMPTS, SAMPLING)
    change(model)
    assert made.generate(PROMPTS, SAMPLING) == before
    made.sync()
    after = made.generate(PROMPTS, SAMPLING)
    own = GenerateEngine(model, EOS, 0).generate(PROMPTS, SAMPLING)
    assert [rollout.completion_ids for rollout in after] == [rollout.completion_ids for rollout in own]
    assert after != before
    assert [event for event in llm.events if event == "reload_weights"] == ["reload_weights"] * 2


def test_an_adapter_goes_as_a_folder_with_a_new_number_beside_the_base(llm: type[FakeLLM]) -> None:
    model = with_adapter(student())
    made = engine(model)
    for _ in range(2):
        made.sync()
        found = made.generate(PROMPTS, SAMPLING)
        own = GenerateEngine(model, EOS, 0).generate(PROMPTS, SAMPLING)
        assert [rollout.completion_ids for rollout in found] == [rollout.completion_ids for rollout in own]
        change(model, "lora_A")
    settings = llm.made[0].settings
    assert (settings["enable_lora"], settings["max_loras"], settings["max_lora_rank"]) == (True, 1, 8)
    # the base once; each adapter is looked at with one prompt, then used
    assert llm.events == ["reload_weights", *[("generate", n, number) for number in (1, 2) for n in (1, 3)]]


def test_what_training_and_saving_do_to_a_config_is_no_other_model(tmp_path: Path, llm: type[FakeLLM]) -> None:
    model = student()
    made = engine(model, longest=20)
    model.save_pretrained(tmp_path)
    model.config.use_cache, model.config.eos_token_id = False, 77
    made.generate(PROMPTS, SAMPLING)
    assert len(llm.made) == 1


def test_random_numbers_are_those_of_a_run_without_vllm(llm: type[FakeLLM]) -> None:
    model, state = student(), torch.get_rng_state()
    engine(model, longest=20).generate(PROMPTS, SAMPLING)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_process_has_one_vllm_that_belongs_to_the_last_engine(llm: type[FakeLLM]) -> None:
    first, second = student(), student()
    change(second)
    engines = [engine(first), engine(second)]
    for _ in range(2):
        for model, made in zip((first, second), engines, strict=True):
            own = GenerateEngine(model, EOS, 0).generate(PROMPTS, SAMPLING)
            found = made.generate(PROMPTS, SAMPLING)
            assert [rollout.completion_ids for rollout in found] == [rollout.completion_ids for rollout in own]
    assert len(llm.made) == 1
    engines[0].generate([[5] * 20], Sampling(max_new_tokens=6, seeds=(1,)))
    assert [made.settings["max_model_len"] for made in llm.made] == [10, 26]  # made anew for a longer prompt
    engine(student(num_hidden_layers=1)).generate(PROMPTS, SAMPLING)
    assert [made.config.num_hidden_layers for made in llm.made] == [2, 2, 1]


def test_vllm_keeps_no_model_of_a_run_that_is_over(llm: type[FakeLLM]) -> None:
    model = student()
    made, alive = engine(model), weakref.ref(model)
    made.generate(PROMPTS, SAMPLING)
    del model, made
    gc.collect()
    assert alive() is None
    engine(student()).generate(PROMPTS, SAMPLING)
    assert len(llm.made) == 1


def test_on_a_gpu_memory_is_given_back_and_weights_come_before_the_cache(
    llm: type[FakeLLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm, "_sleeps", lambda model: True)
    made = engine(with_adapter(student()), memory_share=0.4)
    made.generate(PROMPTS, SAMPLING)
    made.generate(PROMPTS, SAMPLING)  # even without sync: what slept is lost
    settings = llm.made[0].settings
    assert (settings["gpu_memory_utilization"], settings["enable_sleep_mode"]) == (0.4, True)
    assert settings["enforce_eager"] is False
    assert "kv_cache_memory_bytes" not in settings
    awake = [("wake_up", "weights"), "reload_weights", ("wake_up", "kv_cache")]
    first = [*awake, ("generate", 1, 1), ("generate", 3, 1), ("sleep", 2)]
    assert llm.events == [*first, *awake, ("generate", 1, 2), ("generate", 3, 2), ("sleep", 2)]


# -- what goes wrong ------------------------------------------------------------------------------------------------


def test_weights_that_do_not_arrive_are_found_by_their_logprobs(llm: type[FakeLLM]) -> None:
    made = engine(student(), longest=20)
    llm.made[0].deaf = True
    text = mistake(made.generate, PROMPTS, SAMPLING)
    assert text.startswith("rollout_engine vllm gives other log-probabilities than the model (by ")


def test_a_vllm_that_fails_is_an_error_of_its_own_and_is_made_anew(llm: type[FakeLLM]) -> None:
    made = engine(student(), longest=20)
    llm.made[0].broken = True
    with pytest.raises(EngineError) as caught:
        made.generate(PROMPTS, SAMPLING)
    assert caught.value.exit_code == 7
    assert str(caught.value).startswith("rollout_engine vllm: vLLM failed while it sampled: EngineCore encountered")
    assert "from the last checkpoint" in str(caught.value)
    assert len(made.generate(PROMPTS, SAMPLING)) == 3
    assert len(llm.made) == 2
    made.close()
    assert [event for event in llm.events if event == "shutdown"] == ["shutdown"] * 2


def test_a_vllm_that_can_t_be_made_says_why(llm: type[FakeLLM], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("No available memory for the cache blocks.")

    monkeypatch.setattr(llm, "__init__", fail)
    text = mistake(engine, student(), longest=20)
    assert text.startswith("rollout_engine vllm: vLLM could not be started: No available memory for the cache blocks.")
    assert llm.events == ["cleanup"]


def test_a_vllm_for_other_hardware_is_refused(llm: type[FakeLLM], monkeypatch: pytest.MonkeyPatch) -> None:
    platform = vllm.vllm_part("platforms").current_platform
    monkeypatch.setattr(platform, "device_type", "cuda")
    assert mistake(engine, student(), longest=20).startswith(
        "rollout_engine vllm: this vLLM is built for cuda, the model is on cpu."
    )


def test_several_processes_are_refused(llm: type[FakeLLM], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert mistake(engine, student()).startswith("rollout_engine vllm runs in one process, and 2 were started.")


# -- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["sdft", "offline"])
def test_a_run_is_the_one_of_the_weights_in_training(tmp_path: Path, llm: type[FakeLLM], method: str) -> None:
    runs = {
        name: make_trainer(tmp_path / name, rollout_engine=name, method=method, max_steps=3)
        for name in ("generate", "vllm")
    }
    assert runs["vllm"].step.engine.samples_elsewhere
    for trainer in runs.values():
        trainer.train()
    others = weights(runs["generate"])
    for name, weight in weights(runs["vllm"]).items():
        torch.testing.assert_close(weight, others[name], rtol=0, atol=1e-6)
    assert describe(runs["vllm"].step.engine) == "vllm"
    means = [line.get("importance_weight") for line in steps(tmp_path / "vllm")]
    # a teacher's completions are not drawn from the student, so there is nothing to correct
    assert means == ([None] * 3 if method == "offline" else [pytest.approx(1.0, abs=1e-5)] * 3)
    assert len(llm.made) == 1  # at once for the longest row
    pairs: Any = runs["vllm"]._pairs
    longest = max(len(pair.teacher_ids if method == "offline" else pair.student_ids) for pair in pairs)
    assert llm.made[0].settings["max_model_len"] == longest + 8


def test_an_engine_by_name_takes_the_options(llm: type[FakeLLM]) -> None:
    made = make_engine(
        student(), byte_tokenizer(), name="vllm", batch_size=3, options=CopyOptions(longest=40, memory_share=0.2)
    )
    assert isinstance(made, VLLMEngine)
    assert made.batch_size == llm.made[0].settings["max_num_seqs"] == 3
