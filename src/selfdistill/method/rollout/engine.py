"""The protocol of rollout engines: token ids in, sampled token ids out, no text."""

import hashlib
import inspect
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel

from selfdistill.models.within_memory import within_memory
from selfdistill.types import Rollout

BATCH_SIZE = 64
"""Default number of prompts decoded together."""
OnDone = Callable[[int], None]
"""Called with the number of completions finished since the last call."""
_Prompt = TypeVar("_Prompt", bound=Sized)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How completions are sampled."""

    max_new_tokens: int
    """Token limit of a completion."""
    temperature: float = 1.0
    """0 is greedy decoding."""
    top_p: float = 1.0
    """Nucleus sampling: draw from the smallest set of most likely tokens whose probability reaches this."""
    seeds: tuple[int, ...] | None = None
    """One seed per prompt, in [0, 2**63): a completion depends on its own seed only, not on other prompts. None draws
    seeds from torch's global random state."""
    logprobs: bool = False
    """Whether rollouts should have the sampler's logprobs, if the engine can report them."""
    context: int | None = None
    """Context length of the model in tokens, at which completions are cut; None for no limit."""

    def limit(self, prompt_length: int) -> int:
        """Token limit of a completion after ``prompt_length`` tokens; below 1 if the prompt leaves no room."""
        return self.max_new_tokens if self.context is None else min(self.max_new_tokens, self.context - prompt_length)


class RolloutEngine(Protocol):
    """Samples one completion per prompt.

    To add an engine, write a class with these members and add a row to ``engines.ENGINES``.
    """

    samples_elsewhere: bool
    """True if the engine samples from a copy of the weights, so that its logprobs may differ from the trainer's. The
    loss is then corrected by importance weights (``sampler_correction_cap``)."""

    def sync(self) -> None:
        """Called before every ``generate`` in training: the engine must sample from the module's current weights."""
        ...

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, on_done: OnDone | None = None
    ) -> list[Rollout]:
        """Samples completions of ``prompts`` (token ids), in their order; ids are returned exactly as sampled."""
        ...

    def close(self) -> None:
        """Releases what the engine holds besides the module. The engine is not used afterwards."""
        ...


class InProcessEngine:
    """What engines that sample from the trained module itself have in common.

    Args:
        model: the model in memory, with or without LoRA; every call uses its current weights.
        eos_token_ids: every id that ends a completion.
        pad_token_id: id used for padding; it may be one of the EOS ids.
        batch_size: prompts decoded together at most; they are sorted by length.
    """

    samples_elsewhere = False

    def __init__(
        self,
        model: PreTrainedModel,
        eos_token_ids: Collection[int],
        pad_token_id: int,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        self.model = model
        self.eos_token_ids = frozenset(eos_token_ids)
        self.pad_token_id = pad_token_id
        self.batch_size = batch_size
        self.on_warning: Callable[[str], None] = partial(warnings.warn, stacklevel=2)

    def shrink(self, size: int) -> None:
        """Decodes at most ``size`` prompts together from now on, since memory was full."""
        self.batch_size = size
        self.on_warning(f"Memory was full: {size} completions at most are sampled together, with the same result.")

    def sync(self) -> None:
        """Does nothing: every call reads the module's current weights."""

    def close(self) -> None:
        """Does nothing: the engine holds nothing between calls."""


def row_seeds(seed: int, step: int, ids: Iterable[str]) -> tuple[int, ...]:
    """Returns a seed per row, in [0, 2**63), which depends only on the run's seed, the step and the row's id.

    So batching and resuming do not change what a row samples. Repeated ids get different seeds.
    """
    occurrences: Counter[str] = Counter()
    seeds: list[int] = []
    for id in ids:
        digest = hashlib.blake2b(f"{seed}/{step}/{id}/{occurrences[id]}".encode(), digest_size=8).digest()
        seeds.append(int.from_bytes(digest) >> 1)
        occurrences[id] += 1
    return tuple(seeds)


def with_seeds(sampling: Sampling, count: int) -> Sampling:
    """Returns the sampling with ``count`` seeds, drawn from torch's global random state if it has none.

    For greedy decoding, which needs none, nothing is drawn.

    Raises:
        ValueError: it has a different number of seeds.
    """
    if sampling.seeds is not None and len(sampling.seeds) != count:
        raise ValueError(f"{len(sampling.seeds)} seeds for {count} prompts")
    if sampling.seeds is not None or sampling.temperature == 0:
        return sampling
    return replace(sampling, seeds=tuple(torch.randint(2**62, (count,)).tolist()))


def in_batches(
    prompts: Sequence[_Prompt],
    sampling: Sampling,
    batch_size: int,
    complete: Callable[[list[_Prompt], Sampling], list[Rollout]],
    on_done: OnDone | None = None,
    shrink: Callable[[int], None] | None = None,
) -> list[Rollout]:
    """Completes ``prompts`` in batches and returns the rollouts in the order of the prompts.

    Prompts are sorted by length, the longest first, and those of a batch have the same token limit.

    Args:
        prompts: token ids, or anything whose length is a number of tokens.
        sampling: how to sample.
        batch_size: prompts per batch at most.
        complete: completes one batch, given its prompts and the sampling with their seeds and token limit.
        on_done: called with the number of completions after each batch.
        shrink: called with the size of the batches from then on when memory is full; without it the error is raised.

    Raises:
        ValueError: a prompt fills the model's context, or the number of seeds is wrong.
    """
    sampling = with_seeds(sampling, len(prompts))
    rollouts: dict[int, Rollout] = {}

    def attempt() -> None:
        left = [index for index in range(len(prompts)) if index not in rollouts]
        for indices, limit in _batches(prompts, left, sampling, batch_size):
            seeds = None if sampling.seeds is None else tuple(sampling.seeds[index] for index in indices)
            own = replace(sampling, max_new_tokens=limit, seeds=seeds)
            rollouts.update(zip(indices, complete([prompts[index] for index in indices], own), strict=True))
            if on_done:
                on_done(len(indices))

    def smaller() -> bool:
        nonlocal batch_size
        batch_size = min(batch_size, len(prompts) - len(rollouts)) // 2
        if shrink is not None and batch_size:
            shrink(batch_size)
        return batch_size > 0

    if shrink is None:
        attempt()
    else:
        within_memory(attempt, smaller, "Take shorter prompts and completions, or a smaller model.")
    return [rollouts[index] for index in range(len(prompts))]


def _batches(
    prompts: Sequence[Sized], chosen: Sequence[int], sampling: Sampling, batch_size: int
) -> Iterator[tuple[list[int], int]]:
    """Yields the indices of each batch's prompts, and its token limit. ``chosen``: indices of the prompts to take."""
    limits = [sampling.limit(len(prompt)) for prompt in prompts]
    for index, limit in enumerate(limits):
        if limit < 1:
            raise ValueError(f"prompt {index} has {len(prompts[index])} tokens, the model reads {sampling.context}")
    order = sorted(chosen, key=lambda index: (limits[index], -len(prompts[index])))
    start = 0
    while start < len(order):
        limit = limits[order[start]]
        end = start
        while end < len(order) and end - start < batch_size and limits[order[end]] == limit:
            end += 1
        yield order[start:end], limit
        start = end


def cache_argument(body: nn.Module) -> str:
    """Name of the cache among a decoder's arguments and outputs, which transformers renamed in 5.24."""
    return "cache" if "cache" in inspect.signature(body.forward).parameters else "past_key_values"
