"""Special tokens: those that end a completion, and the one for padding."""

import weakref
from collections.abc import Callable
from typing import Any, cast

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfdistill.errors import UserError
from selfdistill.models.bounded import Bounded, BoundedError

MARK = "zq7mark"
"""Text that no chat template contains."""


def eos_token_ids(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Returns every token id that ends a completion.

    These are the ids that the generation config, the model's config and the tokenizer declare, and the token with which
    the chat template ends an assistant's turn. Ids outside the vocabulary are left out.
    """
    text_config = model.config.get_text_config(decoder=True)
    declared: list[Any] = [tokenizer.eos_token_id, end_of_turn_id(tokenizer)]
    for config in (model.generation_config, model.config, text_config):
        ids = getattr(config, "eos_token_id", None)
        declared.extend(ids if isinstance(ids, list | tuple) else [ids])
    return {id for id in declared if isinstance(id, int) and 0 <= id < vocab_size(model)}


def pad_token_id(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> int:
    """Returns the padding id, or the end-of-sequence id if the tokenizer has no padding id.

    ``vocab_size``: number of token ids that the model knows. A larger id is passed over: a padding token may have been
    added to the tokenizer without resizing the model's embeddings.

    Raises:
        UserError: there is no such id.
    """
    for id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if isinstance(id, int) and id < vocab_size:
            return id
    raise UserError("The tokenizer has neither a pad nor an end-of-sequence token. Set its eos_token.")


def vocab_size(model: PreTrainedModel | PeftModel) -> int:
    """Number of token ids that the model's config declares."""
    return int(model.config.get_text_config(decoder=True).vocab_size)


def end_of_turn_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Id of the special token that the chat template puts right after an assistant's content; None if there is none."""
    if not tokenizer.chat_template:
        return None
    user = [{"role": "user", "content": "Hi"}]
    try:
        asked = chat_text(tokenizer, user)
        opened = chat_text(tokenizer, user, add_generation_prompt=True)
        answered = chat_text(tokenizer, [*user, {"role": "assistant", "content": MARK}])
    except BoundedError:
        return None
    after = answered.rpartition(MARK)[2].lstrip()
    ids = cast(list[int], tokenizer(after, add_special_tokens=False)["input_ids"]) if after else []
    if not ids:
        return None
    added = tokenizer.added_tokens_decoder.get(ids[0])
    if added is None or not added.special or not after.startswith(added.content):
        return None
    # A token that also opens turns would end every completion at its start.
    return None if added.content in opened.removeprefix(asked) else ids[0]


def chat_text(tokenizer: PreTrainedTokenizerBase, messages: list[Any], **options: Any) -> str:
    """The text that the tokenizer's chat template makes of chat turns, within the limits of ``bounded``.

    ``options``: passed to ``apply_chat_template``.

    Raises:
        BoundedError: the template refuses the turns, is broken, or reaches a limit.
    """
    template, render = _TEMPLATES.get(tokenizer, (None, None))
    if render is None or template != tokenizer.chat_template:
        render = Bounded(_rendering(weakref.ref(tokenizer)))
        _TEMPLATES[tokenizer] = tokenizer.chat_template, render
    return render(messages, **options)


_TEMPLATES: "weakref.WeakKeyDictionary[PreTrainedTokenizerBase, tuple[Any, Bounded]]" = weakref.WeakKeyDictionary()
"""Each tokenizer's chat template, and the process that renders it."""


def _rendering(tokenizer: "weakref.ref[PreTrainedTokenizerBase]") -> Callable[..., str]:
    """Not a method of the tokenizer, which would keep it, and thereby its process, alive for good."""

    def render(messages: list[Any], **options: Any) -> str:
        alive = tokenizer()
        assert alive is not None
        return cast(str, alive.apply_chat_template(messages, tokenize=False, **options))

    return render
