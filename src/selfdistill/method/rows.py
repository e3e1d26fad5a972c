"""Whatever rows a person gives to prompt pairs that fit the length limits: rendered once."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

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
"""Examples, rows in any schema of ``data.rows``, or pairs that are rendered already."""


def training_pairs(
    rows: Rows, config: MethodConfig, tokenizer: "PreTrainedTokenizerBase", model_config: Any
) -> list[PromptPair]:
    """Training rows, rendered and within the length limits; pairs are taken as they are.

    Raises:
        UserError: a row is unusable, or over a limit and not to be dropped.
    """
    items = list(rows)
    if (pairs := _as_pairs(items)) is not None:
        return pairs
    examples = as_examples(items, "train", demonstrations=METHODS[config.method].needs_demonstration)
    pairs = render_pairs(examples, config, tokenizer)
    return fit(pairs, length_limits(config, model_config), overlong=config.overlong)


def anchor_pairs(
    rows: Rows, config: MethodConfig, tokenizer: "PreTrainedTokenizerBase", model_config: Any
) -> list[PromptPair]:
    """General prompts, rendered and within the length limits; none where ``anchor_share`` is 0. Pairs are taken as they
    are. Raises UserError as ``training_pairs``."""
    items = list(rows)
    if config.anchor_share == 0 or not items:
        return []
    if (pairs := _as_pairs(items)) is not None:
        return pairs
    pairs = render_anchors(as_examples(items, "anchor", demonstrations=False), config, tokenizer)
    return fit(pairs, length_limits(config, model_config, ANCHORS), overlong=config.overlong)


def as_examples(
    rows: Iterable[Example | PromptPair | Mapping[str, Any]], name: str, *, demonstrations: bool = True
) -> list[Example]:
    """Examples as they are, rows converted (``data.rows``); ids begin with ``name``.

    Without ``demonstrations`` none is needed and none is kept: nobody is to be shown one.

    Raises:
        UserError: a row is unusable, or no row at all, or some are Examples and others are not.
    """
    items = list(rows)
    num_examples = sum(isinstance(item, Example) for item in items)
    if num_examples not in (0, len(items)):
        raise UserError(f"{name}_dataset mixes Examples with other rows. Give all rows in one form.")
    if num_examples:
        examples = cast(list[Example], items)
    elif strange := [item for item in items if not isinstance(item, Mapping)]:
        raise UserError(
            f"{name}_dataset holds {quoted(strange[0])}, which is no row of columns. Give rows of one form, such as "
            "one split of a DatasetDict, or a list of dicts."
        )
    else:
        examples = examples_from_rows(
            cast(list[Mapping[str, Any]], items),
            source=f"{name}_dataset",
            prefix=name,
            need_demonstration=demonstrations,
        )
    return examples if demonstrations else [replace(example, demonstration=()) for example in examples]


def _as_pairs(items: list[Any]) -> list[PromptPair] | None:
    return items if items and all(isinstance(item, PromptPair) for item in items) else None
