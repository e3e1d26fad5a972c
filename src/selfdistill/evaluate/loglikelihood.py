"""Log-likelihood of continuations, as lm-evaluation-harness defines it, on a model in memory."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfdistill.errors import UserError, quoted
from selfdistill.method.batch import Scored, tokens_per_forward
from selfdistill.method.lengths import context_length
from selfdistill.method.scoring import logprobs, predictions
from selfdistill.models.mode import evaluating
from selfdistill.models.tokens import pad_token_id, vocab_size

DEFAULT_CONTEXT = 2048
"""Context length in tokens of a model whose config names none."""


@dataclass(slots=True)
class _Sequence:
    """A sequence that goes through the model once, for all continuations that have the same context."""

    ids: tuple[int, ...]
    """The model's input: context and continuation, without the last token."""
    continuations: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)
    """For each continuation, the index of its request and its token ids."""


@torch.inference_mode()
def loglikelihoods(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[tuple[str, str]],
    *,
    batch_size: int = 16,
    progress: Callable[[int], None] | None = None,
) -> list[float]:
    """The log-probability in nats of each continuation given its context, summed over its tokens, in order.

    Args:
        model: the model in memory.
        tokenizer: its tokenizer, which adds its special tokens to the context.
        requests: context and continuation; a space between them belongs to the continuation.
        batch_size: sequences of similar length that go through the model together, right-padded.
        progress: called with the number of requests finished since the last call.

    Raises:
        UserError: a continuation alone is longer than the model's context.
    """
    context = context_length(model.config) or DEFAULT_CONTEXT
    sequences: dict[tuple[int, ...], _Sequence] = {}
    for index, request in enumerate(requests):
        before, continuation = encode_pair(tokenizer, *request)
        if len(continuation) > context:
            raise UserError(
                f"The choice {quoted(request[1])} has {len(continuation)} tokens, the model reads {context}. Choose a "
                "model with a longer context."
            )
        ids = (*before, *continuation)[-(context + 1) :][:-1]  # a context that is too long loses its beginning
        sequences.setdefault(ids, _Sequence(ids)).continuations.append((index, tuple(continuation)))
    values = [0.0] * len(requests)
    with evaluating(model):
        for batch in _batches(list(sequences.values()), batch_size, tokens_per_forward(model.device)):
            scored = _score(model, batch, pad_token_id(tokenizer, vocab_size(model)))
            for index, value in scored.items():
                values[index] = value
            if progress:
                progress(len(scored))
    return values


def encode_pair(tokenizer: PreTrainedTokenizerBase, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Token ids of context and continuation, tokenised together. White space that ends the context belongs to the
    continuation; a context of nothing else is replaced by the start token."""
    stripped = context.rstrip()
    if not stripped:
        continuation = context + continuation
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        ids: list[int] = tokenizer(continuation, add_special_tokens=False)["input_ids"]  # type: ignore[assignment]
        return (ids[:1], ids[1:]) if ids[0] == start else ([start], ids)  # type: ignore[list-item]
    whole: list[int] = tokenizer(context + continuation)["input_ids"]  # type: ignore[assignment]
    length = len(tokenizer(stripped)["input_ids"])
    return whole[:length], whole[length:]


def _batches(sequences: list[_Sequence], size: int, most_tokens: int | None) -> Iterator[list[_Sequence]]:
    """Batches of sequences of similar length, the longest first. Each has at most ``size`` sequences, and at most
    ``most_tokens`` tokens with padding, unless it is a single sequence."""
    ordered = sorted(sequences, key=lambda sequence: -len(sequence.ids))
    while ordered:
        fitting = size if most_tokens is None else min(size, most_tokens // len(ordered[0].ids))
        batch, ordered = ordered[: max(1, fitting)], ordered[max(1, fitting) :]
        yield batch


def _score(model: PreTrainedModel, batch: list[_Sequence], pad: int) -> dict[int, float]:
    """Log-likelihoods in nats, by index of the request."""
    width = len(batch[0].ids)
    rows: list[int] = []
    tokens: list[int] = []
    lengths: dict[int, int] = {}
    for number, sequence in enumerate(batch):
        end = number * width + len(sequence.ids)
        for index, continuation in sequence.continuations:
            rows += range(end - len(continuation), end)
            tokens += continuation
            lengths[index] = len(continuation)
    padded = [[*sequence.ids, *[pad] * (width - len(sequence.ids))] for sequence in batch]
    device = model.device
    scored = Scored(input_ids=torch.tensor(padded, device=device), rows=torch.tensor(rows, device=device))
    values = logprobs(predictions(model, [scored]), torch.tensor(tokens, device=device))
    pieces = values.cpu().double().split(list(lengths.values()))
    return {index: piece.sum().item() for index, piece in zip(lengths, pieces, strict=True)}
