"""The engines by name, and which of them a model gets."""

from collections.abc import Callable, Collection
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfdistill.errors import UserError
from selfdistill.method.rollout.engine import RolloutEngine
from selfdistill.method.rollout.generate import GenerateEngine
from selfdistill.method.rollout.own import OwnEngine, why_not_own
from selfdistill.models.tokens import eos_token_ids, pad_token_id

BATCH_SIZE = 64
"""Prompts decoded together."""

MakeEngine = Callable[[PreTrainedModel, Collection[int], int, int], RolloutEngine]
"""From a model, the ids that end a completion, the padding id and the batch size to an engine."""

ENGINES: dict[str, MakeEngine] = {"own": OwnEngine, "generate": GenerateEngine}
"""The engines by name. To add one, add a file with a class and a row here, and its name to ``types.EngineName``."""


def make_engine(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    name: str = "auto",
    batch_size: int = BATCH_SIZE,
) -> RolloutEngine:
    """The engine of that name for a model in memory; ``auto`` is the fastest that gives the model's own logits.

    Raises:
        UserError: ``own`` was asked for, and our decoding loop does not give this model's logits.
    """
    reason = why_not_own(model) if name in ("auto", "own") else None
    if name == "own" and reason is not None:
        raise UserError(f"rollout_engine own: {reason} Take rollout_engine auto or generate.")
    chosen = ("generate" if reason else "own") if name == "auto" else name
    engine: Any = ENGINES[chosen](model, eos_token_ids(model, tokenizer), pad_token_id(tokenizer), batch_size)
    return engine


def describe(engine: RolloutEngine) -> str:
    """What samples, for people and for records: ``own``, ``generate``, or the class of an engine of the user's."""
    return next((name for name, made in ENGINES.items() if made is type(engine)), type(engine).__name__)
