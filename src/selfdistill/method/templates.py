"""Templates: ways to show the demonstration to the teacher, each a function and a row of a table.

A template turns an example into the chat turns that the teacher reads. It changes or repeats the last user turn; turns
after it, such as a tool's result, keep their place. Words about a completion, if there are any, have a section of their
own; there may be no demonstration beside them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from selfdistill.errors import UserError, brief
from selfdistill.models.bounded import Bounded, BoundedError
from selfdistill.types import Example, Message, Template, message_text

PAPER_DEMONSTRATION = "This is an example for a response to the question:\n{demonstration}"
PAPER_REQUEST = "Now answer with a response of your own, including the thinking process."
INSTRUCTING = ("system", "developer")
"""Roles of a turn that instructs the assistant; newer models call it the developer's."""
SYSTEM_TEMPLATE = "A good answer to the user's next message looks like this:\n{demonstration}"
FEEDBACK = "This is feedback on an earlier response of yours to the question:\n{feedback}"
"""The section with words about a completion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateContext:
    """What a template may use besides the example."""

    repeat: int = 1
    """The setting ``template_repeat``; each template says what it repeats."""
    file: str | None = None
    """The setting ``template_file``: path of a Jinja file."""
    pool: Sequence[Example] = ()
    """All training examples, in the data's order."""
    place: dict[str, int] = field(default_factory=dict[str, int])
    """Index in ``pool`` of each example by id."""
    default_system: str = ""
    """System text that the chat template adds to a prompt without a system turn."""
    feedback: str = ""
    """Words about a completion of the example's prompt; empty for none."""


TeacherMessages = Callable[[Example, TemplateContext], list[Message]]


def paper(example: Example, context: TemplateContext) -> list[Message]:
    """Puts the demonstration into the last user turn, in the paper's words, then the words about a completion."""

    def fill(*, question: str, demonstration: str) -> str:
        shown = [PAPER_DEMONSTRATION.format(demonstration=demonstration)] if demonstration else []
        words = [FEEDBACK.format(feedback=context.feedback)] if context.feedback else []
        return "\n\n".join([question, *shown, *words, PAPER_REQUEST])

    return _with_last_question(example, fill)


def prior_turn(example: Example, context: TemplateContext) -> list[Message]:
    """Shows the question answered by the demonstration ``repeat`` times, then asks it again; the words about a
    completion follow that question."""
    final = _with_feedback(example, context)
    if not example.demonstration:
        return final
    place = _last_user(example)
    asked = example.prompt[place:]
    again = [*example.demonstration, *asked] * (context.repeat - 1)
    return [*example.prompt, *again, *example.demonstration, *final[place:]]


def system(example: Example, context: TemplateContext) -> list[Message]:
    """Appends the demonstration to the system turn, whether the prompt's own or the chat template's default one. The
    words about a completion follow the last question."""
    asked = _with_feedback(example, context)
    if not example.demonstration:
        return asked
    shown = SYSTEM_TEMPLATE.format(demonstration=example.shown_text)
    first, *rest = asked
    if first["role"] in INSTRUCTING:
        return [{**first, "content": f"{message_text(first)}\n\n{shown}"}, *rest]
    said = f"{context.default_system}\n\n" if context.default_system else ""
    return [{"role": "system", "content": f"{said}{shown}"}, *asked]


def few_shot(example: Example, context: TemplateContext) -> list[Message]:
    """Shows ``repeat`` other rows with their demonstrations, then the row with its own, then its question again."""
    own_system = [message for message in example.prompt[:1] if message["role"] in INSTRUCTING]
    shots: list[Message] = []
    for other in _others(example, context):
        shots += [message for message in other.prompt if message["role"] not in INSTRUCTING]
        shots += other.demonstration
    once = TemplateContext(feedback=context.feedback)
    return [*own_system, *shots, *prior_turn(example, once)[len(own_system) :]]


def from_file(example: Example, context: TemplateContext) -> list[Message]:
    """Renders the last user turn with a Jinja file, which sees ``question``, ``demonstration``, ``messages`` and
    ``feedback``."""
    render = _renderer(context.file)

    def fill(*, question: str, demonstration: str) -> str:
        try:
            return render(
                question=question,
                demonstration=demonstration,
                messages=list(example.prompt),
                feedback=context.feedback,
            )
        except BoundedError as error:  # whatever a user's template may run into
            raise UserError(
                f"{context.file}: {brief(error)}. Known names: question, demonstration, messages, feedback."
            ) from error

    return _with_last_question(example, fill)


