"""The engine of vLLM's server, with a stand-in for the server: requests, weights, a server that dies."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from selfdistill.errors import EngineError, UserError
from selfdistill.method.rollout.copies import CopyOptions
from selfdistill.method.rollout.engine import Sampling
from selfdistill.method.rollout.generate import GenerateEngine
from selfdistill.method.rollout.vllm_requests import Served, check_server
from selfdistill.method.rollout.vllm_server import VLLMServerEngine
from tests.support.fake_vllm import FakeServer, serving
from tests.support.mistakes import mistake
from tests.support.training import make_trainer, steps, student, weights

PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13]]
SAMPLING = Sampling(max_new_tokens=6, temperature=0.8, seeds=(1, 2**62, 3), logprobs=True)
EOS = {2, 77}
LORA: dict[str, Any] = {
    "peft_config": LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
}


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with serving(student().config) as made:
        yield made


def engine(model: Any, server: FakeServer, *, trains: bool = False, batch_size: int = 4) -> VLLMServerEngine:
    return VLLMServerEngine(model, EOS, 0, batch_size, CopyOptions(url=server.url, trains=trains))


def paths(server: FakeServer) -> list[str]:
    return [path.rpartition("/")[2] for path, _ in server.asked]


# -- what is asked for ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_request_says_all_that_a_server_has_defaults_for(server: FakeServer, batch_size: int) -> None:
    model, done = student(), list[int]()
    server.weights.load(model.state_dict())
    found = engine(model, server, batch_size=batch_size).generate(PROMPTS, SAMPLING, done.append)
    own = GenerateEngine(model, EOS, 0).generate(PROMPTS, SAMPLING)
    assert [rollout.completion_ids for rollout in found] == [rollout.completion_ids for rollout in own]
    assert [rollout.finish_reason for rollout in found] == [rollout.finish_reason for rollout in own]
    for one, other in zip(found, own, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)
    assert done == [1, 1, 1]
    assert paths(server) == ["completions"] * 4  # one to look at the weights, then one for each prompt
    (asked,) = [body for _, body in server.asked if body["prompt"] == [8, 9]]
    assert asked == {
        "model": "served",
        "prompt": [8, 9],
        "max_tokens": 6,
        "temperature": 0.8,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "seed": 2**62,
        "logprobs": 0,
        "stop_token_ids": [2, 77],
        "ignore_eos": True,
        "return_token_ids": True,
    }


def test_what_is_served_is_asked_once(server: FakeServer) -> None:
    assert check_server(server.url) == Served(model="served", context=512)
    assert check_server(f"{server.url}/v1/") == Served(model="served", context=512)


@pytest.mark.parametrize("lora", [True, False], ids=["adapter", "all weights"])
def test_a_run_sends_its_weights_before_each_step_and_is_the_one_of_the_weights_in_training(
    tmp_path: Path, server: FakeServer, lora: bool
) -> None:
    options = LORA if lora else None
    own = make_trainer(tmp_path / "own", rollout_engine="generate", max_steps=3, options=options)
    if lora:
        server.weights.load(student().state_dict())
    other = make_trainer(
        tmp_path / "other", rollout_engine="vllm-server", vllm_url=server.url, max_steps=3, options=options
    )
    for trainer in (own, other):
        trainer.train()
    expected = weights(own)
    for name, weight in weights(other).items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-6)
    assert [line["importance_weight"] for line in steps(tmp_path / "other")] == [pytest.approx(1.0, abs=1e-5)] * 3
    sent = [path for path in paths(server) if path != "completions"]
    if lora:
        assert sent == ["load_lora_adapter", *["load_lora_adapter", "unload_lora_adapter"] * 2]
        assert len({body["lora_name"] for path, body in server.asked if path == "/v1/load_lora_adapter"}) == 3
    else:
        assert sent == ["collective_rpc", "reset_prefix_cache"] * 3
        assert next(body for path, body in server.asked if path == "/collective_rpc")["method"] == "reload_weights"
    folders = {body.get("lora_path") or body.get("kwargs", {}).get("weights_path") for _, body in server.asked} - {None}
    assert sum(Path(folder).exists() for folder in folders) == 1  # the last one's
    other.step.engine.close()
    assert not any(Path(folder).exists() for folder in folders)


def test_weights_that_do_not_change_are_not_sent(server: FakeServer) -> None:
    model = student()
    server.weights.load(model.state_dict())
    made = engine(model, server)
    made.sync()
    made.generate(PROMPTS, SAMPLING)
    assert set(paths(server)) == {"completions"}


# -- what goes wrong ------------------------------------------------------------------------------------------------


def test_a_server_of_another_model_is_found_by_its_logprobs(server: FakeServer) -> None:
    text = mistake(engine(student(), server).generate, PROMPTS, SAMPLING)
    assert text.startswith("rollout_engine vllm-server gives other log-probabilities than the model (by ")
    assert text.endswith("Serve the same model with the same --dtype and --logprobs-mode processed_logprobs.")


def test_a_server_of_another_vocabulary_is_refused() -> None:
    with serving(student(vocab_size=260).config) as server:
        text = mistake(engine(student(), server).generate, PROMPTS, SAMPLING)
        assert "the server refuses a prompt: Token id 299 is out of vocabulary." in text
    with serving(student().config) as server:
        server.weights.model.lm_head.weight.data[:260] = 0
        server.weights.model.lm_head.weight.data[260:] *= 100
        text = mistake(engine(student(vocab_size=260), server).generate, PROMPTS, SAMPLING)
        assert "; the model's vocabulary has 260." in text


def test_a_server_that_reads_less_than_a_row_is_refused() -> None:
    with serving(student().config, context=9) as server:
        text = mistake(engine(student(), server).generate, PROMPTS, SAMPLING)
    assert text == (
        "rollout_engine vllm-server: the server reads 9 tokens, a prompt with its completion may have 10. Serve with "
        "--max-model-len 10."
    )


@pytest.mark.parametrize(
    ("lora", "words"),
    [
        (
            True,
            "(/v1/load_lora_adapter is missing). Start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 and --enable-lora",
        ),
        (False, "(/collective_rpc is missing). Start it with VLLM_SERVER_DEV_MODE=1"),
    ],
)
def test_a_server_that_takes_no_weights_is_told_how_to_start(tmp_path: Path, lora: bool, words: str) -> None:
    with serving(student().config, takes="nothing") as server:
        trainer = make_trainer(
            tmp_path, rollout_engine="vllm-server", vllm_url=server.url, options=LORA if lora else None
        )
        assert f"rollout_engine vllm-server: the server takes no weights {words}" in mistake(trainer.train)


def test_an_address_without_a_server_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    with serving(student().config) as server:
        pass
    text = mistake(make_trainer, tmp_path, model="nowhere", rollout_engine="vllm-server", vllm_url=server.url)
    assert text.startswith(f"vllm_url {server.url}: no vLLM server answers there (<urlopen error [Errno 111]")
    assert mistake(check_server, None).startswith("rollout_engine vllm-server: give the server's address, such as")
    assert mistake(check_server, "localhost:80") == "vllm_url 'localhost:80' does not begin with http:// or https://."
    with serving(student().config, version="0.20.1") as server:
        assert mistake(check_server, server.url).startswith(f"vllm_url {server.url}: vLLM 0.20.1 is too old.")


def test_several_processes_send_no_weights_but_an_adapter(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "in 2 processes takes an adapter only" in mistake(engine, student(), server, trains=True)


def test_a_run_whose_server_dies_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"max_steps": 4, "save_strategy": "steps", "save_steps": 1}
    with serving(student().config) as server:
        whole = make_trainer(tmp_path / "whole", rollout_engine="vllm-server", vllm_url=server.url, **settings)
        whole.train()
        server.lives_for = 2 + 2 * 8 + 4  # two looks at the weights, two steps, half of the third
        cut = make_trainer(tmp_path / "cut", rollout_engine="vllm-server", vllm_url=server.url, **settings)
        with pytest.raises(EngineError) as caught:
            cut.train()
    assert caught.value.exit_code == 7
    assert "the server does not answer (Remote end closed connection without response)" in str(caught.value)
    assert "give the same command again to go on from the last checkpoint." in str(caught.value)
    with serving(student().config) as server:  # at another address, with the weights of the start
        again = make_trainer(tmp_path / "cut", rollout_engine="vllm-server", vllm_url=server.url, **settings)
        again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 4
    expected = weights(whole)
    assert all(torch.equal(weight, expected[name]) for name, weight in weights(again).items())


def test_a_completion_that_the_server_cuts_off_is_no_completion(server: FakeServer) -> None:
    model = student()
    server.weights.load(model.state_dict())
    answer = server.answer

    def aborted(path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        status, found = answer(path, body)
        return status, {"choices": [found["choices"][0] | {"finish_reason": "abort"}]}

    server.answer = aborted  # type: ignore[method-assign]
    with pytest.raises(UserError, match="a completion ended by abort"):
        engine(model, server).generate(PROMPTS, SAMPLING)
