"""What every rollout engine does, whichever library samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from selfdistill.types import Rollout


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How completions are sampled."""

    max_new_tokens: int
    """Token limit of a completion."""
    temperature: float = 1.0
    """0 is greedy decoding."""
    top_p: float = 1.0
    """Nucleus: the smallest set of tokens whose probability reaches this."""
    logprobs: bool = False
    """Whether rollouts carry the sampler's logprobs, where the engine can tell them."""


class RolloutEngine(Protocol):
    """Samples one completion per prompt."""

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Rollout]:
        """Completions of ``prompts`` (token ids), in their order, ids verbatim as sampled."""
        ...
