"""Rows as a model's tokenizer and chat template have them."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from selfdistill.data.inspection import ControlTokens, Measure
from selfdistill.method.prompts import PromptRenderer
from selfdistill.models import loading
from selfdistill.training.settings import AUTO_STANDS_FOR
from selfdistill.types import Example


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
        return ShownRow(student=renderer.text(example.prompt), teacher=renderer.teacher_text(example))

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


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    return [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