def question(example: Example, context: TemplateContext) -> list[Message]:
    """Shows no demonstration: a teacher that is another model may know without."""
    return list(example.prompt)


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateSpec:
    """A way of showing the demonstration."""

    messages: TeacherMessages
    takes_repeat: bool = False
    """Whether the setting ``template_repeat`` has an effect."""
    tried: tuple[int, ...] = ()
    """Values of ``template_repeat`` that a preflight tries; empty if it does not try the template."""
    tried_next: tuple[int, ...] = ()
    """Higher values that it tries, in order, while the last one had more right answers than the one before."""


TEMPLATES: dict[Template, TemplateSpec] = {
    "paper": TemplateSpec(messages=paper, tried=(1,)),
    "system": TemplateSpec(messages=system, tried=(1,)),
    "prior_turn": TemplateSpec(messages=prior_turn, takes_repeat=True, tried=(1, 2), tried_next=(4,)),
    "few_shot": TemplateSpec(messages=few_shot, takes_repeat=True),
    "file": TemplateSpec(messages=from_file),
    "question": TemplateSpec(messages=question),
}
"""The templates by name. To add one, add a function and a row here, and its name to ``types.Template``."""


def tried_templates() -> list[tuple[Template, int]]:
    """Returns every pair of template and repeat that a preflight always tries."""
    return [(name, repeat) for name, spec in TEMPLATES.items() for repeat in spec.tried]


def next_templates() -> list[tuple[Template, int]]:
    """Returns every pair that a preflight tries if those before it give reason to."""
    return [(name, repeat) for name, spec in TEMPLATES.items() for repeat in spec.tried_next]


def _last_user(example: Example) -> int:
    """Index of the last user turn, or of the last turn if there is no user turn."""
    users = [index for index, turn in enumerate(example.prompt) if turn["role"] == "user"]
    return users[-1] if users else len(example.prompt) - 1


def _with_last_question(example: Example, fill: Callable[..., str]) -> list[Message]:
    """The prompt with its last user turn's text replaced by fill(question=..., demonstration=...)."""
    place = _last_user(example)
    turn = example.prompt[place]
    text = fill(question=message_text(turn), demonstration=example.shown_text)
    return [*example.prompt[:place], {**turn, "content": text}, *example.prompt[place + 1 :]]


def _with_feedback(example: Example, context: TemplateContext) -> list[Message]:
    """The prompt, with the words about a completion after the last question."""
    if not context.feedback:
        return list(example.prompt)

    def fill(*, question: str, demonstration: str) -> str:
        return "\n\n".join([question, FEEDBACK.format(feedback=context.feedback)])

    return _with_last_question(example, fill)


def _others(example: Example, context: TemplateContext) -> list[Example]:
    """Returns the ``repeat`` examples after this one in the pool, wrapping around and without itself."""
    pool, count = context.pool, context.repeat
    start = context.place.get(example.id, -1)
    available = len(pool) - (example.id in context.place)
    others = [pool[(start + offset) % len(pool)] for offset in range(1, min(count, available) + 1)]
    if len(others) < count:
        raise UserError(
            f"template few_shot needs {count} other rows, the data has {len(others)}. "
            "Lower template_repeat or add rows."
        )
    return others


def shows_feedback(file: str) -> bool:
    """Whether the Jinja template in ``file`` names the variable ``feedback``. Raises UserError if it can't be read."""
    return "feedback" in _read(file)[1]


def _renderer(file: str | None) -> Bounded:
    """Renders the Jinja template in ``file``. Raises UserError as ``_read``."""
    return _renderer_of(*_read(file))


def _read(file: str | None) -> tuple[Path, str]:
    """Path and text of the file. Raises UserError if it is missing, is not UTF-8 or can't be read."""
    path = Path(file or "").expanduser()
    if not path.is_file():
        raise UserError(f"template_file: {file} does not exist.")
    try:
        return path, path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text. Save it as UTF-8.") from error
    except OSError as error:
        raise UserError(f"template_file: {file} can't be read: {error.strerror}.") from error


@lru_cache(maxsize=8)
def _renderer_of(path: Path, text: str) -> Bounded:
    @cache
    def compiled() -> Any:  # by the process that renders, since Jinja works out constants when it compiles
        import jinja2
        import jinja2.sandbox

        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined)
        try:
            return environment.from_string(text)
        except jinja2.TemplateSyntaxError as error:
            raise UserError(f"{path} line {error.lineno}: {error.message}. Correct the template.") from error

    def render(**names: Any) -> str:
        return compiled().render(**names)

    return Bounded(render)
