"""Renders examples as token ids: the student's prompt, the teacher's prompt, and the demonstration as an answer."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

from selfdistill.errors import UserError, brief, did_you_mean
from selfdistill.method.methods import METHODS
from selfdistill.method.sources import uses_answers
from selfdistill.method.templates import TEMPLATES, TemplateContext
from selfdistill.models.bounded import BoundedError
from selfdistill.models.tokens import MARK, chat_text
from selfdistill.settings.method import MethodConfig
from selfdistill.types import Example, Message, PromptPair

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHUNK = 1_000
"""Number of rows rendered and tokenised at a time."""
THINK, THINK_END = "<think>", "</think>"
"""Tags at the start and end of a thinking model's thoughts."""
Ids = tuple[int, ...]


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
        self._special_ids = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._template, self._repeat, self._file, self._pool = TEMPLATES[template], repeat, template_file, pool
        self._ints = list(range(len(tokenizer)))  # rows share one int object per id, which saves memory

    # -- one row ---------------------------------------------------------------------------------------------------

    def render(self, example: Example, *, teacher: bool = True, answer: bool = True) -> PromptPair:
        """Renders one example: the student's prompt and, if asked for, the teacher's prompt and the demonstration as an
        answer. Without a demonstration the teacher reads the same turns as the student."""
        (pair,) = self.render_all([example], teacher=teacher, answers=answer)
        return pair

    def text(self, messages: Sequence[Message]) -> str:
        """Renders chat turns as prompt text, ending with the header of the assistant's turn."""
        return self._apply(messages, add_generation_prompt=True)

    def teacher_text(self, example: Example) -> str:
        """Renders the teacher's prompt as text."""
        return self._shown(self._teacher_messages(example))

    def teacher_ids(self, example: Example, feedback: str) -> Ids:
        """Token ids of the teacher's prompt; ``feedback``: words about a completion of it, empty for none."""
        return self._encode(self._shown(self._teacher_messages(example, feedback)))

    def completion_text(self, completion_ids: Sequence[int]) -> str:
        """Decodes a completion, without special tokens."""
        text = self.tokenizer.decode(list(completion_ids), skip_special_tokens=True)
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
    ) -> list[PromptPair]:
        """Renders every example as ``render`` does, in order.

        ``on_done`` is called with the number of rows finished since the last call.
        """
        pairs: list[PromptPair] = []
        for chunk in _chunks(examples):
            texts = [self.text(example.prompt) for example in chunk]
            student = self._encode_all(texts)
            taught = self._teacher_ids(chunk, student) if teacher else [None] * len(chunk)
            answered = self._answers(chunk, texts, student) if answers else [((), None)] * len(chunk)
            for example, ids, teacher_ids, (answer, mask) in zip(chunk, student, taught, answered, strict=True):
                pairs.append(
                    PromptPair(
                        example=example,
                        student_ids=ids,
                        teacher_ids=teacher_ids,
                        demonstration_ids=answer,
                        demonstration_mask=mask,
                    )
                )
            if on_done:
                on_done(len(chunk))
        return pairs

    def with_teacher(
        self, pairs: Sequence[PromptPair], on_done: Callable[[int], None] | None = None
    ) -> list[PromptPair]:
        """Returns the pairs with the teacher's prompt added, rendered with this renderer's template."""
        taught: list[PromptPair] = []
        for chunk in _chunks(pairs):
            ids = self._teacher_ids([pair.example for pair in chunk], [pair.student_ids for pair in chunk])
            taught += [replace(pair, teacher_ids=teacher) for pair, teacher in zip(chunk, ids, strict=True)]
            if on_done:
                on_done(len(chunk))
        return taught

    # -- parts -----------------------------------------------------------------------------------------------------

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

    def _answers(
        self, examples: Sequence[Example], texts: Sequence[str], student: Sequence[Ids]
    ) -> list[tuple[Ids, tuple[bool, ...] | None]]:
        """Returns each demonstration's ids as the continuation of the student's prompt, and its mask (see ``_mask``).

        Prompt and answer are tokenised together, because some tokenizers put a blank before any text they are given.
        White space after the end-of-turn token is dropped: a model stops there and never samples it. Some templates
        render past turns differently from new ones (thinking models), so that the rendered answer does not continue the
        prompt; then the answer is the demonstration's plain text and the EOS token.
        """
        wholes = [self._whole(example) if example.demonstration else "" for example in examples]
        encoded = self._encode_all(wholes)
        answers: list[tuple[Ids, tuple[bool, ...] | None]] = []
        for example, text, prompt, whole, ids in zip(examples, texts, student, wholes, encoded, strict=True):
            if not example.demonstration:
                answers.append(((), None))
            elif whole.startswith(text) and ids[: len(prompt)] == prompt:
                answer = self._ended(ids[len(prompt) :])
                answers.append((answer, self._mask(example, prompt, answer)))
            elif len(example.demonstration) > 1:
                raise _unclear(example)
            else:  # past turns are rendered differently from new ones, or a token spans the border
                plain = whole[len(text) :] if whole.startswith(text) else _after_header(example, text)
                answers.append((self._ended(self._encode(plain)), None))
        return answers

    def _whole(self, example: Example) -> str:
        return self._apply([*example.prompt, *example.demonstration], add_generation_prompt=False).rstrip()

    def _ended(self, ids: Ids) -> Ids:
        """Adds the EOS token unless the answer already ends with a special token, such as the end of turn."""
        eos = self.tokenizer.eos_token_id
        return ids if (ids and ids[-1] in self._special_ids) or not isinstance(eos, int) else (*ids, eos)

    def _mask(self, example: Example, prompt: Ids, answer: Ids) -> tuple[bool, ...] | None:
        """One flag per id of ``answer``: True for the assistant's tokens; None for a demonstration of one turn.

        Raises:
            UserError: rendering parts of the conversation does not show where the assistant's turns begin and end.
        """
        turns = example.demonstration
        if len(turns) == 1:
            return None
        mask = [False] * len(answer)
        for index, turn in enumerate(turns):
            if turn["role"] != "assistant":
                continue
            before = [*example.prompt, *turns[:index]]
            opened = self._encode(self._apply(before, add_generation_prompt=True))
            closed = self._encode(self._apply([*before, turn], add_generation_prompt=False).rstrip())
            whole = (*prompt, *answer)
            if whole[: len(opened)] != opened or (index + 1 < len(turns) and whole[: len(closed)] != closed):
                raise _unclear(example)
            end = len(whole) if index + 1 == len(turns) else len(closed)
            mask[len(opened) - len(prompt) : end - len(prompt)] = [True] * (end - len(opened))
        return tuple(mask)

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

    def _shown(self, messages: Sequence[Message]) -> str:
        """As ``text``, with the teacher's variables."""
        return self._apply(messages, add_generation_prompt=True, kwargs=self._teacher_kwargs)

    def _apply(
        self, messages: Sequence[Message], *, add_generation_prompt: bool, kwargs: dict[str, Any] | None = None
    ) -> str:
        kwargs = self.chat_template_kwargs if kwargs is None else kwargs
        try:
            return chat_text(self.tokenizer, list(messages), add_generation_prompt=add_generation_prompt, **kwargs)
        except BoundedError as error:  # for example Gemma 2's, which takes no system turn
            roles = ", ".join(dict.fromkeys(message["role"] for message in messages))
            raise UserError(
                f"The chat template refuses turns of {roles}: {brief(error)}. Change the prompt or choose another "
                "--template."
            ) from error

    def _encode(self, text: str) -> Ids:
        (ids,) = self._encode_all([text])
        return ids

    def _encode_all(self, texts: Sequence[str]) -> list[Ids]:
        if not texts:
            return []
        lists = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        size = len(self._ints)
        return [tuple(self._ints[id] if id < size else id for id in ids) for ids in lists]  # type: ignore[arg-type]


