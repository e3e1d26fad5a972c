"""Example to token ids: what the student sees, and what the teacher sees. The only place with templates."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfdistill.data.rows import examples_from_rows
from selfdistill.settings.method import LEARNS_TOKENS, MethodConfig
from selfdistill.types import Example, Message, PromptPair, UserError, message_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PAPER_TEMPLATE = (
    "{question}\n\nThis is an example for a response to the question:\n{demonstration}\n\n"
    "Now answer with a response of your own, including the thinking process."
)
SYSTEM_TEMPLATE = "A good answer to the user's next message looks like this:\n{demonstration}"

TeacherMessages = Callable[[Example], list[Message]]


class PromptRenderer:
    """Renders examples with one tokenizer and one way of showing the demonstration.

    Args:
        tokenizer: with a chat template.
        template: ``paper``, ``prior_turn``, ``system``, ``few_shot`` or ``file``.
        repeat: for ``prior_turn`` how often the earlier turn is shown, for ``few_shot`` how many other
            examples come before the row's own.
        template_file: a Jinja file for ``file``; rendered with ``question`` (text of the last user turn),
            ``demonstration`` and ``messages``, it becomes the teacher's last user turn.
        pool: the examples ``few_shot`` draws from, in the data's order.
        chat_template_kwargs: passed to the chat template.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        template: str = "paper",
        *,
        repeat: int = 1,
        template_file: str | None = None,
        pool: Sequence[Example] = (),
        chat_template_kwargs: dict[str, Any] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.chat_template_kwargs = chat_template_kwargs or {}
        self._special_ids = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._teacher_messages = _teacher_template(template, repeat, template_file, pool)

    def render(self, example: Example) -> PromptPair:
        """Both prompts of ``example`` as ids. Without a demonstration the teacher's is the student's."""
        student_text = self.text(example.prompt)
        student_ids = self._encode(student_text)
        if not example.demonstration:
            return PromptPair(example=example, student_ids=student_ids, teacher_ids=student_ids)
        return PromptPair(
            example=example,
            student_ids=student_ids,
            teacher_ids=self._encode(self.text(self._teacher_messages(example))),
            demonstration_ids=self._answer_ids(example, student_text),
        )

    def text(self, messages: Sequence[Message]) -> str:
        """Chat turns as the model reads them, the header of the assistant's turn included."""
        return self._apply(messages, add_generation_prompt=True)

    def teacher_text(self, example: Example) -> str:
        """The teacher's prompt as the model reads it."""
        return self.text(self._teacher_messages(example) if example.demonstration else example.prompt)

    def completion_text(self, completion_ids: Sequence[int]) -> str:
        """A completion as text, special tokens left out."""
        text = self.tokenizer.decode(list(completion_ids), skip_special_tokens=True)
        assert isinstance(text, str)
        return text

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
                f"The chat template refuses turns of {roles}: {error}. Mend the prompt or choose another --template."
            ) from error
        assert isinstance(rendered, str)
        return rendered

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _answer_ids(self, example: Example, student_text: str) -> tuple[int, ...]:
        """The demonstration as the continuation of the student's prompt, up to its end of turn.

        Templates may end a turn with white space after the end-of-turn token; nothing after that token is
        ever sampled, so it is not taught either. A template that renders past turns otherwise than new
        ones (thinking models) has no such continuation: then it is the plain text and the EOS token.
        """
        whole = self._apply([*example.prompt, *example.demonstration], add_generation_prompt=False)
        continues = whole.startswith(student_text)
        ids = self._encode(whole[len(student_text) :].rstrip() if continues else example.demonstration_text)
        if ids and ids[-1] in self._special_ids:  # the end of turn, which need not be the EOS token
            return ids
        eos = self.tokenizer.eos_token_id
        return (*ids, eos) if isinstance(eos, int) else ids


