"""Rows as a model's tokenizer and chat template have them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from transformers import PreTrainedTokenizerBase

from selfdistill.data.inspection import ControlTokens, Measure
from selfdistill.method.prompts import PromptRenderer
from selfdistill.models import loading
from selfdistill.models.bounded import BoundedError
from selfdistill.models.tokens import MARK, TODAY, chat_text
from selfdistill.training.settings import AUTO_STANDS_FOR
from selfdistill.types import Example, PromptPair, thoughts_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownRow:
    """A row as student and teacher read it."""

    student: str
    teacher: str


class RowTokenizer:
    """Measures and renders rows with the tokenizer of a model; weights are not loaded.

    Args:
        name: the model, as ``--model_name`` takes it.

    Raises:
        UserError: there is no such model or tokenizer.
    """

    def __init__(self, name: str) -> None:
        loading.quiet_libraries()
        self.tokenizer = loading.load_tokenizer(name)

    def measure(self) -> Measure:
        """Lengths of bare texts in tokens, and the tokenizer's control tokens."""
        tokens = _special_tokens(self.tokenizer)
        return Measure(unit="tokens", lengths=self._lengths, every=False, special_tokens=tokens)

    def show(self, example: Example) -> ShownRow | None:
        """The row as it is rendered; None if the tokenizer has no chat template, or the row no prompt. Raises UserError
        if the template refuses the row."""
        if not self.tokenizer.chat_template or not example.prompt:
            return None
        renderer = PromptRenderer(self.tokenizer, AUTO_STANDS_FOR)
        return ShownRow(student=renderer.text(example.prompt, example.tools), teacher=renderer.teacher_text(example))

    def _lengths(self, texts: Sequence[str]) -> list[int]:
        if not texts:
            return []
        return [len(ids) for ids in self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]]  # type: ignore[arg-type]


def control_token_warning(examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> str | None:
    """A sentence if rows hold the text of a control token, which the model then reads as one; else None."""
    tokens = ControlTokens(_special_tokens(tokenizer))
    holding = [(example.id, token) for example in examples if (token := tokens.first_in(example))]
    if not holding:
        return None
    name, token = holding[0]
    return (
        f"{len(holding):,} of {len(examples):,} rows hold the text of a control token, which the model reads as that "
        f"token; the first is {name}: {token}"
    )


def lost_thoughts_warning(pairs: Sequence[PromptPair], tokenizer: PreTrainedTokenizerBase, template: str) -> str | None:
    """A sentence if demonstrations hold thoughts that are not in what is made of them; else None.

    Args:
        pairs: the rendered rows; the first with thoughts is looked at.
        tokenizer: the model's tokenizer.
        template: how the teacher is shown the demonstration.
    """
    thinking = (pair for pair in pairs if any(map(thoughts_of, pair.example.demonstration)))
    first = next(thinking, None)
    if first is None:
        return None
    thoughts = next(filter(None, map(thoughts_of, first.example.demonstration)))
    taught = None if template == "question" else first.teacher_ids
    for ids, place, remedy in (
        (taught, "the teacher's prompt", "Templates paper, system and file show them."),
        (
            first.demonstration_ids or None,
            "the answer that is trained on",
            "A thinking model's chat template keeps them, unless its variables forbid to think.",
        ),
    ):
        if ids is not None and _letters(thoughts) not in _letters(str(tokenizer.decode(list(ids)))):
            count = f"{1 + sum(1 for _ in thinking):,} of {len(pairs):,} demonstrations"
            return f"{count} hold thoughts, which the chat template leaves out of {place}. {remedy}"
    return None


def date_warning(tokenizer: PreTrainedTokenizerBase, variables: Mapping[str, Any]) -> str | None:
    """A sentence if prompts hold the current date; else None. ``variables``: passed to the chat template."""
    asked = [{"role": "user", "content": MARK}]
    days = ({TODAY: day, **variables} for day in ("2001-02-03", "2012-11-10"))
    try:
        texts = {chat_text(tokenizer, asked, add_generation_prompt=True, **values) for values in days}
    except BoundedError:
        return None
    if len(texts) == 1:
        return None
    return (
        "the chat template writes the current date, so that a run can't be resumed on another day. Fix it: "
        f"--chat_template_kwargs '{json.dumps({**variables, TODAY: str(date.today())})}'"
    )


def _letters(text: str) -> str:
    """The text without white space."""
    return "".join(text.split())


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    return [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
