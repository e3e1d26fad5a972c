"""Rollouts by a vLLM server (``vllm serve``) at an address, which may be another machine's.

A LoRA adapter goes to the server as a folder, under a new name each time; the server has to allow it
(``VLLM_ALLOW_RUNTIME_LORA_UPDATING=1``, ``--enable-lora``). All weights go over NCCL (``vllm_transfer.py``), or as a
checkpoint's folder, which the server reads in place of its own (``VLLM_SERVER_DEV_MODE=1``). A folder it must see; it
lies in the system's place for temporary files (``TMPDIR``). Where weights do not change, as in an evaluation, the
server has to serve the model already. In each case its log-probabilities are compared with the model's own first.
"""

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from uuid import uuid4

from transformers import PreTrainedModel

from selfdistill.errors import EngineError, UserError, brief
from selfdistill.launcher import place
from selfdistill.method.http_json import RefusedError
from selfdistill.method.rollout.copies import (
    CHECKS,
    CopyOptions,
    SyncFolder,
    adapter_rank,
    check_arrived,
    check_copied,
    run_limits,
)
from selfdistill.method.rollout.engine import BATCH_SIZE, OnDone, Sampling, with_seeds
from selfdistill.method.rollout.vllm_requests import AGAIN, DEV_MODE, NAME, base_url, check_server, post
from selfdistill.method.rollout.vllm_transfer import WeightsOverNccl, goes_by_nccl
from selfdistill.types import Rollout

REMEDY = "Serve the same model with the same --dtype and --logprobs-mode processed_logprobs."
LORA_MODE = "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 and --enable-lora"