def _teacher_template(
    template: str, repeat: int, template_file: str | None, pool: Sequence[Example]
) -> TeacherMessages:
    if template == "paper":
        return lambda example: _with_last_turn(example, PAPER_TEMPLATE.format)
    if template == "prior_turn":
        return lambda example: _prior_turns(example, repeat)
    if template == "system":
        return _system
    if template == "few_shot":
        place = {example.id: index for index, example in enumerate(pool)}
        return lambda example: _few_shot(example, _others(example, place, pool, repeat))
    if template == "file":
        return _from_file(template_file)
    raise UserError(
        f"template: {template!r} is not one of paper, prior_turn, system, few_shot, file (auto: command line only)."
    )


def _with_last_turn(example: Example, fill: Callable[..., str]) -> list[Message]:
    """The prompt with its last turn's text replaced by fill(question=..., demonstration=...)."""
    *earlier, last = example.prompt
    text = fill(question=message_text(last), demonstration=example.demonstration_text)
    return [*earlier, {**last, "content": text}]


def _prior_turns(example: Example, repeat: int) -> list[Message]:
    """The question answered by the demonstration ``repeat`` times, then asked again."""
    last = example.prompt[-1]
    return [*example.prompt, *([*example.demonstration, last] * repeat)]


def _system(example: Example) -> list[Message]:
    """The demonstration in the system turn, after what the prompt's own system turn says."""
    shown = SYSTEM_TEMPLATE.format(demonstration=example.demonstration_text)
    first, *rest = example.prompt
    if first["role"] == "system":
        return [{**first, "content": f"{message_text(first)}\n\n{shown}"}, *rest]
    return [{"role": "system", "content": shown}, *example.prompt]


def _few_shot(example: Example, others: Sequence[Example]) -> list[Message]:
    """Other questions with their demonstrations, then the row's own, then its question again."""
    system = [message for message in example.prompt[:1] if message["role"] == "system"]
    shots: list[Message] = []
    for other in others:
        shots += [message for message in other.prompt if message["role"] != "system"]
        shots += other.demonstration
    return [*system, *shots, *_prior_turns(example, 1)[len(system) :]]


def _others(example: Example, place: dict[str, int], pool: Sequence[Example], count: int) -> list[Example]:
    """The ``count`` examples that follow ``example`` in the pool, wrapping around, itself left out."""
    start = place.get(example.id, -1)
    available = len(pool) - (example.id in place)
    others = [pool[(start + offset) % len(pool)] for offset in range(1, min(count, available) + 1)]
    if len(others) < count:
        raise UserError(
            f"template few_shot needs {count} other rows, the data has {len(others)}. "
            "Lower template_repeat or add rows."
        )
    return others


def _from_file(template_file: str | None) -> TeacherMessages:
    import jinja2
    import jinja2.sandbox

    path = Path(template_file or "")
    if not path.is_file():
        raise UserError(f"template_file: {template_file} does not exist.")
    environment = jinja2.sandbox.SandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=False)
    try:
        template = environment.from_string(path.read_text(encoding="utf-8"))
    except jinja2.TemplateSyntaxError as error:
        raise UserError(f"{path} line {error.lineno}: {error.message}. Mend the template.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text. Save it as UTF-8.") from error

    def messages(example: Example) -> list[Message]:
        def fill(*, question: str, demonstration: str) -> str:
            try:
                return template.render(question=question, demonstration=demonstration, messages=list(example.prompt))
            except Exception as error:  # whatever a user's template may run into
                raise UserError(f"{path}: {error}. Known names: question, demonstration, messages.") from error

        return _with_last_turn(example, fill)

    return messages


