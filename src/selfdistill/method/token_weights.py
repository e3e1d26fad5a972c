"""Weights of tokens: how much each token of a completion counts where the student is compared with the teacher.

All weights lie between ``LEAST`` and 1, are constant in the gradient and multiply a token's divergence. They are not
renormalised, so that a completion that counts less as a whole moves the student less.

============  ======================================================================================
``one``       1
``support``   product over the loss tokens u before t of min(1, p(y_u) / q(y_u)): how well the teacher supports the
              prefix that it is asked to continue (after IW-OPD, arXiv 2606.22600)
``position``  2 ** (-t / half_life), t = 0 at the start of the completion
``late``      1 - 2 ** (-(t + 1) / half_life): growing, as in PW-OPSD (arXiv 2605.21606)
``entropy``   exp(-H(p)): one divided by the number of tokens between which the teacher hesitates
============  ======================================================================================
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from selfdistill.method.chunked import by_autograd, chunked
from selfdistill.method.divergence import transform_logits
from selfdistill.types import TokenWeight

LEAST = 1e-6
"""Smallest weight. It is above 0, because a token's own divergence is its weighted one divided by the weight."""


def prefix_support(teacher_logprobs: Tensor, student_logprobs: Tensor, counts: Sequence[int]) -> Tensor:
    """Returns each token's product of min(1, p / q) over the loss tokens before it in its completion, [N].

    Args:
        teacher_logprobs: [N], in nats, of the loss tokens, completion by completion.
        student_logprobs: [N], likewise.
        counts: number of loss tokens of each completion; they add up to N.
    """
    ratios = (teacher_logprobs - student_logprobs).clamp(max=0)
    sums = [own.cumsum(0) - own for own in ratios.split(list(counts))]  # without the token itself
    return torch.cat(sums).exp() if sums else ratios


def early(positions: Tensor, half_life: float) -> Tensor:
    """2 ** (-t / half_life) for positions t [N] in the completion, from 0."""
    return torch.exp2(-positions / half_life)


def late(positions: Tensor, half_life: float) -> Tensor:
    """1 - 2 ** (-(t + 1) / half_life) for positions t [N] in the completion, from 0."""
    return 1 - torch.exp2(-(positions + 1) / half_life)


def certainty(entropies: Tensor) -> Tensor:
    """exp(-H) of entropies H [N] in nats."""
    return torch.exp(-entropies)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenWeightSpec:
    """A way to weigh tokens."""

    weights: Callable[..., Tensor] | None = None
    """Maps what it ``reads``, by name, to weights [N] in [0, 1]. None: all weights are 1."""
    reads: tuple[str, ...] = ()
    """Names among ``teacher_logprobs``, ``student_logprobs``, ``counts``, ``positions``, ``entropies`` (the teacher's)
    and ``half_life``."""


TOKEN_WEIGHTS: dict[TokenWeight, TokenWeightSpec] = {
    "one": TokenWeightSpec(),
    "support": TokenWeightSpec(weights=prefix_support, reads=("teacher_logprobs", "student_logprobs", "counts")),
    "position": TokenWeightSpec(weights=early, reads=("positions", "half_life")),
    "late": TokenWeightSpec(weights=late, reads=("positions", "half_life")),
    "entropy": TokenWeightSpec(weights=certainty, reads=("entropies",)),
}
"""The token weights by name. To add one, add a function and a row here, and its name to ``types.TokenWeight``."""


@torch.no_grad()
def token_weights(kind: TokenWeight, known: Mapping[str, Callable[[], object]]) -> Tensor | None:
    """Returns weights [N] in [``LEAST``, 1]; None if all are 1.

    ``known`` has functions by the names that a row may read; only those that the row reads are called.
    """
    spec = TOKEN_WEIGHTS[kind]
    if spec.weights is None:
        return None
    return spec.weights(**{name: known[name]() for name in spec.reads}).clamp(min=LEAST)


def chunked_entropies(
    hidden: Tensor,
    head: Tensor,
    *,
    temperature: float = 1.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """Returns the entropy [N] in nats of softmax(transform(hidden @ head.T) / T), in fp32 (fp64 for fp64 input).

    Arguments are those of ``divergence.chunked_logprobs``.
    """

    def values(_: slice, raw: Tensor, __: Sequence[Tensor]) -> Tensor:
        log_probs = transform_logits(raw, temperature, logit_scale, softcap).log_softmax(-1)
        return -(log_probs.exp() * log_probs).sum(-1)

    return chunked(values, by_autograd(values), hidden, head, (), None, chunk_size)