class VLLMServerEngine:
    """Samples with vLLM's server, one request per prompt.

    Args:
        model: the model in memory, with or without a LoRA adapter.
        eos_token_ids: every id that ends a completion.
        pad_token_id: not used: the server pads nothing.
        batch_size: requests under way at the same time.
        options: of the run; ``url`` must be given.

    Raises:
        UserError: no server is at the address, or the model's weights can't be sent to it.
    """

    samples_elsewhere = True

    def __init__(
        self,
        model: PreTrainedModel,
        eos_token_ids: Collection[int],
        pad_token_id: int,
        batch_size: int = BATCH_SIZE,
        options: CopyOptions | None = None,
    ) -> None:
        options = options or CopyOptions()
        self.model, self.batch_size = model, batch_size
        self.eos_token_ids = frozenset(eos_token_ids)
        check_copied(model, NAME)
        if options.trains and place().size > 1 and adapter_rank(model) is None:
            raise UserError(
                f"rollout_engine {NAME} in {place().size} processes takes an adapter only: each would send all "
                "weights. Give --lora_r, or take rollout_engine auto."
            )
        self._served = check_server(options.url)
        self._url, self._trains = base_url(options.url), options.trains
        self._folder, self._over_nccl = SyncFolder(), self._sender(options)
        self._adapter: str | None = None  # the adapter's name at the server
        self._checks_left = CHECKS if options.trains else 1
        self._is_new = True  # weights that are to be compared

    def sync(self) -> None:
        """Sends the adapter, or the weights of a model without one, if they change in this run.

        Raises:
            EngineError: the server does not answer.
            UserError: it does not take weights, or can't read the folder.
        """
        if not self._trains:
            return
        self._is_new = True
        if self._over_nccl is not None:
            self._over_nccl.send()
            return
        folder = str(self._folder.write(self.model, self.eos_token_ids))
        if adapter_rank(self.model) is None:
            self._send("collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": folder}}, DEV_MODE)
            self._send("reset_prefix_cache", {}, DEV_MODE)
            return
        before, self._adapter = self._adapter, f"selfdistill-{uuid4().hex}"
        self._send("v1/load_lora_adapter", {"lora_name": self._adapter, "lora_path": folder}, LORA_MODE)
        if before is not None:
            self._send("v1/unload_lora_adapter", {"lora_name": before}, LORA_MODE)

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, on_done: OnDone | None = None
    ) -> list[Rollout]:
        """As in RolloutEngine. Logprobs are at the sampling temperature if the server runs with
        ``--logprobs-mode processed_logprobs``.

        Raises:
            EngineError: the server does not answer, or samples from other weights.
            UserError: a prompt and its completion are longer than the server reads.
            ValueError: a prompt fills the model's context, or the number of seeds is wrong.
        """
        sampling, limits = with_seeds(sampling, len(prompts)), run_limits(prompts, sampling)
        longest = max((len(prompt) + limit for prompt, limit in zip(prompts, limits, strict=True)), default=0)
        if longest > self._served.context:
            raise UserError(
                f"rollout_engine {NAME}: the server reads {self._served.context} tokens, a prompt with its completion "
                f"may have {longest}. Serve with --max-model-len {longest}."
            )
        if self._checks_left and self._is_new:
            check_arrived(self.model, self._sample, sampling, NAME, REMEDY)
            self._checks_left -= 1
            self._is_new = False
        return self._sample(prompts, sampling, on_done)

    def close(self) -> None:
        """Deletes the folder of the last transfer, and ends the connection over NCCL."""
        self._folder.delete()
        if self._over_nccl is not None:
            self._over_nccl.close()

    # -- the server ----------------------------------------------------------------------------------------------------

    def _sender(self, options: CopyOptions) -> WeightsOverNccl | None:
        """What sends all weights without a folder; None if they go by one, or do not change."""
        if not options.trains:
            return None
        if adapter_rank(self.model) is None:
            over_nccl = goes_by_nccl(options.weight_transfer, options.url, self.model.device)
            return WeightsOverNccl(self.model, self._url) if over_nccl else None
        if options.weight_transfer == "nccl":
            raise UserError(
                "vllm_weight_transfer nccl sends all weights; an adapter goes by a folder, from which the server loads "
                "it. Leave it at auto."
            )
        return None

    def _sample(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, on_done: OnDone | None = None
    ) -> list[Rollout]:
        seeds = sampling.seeds or (None,) * len(prompts)
        asked = [
            self._asked(prompt, limit, seed, sampling)
            for prompt, limit, seed in zip(prompts, run_limits(prompts, sampling), seeds, strict=True)
        ]
        rollouts: list[Rollout] = []
        with ThreadPoolExecutor(self.batch_size) as pool:
            for answer in pool.map(partial(_complete, self._url), asked):
                rollouts.append(answer)
                if on_done:
                    on_done(1)
        return rollouts

    def _asked(self, prompt: Sequence[int], limit: int, seed: int | None, sampling: Sampling) -> dict[str, Any]:
        """A request of the completions API. What a server may have defaults for is given, too: they would change the
        model's distribution."""
        return {
            "model": self._adapter or self._served.model,
            "prompt": list(prompt),
            "max_tokens": limit,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "seed": seed,
            "logprobs": 0 if sampling.logprobs else None,
            "stop_token_ids": sorted(self.eos_token_ids),
            "ignore_eos": True,
            "return_token_ids": True,
        }

    def _send(self, path: str, body: dict[str, Any], needs: str) -> None:
        """Posts what changes the server's weights. ``needs``: what the server must have been started with."""
        try:
            post(f"{self._url}/{path}", body)
        except RefusedError as refusal:
            if refusal.status in (404, 405) and "No adapter found" not in str(refusal):
                raise UserError(
                    f"rollout_engine {NAME}: the server takes no weights (/{path} is missing). Start it with {needs}, "
                    "or train with another engine."
                ) from refusal
            raise UserError(
                f"rollout_engine {NAME}: the server refuses the weights: {brief(refusal, 12)}. It needs {needs}, "
                "and must see this machine's TMPDIR."
            ) from refusal


def _complete(url: str, body: dict[str, Any]) -> Rollout:
    """One completion. Raises EngineError if the server refuses or ends it."""
    try:
        (choice,) = post(f"{url}/v1/completions", body)["choices"]
    except RefusedError as refusal:
        raise EngineError(
            f"rollout_engine {NAME}: the server refuses a prompt: {brief(refusal, 20)}. {REMEDY}"
        ) from refusal
    if choice["finish_reason"] not in ("stop", "length"):
        raise EngineError(f"rollout_engine {NAME}: a completion ended by {choice['finish_reason']}. {AGAIN}")
    found = choice["logprobs"]
    return Rollout(
        completion_ids=tuple(choice["token_ids"]),
        finish_reason=choice["finish_reason"],
        logprobs=None if found is None else tuple(float(value) for value in found["token_logprobs"]),
    )
