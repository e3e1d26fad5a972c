"""Renders examples as token ids: the student's prompt, the teacher's prompt, and the demonstration as an answer."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

from selfdistill.data.kept import keep
from selfdistill.errors import UserError, did_you_mean
from selfdistill.method.answers import Answers, Ids
from selfdistill.method.methods import METHODS
from selfdistill.method.sources import uses_answers
from selfdistill.method.templates import TEMPLATES, TemplateContext
from selfdistill.method.turns import ChatTurns, Tools, knows_tags
from selfdistill.models.tokens import MARK, tool_token_ids
from selfdistill.settings.method import MethodConfig
from selfdistill.types import THINK_END, Example, Message, PromptPair

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHUNK = 1_000
"""Number of rows rendered and tokenised at a time."""


class PromptRenderer:
    """Renders examples with one tokenizer and one way of showing the demonstration.

    Args:
        tokenizer: a tokenizer with a chat template.
        template: a row of ``templates.TEMPLATES``.
        repeat: for ``prior_turn`` how often the earlier turn is shown, for ``few_shot`` how many other examples come
            before the row's own.
        template_file: path of a Jinja file, for the template ``file``.
        pool: the examples that ``few_shot`` draws from, in the data's order.
        chat_template_kwargs: passed to the chat template.
        teacher_chat_template_kwargs: passed to it for the teacher's prompts instead; by default the same.

    Raises:
        UserError: there is no template of that name. Rendering raises UserError if the chat template refuses a prompt.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        template: str = "paper",
        *,
        repeat: int = 1,
        template_file: str | None = None,
        pool: Sequence[Example] = (),
        chat_template_kwargs: Mapping[str, Any] | None = None,
        teacher_chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        if template not in TEMPLATES:
            hint = did_you_mean(template, TEMPLATES)
            raise UserError(f"template: {template!r} is not one of {', '.join(TEMPLATES)}.{hint} (auto: command line.)")
        self.tokenizer = tokenizer
        self.chat_template_kwargs = dict(chat_template_kwargs or {})
        of_teacher = teacher_chat_template_kwargs
        self._teacher_kwargs = self.chat_template_kwargs if of_teacher is None else dict(of_teacher)
        self._turns = ChatTurns(tokenizer)
        self._template, self._repeat, self._file, self._pool = TEMPLATES[template], repeat, template_file, pool
        self._ints = list(range(len(tokenizer)))  # rows share one int object per id, which saves memory

    # -- one row ---------------------------------------------------------------------------------------------------

    def render(self, example: Example, *, teacher: bool = True, answer: bool = True) -> PromptPair:
        """Renders one example: the student's prompt and, if asked for, the teacher's prompt and the demonstration as an
        answer. Without a demonstration the teacher reads the same turns as the student."""
        (pair,) = self.render_all([example], teacher=teacher, answers=answer)
        return pair

    def text(self, messages: Sequence[Message], tools: Tools = ()) -> str:
        """Renders chat turns as prompt text, ending with the header of the assistant's turn.

        ``tools``: definitions of the tools that it may call.
        """
        return self._turns.text(messages, self.chat_template_kwargs, opened=True, tools=tools)

    def teacher_text(self, example: Example) -> str:
        """Renders the teacher's prompt as text."""
        return self._shown(self._teacher_messages(example), example.tools)

    def teacher_ids(self, example: Example, feedback: str) -> Ids:
        """Token ids of the teacher's prompt; ``feedback``: words about a completion of it, empty for none."""
        (ids,) = self._encode_all([self._shown(self._teacher_messages(example, feedback), example.tools)])
        return ids

    def completion_text(self, completion_ids: Sequence[int]) -> str:
        """Decodes a completion, without special tokens except those of tool calls."""
        ids = [id for id in completion_ids if id not in self._hidden_ids]
        text = self.tokenizer.decode(ids, skip_special_tokens=False)
        assert isinstance(text, str)
        return text

    # -- many rows -------------------------------------------------------------------------------------------------

    def render_all(
        self,
        examples: Iterable[Example],
        *,
        teacher: bool = True,
        answers: bool = True,
        on_done: Callable[[int], None] | None = None,
    ) -> Sequence[PromptPair]:
        """Renders every example as ``render`` does, in order.

        ``on_done`` is called with the number of rows finished since the last call.
        """

        def rendered() -> Iterator[PromptPair]:
            for chunk in _chunks(examples):
                texts = [self.text(example.prompt, example.tools) for example in chunk]
                student = self._encode_all(texts)
                taught = self._teacher_ids(chunk, student) if teacher else [None] * len(chunk)
                answered = self._answers.of(chunk, texts, student) if answers else [((), None)] * len(chunk)
                for example, ids, teacher_ids, (answer, mask) in zip(chunk, student, taught, answered, strict=True):
                    yield PromptPair(
                        example=example,
                        student_ids=ids,
                        teacher_ids=teacher_ids,
                        demonstration_ids=answer,
                        demonstration_mask=mask,
                    )
                if on_done:
                    on_done(len(chunk))

        return keep(rendered())

    def with_teacher(
        self, pairs: Sequence[PromptPair], on_done: Callable[[int], None] | None = None
    ) -> Sequence[PromptPair]:
        """Returns the pairs with the teacher's prompt added, rendered with this renderer's template."""

        def taught() -> Iterator[PromptPair]:
            for chunk in _chunks(pairs):
                ids = self._teacher_ids([pair.example for pair in chunk], [pair.student_ids for pair in chunk])
                yield from (replace(pair, teacher_ids=teacher) for pair, teacher in zip(chunk, ids, strict=True))
                if on_done:
                    on_done(len(chunk))

        return keep(taught())

    # -- parts -----------------------------------------------------------------------------------------------------

    @cached_property
    def _answers(self) -> Answers:
        return Answers(self.tokenizer, self._turns, self.chat_template_kwargs, self._encode_all)

    @cached_property
    def _hidden_ids(self) -> set[int]:
        """Special tokens that are no part of an answer's text."""
        special = {id for id, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        return special - tool_token_ids(self.tokenizer)

    @cached_property
    def _context(self) -> TemplateContext:
        return TemplateContext(
            repeat=self._repeat,
            file=self._file,
            pool=self._pool,
            place={example.id: index for index, example in enumerate(self._pool)},
            default_system=self._default_system(),
        )

    def _teacher_messages(self, example: Example, feedback: str = "") -> Sequence[Message]:
        if not example.demonstration and not feedback:
            return example.prompt
        context = replace(self._context, feedback=feedback) if feedback else self._context
        return self._template.messages(example, context)

    def _teacher_ids(self, examples: Sequence[Example], student: Sequence[Ids]) -> list[Ids]:
        alike = self._teacher_kwargs == self.chat_template_kwargs
        shown = [index for index, example in enumerate(examples) if example.demonstration or not alike]
        encoded = self._encode_all([self.teacher_text(examples[index]) for index in shown])
        of_shown = dict(zip(shown, encoded, strict=True))
        return [of_shown.get(index, ids) for index, ids in enumerate(student)]

    def _default_system(self) -> str:
        """System text that the chat template adds to a teacher's prompt without a system turn; empty if it adds
        none."""
        try:
            plain = self._shown([{"role": "user", "content": MARK}])
            full = self._shown([{"role": "system", "content": f"{MARK}s"}, {"role": "user", "content": MARK}])
        except UserError:  # the chat template refuses system turns
            return ""
        before, _, after = full.partition(f"{MARK}s")
        between = after.partition(MARK)[0]
        place = plain.find(between + MARK)
        return plain[len(before) : place] if before and between and plain.startswith(before) and place > 0 else ""

    def _shown(self, messages: Sequence[Message], tools: Tools = ()) -> str:
        """As ``text``, with the teacher's variables."""
        return self._turns.text(messages, self._teacher_kwargs, opened=True, tools=tools)

    def _encode_all(self, texts: Sequence[str]) -> list[Ids]:
        if not texts:
            return []
        lists = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        size = len(self._ints)
        return [tuple(self._ints[id] if id < size else id for id in ids) for ids in lists]  # type: ignore[arg-type]


def make_renderer(
    examples: Iterable[Example], config: MethodConfig, tokenizer: "PreTrainedTokenizerBase"
) -> PromptRenderer:
    """Makes the renderer that the settings describe; the template ``few_shot`` draws from those of ``examples`` that
    have a demonstration."""
    drawn_from = examples if config.template == "few_shot" else ()
    return PromptRenderer(
        tokenizer,
        config.template,
        repeat=config.template_repeat,
        template_file=config.template_file,
        pool=keep(example for example in drawn_from if example.demonstration),
        chat_template_kwargs=config.chat_variables("student"),
        teacher_chat_template_kwargs=config.chat_variables("teacher"),
    )


def raw_texts(examples: Sequence[Example], tokenizer: "PreTrainedTokenizerBase") -> Sequence[PromptPair]:
    """Renders each demonstration as plain text without a chat template, for continued pre-training.

    Its first token is the prompt, the rest and the EOS token are the answer.
    """
    eos = tokenizer.eos_token

    def rendered() -> Iterator[PromptPair]:
        for chunk in _chunks(examples):
            encoded: Any = tokenizer([example.demonstration_text + str(eos or "") for example in chunk])["input_ids"]
            for example, (first, *rest) in zip(chunk, encoded, strict=True):
                if eos is not None and rest[-2:] == [tokenizer.eos_token_id] * 2:  # some tokenizers add one, too
                    rest.pop()
                yield PromptPair(example=example, student_ids=(first,), demonstration_ids=tuple(rest))

    return keep(rendered())


def render_pairs(
    examples: Sequence[Example],
    config: MethodConfig,
    tokenizer: "PreTrainedTokenizerBase",
    on_done: Callable[[int], None] | None = None,
) -> Sequence[PromptPair]:
    """Renders every example as the settings' method needs it.

    The teacher's prompt is rendered only if it contains the demonstration, and the demonstration's ids only if the
    method trains on them. ``on_done``: as in ``PromptRenderer.render_all``.
    """
    spec = METHODS[config.method]
    if spec.prompt == "raw_text":
        return raw_texts(examples, tokenizer)
    renderer = make_renderer(examples, config, tokenizer)
    return renderer.render_all(
        examples, teacher=spec.shows_demonstration, answers=uses_answers(config), on_done=on_done
    )


def render_anchors(
    examples: Sequence[Example], config: MethodConfig, tokenizer: "PreTrainedTokenizerBase"
) -> Sequence[PromptPair]:
    """Renders anchor prompts, which student and teacher read alike under every method, as the student does."""
    renderer = PromptRenderer(tokenizer, chat_template_kwargs=config.chat_variables("student"))
    return renderer.render_all(examples, teacher=False, answers=False)


def think_end_ids(tokenizer: "PreTrainedTokenizerBase") -> Ids:
    """Ids of the tag that ends a thinking model's thoughts; empty if the chat template has no think tags."""
    if not knows_tags(tokenizer):
        return ()
    return tuple(tokenizer(THINK_END, add_special_tokens=False)["input_ids"])


def _chunks(items: Iterable[Any]) -> Iterator[list[Any]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, CHUNK)):
        yield chunk