def fit(pairs: Sequence[PromptPair], limits: Mapping[str, int], *, overlong: str) -> list[PromptPair]:
    """The pairs within the limits. Nothing is cut: cutting loses the question or the chat header.

    Args:
        pairs: rendered rows.
        limits: in tokens, by the names that ``length_limits`` uses; what is not named is not limited.
        overlong: ``error`` or ``drop``.

    Raises:
        UserError: a pair is over a limit and ``overlong`` is ``error``, or all of them are.
    """
    kept: list[PromptPair] = []
    exceeded: set[str] = set()
    for pair in pairs:
        lengths = {
            "max_prompt_length": ("prompt", len(pair.student_ids)),
            "max_teacher_prompt_length": ("teacher prompt", len(pair.teacher_ids)),
            "max_completion_length": ("demonstration", len(pair.demonstration_ids)),
        }
        over = next((name for name in limits if lengths[name][1] > limits[name]), None)
        if over is None:
            kept.append(pair)
            continue
        exceeded.add(over)
        if overlong == "error":
            what, length = lengths[over]
            raise UserError(
                f"{pair.example.id}: the {what} has {length} tokens, the limit is {limits[over]}; part of the "
                f"text would be cut. Raise --{over}, shorten the row, or give --overlong drop."
            )
    if pairs and not kept:
        raise UserError(f"Every row is over a length limit. Raise --{' and --'.join(sorted(exceeded))}.")
    return kept


def as_examples(
    rows: Iterable[Example | Mapping[str, Any]], name: str, *, demonstrations: bool = True
) -> list[Example]:
    """Examples as they are, rows converted (``rows.examples_from_rows``); ids begin with ``name``.

    Without ``demonstrations`` none is needed and none is kept: nobody is to be shown one.
    """
    items = list(rows)
    if items and all(isinstance(item, Example) for item in items):
        examples: list[Example] = items  # type: ignore[assignment]
    else:
        examples = examples_from_rows(
            items,  # type: ignore[arg-type]
            source=f"{name}_dataset",
            prefix=name,
            need_demonstration=demonstrations,
        )
    return examples if demonstrations else [replace(example, demonstration=()) for example in examples]


def render_pairs(
    examples: list[Example], args: MethodConfig, tokenizer: "PreTrainedTokenizerBase", config: Any
) -> list[PromptPair]:
    """Both prompts of every example, as the settings say, the overlong ones refused or dropped.

    Where no limit is set a prompt may fill what the completion leaves of the model's context.
    """
    renderer = make_renderer(examples, args, tokenizer)
    raw = args.method == "cpt"  # its anchor prompts, which have no demonstration, are chats all the same
    pairs = [raw_text(row, tokenizer) if raw and row.demonstration else renderer.render(row) for row in examples]
    limits = length_limits(args, config)
    if args.method not in LEARNS_TOKENS:  # the demonstration is only shown, not learned token by token
        del limits["max_completion_length"]
    return fit(pairs, limits, overlong=args.overlong)


def raw_text(example: Example, tokenizer: "PreTrainedTokenizerBase") -> PromptPair:
    """For continued pre-training: the demonstration's text alone, no chat template. Its first token is the prompt."""
    first, *rest = tokenizer(example.demonstration_text + str(tokenizer.eos_token or ""))["input_ids"]
    return PromptPair(example=example, student_ids=(first,), teacher_ids=(first,), demonstration_ids=tuple(rest))


def make_renderer(examples: list[Example], args: MethodConfig, tokenizer: "PreTrainedTokenizerBase") -> PromptRenderer:
    """The renderer that the settings describe; ``few_shot`` draws from ``examples``."""
    return PromptRenderer(
        tokenizer,
        args.template,
        repeat=args.template_repeat,
        template_file=args.template_file,
        pool=examples,
        chat_template_kwargs=args.chat_template_kwargs,
    )


def length_limits(args: MethodConfig, config: Any) -> dict[str, int]:
    """Limits in tokens by setting; a prompt without one may fill what the completion leaves of the context."""
    context = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None) or 1 << 30
    room = max(1, context - args.max_completion_length)
    return {
        "max_prompt_length": args.max_prompt_length or room,
        "max_teacher_prompt_length": args.max_teacher_prompt_length or room,
        "max_completion_length": args.max_completion_length,
    }


def think_end_ids(tokenizer: "PreTrainedTokenizerBase") -> tuple[int, ...]:
    """Ids of the tag that ends a thinking model's thoughts; empty for other models."""
    if "</think>" not in str(tokenizer.chat_template or ""):
        return ()
    return tuple(tokenizer("</think>", add_special_tokens=False)["input_ids"])
