"""A stand-in for vLLM that samples with our own engine from a copy of the weights, and for its server."""

import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM

from selfdistill.method.rollout import copies, vllm
from selfdistill.method.rollout.engine import Sampling
from selfdistill.method.rollout.own import OwnEngine
from selfdistill.types import Rollout
from tests.support.json_server import Answer, JsonServer


class Weights:
    """A model's copy and the adapter beside it."""

    def __init__(self, config: Any, dtype: torch.dtype = torch.float32) -> None:
        torch.manual_seed(99)  # as vLLM seeds all generators
        self.model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()

    def load(self, weights: dict[str, torch.Tensor]) -> None:
        self.model.load_state_dict({name: tensor.clone() for name, tensor in weights.items()})

    def complete(self, prompt: list[int], adapter: str | None, **sampling: Any) -> Rollout:
        model: Any = self.model if adapter is None else PeftModel.from_pretrained(self.model, adapter)
        try:
            seeds = (sampling.pop("seed") or 0,)
            eos = sampling.pop("stop_token_ids")
            chosen = Sampling(**sampling, seeds=seeds, logprobs=True)
            (rollout,) = OwnEngine(model, eos, 0).generate([prompt], chosen)
        finally:
            if adapter is not None:
                model.unload()
        return rollout


class FakeLLM:
    """vLLM's LLM: ``made`` has all that were made, ``events`` what was asked of all of them, in order."""

    made: list["FakeLLM"]
    events: list[Any]

    def __init__(self, model: str, **settings: Any) -> None:
        self.config, self.settings = AutoConfig.from_pretrained(model), settings
        self.weights = Weights(self.config, getattr(torch, settings["dtype"]))
        self.deaf = self.broken = False
        self.parameters: list[Any] = []
        torch.set_num_threads = lambda _: None  # as vLLM does on a CPU
        core = SimpleNamespace(shutdown=lambda: self.events.append("shutdown"))
        self.llm_engine = SimpleNamespace(engine_core=core)
        self.made.append(self)

    def collective_rpc(self, method: str, kwargs: dict[str, Any]) -> None:
        self.events.append(method)
        if not self.deaf:
            self.weights.load(dict(kwargs["weights_iterator"]))

    def wake_up(self, tags: list[str]) -> None:
        self.events.append(("wake_up", *tags))

    def sleep(self, level: int) -> None:
        self.events.append(("sleep", level))

    def generate(
        self, prompts: list[dict[str, list[int]]], parameters: list[Any], use_tqdm: bool, lora_request: Any
    ) -> list[Any]:
        self.events.append(("generate", len(prompts), lora_request and lora_request.lora_int_id))
        self.parameters = parameters
        torch.rand(1)  # as vLLM draws, though every row has a seed
        if self.broken:
            raise RuntimeError("EngineCore encountered an issue")
        return [
            SimpleNamespace(outputs=[self._answer(prompt["prompt_token_ids"], one, lora_request)])
            for prompt, one in zip(prompts, parameters, strict=True)
        ]

    def _answer(self, prompt: list[int], one: Any, lora: Any) -> Any:
        rollout = self.weights.complete(
            prompt,
            lora and lora.lora_path,
            max_new_tokens=one.max_tokens,
            temperature=one.temperature,
            top_p=one.top_p,
            seed=one.seed,
            stop_token_ids=one.stop_token_ids,
        )
        found = [
            {id: SimpleNamespace(logprob=value)}
            for id, value in zip(rollout.completion_ids, rollout.logprobs or (), strict=True)
        ]
        return SimpleNamespace(
            token_ids=list(rollout.completion_ids),
            finish_reason=rollout.finish_reason,
            logprobs=None if one.logprobs is None else found,
        )


@contextmanager
def vllm_installed(monkeypatch: pytest.MonkeyPatch) -> Generator[type[FakeLLM]]:
    """Context in which ``import vllm`` finds the stand-in, of a version that is taken."""
    llm: Any = type("FakeLLM", (FakeLLM,), {"made": [], "events": []})

    def made(**values: Any) -> SimpleNamespace:
        return SimpleNamespace(**values)

    def lora_request(name: str, number: int, path: str) -> SimpleNamespace:
        return SimpleNamespace(lora_name=name, lora_int_id=number, lora_path=path)

    def cleaned_up() -> None:
        llm.events.append("cleanup")

    modules = {
        "vllm": SimpleNamespace(LLM=llm, SamplingParams=made),
        "vllm.platforms": SimpleNamespace(current_platform=SimpleNamespace(device_type="cpu")),
        "vllm.distributed": SimpleNamespace(cleanup_dist_env_and_memory=cleaned_up),
        "vllm.lora.request": SimpleNamespace(LoRARequest=lora_request),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)  # type: ignore[arg-type]
    monkeypatch.setattr(copies.metadata, "version", lambda _: "0.32.0")
    for name in vllm.ENVIRONMENT:
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "")
    monkeypatch.setattr(vllm, "_held", vllm._Held())
    yield llm


class FakeServer(JsonServer):
    """vLLM's server: ``asked`` has the path and the body of every request that is no question for its state."""

    def __init__(self, config: Any, *, context: int = 512, version: str = "0.32.0", takes: str = "all") -> None:
        self.weights, self.adapters = Weights(config), dict[str, str]()
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.context, self.version, self.takes = context, version, takes
        self.lives_for: int | None = None  # completions after which every connection ends without an answer
        self.start()

    def answered(self, path: str, body: dict[str, Any] | None, authorization: str | None) -> Answer | None:
        if body is None:
            models = [{"id": "served", "max_model_len": self.context}]
            return 200, {"data": models} if path == "/v1/models" else {"version": self.version}
        return None if self.lives_for == 0 else self.answer(path, body)

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.asked.append((path, body))
        if path == "/v1/completions":
            return self._complete(body)
        if self.takes not in ("all", path):
            return 404, {"detail": "Not Found"}
        if path == "/collective_rpc":
            folder = body["kwargs"]["weights_path"]
            self.weights.load(AutoModelForCausalLM.from_pretrained(folder).state_dict())
        elif path == "/v1/load_lora_adapter":
            assert Path(body["lora_path"]).is_dir()
            self.adapters[body["lora_name"]] = body["lora_path"]
        elif path == "/v1/unload_lora_adapter":
            del self.adapters[body["lora_name"]]
        return 200, {}

    def _complete(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if self.lives_for is not None:
            self.lives_for -= 1
        size = self.weights.model.config.vocab_size
        if max(body["prompt"]) >= size:
            return 400, {"error": {"message": f"Token id {max(body['prompt'])} is out of vocabulary"}}
        rollout = self.weights.complete(
            body["prompt"],
            self.adapters.get(body["model"]),
            max_new_tokens=body["max_tokens"],
            **{name: body[name] for name in ("temperature", "top_p", "seed", "stop_token_ids")},
        )
        values = None if body["logprobs"] is None else {"token_logprobs": rollout.logprobs}
        choice = {
            "token_ids": rollout.completion_ids,
            "finish_reason": rollout.finish_reason,
            "logprobs": values,
        }
        return 200, {"choices": [choice]}


@contextmanager
def serving(config: Any, **options: Any) -> Generator[FakeServer]:
    """Context with a server of a model with this config, which has weights of its own."""
    server = FakeServer(config, **options)
    try:
        yield server
    finally:
        server.stop()
