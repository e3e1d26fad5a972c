"""Rollouts by transformers' own ``generate``: any architecture, no further dependency."""

from collections.abc import Collection, Sequence

import torch
from transformers import GenerationConfig, PreTrainedModel

from selfdistill.method.rollout.engine import Sampling, in_batches, seeded
from selfdistill.types import Rollout


class GenerateEngine:
    """Samples with ``model.generate`` on left-padded batches.

    Args:
        model: the model in memory; every call sees its present weights.
        eos_token_ids: every id that ends a completion.
        pad_token_id: id used for padding; it may be one of the EOS ids.
        batch_size: prompts per call of generate, sorted by length so that little is padding.
    """

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

    @torch.no_grad()
    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Rollout]:
        """As in RolloutEngine. Sampler logprobs are not returned: the sampler is the trainer's own model."""
        with seeded(sampling.seed, self.model.device):
            return in_batches(prompts, self.batch_size, lambda batch: self._generate(batch, sampling))

    def _generate(self, prompts: list[Sequence[int]], sampling: Sampling) -> list[Rollout]:
        width = max(len(prompt) for prompt in prompts)
        device = self.model.device
        ids = torch.tensor([[self.pad_token_id] * (width - len(p)) + list(p) for p in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
        config = GenerationConfig(
            max_new_tokens=sampling.max_new_tokens,
            do_sample=sampling.temperature > 0,
            eos_token_id=sorted(self.eos_token_ids),
            pad_token_id=self.pad_token_id,
            use_cache=True,
            **(
                {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
                if sampling.temperature
                else {}
            ),
        )
        was_training = self.model.training
        self.model.eval()
        try:
            output = self.model.generate(  # type: ignore[operator]
                input_ids=ids, attention_mask=mask, generation_config=config
            )
        finally:
            self.model.train(was_training)
        assert isinstance(output, torch.Tensor)
        return [self._rollout(row) for row in output[:, width:].tolist()]

    def _rollout(self, ids: list[int]) -> Rollout:
        """Cuts a row after its first end-of-sequence token; what follows is padding."""
        for position, token in enumerate(ids):
            if token in self.eos_token_ids:
                return Rollout(completion_ids=tuple(ids[: position + 1]), finish_reason="stop")
        return Rollout(completion_ids=tuple(ids), finish_reason="length")
