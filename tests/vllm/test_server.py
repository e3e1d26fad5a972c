"""rollout_engine vllm-server with vLLM's own server, on a CPU: adapters and weights arrive, and its death is told."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from selfdistill.errors import EngineError
from selfdistill.method.rollout import vllm_transfer
from selfdistill.method.rollout.copies import CopyOptions, logprob_error
from selfdistill.method.rollout.engine import Sampling
from selfdistill.method.rollout.generate import GenerateEngine
from selfdistill.method.rollout.vllm_requests import check_server
from selfdistill.method.rollout.vllm_server import VLLMServerEngine
from selfdistill.method.rollout.vllm_transfer import goes_by_nccl
from tests.support.gloo_transfer import Gloo, install
from tests.support.mistakes import mistake
from tests.support.training import make_trainer, steps, weights
from tests.support.vllm_server import Server, Servers, small

PROMPTS = [[(11 * place + 5 * length) % 290 for place in range(length)] for length in (3, 40, 7, 1, 22)]
EOS = {256}
LORA: dict[str, Any] = {
    "peft_config": LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
}


@pytest.fixture
def server(servers: Servers) -> Server:
    return servers.adapting


@pytest.fixture
def over_nccl(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trainer's side of it, as if its model were on a GPU."""
    monkeypatch.setattr(vllm_transfer, "DEVICES", ("cpu",))
    install(monkeypatch.setattr)


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


def test_a_server_says_how_it_takes_weights(server: Server, over_nccl: None) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [goes_by_nccl(how, server.url, cpu) for how in ("auto", "nccl", "folder")] == [True, True, False]
    assert not goes_by_nccl("auto", server.url, gpu)
    assert "NCCL needs CUDA, and the model is on cuda" in mistake(goes_by_nccl, "nccl", server.url, gpu)


@pytest.mark.parametrize("options", [LORA, None], ids=["adapter", "all weights"])
def test_a_run_s_weights_arrive_before_each_step(tmp_path: Path, server: Server, options: Any) -> None:
    settings: dict[str, Any] = {"max_steps": 3, "options": options, "temperature": 0.8, "learning_rate": 0.5}
    trainer = make_trainer(tmp_path, model=small(), rollout_engine="vllm-server", vllm_url=server.url, **settings)
    trainer.train()
    start = small().state_dict()
    if options is None:
        assert max(float((weight - start[name]).abs().max()) for name, weight in weights(trainer).items()) > 1e-3
    assert [line["importance_weight"] for line in steps(tmp_path)] == [pytest.approx(1.0, abs=1e-3)] * 3


@pytest.mark.usefixtures("over_nccl")
def test_all_weights_arrive_before_each_step_without_a_folder(tmp_path: Path, server: Server) -> None:
    settings: dict[str, Any] = {"max_steps": 3, "temperature": 0.8, "learning_rate": 0.5, "vllm_url": server.url}
    runs = {
        how: make_trainer(
            tmp_path / how, model=small(), rollout_engine="vllm-server", vllm_weight_transfer=how, **settings
        )
        for how in ("folder", "auto")
    }
    for trainer in runs.values():
        trainer.train()
    engine: Any = runs["auto"].step.engine
    assert engine._folder.number == 0
    expected = weights(runs["folder"])
    for name, weight in weights(runs["auto"]).items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-5)
    assert [line["importance_weight"] for line in steps(tmp_path / "auto")] == [pytest.approx(1.0, abs=1e-3)] * 3
    engine.close()


@pytest.mark.usefixtures("over_nccl")
def test_a_server_that_is_killed_ends_the_run_which_goes_on_with_another(
    tmp_path: Path, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a transfer, the last test of this server; the other one takes weights by a folder."""
    given: dict[str, Any] = {"rollout_engine": "vllm-server", "max_steps": 3}
    given |= {"save_strategy": "steps", "save_steps": 1}
    server, other = servers
    whole = make_trainer(tmp_path / "whole", model=small(), vllm_url=server.url, **given)
    whole.train()
    whole.step.engine.close()
    cut = make_trainer(tmp_path / "cut", model=small(), vllm_url=server.url, **given)
    broadcast, sent = Gloo.broadcast, list[int]()

    def kills(self: Gloo, tensor: torch.Tensor, src: int, stream: Any) -> None:
        sent.append(tensor.numel())
        if cut.state.global_step == 2 and len(sent) > 2 * len(small().state_dict()) + 3:
            server.kill()
            time.sleep(60)  # as NCCL waits, but for ever
        broadcast(self, tensor, src)

    monkeypatch.setattr(Gloo, "broadcast", kills)
    with pytest.raises(EngineError, match="update_weights: the server does not answer") as caught:
        cut.train()
    assert caught.value.exit_code == 7
    assert mistake(check_server, server.url).startswith(f"vllm_url {server.url}: no vLLM server answers there")
    again = make_trainer(tmp_path / "cut", model=small(), vllm_url=other.url, **given)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 3
    expected = weights(whole)
    for name, weight in weights(again).items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-5)
