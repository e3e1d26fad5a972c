"""Samples one completion token by token with the model's own forward pass."""

from collections.abc import Collection, Iterator, Sequence

import torch
from transformers import PreTrainedModel

from selfdistill.method.rollout.engine import Sampling, cache_argument, with_seeds
from selfdistill.method.rollout.sampling import sample, uniforms
from selfdistill.models.output_head import decoder


@torch.inference_mode()  # active while a token is computed, not in the caller between two tokens
def stream(
    model: PreTrainedModel, prompt_ids: Sequence[int], eos_token_ids: Collection[int], sampling: Sampling
) -> Iterator[int]:
    """Yields token ids as they are sampled, including the end-of-sequence id if one is sampled.

    Several streams can be read in turn. Each has its own random numbers, from its one seed in ``sampling.seeds``, so
    two streams with the same seed differ only if their models or prompts do.
    """
    sampling = with_seeds(sampling, 1)
    drawn = uniforms(sampling.seeds, sampling.max_new_tokens, model.device)
    ids = torch.tensor([list(prompt_ids)], device=model.device)
    unseen, cache = ids, None
    argument = cache_argument(decoder(model))
    for step in range(sampling.max_new_tokens):
        output = model(input_ids=unseen, use_cache=True, logits_to_keep=1, **{argument: cache})
        tokens, _ = sample(output.logits[:, -1].float(), sampling, None if drawn is None else drawn[:, step])
        yield (token := int(tokens))
        if token in eos_token_ids:
            return
        ids = torch.cat([ids, tokens[:, None]], dim=1)
        cache = output.get(argument)
        unseen = ids if cache is None else tokens[:, None]  # before 5.24 some models name their state differently
