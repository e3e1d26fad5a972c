"""rollout_engine vllm-server with vLLM's own server, on a CPU: adapters and weights arrive, and its death is told."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import TrainerControl

from selfdistill.errors import EngineError
from selfdistill.method.rollout.copies import CopyOptions, logprob_error
from selfdistill.method.rollout.engine import Sampling
from selfdistill.method.rollout.generate import GenerateEngine
from selfdistill.method.rollout.vllm_server import VLLMServerEngine, check_server
from tests.support.mistakes import mistake
from tests.support.training import make_trainer, steps, weights
from tests.support.vllm_server import Server, running, small

PROMPTS = [[(11 * place + 5 * length) % 290 for place in range(length)] for length in (3, 40, 7, 1, 22)]
EOS = {256}
LORA: dict[str, Any] = {
    "peft_config": LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("server")) as started:
        yield started


def test_a_server_of_the_model_gives_its_tokens_and_logprobs(server: Server) -> None:
    model = small()
    made = VLLMServerEngine(model, EOS, 0, 4, CopyOptions(url=server.url))
    greedy = Sampling(max_new_tokens=24, temperature=0)
    found, own = made.generate(PROMPTS, greedy), GenerateEngine(model, EOS, 0).generate(PROMPTS, greedy)
    assert [rollout.completion_ids for rollout in found] == [rollout.completion_ids for rollout in own]
    sampling = Sampling(max_new_tokens=24, temperature=0.7, seeds=(1, 2, 3, 4, 2**63 - 1), logprobs=True)
    for prompt, rollout in zip(PROMPTS, made.generate(PROMPTS, sampling), strict=True):
        assert logprob_error(model, prompt, rollout, 0.7) < 1e-3
        assert (rollout.finish_reason == "stop") == (rollout.completion_ids[-1] in EOS)


def test_another_model_and_a_longer_row_are_refused(server: Server) -> None:
    other = small(num_hidden_layers=1)
    made = VLLMServerEngine(other, EOS, 0, 4, CopyOptions(url=server.url))
    assert "gives other log-probabilities" in mistake(made.generate, PROMPTS, Sampling(max_new_tokens=4))
    larger = VLLMServerEngine(small(vocab_size=301), EOS, 0, 4, CopyOptions(url=server.url))
    assert "Token id 300 is out of vocabulary" in mistake(larger.generate, PROMPTS, Sampling(max_new_tokens=4))
    assert "the server reads 256 tokens" in mistake(made.generate, PROMPTS, Sampling(max_new_tokens=217))


@pytest.mark.parametrize("options", [LORA, None], ids=["adapter", "all weights"])
def test_a_run_s_weights_arrive_before_each_step(tmp_path: Path, server: Server, options: Any) -> None:
    settings: dict[str, Any] = {"max_steps": 3, "options": options, "temperature": 0.8, "learning_rate": 0.5}
    trainer = make_trainer(tmp_path, model=small(), rollout_engine="vllm-server", vllm_url=server.url, **settings)
    trainer.train()
    start = small().state_dict()
    if options is None:
        assert max(float((weight - start[name]).abs().max()) for name, weight in weights(trainer).items()) > 1e-3
    assert [line["importance_weight"] for line in steps(tmp_path)] == [pytest.approx(1.0, abs=1e-3)] * 3


def test_a_server_that_is_killed_ends_the_run_which_goes_on_with_another(tmp_path: Path, server: Server) -> None:
    given: dict[str, Any] = {"rollout_engine": "vllm-server", "max_steps": 3}
    given |= {"save_strategy": "steps", "save_steps": 1}
    whole = make_trainer(tmp_path / "whole", model=small(), vllm_url=server.url, **given)
    whole.train()
    cut = make_trainer(tmp_path / "cut", model=small(), vllm_url=server.url, **given)
    end_step = cut.end_step

    def kill(control: TrainerControl) -> None:
        end_step(control)
        if cut.state.global_step == 2:
            server.kill()

    cut.end_step = kill  # type: ignore[method-assign]
    with pytest.raises(EngineError, match="the server does not answer") as caught:
        cut.train()
    assert caught.value.exit_code == 7
    assert mistake(check_server, server.url).startswith(f"vllm_url {server.url}: no vLLM server answers there")
    with running(tmp_path) as other:
        again = make_trainer(tmp_path / "cut", model=small(), vllm_url=other.url, **given)
        again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 3
    expected = weights(whole)
    for name, weight in weights(again).items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-5)
