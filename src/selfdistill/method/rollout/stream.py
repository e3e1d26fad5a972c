"""One completion, token by token, by the model's own forward pass."""

import random
from collections.abc import Collection, Iterator, Sequence

import torch
from transformers import PreTrainedModel

from selfdistill.method.rollout.batched import sample
from selfdistill.method.rollout.engine import Sampling, cache_argument, seeded
from selfdistill.models.output_head import decoder


@torch.inference_mode()  # holds while a token is made, not in the caller between two tokens
def stream(
    model: PreTrainedModel, prompt_ids: Sequence[int], eos_token_ids: Collection[int], sampling: Sampling
) -> Iterator[int]:
    """Token ids as they are sampled, an end-of-sequence id last where one was.

    Several streams may be read in turn: each draws random numbers of its own, made from ``sampling.seed``,
    so that two of the same seed differ only where their models do.
    """
    draws = random.Random(sampling.seed)
    ids = torch.tensor([list(prompt_ids)], device=model.device)
    unseen, cache = ids, None
    argument = cache_argument(decoder(model))
    for _ in range(sampling.max_new_tokens):
        output = model(input_ids=unseen, use_cache=True, logits_to_keep=1, **{argument: cache})
        with seeded(draws.getrandbits(63), model.device):
            tokens, _ = sample(output.logits[:, -1].float(), sampling)
        yield (token := int(tokens))
        if token in eos_token_ids:
            return
        ids = torch.cat([ids, tokens[:, None]], dim=1)
        cache = output.get(argument)
        unseen = ids if cache is None else tokens[:, None]  # before 5.24 some models keep a state by another name
