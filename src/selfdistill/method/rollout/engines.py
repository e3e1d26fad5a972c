"""The table of rollout engines, and the choice of one for a model."""

from collections.abc import Callable, Collection
from typing import Protocol

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfdistill.errors import UserError
from selfdistill.method.rollout.copies import CopyOptions, check_installed, check_sampling
from selfdistill.method.rollout.engine import BATCH_SIZE, RolloutEngine
from selfdistill.method.rollout.generate import GenerateEngine
from selfdistill.method.rollout.own import OwnEngine, why_not_own
from selfdistill.method.rollout.paged import PagedEngine, why_not_paged
from selfdistill.method.rollout.vllm import VLLMEngine
from selfdistill.method.rollout.vllm_requests import check_server
from selfdistill.method.rollout.vllm_server import VLLMServerEngine
from selfdistill.method.rollout.vllm_transfer import goes_by_nccl
from selfdistill.models.device import default_device
from selfdistill.models.tokens import eos_token_ids, pad_token_id, vocab_size
from selfdistill.types import WeightTransfer

MakeEngine = Callable[[PreTrainedModel, Collection[int], int, int], RolloutEngine]
"""Makes an engine from a model, the ids that end a completion, the padding id and the batch size."""


class MakeCopyEngine(Protocol):
    """Makes an engine that samples from a copy of the weights, from the same and the options of the copy."""

    def __call__(
        self,
        model: PreTrainedModel,
        eos_token_ids: Collection[int],
        pad_token_id: int,
        batch_size: int = BATCH_SIZE,
        options: CopyOptions | None = None,
        /,
    ) -> RolloutEngine: ...


COPIES: dict[str, MakeCopyEngine] = {"vllm": VLLMEngine, "vllm-server": VLLMServerEngine}
"""Those that sample from a copy of the weights."""
ENGINES: dict[str, MakeEngine] = {"own": OwnEngine, "generate": GenerateEngine, "paged": PagedEngine, **COPIES}
"""The engines by name. To add one, add a file with a class and a row here, and its name to ``types.EngineName``."""

CHECKS: dict[str, Callable[[PreTrainedModel], str | None]] = {"own": why_not_own, "paged": why_not_paged}
"""For engines that are not for every model: says why one is not for a model, or None."""


def make_engine(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    name: str = "auto",
    batch_size: int = BATCH_SIZE,
    options: CopyOptions | None = None,
) -> RolloutEngine:
    """Makes the engine ``name`` for a model in memory.

    Args:
        model: the model to sample from.
        tokenizer: the model's.
        name: a row of ``ENGINES``, or ``auto``: ``own`` if our decoding loop gives the model's own logits, otherwise
            ``generate``.
        batch_size: prompts decoded together.
        options: for the rows of ``COPIES``.

    Raises:
        UserError: ``name`` is ``own`` or ``paged``, but that engine does not give this model's logits; or as the
            engine's constructor raises it.
    """
    check = CHECKS.get("own" if name == "auto" else name)
    reason = check(model) if check else None
    if name != "auto" and reason is not None:
        raise UserError(f"rollout_engine {name}: {reason} Take rollout_engine auto or generate.")
    chosen = ("generate" if reason else "own") if name == "auto" else name
    pad_id = pad_token_id(tokenizer, vocab_size(model))
    eos_ids = eos_token_ids(model, tokenizer)
    if chosen in COPIES:
        return COPIES[chosen](model, eos_ids, pad_id, batch_size, options)
    return ENGINES[chosen](model, eos_ids, pad_id, batch_size)


def check_engine(
    name: str,
    *,
    temperature: float,
    top_p: float,
    corrected: bool,
    url: str | None,
    transfer: WeightTransfer = "auto",
    on_cpu: bool = False,
) -> None:
    """Checks, before any weight is loaded, that an engine can be used and keeps to the settings of sampling.

    Args:
        name: a row of ``ENGINES``, or ``auto``.
        temperature: to sample at.
        top_p: nucleus to sample from.
        corrected: whether the loss is corrected by the sampler's logprobs.
        url: the server's address, for ``vllm-server``.
        transfer: how all weights are to go to it.
        on_cpu: whether the model will be on the CPU whatever the machine has.

    Raises:
        UserError: vLLM is missing or too old, no server answers or takes weights that way, or vLLM would sample
            otherwise than told.
    """
    if name not in COPIES:
        return
    check_sampling(name, temperature, top_p, corrected=corrected)
    if name == "vllm":
        check_installed()
    else:
        check_server(url)
        if transfer == "nccl":
            goes_by_nccl(transfer, url, torch.device("cpu") if on_cpu else default_device())


def describe(engine: RolloutEngine) -> str:
    """Name of an engine for messages and records: that in ENGINES, or the class name of a user's own engine."""
    return next((name for name, made in ENGINES.items() if made is type(engine)), type(engine).__name__)
