"""Rollouts by transformers' own ``generate``: any architecture, no further dependency."""

from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from selfdistill.method.rollout.engine import OnDone, Sampling, in_batches
from selfdistill.method.rollout.sampling import sample, uniforms
from selfdistill.models.mode import evaluating
from selfdistill.models.output_head import unwrapped
from selfdistill.types import Rollout


class GenerateEngine:
    """Samples with ``model.generate`` on left-padded batches.

    Tokens are drawn by our own sampler, from a stream of random numbers for each prompt. Nothing that the model's
    generation_config asks for (penalties, other samplers, beams) has a say: rollouts are on-policy.

    Args:
        model: the model in memory; every call sees its present weights.
        eos_token_ids: every id that ends a completion.
        pad_token_id: id used for padding; it may be one of the EOS ids.
        batch_size: prompts per call of generate, sorted by length so that little is padding.
    """

    samples_elsewhere = False

    def __init__(
        self,
        model: PreTrainedModel,
        eos_token_ids: Collection[int],
        pad_token_id: int,
        batch_size: int = 32,
    ) -> None:
        self.model = model
        self.eos_token_ids = frozenset(eos_token_ids)
        self.pad_token_id = pad_token_id
        self.batch_size = batch_size

    def sync(self) -> None:
        """Nothing to do: every call reads the weights that are in the module."""

    def close(self) -> None:
        """Nothing is held between calls."""

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, on_done: OnDone | None = None
    ) -> list[Rollout]:
        """As in RolloutEngine. Logprobs are those of the sampler, at its temperature, before top_p."""
        with evaluating(self.model), neutral_generation_config(self.model):
            return in_batches(prompts, sampling, self.batch_size, self._complete, on_done)

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
            generation_config=GenerationConfig(
                max_new_tokens=sampling.max_new_tokens,
                do_sample=False,
                eos_token_id=sorted(self.eos_token_ids) or None,
                pad_token_id=self.pad_token_id,
                use_cache=True,
            ),
        )
        assert isinstance(output, torch.Tensor)
        found = output[:, width:].tolist()
        logprobs = torch.stack(draw.logprobs, dim=1).tolist()
        return [
            self._rollout(row, values if sampling.logprobs else None)
            for row, values in zip(found, logprobs, strict=True)
        ]

    def _rollout(self, ids: list[int], logprobs: list[float] | None) -> Rollout:
        """Cuts a row after its first end-of-sequence token; what follows is padding."""
        end = next((place + 1 for place, token in enumerate(ids) if token in self.eos_token_ids), None)
        return Rollout(
            completion_ids=tuple(ids[:end]),
            finish_reason="length" if end is None else "stop",
            logprobs=None if logprobs is None else tuple(logprobs[: len(ids[:end])]),
        )


class _Draw(LogitsProcessor):
    """Draws each sequence's next token and leaves only it to greedy decoding."""

    def __init__(self, sampling: Sampling, prompt_width: int, device: torch.device) -> None:
        self.logprobs: list[Tensor] = []
        self._sampling, self._width = sampling, prompt_width
        self._drawn = uniforms(sampling.seeds, sampling.max_new_tokens, device)

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """[B, T] token ids so far and logits [B, V] to logits that are -inf but for the token drawn."""
        numbers = None if self._drawn is None else self._drawn[:, input_ids.shape[1] - self._width]
        tokens, logprobs = sample(scores.float(), self._sampling, numbers)
        self.logprobs.append(logprobs)
        return torch.full_like(scores, float("-inf")).scatter(1, tokens[:, None], 0.0)


@contextmanager
def neutral_generation_config(model: PreTrainedModel) -> Generator[None]:
    """Inside, ``generate`` finds none of the model's own generation settings, which it would else fill in."""
    inner: Any = unwrapped(model)
    own = inner.generation_config
    inner.generation_config = GenerationConfig()
    try:
        yield
    finally:
        inner.generation_config = own
