"""Examples to token ids: what the student reads, what the teacher reads, and the demonstration as an answer."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

from selfdistill.errors import UserError, brief, did_you_mean
from selfdistill.method.methods import METHODS
from selfdistill.method.templates import TEMPLATES, TemplateContext
from selfdistill.settings.method import MethodConfig
from selfdistill.types import Example, Message, PromptPair

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHUNK = 1_000
"""Rows that are rendered and tokenised together."""
MARK = "zq7mark"
"""Text that no chat template writes by itself."""
Ids = tuple[int, ...]


class PromptRenderer:
    """Renders examples with one tokenizer and one way of showing the demonstration.

    Args:
        tokenizer: with a chat template.
        template: a row of ``templates.TEMPLATES``.
        repeat: for ``prior_turn`` how often the earlier turn is shown, for ``few_shot`` how many other
            examples come before the row's own.
        template_file: a Jinja file for ``file``.
        pool: the examples ``few_shot`` draws from, in the data's order.
        chat_template_kwargs: passed to the chat template.

    Raises:
        UserError: there is no such template.
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
    ) -> None:
        if template not in TEMPLATES:
            hint = did_you_mean(template, TEMPLATES)
            raise UserError(f"template: {template!r} is not one of {', '.join(TEMPLATES)}.{hint} (auto: command line.)")
        self.tokenizer = tokenizer
        self.chat_template_kwargs = dict(chat_template_kwargs or {})
        self._special_ids = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._template, self._repeat, self._file, self._pool = TEMPLATES[template], repeat, template_file, pool
        self._ints = list(range(len(tokenizer)))  # one object for each id: rows share them

    # -- one row ---------------------------------------------------------------------------------------------------

    def render(self, example: Example, *, teacher: bool = True, answer: bool = True) -> PromptPair:
        """``example`` as ids: the student's prompt and, if asked for, the teacher's and the demonstration as an answer.
        Without a demonstration the teacher reads what the student does."""
        (pair,) = self.render_all([example], teacher=teacher, answers=answer)
        return pair

    def text(self, messages: Sequence[Message]) -> str:
        """Chat turns as the model reads them, the header of the assistant's turn included."""
        return self._apply(messages, add_generation_prompt=True)

    def teacher_text(self, example: Example) -> str:
        """The teacher's prompt as the model reads it."""
        return self.text(self._teacher_messages(example))

    def completion_text(self, completion_ids: Sequence[int]) -> str:
        """A completion as text, special tokens left out."""
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
        """``render`` of every example, in order.

        ``on_done`` is called with the number of rows finished since the last call.
        """
        found: list[PromptPair] = []
        for chunk in _chunks(examples):
            texts = [self.text(example.prompt) for example in chunk]
            student = self._encode_all(texts)
            taught = self._teacher_ids(chunk, student) if teacher else [None] * len(chunk)
            answered = self._answers(chunk, texts, student) if answers else [((), None)] * len(chunk)
            for example, ids, teacher_ids, (answer, mask) in zip(chunk, student, taught, answered, strict=True):
                found.append(
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
        return found

    def with_teacher(
        self, pairs: Sequence[PromptPair], on_done: Callable[[int], None] | None = None
    ) -> list[PromptPair]:
        """The same pairs with the teacher's prompt as this renderer's template writes it."""
        found: list[PromptPair] = []
        for chunk in _chunks(pairs):
            ids = self._teacher_ids([pair.example for pair in chunk], [pair.student_ids for pair in chunk])
            found += [replace(pair, teacher_ids=teacher) for pair, teacher in zip(chunk, ids, strict=True)]
            if on_done:
                on_done(len(chunk))
        return found

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

    def _teacher_messages(self, example: Example) -> Sequence[Message]:
        return self._template.messages(example, self._context) if example.demonstration else example.prompt

    def _teacher_ids(self, examples: Sequence[Example], student: Sequence[Ids]) -> list[Ids]:
        shown = [index for index, example in enumerate(examples) if example.demonstration]
        encoded = self._encode_all([self.text(self._teacher_messages(examples[index])) for index in shown])
        found = dict(zip(shown, encoded, strict=True))
        return [found.get(index, ids) for index, ids in enumerate(student)]

    def _answers(
        self, examples: Sequence[Example], texts: Sequence[str], student: Sequence[Ids]
    ) -> list[tuple[Ids, tuple[bool, ...] | None]]:
        """Every demonstration as the continuation of the student's prompt, up to its end of turn, and its mask.

        Prompt and answer are tokenised together: some tokenizers put a blank before whatever they are given. Templates
        may end a turn with white space after the end-of-turn token; nothing after that token is ever sampled, so it is
        not taught either. A template that renders past turns otherwise than new ones (thinking models) has no such
        continuation: then the answer is the plain text and the EOS token.
        """
        wholes = [self._whole(example) if example.demonstration else "" for example in examples]
        encoded = self._encode_all(wholes)
        found: list[tuple[Ids, tuple[bool, ...] | None]] = []
        for example, text, prompt, whole, ids in zip(examples, texts, student, wholes, encoded, strict=True):
            if not example.demonstration:
                found.append(((), None))
            elif whole.startswith(text) and ids[: len(prompt)] == prompt:
                answer = self._ended(ids[len(prompt) :])
                found.append((answer, self._mask(example, prompt, answer)))
            elif len(example.demonstration) > 1:
                raise _unclear(example)
            else:  # past turns are written otherwise than new ones, or a token crosses the border
                plain = whole[len(text) :] if whole.startswith(text) else example.demonstration_text
                found.append((self._ended(self._encode(plain)), None))
        return found

    def _whole(self, example: Example) -> str:
        return self._apply([*example.prompt, *example.demonstration], add_generation_prompt=False).rstrip()

    def _ended(self, ids: Ids) -> Ids:
        """The answer with an end: its own end of turn, which need not be the EOS token, or else the EOS token."""
        eos = self.tokenizer.eos_token_id
        return ids if (ids and ids[-1] in self._special_ids) or not isinstance(eos, int) else (*ids, eos)

    def _mask(self, example: Example, prompt: Ids, answer: Ids) -> tuple[bool, ...] | None:
        """True for the tokens that the assistant writes; None where there is no other turn in the demonstration.

        Raises:
            UserError: the chat template does not show where the assistant's turns begin and end.
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
        """The system text that the chat template adds to a prompt without one; empty where it adds none."""
        try:
            plain = self.text([{"role": "user", "content": MARK}])
            full = self.text([{"role": "system", "content": f"{MARK}s"}, {"role": "user", "content": MARK}])
        except UserError:  # it takes no system turn
            return ""
        before, _, after = full.partition(f"{MARK}s")
        between = after.partition(MARK)[0]
        place = plain.find(between + MARK)
        return plain[len(before) : place] if before and between and plain.startswith(before) and place > 0 else ""

    def _apply(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        import jinja2

        try:
            rendered = self.tokenizer.apply_chat_template(
                list(messages),
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **self.chat_template_kwargs,
            )
        except jinja2.TemplateError as error:  # for example Gemma 2's, which takes no system turn
            roles = ", ".join(dict.fromkeys(message["role"] for message in messages))
            raise UserError(
                f"The chat template refuses turns of {roles}: {brief(error)}. Mend the prompt or choose another "
                "--template."
            ) from error
        assert isinstance(rendered, str)
        return rendered

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
    """The renderer that the settings describe; ``few_shot`` draws from ``examples``."""
    return PromptRenderer(
        tokenizer,
        config.template,
        repeat=config.template_repeat,
        template_file=config.template_file,
        pool=examples,
        chat_template_kwargs=config.chat_template_kwargs,
    )


def raw_texts(examples: Sequence[Example], tokenizer: "PreTrainedTokenizerBase") -> list[PromptPair]:
    """For continued pre-training: each demonstration's text alone, no chat template. Its first token is the prompt."""
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
    """Every example as the settings' method needs it: the teacher's prompt only where it shows the demonstration, the
    demonstration's ids only where they are the completion."""
    spec = METHODS[config.method]
    if spec.prompt == "raw_text":
        return raw_texts(examples, tokenizer)
    renderer = make_renderer(examples, config, tokenizer)
    return renderer.render_all(examples, teacher=spec.shows_demonstration, answers=not spec.samples, on_done=on_done)


def render_anchors(
    examples: Sequence[Example], config: MethodConfig, tokenizer: "PreTrainedTokenizerBase"
) -> list[PromptPair]:
    """General prompts: student and teacher read the same, whatever the method."""
    renderer = PromptRenderer(tokenizer, chat_template_kwargs=config.chat_template_kwargs)
    return renderer.render_all(examples, teacher=False, answers=False)


def think_end_ids(tokenizer: "PreTrainedTokenizerBase") -> Ids:
    """Ids of the tag that ends a thinking model's thoughts; empty for other models."""
    if "</think>" not in str(tokenizer.chat_template or ""):
        return ()
    return tuple(tokenizer("</think>", add_special_tokens=False)["input_ids"])


def _unclear(example: Example) -> UserError:
    return UserError(
        f"{example.id}: the chat template does not show which tokens of the demonstration's turns are the "
        "assistant's. Give demonstrations of one turn, or a method with a teacher."
    )


def _chunks(items: Iterable[Any]) -> Iterator[list[Any]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, CHUNK)):
        yield chunk
