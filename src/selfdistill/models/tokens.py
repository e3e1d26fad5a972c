"""Tokens with a meaning: what ends a completion, and what pads one."""

from typing import Any, cast

from jinja2 import TemplateError
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfdistill.errors import UserError


def eos_token_ids(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Every token id that ends a completion.

    Those that the generation config, the model's config and the tokenizer declare, and the token
    with which the chat template ends an assistant's turn. Ids outside the vocabulary are left out.
    """
    text_config = model.config.get_text_config(decoder=True)
    declared: list[Any] = [tokenizer.eos_token_id, _end_of_turn_id(tokenizer)]
    for config in (model.generation_config, model.config, text_config):
        ids = getattr(config, "eos_token_id", None)
        declared.extend(ids if isinstance(ids, list | tuple) else [ids])
    return {i for i in declared if isinstance(i, int) and 0 <= i < text_config.vocab_size}


def pad_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The padding id, or the end-of-sequence id where the tokenizer has none.

    Raises:
        UserError: it has neither.
    """
    for id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if isinstance(id, int):
            return id
    raise UserError("The tokenizer has neither a pad nor an end-of-sequence token. Set its eos_token.")


def _end_of_turn_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The special token that the chat template puts right after an assistant's content, if any."""
    if not tokenizer.chat_template:
        return None
    mark = "zq7mark"
    user = [{"role": "user", "content": "Hi"}]
    try:
        asked = _render(tokenizer, user)
        opened = _render(tokenizer, user, add_generation_prompt=True)
        answered = _render(tokenizer, [*user, {"role": "assistant", "content": mark}])
    except (TemplateError, TypeError, ValueError):
        return None
    after = answered.rpartition(mark)[2].lstrip()
    ids = cast(list[int], tokenizer(after, add_special_tokens=False)["input_ids"]) if after else []
    if not ids:
        return None
    added = tokenizer.added_tokens_decoder.get(ids[0])
    if added is None or not added.special or not after.startswith(added.content):
        return None
    # A token that also opens turns would end every completion at its start.
    return None if added.content in opened.removeprefix(asked) else ids[0]


def _render(tokenizer: PreTrainedTokenizerBase, messages: list[Any], **options: Any) -> str:
    return cast(str, tokenizer.apply_chat_template(messages, tokenize=False, **options))
