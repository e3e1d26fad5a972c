"""Special tokens: those that end a completion, and the one for padding."""

import os
import weakref
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import date
from typing import Any, cast

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfdistill.errors import UserError, quoted
from selfdistill.models.bounded import Bounded, BoundedError

MARK = "zq7mark"
"""Text that no chat template contains."""
TODAY = "today"
"""The variable by which a chat template is told the date."""


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


@dataclass(frozen=True, slots=True)
class EndOfTurn:
    """How a chat template ends an assistant's turn."""

    id: int
    """Token that ends the turn."""
    trailing: str
    """What the template writes after that token where the conversation ends there."""


def end_of_turn_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Id of the special token that the chat template ends an assistant's turn with; None if there is none."""
    end = end_of_turn(tokenizer)
    return None if end is None else end.id


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> EndOfTurn | None:
    """How the chat template ends an assistant's turn; None if no special token comes right after the content.

    It is the first special token after the content. If more follow at once, as after the token that closes the response
    of Command R7B, it is the end-of-sequence token, if that is one of them whether a user's turn follows or not.
    """
    try:
        asked, opened, answered, followed = _probed(tokenizer)
    except BoundedError:
        return None
    after = answered.rpartition(MARK)[2].lstrip()
    tokens = _special_tokens_before(after, tokenizer)
    if not tokens or MARK not in answered:
        return None
    count, eos = 1, str(tokenizer.eos_token)
    if eos in tokens and eos in _special_tokens_before(followed.rpartition(MARK)[2].lstrip(), tokenizer):
        count = tokens.index(eos) + 1
    end = tokens[count - 1]
    # A token that also opens turns would end every completion at its start. Where no answer is begun, some templates
    # end the whole text, so that the one text does not begin with the other.
    same = len(os.path.commonprefix([asked, opened]))  # noqa: RUF071  # these are no paths
    if end in opened[same:]:
        return None
    id = tokenizer.convert_tokens_to_ids(end)
    assert isinstance(id, int)
    return EndOfTurn(id, after[len("".join(tokens[:count])) :])


def check_end_of_turn(tokenizer: PreTrainedTokenizerBase, eos_ids: Collection[int]) -> None:
    """Raises UserError if the chat template ends an answer with text that holds none of the tokens ``eos_ids``, so that
    an answer of the model would go on until its token limit."""
    if not tokenizer.chat_template:
        return
    try:
        *_, answered, _ = _probed(tokenizer)
    except BoundedError:
        return
    after = answered.rpartition(MARK)[2].strip()
    ids = cast(list[int], tokenizer(after, add_special_tokens=False)["input_ids"]) if MARK in answered and after else []
    if ids and not set(ids) & set(eos_ids):
        raise UserError(
            f"The chat template ends an answer with {quoted(after, 24)}, which holds no token that ends generation: "
            "answers would never end. Make it the tokenizer's eos_token, or one of its special tokens."
        )


def tool_token_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids of the special tokens that the chat template writes in a turn that calls a tool, and in no other answer."""
    for arguments in ({"a": 1}, '{"a": 1}'):  # some templates take an object, some text
        call = {"type": "function", "id": "call00001", "function": {"name": MARK, "arguments": arguments}}
        try:
            called = chat_text(tokenizer, [*_HI, {"role": "assistant", "content": "", "tool_calls": [call]}])
            *_, answered, _ = _probed(tokenizer)
        except BoundedError:
            continue
        tokens = {id: token.content for id, token in tokenizer.added_tokens_decoder.items() if token.special}
        own = {id for id, text in tokens.items() if text in called and text not in answered}
        return frozenset(id for id in own if id != tokenizer.eos_token_id)
    return frozenset()


_HI: list[Any] = [{"role": "user", "content": "Hi"}]


def _probed(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str, str, str]:
    """A question; the same with an answer begun; with MARK as the answer; with that and a further question. Raises
    BoundedError if the template refuses one of them, or there is none."""
    if not tokenizer.chat_template:
        raise BoundedError("there is no chat template")
    answer = [*_HI, {"role": "assistant", "content": MARK}]
    asked, answered, followed = (chat_text(tokenizer, talk) for talk in (_HI, answer, [*answer, *_HI]))
    return asked, chat_text(tokenizer, _HI, add_generation_prompt=True), answered, followed


def _special_tokens_before(text: str, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The special tokens that the text begins with, one right after the other."""
    ids = cast(list[int], tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []
    tokens: list[str] = []
    for id in ids:
        added = tokenizer.added_tokens_decoder.get(id)
        if added is None or not added.special or not text.startswith(added.content):
            break
        tokens.append(added.content)
        text = text.removeprefix(added.content)
    return tokens


def chat_text(tokenizer: PreTrainedTokenizerBase, messages: list[Any], **options: Any) -> str:
    """The text that the tokenizer's chat template makes of chat turns, within the limits of ``bounded``.

    ``options``: passed to ``apply_chat_template``. With ``today``, a date such as ``2026-01-31``, templates that write
    the current date write that one.

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
        if (day := _date(options.get(TODAY))) is not None:
            options["chat_template"] = _dated(day) + alive.get_chat_template(tools=options.get("tools"))
        return cast(str, alive.apply_chat_template(messages, tokenize=False, **options))

    return render


def _date(value: Any) -> date | None:
    try:
        return date.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:  # a template's own variable of that name
        return None


def _dated(day: date) -> str:
    """The beginning of a template in which ``strftime_now``, by which templates ask for the date, knows this day."""
    written = "".join(f".replace('%{letter}', '{day.strftime('%' + letter)}')" for letter in "YmdBbyaAjHMS")
    return f"{{%- macro strftime_now(format) -%}}{{{{ format{written} }}}}{{%- endmacro -%}}"
