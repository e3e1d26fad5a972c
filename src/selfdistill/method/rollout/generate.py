"""Rollouts by transformers' ``generate``, for any architecture."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from selfdistill.method.rollout.engine import InProcessEngine, OnDone, Sampling, in_batches
from selfdistill.method.rollout.sampling import sample, uniforms
from selfdistill.models.mode import evaluating
from selfdistill.models.output_head import unwrapped
from selfdistill.types import Rollout


class GenerateEngine(InProcessEngine):
    """Samples with ``model.generate`` on left-padded batches.

    Our own sampler draws the tokens, with one stream of random numbers per prompt. The model's generation_config
    (penalties, other samplers, beams) is ignored, so that rollouts follow the model's own distribution.
    """

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, on_done: OnDone | None = None
    ) -> list[Rollout]:
        """As in RolloutEngine. Logprobs are at the sampling temperature, before top_p."""
        with evaluating(self.model), neutral_generation_config(self.model):
            return in_batches(prompts, sampling, self.batch_size, self._complete, on_done, self.shrink)

    def _complete(self, prompts: list[Sequence[int]], sampling: Sampling) -> list[Rollout]:
        width = max(len(prompt) for prompt in prompts)
        device = self.model.device
        ids = torch.tensor([[self.pad_token_id] * (width - len(p)) + list(p) for p in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
        draw = _Draw(sampling, width, device)
        output = self.model.generate(  # type: ignore[operator]
            input_ids=ids,
            attention_mask=mask,
            logits_processor=LogitsProcessorList([draw]),
            synced_gpus=False,  # where weights are split, they are gathered beforehand
            generation_config=GenerationConfig(
                max_new_tokens=sampling.max_new_tokens,
                do_sample=False,
                eos_token_id=sorted(self.eos_token_ids) or None,
                pad_token_id=self.pad_token_id,
                use_cache=True,
            ),
        )
        assert isinstance(output, torch.Tensor)
        completions = output[:, width:].tolist()
        logprobs = torch.stack(draw.logprobs, dim=1).tolist()
        return [
            self._rollout(row, values if sampling.logprobs else None)
            for row, values in zip(completions, logprobs, strict=True)
        ]

    def _rollout(self, ids: list[int], logprobs: list[float] | None) -> Rollout:
        """Makes a rollout of a row, cut after its first end-of-sequence token; the rest is padding."""
        end = next((place + 1 for place, token in enumerate(ids) if token in self.eos_token_ids), None)
        return Rollout(
            completion_ids=tuple(ids[:end]),
            finish_reason="length" if end is None else "stop",
            logprobs=None if logprobs is None else tuple(logprobs[: len(ids[:end])]),
        )


class _Draw(LogitsProcessor):
    """Draws the next token of each sequence and masks all others, so that greedy decoding takes it."""

    def __init__(self, sampling: Sampling, prompt_width: int, device: torch.device) -> None:
        self.logprobs: list[Tensor] = []
        self._sampling, self._width = sampling, prompt_width
        self._drawn = uniforms(sampling.seeds, sampling.max_new_tokens, device)

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Token ids so far [B, T] and logits [B, V] to scores [B, V] that are -inf except at the drawn token."""
        numbers = None if self._drawn is None else self._drawn[:, input_ids.shape[1] - self._width]
        tokens, logprobs = sample(scores.float(), self._sampling, numbers)
        self.logprobs.append(logprobs)
        return torch.full_like(scores, float("-inf")).scatter(1, tokens[:, None], 0.0)


@contextmanager
def neutral_generation_config(model: PreTrainedModel) -> Generator[None]:
    """Context without the model's own generation settings, which ``generate`` would otherwise apply."""
    inner: Any = unwrapped(model)
    own = inner.generation_config
    inner.generation_config = GenerationConfig()
    try:
        yield
    finally:
        inner.generation_config = own
