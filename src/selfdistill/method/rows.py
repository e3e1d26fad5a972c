"""Turns a user's rows, in any accepted form, into prompt pairs that fit the length limits."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

from selfdistill.data.kept import keep
from selfdistill.data.rows import examples_from_rows
from selfdistill.errors import UserError, quoted
from selfdistill.method.lengths import fit, length_limits
from selfdistill.method.methods import ANCHORS, METHODS
from selfdistill.method.prompts import render_anchors, render_pairs
from selfdistill.settings.method import MethodConfig
from selfdistill.types import Example, PromptPair

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Rows = Iterable[Example | PromptPair | Mapping[str, Any]]
"""Examples, rows in any schema of ``data.rows``, or pairs that are already rendered."""


def training_pairs(
    rows: Rows, config: MethodConfig, tokenizer: "PreTrainedTokenizerBase", model_config: Any, name: str = "train"
) -> Sequence[PromptPair]:
    """Renders training rows and checks their lengths. Rows that are PromptPairs are returned unchanged and unchecked.
    ``name``: what their ids begin with.

    Raises:
        UserError: a row is unusable, over a limit and not to be dropped, or has a token that the model does not know.
    """
    items = keep(rows)
    if (pairs := _as_pairs(items)) is not None:
        return pairs
    spec = METHODS[config.method]
    raw_text = spec.prompt == "raw_text"
    optional = config.demonstration_from == "own_success"
    demonstrations = spec.needs_demonstration
    examples = as_examples(items, name, demonstrations=demonstrations, optional=optional, raw_text=raw_text)
    pairs = render_pairs(examples, config, tokenizer)
    kept = fit(pairs, length_limits(config, model_config), overlong=config.overlong)
    check_ids(kept, model_config, tokenizer)
    return kept


def held_out_pairs(
    rows: Rows | Mapping[str, Rows] | None,
    config: MethodConfig,
    tokenizer: "PreTrainedTokenizerBase",
    model_config: Any,
) -> Any:
    """Renders held-out rows as ``training_pairs`` does, or each of several sets by name; None if there are none.

    Raises:
        UserError: as ``training_pairs``.
    """
    if rows is None:
        return None
    if isinstance(rows, Mapping):
        return {name: held_out_pairs(each, config, tokenizer, model_config) for name, each in rows.items()}
    return training_pairs(rows, config, tokenizer, model_config, name="eval")


def anchor_pairs(
    rows: Rows, config: MethodConfig, tokenizer: "PreTrainedTokenizerBase", model_config: Any
) -> Sequence[PromptPair]:
    """Renders anchor prompts as ``training_pairs`` does training rows; empty if ``anchor_share`` is 0.

    Raises:
        UserError: as ``training_pairs``.
    """
    items = list(rows)
    if config.anchor_share == 0 or not items:
        return []
    if (pairs := _as_pairs(items)) is not None:
        return pairs
    pairs = render_anchors(as_examples(items, "anchor", demonstrations=False), config, tokenizer)
    kept = fit(pairs, length_limits(config, model_config, ANCHORS), overlong=config.overlong)
    check_ids(kept, model_config, tokenizer)
    return kept


def as_examples(
    rows: Iterable[Example | PromptPair | Mapping[str, Any]],
    name: str,
    *,
    demonstrations: bool = True,
    optional: bool = False,
    raw_text: bool = False,
) -> Sequence[Example]:
    """Converts rows to Examples (see ``data.rows``), with ids such as ``name/0``; Examples keep their ids.

    ``demonstrations``: whether every row must have one, unless they are ``optional``. If False, demonstrations are
    dropped. ``raw_text``: whether rows may be plain text.

    Raises:
        UserError: a row is unusable or lacks a demonstration, there are no rows, or only some are Examples.
    """
    items = keep(rows)
    num_examples = sum(isinstance(item, Example) for item in items)
    if num_examples not in (0, len(items)):
        raise UserError(f"{name}_dataset mixes Examples with other rows. Give all rows in one form.")
    if num_examples:
        examples = cast(Sequence[Example], items)
        if (
            demonstrations
            and not optional
            and (lacking := next((row for row in examples if not row.demonstration), None))
        ):
            raise UserError(
                f"{lacking.id} has no demonstration, which the method learns from. Give every Example one, or take "
                "method reinvoke."
            )
    elif strange := list(islice((item for item in items if not isinstance(item, Mapping)), 1)):
        raise UserError(
            f"{name}_dataset holds {quoted(strange[0])}, which is no row of columns. Give rows of one form, such as "
            "one split of a DatasetDict, or a list of dicts."
        )
    else:
        examples = examples_from_rows(
            cast(Sequence[Mapping[str, Any]], items),
            source=f"{name}_dataset",
            prefix=name,
            need_demonstration=demonstrations and not optional,
            raw_text=raw_text,
        )
    return examples if demonstrations else keep(replace(example, demonstration=()) for example in examples)


def check_ids(pairs: Sequence[PromptPair], model_config: Any, tokenizer: "PreTrainedTokenizerBase") -> None:
    """Raises UserError if a prompt or demonstration has a token that the model has no embedding of."""
    size = model_config.get_text_config(decoder=True).vocab_size
    if len(tokenizer) <= size:
        return
    for pair in pairs:
        for ids in (pair.student_ids, pair.teacher_ids or (), pair.demonstration_ids):
            if ids and max(ids) >= size:
                token = tokenizer.convert_ids_to_tokens([max(ids)])[0]
                raise UserError(
                    f"{pair.example.id}: token {token} has id {max(ids)}, the model knows {size} tokens. Resize its "
                    "embeddings, or take the tokenizer that belongs to it."
                )


def _as_pairs(items: Sequence[Any]) -> Sequence[PromptPair] | None:
    return items if items and all(isinstance(item, PromptPair) for item in items) else None
