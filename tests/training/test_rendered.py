"""Rows become token ids once, however many ask for them, and only the parts that somebody asks for."""

from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from selfdistill.errors import UserError
from selfdistill.method import turns
from selfdistill.method.prompts import render_pairs
from selfdistill.method.turns import SIGN
from selfdistill.models.tokens import MARK
from selfdistill.settings.method import MethodConfig
from selfdistill.training.rendered import RenderedRows, check_ids
from selfdistill.types import Example, PromptPair
from tests.support.tiny import byte_tokenizer
from tests.support.training import student

MODEL = student().config
PLAIN: dict[str, Any] = {"max_completion_length": 64}


def examples(count: int = 5, *, shown: bool = True) -> list[Example]:
    """Rows, with demonstrations if ``shown``: a method that needs none is given none."""
    return [
        Example(
            id=f"toy/{n}",
            prompt=({"role": "user", "content": f"What is {n}?"},),
            demonstration=({"role": "assistant", "content": f"It is {n}."},) if shown else (),
        )
        for n in range(count)
    ]


def config(**settings: Any) -> MethodConfig:
    return MethodConfig(**{**PLAIN, **settings})


class Counting:
    """The rows' tokenizer; ``texts`` and ``chats`` are how often each text and each conversation went through it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tokenizer = byte_tokenizer()
        self.texts: Counter[str] = Counter()
        self.chats: Counter[str] = Counter()
        encode, apply = PreTrainedTokenizerFast.__call__, turns.chat_text

        def counted_encode(tokenizer: Any, texts: Any, **options: Any) -> Any:
            given = [texts] if isinstance(texts, str) else texts
            self.texts.update(text for text in given if not text.startswith("<|end|>"))  # which is no row's
            return encode(tokenizer, texts, **options)

        def counted_apply(tokenizer: Any, messages: Any, **options: Any) -> Any:
            asks = MARK in str(messages) or SIGN in str(messages)  # what the template itself writes or leaves out
            self.chats[str(messages)] += not asks
            return apply(tokenizer, messages, **options)

        monkeypatch.setattr(PreTrainedTokenizerFast, "__call__", counted_encode)
        monkeypatch.setattr(turns, "chat_text", counted_apply)

    def taken(self) -> tuple[int, int]:
        """Texts and conversations since the last call."""
        found = self.texts.total(), self.chats.total()
        self.texts.clear()
        self.chats.clear()
        return found


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Counting:
    return Counting(monkeypatch)


# -- how often ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "taken"),
    [
        pytest.param({}, (10, 10), id="prompts of student and teacher"),
        pytest.param({"method": "sft"}, (10, 10), id="prompts, and prompts with answers"),
        pytest.param({"method": "reinvoke"}, (5, 5), id="prompts"),
        pytest.param({"method": "cpt"}, (5, 0), id="texts"),
    ],
)
def test_a_row_goes_through_the_tokenizer_once_for_each_of_its_parts(
    counting: Counting, settings: dict[str, Any], taken: tuple[int, int]
) -> None:
    rows = RenderedRows(examples(shown=settings != {"method": "reinvoke"}), counting.tokenizer)
    first = rows.pairs(config(**settings), MODEL)
    assert counting.taken() == taken
    assert rows.pairs(config(learning_rate=1e-3, **settings), MODEL) == first  # as another arm asks
    assert counting.taken() == (0, 0)


def test_arms_share_what_they_have_in_common(counting: Counting) -> None:
    rows = RenderedRows(examples(), counting.tokenizer)
    rows.pairs(config(method="sft"), MODEL)
    counting.taken()
    rows.pairs(config(method="dft"), MODEL)
    assert counting.taken() == (0, 0)
    rows.pairs(config(), MODEL)
    assert counting.taken() == (5, 5)  # the teacher's prompts; the student's were there
    rows.pairs(config(method="offline", teacher="frozen"), MODEL)
    assert counting.taken() == (0, 0)
    rows.pairs(config(template="prior_turn"), MODEL)
    assert counting.taken() == (5, 5)
    rows.pairs(config(template="prior_turn", template_repeat=2), MODEL)
    assert counting.taken() == (5, 5)


def test_without_a_template_yet_no_teacher_is_rendered(counting: Counting) -> None:
    rows = RenderedRows(examples(), counting.tokenizer)
    rows.untaught(config(), MODEL)
    assert counting.taken() == (5, 5)
    rows.pairs(config(), MODEL)
    assert counting.taken() == (5, 5)


def test_demonstrations_are_measured_once(counting: Counting) -> None:
    rows = RenderedRows(examples(), counting.tokenizer)
    for _ in range(2):
        assert rows.demonstration_lengths(config()) == [8] * 5  # "It is 0."
    assert counting.taken() == (5, 0)
    for _ in range(2):
        assert rows.demonstration_lengths(config(method="sft")) == [9] * 5  # as an answer, with its end
    counting.taken()
    rows.pairs(config(method="sft"), MODEL)
    assert counting.taken() == (0, 0)


def test_anchors_are_rendered_once_and_not_at_all_without_a_share(counting: Counting) -> None:
    rows, general = RenderedRows(examples(), counting.tokenizer), examples(3, shown=False)
    assert rows.anchors(general, config(), MODEL) == []
    assert counting.taken() == (0, 0)
    for method in ("sdft", "sft"):
        assert len(rows.anchors(general, config(method=method, anchor_share=0.5), MODEL)) == 3
    assert counting.taken() == (3, 3)


# -- what ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["sdft", "offline", "sft", "dft", "cpt"])
def test_pairs_are_those_of_a_rendering_of_their_own(method: str) -> None:
    """Whatever else was asked for before."""
    tokenizer, own = byte_tokenizer(), config(method=method)
    rows = RenderedRows(examples(), tokenizer)
    for other in ("sft", "sdft", "cpt"):
        rows.pairs(config(method=other), MODEL)
    found, expected = rows.pairs(own, MODEL), render_pairs(examples(), own, tokenizer)
    parts: list[Callable[[PromptPair], Any]] = [lambda p: p.student_ids, lambda p: p.teacher_ids]
    if method in ("sft", "dft", "cpt"):
        parts.append(lambda p: p.demonstration_ids)
    for part in parts:
        assert [part(pair) for pair in found] == [part(pair) for pair in expected]


def test_other_chat_template_options_are_other_prompts() -> None:
    template = "{{ mood or '' }}" + str(byte_tokenizer().chat_template)
    rows = RenderedRows(examples(), byte_tokenizer(template))
    plain = rows.pairs(config(method="sft"), MODEL)
    moody = rows.pairs(config(method="sft", chat_template_kwargs={"mood": "!"}), MODEL)
    assert [len(pair.student_ids) for pair in moody] == [len(pair.student_ids) + 1 for pair in plain]


def test_options_of_one_role_are_other_prompts_of_that_role() -> None:
    template = "{{ mood or '' }}" + str(byte_tokenizer().chat_template)
    rows = RenderedRows(examples(), byte_tokenizer(template))
    plain = [(len(pair.student_ids), len(pair.teacher_ids or ())) for pair in rows.pairs(config(), MODEL)]
    for role, more in (("student", (1, 0)), ("teacher", (0, 1))):
        moody = rows.pairs(config(**{f"{role}_chat_template_kwargs": {"mood": "!"}}), MODEL)
        found = [(len(pair.student_ids), len(pair.teacher_ids or ())) for pair in moody]
        assert found == [(student + more[0], teacher + more[1]) for student, teacher in plain]


def test_only_doubtful_rows_are_rendered_to_see_whether_every_template_fits(counting: Counting) -> None:
    """One row in five is long; rows that fit whatever the template adds are left alone."""
    long = Example(
        id="toy/long",
        prompt=({"role": "user", "content": "x" * 300},),
        demonstration=({"role": "assistant", "content": "It."},),
    )
    rows = RenderedRows([*examples(4), long], counting.tokenizer)
    rows.untaught(config(), MODEL)
    rows.demonstration_lengths(config())
    counting.taken()
    with pytest.raises(UserError, match="toy/long: the teacher prompt has"):
        rows.check_tried(config(max_teacher_prompt_length=400), MODEL)
    assert counting.taken() == (1, 1)
    rows.check_tried(config(max_teacher_prompt_length=400, overlong="drop"), MODEL)
    assert counting.taken() == (0, 0)


def test_a_token_beyond_the_models_vocabulary_is_named() -> None:
    tokenizer = byte_tokenizer()
    example = examples(1)[0]
    parts: list[dict[str, Any]] = [{"student_ids": (259,)}, {"teacher_ids": (3, 259)}, {"demonstration_ids": (259,)}]
    for ids in parts:
        fields: dict[str, Any] = {"student_ids": (1,), **ids}
        pair = PromptPair(example=example, **fields)
        with pytest.raises(UserError, match="toy/0: token </think> has id 259, the model knows 259 tokens"):
            check_ids([pair], student(vocab_size=259).config, tokenizer)
        check_ids([pair], student(vocab_size=260).config, tokenizer)


def test_a_token_of_an_anchor_prompt_too() -> None:
    unknown = Example(id="general/7", prompt=({"role": "user", "content": "</think>"},))
    rows, anchored = RenderedRows(examples(), byte_tokenizer()), config(anchor_share=0.5)
    with pytest.raises(UserError, match="general/7: token </think> has id 259, the model knows 259 tokens"):
        rows.anchors([unknown], anchored, student(vocab_size=259).config)
    assert len(rows.anchors([unknown], anchored, student(vocab_size=260).config)) == 1


def test_many_rows_are_seen_to_be_rendered() -> None:
    seen: list[tuple[str, int, int]] = []

    @contextmanager
    def progress(what: str, count: int) -> Generator[Callable[[int], None]]:
        done: list[int] = []
        yield done.append
        seen.append((what, count, sum(done)))

    rows = RenderedRows(examples(), byte_tokenizer(), progress)
    rows.demonstration_lengths(config())
    rows.pairs(config(), MODEL)
    rows.pairs(config(method="sft"), MODEL)
    assert seen == [
        ("measuring demonstrations", 5, 5),
        ("rendering prompts", 5, 5),
        ("rendering teacher's prompts", 5, 5),
        ("rendering prompts", 5, 5),
    ]
