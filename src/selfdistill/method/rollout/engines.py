"""The table of rollout engines, and the choice of one for a model."""

from collections.abc import Callable, Collection

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfdistill.errors import UserError
from selfdistill.method.rollout.engine import BATCH_SIZE, RolloutEngine
from selfdistill.method.rollout.generate import GenerateEngine
from selfdistill.method.rollout.own import OwnEngine, why_not_own
from selfdistill.method.rollout.paged import PagedEngine, why_not_paged
from selfdistill.models.tokens import eos_token_ids, pad_token_id, vocab_size

MakeEngine = Callable[[PreTrainedModel, Collection[int], int, int], RolloutEngine]
"""Makes an engine from a model, the ids that end a completion, the padding id and the batch size."""

ENGINES: dict[str, MakeEngine] = {"own": OwnEngine, "generate": GenerateEngine, "paged": PagedEngine}
"""The engines by name. To add one, add a file with a class and a row here, and its name to ``types.EngineName``."""

CHECKS: dict[str, Callable[[PreTrainedModel], str | None]] = {"own": why_not_own, "paged": why_not_paged}
"""For engines that are not for every model: says why one is not for a model, or None."""


def make_engine(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    name: str = "auto",
    batch_size: int = BATCH_SIZE,
) -> RolloutEngine:
    """Makes the engine ``name`` for a model in memory.

    ``auto`` is ``own`` if our decoding loop gives the model's own logits, otherwise ``generate``.

    Raises:
        UserError: ``name`` is ``own`` or ``paged``, but that engine does not give this model's logits.
    """
    check = CHECKS.get("own" if name == "auto" else name)
    reason = check(model) if check else None
    if name != "auto" and reason is not None:
        raise UserError(f"rollout_engine {name}: {reason} Take rollout_engine auto or generate.")
    chosen = ("generate" if reason else "own") if name == "auto" else name
    pad_id = pad_token_id(tokenizer, vocab_size(model))
    return ENGINES[chosen](model, eos_token_ids(model, tokenizer), pad_id, batch_size)


def describe(engine: RolloutEngine) -> str:
    """Name of an engine for messages and records: that in ENGINES, or the class name of a user's own engine."""
    return next((name for name, made in ENGINES.items() if made is type(engine)), type(engine).__name__)