def make_renderer(
    examples: Sequence[Example], config: MethodConfig, tokenizer: "PreTrainedTokenizerBase"
) -> PromptRenderer:
    """Makes the renderer that the settings describe; the template ``few_shot`` draws from those of ``examples`` that
    have a demonstration."""
    return PromptRenderer(
        tokenizer,
        config.template,
        repeat=config.template_repeat,
        template_file=config.template_file,
        pool=[example for example in examples if example.demonstration],
        chat_template_kwargs=config.chat_variables("student"),
        teacher_chat_template_kwargs=config.chat_variables("teacher"),
    )


def raw_texts(examples: Sequence[Example], tokenizer: "PreTrainedTokenizerBase") -> list[PromptPair]:
    """Renders each demonstration as plain text without a chat template, for continued pre-training.

    Its first token is the prompt, the rest and the EOS token are the answer.
    """
    end = str(tokenizer.eos_token or "")
    encoded = tokenizer([example.demonstration_text + end for example in examples])["input_ids"] if examples else []
    return [
        PromptPair(example=example, student_ids=(first,), demonstration_ids=tuple(rest))
        for example, (first, *rest) in zip(examples, encoded, strict=True)  # type: ignore[misc]
    ]


def render_pairs(
    examples: Sequence[Example],
    config: MethodConfig,
    tokenizer: "PreTrainedTokenizerBase",
    on_done: Callable[[int], None] | None = None,
) -> list[PromptPair]:
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
) -> list[PromptPair]:
    """Renders anchor prompts, which student and teacher read alike under every method, as the student does."""
    renderer = PromptRenderer(tokenizer, chat_template_kwargs=config.chat_variables("student"))
    return renderer.render_all(examples, teacher=False, answers=False)


def think_end_ids(tokenizer: "PreTrainedTokenizerBase") -> Ids:
    """Ids of the tag that ends a thinking model's thoughts; empty if the chat template has no such tag."""
    if THINK_END not in str(tokenizer.chat_template or ""):
        return ()
    return tuple(tokenizer(THINK_END, add_special_tokens=False)["input_ids"])


def _after_header(example: Example, prompt: str) -> str:
    """The demonstration's text, without its opening think tag if the prompt already ends with one."""
    text = example.demonstration_text
    opened = prompt.rstrip().endswith(THINK) and text.lstrip().startswith(THINK)
    return text.lstrip().removeprefix(THINK).lstrip() if opened else text


def _unclear(example: Example) -> UserError:
    return UserError(
        f"{example.id}: the chat template does not show which tokens of the demonstration's turns are the "
        "assistant's. Give demonstrations of one turn, or a method with a teacher."
    )


def _chunks(items: Iterable[Any]) -> Iterator[list[Any]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, CHUNK)):
        yield chunk
