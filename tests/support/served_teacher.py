"""A stand-in for a vLLM server whose model teaches: exact prompt log-probabilities of a tiny model.

Written after vLLM's documentation and source of its completions API; requests and answers are as it has them.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig

from tests.support.checkpointed import CHECKPOINTS
from tests.support.json_server import Answer, JsonServer
from tests.support.tiny import byte_tokenizer
from tests.support.training import make_trainer, student

WIDE: dict[str, Any] = {"hidden_size": 24, "num_hidden_layers": 3}
"""A model of the student's vocabulary that is larger."""
TAIL: dict[str, Any] = {"divergence_support": "top_k", "divergence_top_k": 20, "divergence_tail": True}
RUN: dict[str, Any] = {**{k: v for k, v in CHECKPOINTS.items() if k != "teacher_update_rate"}, **TAIL}


class FakeTeacher(JsonServer):
    """Serves ``model`` at ``url``; ``asked`` has the bodies of all requests for a completion."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        name: str = "teacher",
        context: int | None = 512,
        max_logprobs: int = 50,
        key: str | None = None,
    ) -> None:
        self.model, self.tokenizer, self.name = model.eval(), tokenizer or byte_tokenizer(), name
        self.context, self.max_logprobs, self.key = context, max_logprobs, key
        self.asked: list[dict[str, Any]] = []
        self.change: Callable[[dict[str, Any]], Any] = lambda choice: None  # what is wrong with an answer
        self.lives_for: int | None = None  # answers after which every connection ends without one
        self.busy = 0  # answers that are only a refusal for now
        self.start()

    def answered(self, path: str, body: dict[str, Any] | None, authorization: str | None) -> Answer | None:
        if body is None:
            return self.served(path, authorization)
        self.asked.append(body)
        return None if self.lives_for == 0 else self.completed(path, authorization, body)

    def served(self, path: str, authorization: str | None) -> Answer:
        if self.key is not None and authorization != f"Bearer {self.key}":
            return 401, {"error": "Unauthorized"}
        assert path == "/v1/models"
        own = {"id": self.name, "object": "model", "owned_by": "vllm"}
        return 200, {"object": "list", "data": [own if self.context is None else own | {"max_model_len": self.context}]}

    def completed(self, path: str, authorization: str | None, body: dict[str, Any]) -> Answer:
        if self.lives_for is not None:
            self.lives_for -= 1
        if self.key is not None and authorization != f"Bearer {self.key}":
            return 401, {"error": {"message": f"Unauthorized: {authorization}"}}  # as a proxy may say
        if self.busy:
            self.busy -= 1
            return 503, {"error": {"message": "The engine is not ready"}}
        assert (path, body["model"], body["max_tokens"]) == ("/v1/completions", self.name, 1)
        ids, k = body["prompt"], body["prompt_logprobs"]
        if k > self.max_logprobs:
            return self._refused(
                f"Requested prompt logprobs of {k}, which is greater than max allowed: {self.max_logprobs}"
            )
        if max(ids) >= self.model.config.vocab_size:
            return self._refused(f"Token id {max(ids)} is out of vocabulary")
        if self.context is not None and len(ids) + 1 > self.context:
            return self._refused(f"This model's maximum context length is {self.context} tokens.")
        choice = {
            "index": 0,
            "text": "!",
            "logprobs": None,
            "finish_reason": "length",
            "prompt_logprobs": self.prompt_logprobs(ids, k),
            "prompt_token_ids": ids if body["return_token_ids"] else None,
        }
        self.change(choice)
        return 200, {"object": "text_completion", "model": self.name, "choices": [choice]}

    @torch.no_grad()
    def prompt_logprobs(self, ids: list[int], k: int) -> list[dict[str, Any] | None]:
        """For each token but the first: itself with its rank, then the k likeliest with theirs, each id once."""
        found: list[dict[str, Any] | None] = [None]
        for own, values in zip(ids[1:], self.model(torch.tensor([ids])).logits[0].log_softmax(-1), strict=False):
            ranked = [(own, float(values[own]), int((values >= values[own]).sum()))]
            top, best = values.topk(k)
            ranked += zip(best.tolist(), top.tolist(), range(1, k + 1), strict=True)
            found.append(
                {
                    str(id): {"logprob": value, "rank": rank, "decoded_token": self.tokenizer.decode([id])}
                    for id, value, rank in ranked
                }
            )
        return found

    def _refused(self, message: str) -> Answer:
        return 400, {"error": {"message": message, "type": "BadRequestError", "code": 400}}


@contextmanager
def teaching(model: Any, *arguments: Any, **options: Any) -> Generator[FakeTeacher]:
    """Context with a server of ``model``."""
    server = FakeTeacher(model, *arguments, **options)
    try:
        yield server
    finally:
        server.stop()


def saved(folder: Path, **settings: Any) -> str:
    """The folder, with a tiny model and its tokenizer in it."""
    student(**settings).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


def adapter() -> dict[str, Any]:
    """What makes a trainer train LoRA."""
    return {"peft_config": LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)}


def made(folder: Path, *, lora: bool = False, **settings: Any) -> Any:
    """A trainer, always with the same first weights."""
    torch.manual_seed(0)
    options = {**(adapter() if lora else {}), **settings.pop("options", {})}
    return make_trainer(folder, options=options, **settings)
