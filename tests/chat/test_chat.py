"""Streams, columns and conversations."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from selfdistill.chat import columns
from selfdistill.chat.columns import Chat, Column, Conversation
from selfdistill.method.rollout.engine import Sampling
from selfdistill.method.rollout.generate import GenerateEngine
from selfdistill.method.rollout.own import OwnEngine
from selfdistill.method.rollout.stream import stream
from tests.support.chat_fakes import FakeChat
from tests.support.mistakes import mistake
from tests.support.tiny import random_model

TinyModel = Callable[..., PreTrainedModel]

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14, 15]]
GREEDY = Sampling(max_new_tokens=12, temperature=0)
SAMPLED = Sampling(max_new_tokens=12, temperature=1, top_p=0.9, seeds=(3,))


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize(
    ("model_type", "engine"), [("llama", OwnEngine), ("qwen3", OwnEngine), ("gemma2", GenerateEngine)]
)
def test_a_stream_is_the_engines_greedy_completion(model_type: str, engine: Any) -> None:
    model = random_model(model_type)
    free = [tuple(stream(model, prompt, set(), GREEDY)) for prompt in PROMPTS]
    eos = {free[0][3], free[2][5]}
    rollouts = engine(model, eos, 0).generate(PROMPTS, GREEDY)
    assert [tuple(stream(model, prompt, eos, GREEDY)) for prompt in PROMPTS] == [r.completion_ids for r in rollouts]
    assert {rollout.finish_reason for rollout in rollouts} >= {"stop"}


def test_a_model_without_attention_streams_as_greedy_decoding_is_defined() -> None:
    model = random_model("mamba", state_size=4)
    ids = list(PROMPTS[0])
    for _ in range(GREEDY.max_new_tokens):
        ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    assert list(stream(model, PROMPTS[0], set(), GREEDY)) == ids[3:]


def test_sampling_is_repeatable_whatever_is_drawn_in_between() -> None:
    model = random_model()
    alone = list(stream(model, PROMPTS[0], set(), SAMPLED))
    mixed: list[int] = []
    two = [stream(model, prompt, set(), SAMPLED) for prompt in PROMPTS[:2]]
    for token, _ in zip(*two, strict=True):
        mixed.append(token)
        torch.rand(1)
    assert mixed == alone
    seeded = [Sampling(max_new_tokens=12, seeds=(seed,)) for seed in range(5)]
    assert len({tuple(stream(model, PROMPTS[0], set(), sampling)) for sampling in seeded}) > 1


def test_a_stream_leaves_the_callers_grad_mode_alone() -> None:
    for _ in stream(random_model(), PROMPTS[0], set(), GREEDY):
        assert torch.is_grad_enabled()


@pytest.fixture
def column(tiny_model: TinyModel, tokenizer: PreTrainedTokenizerFast) -> Column:
    return Column("tiny", tiny_model(vocab_size=len(tokenizer), max_position_embeddings=64), tokenizer)


def says(monkeypatch: pytest.MonkeyPatch, ids: Sequence[Any]) -> None:
    """Makes every model say these ids."""
    monkeypatch.setattr(columns, "stream", lambda model, prompt_ids, eos, sampling: iter(ids))


def test_no_half_characters_are_shown(
    monkeypatch: pytest.MonkeyPatch, column: Column, tokenizer: PreTrainedTokenizerFast
) -> None:
    text = "né 🙂!"
    ids: Any = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(ids) == 9  # é has two bytes, the face four, and each is a token
    says(monkeypatch, [*ids, tokenizer.eos_token_id])
    answers = list(column.answer([user("Hi")], Sampling(max_new_tokens=20)))
    assert [answer.text for answer in answers] == ["n", "n", "né", "né ", "né ", "né ", "né ", "né 🙂", text, text]
    assert [answer.num_tokens for answer in answers] == list(range(1, 11))
    assert [answer.finish_reason for answer in answers] == [""] * 9 + ["stop"]


def test_bytes_that_never_become_a_character_are_shown_at_the_end(
    monkeypatch: pytest.MonkeyPatch, column: Column, tokenizer: PreTrainedTokenizerFast
) -> None:
    ids: Any = tokenizer("aé", add_special_tokens=False)["input_ids"]
    says(monkeypatch, ids[:2])
    answers = list(column.answer([user("Hi")], Sampling(max_new_tokens=2)))
    assert [answer.text for answer in answers] == ["a", "a\ufffd"]
    assert answers[-1].finish_reason == "length"


def test_an_answer_ends_where_the_context_does(column: Column) -> None:
    length = len("[user] Hi<|end|>\n[assistant] ") - len("<|end|>") + 1
    answers = list(column.answer([user("Hi")], Sampling(max_new_tokens=999, temperature=0)))
    assert answers[-1].finish_reason in ("stop", "length")
    assert answers[-1].num_tokens <= 64 - length
    said = mistake(column.answer, [user("x" * (85 - length + 2))], GREEDY)
    assert "has 85 tokens, the context of tiny is 64. Start a new" in said


def test_columns_take_turns_and_each_question_draws_anew(monkeypatch: pytest.MonkeyPatch, column: Column) -> None:
    seeds: list[Any] = []

    def recorded(model: Any, prompt_ids: Any, eos: Any, sampling: Sampling) -> Any:
        seeds.append(sampling.seeds)
        return iter([40, 41])

    monkeypatch.setattr(columns, "stream", recorded)
    chat = Chat([column, column], Sampling(max_new_tokens=5), seed=1)
    order = [index for index, _ in chat.answer([[user("a")], [user("b")]])]
    assert order == [0, 1, 0, 1]
    list(chat.answer([[user("a")], [user("b")]]))
    assert seeds[0] == seeds[1] != seeds[2] == seeds[3]
    again = Chat([column], Sampling(max_new_tokens=5), seed=1)
    list(again.answer([[user("a")]]))
    assert seeds[4] == seeds[0]


def session(column: Column, seed: int) -> list[str]:
    """The answers to one question that is asked four times."""
    chat = Chat([column], Sampling(max_new_tokens=12), seed)
    return [[answer.text for _, answer in chat.answer([[user("Hi")]])][-1] for _ in range(4)]


def test_a_session_of_the_same_seed_says_the_same(column: Column) -> None:
    assert session(column, 7) == session(column, 7)
    assert session(column, 7) != session(column, 8)
    assert len(set(session(column, 7))) > 1


def test_two_columns_of_the_same_model_draw_the_same(column: Column) -> None:
    updates = list(Chat([column, column], Sampling(max_new_tokens=12), seed=7).answer([[user("Hi")]] * 2))
    first, second = ([answer for index, answer in updates if index == place] for place in (0, 1))
    assert first == second


def test_a_column_gives_its_own_settings_to_the_chat_template(
    monkeypatch: pytest.MonkeyPatch, tiny_model: TinyModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    read: list[Any] = []

    def recorded(model: Any, prompt_ids: Sequence[int], eos: Any, sampling: Sampling) -> Any:
        read.append(tokenizer.decode(list(prompt_ids)))
        return iter([40])

    monkeypatch.setattr(columns, "stream", recorded)
    tokenizer.chat_template = "{{ mood or 'plain' }}: {{ messages[0].content }}"
    model = tiny_model(vocab_size=len(tokenizer))
    two = [Column("A", model, tokenizer, {"mood": "glad"}), Column("B", model, tokenizer)]
    list(Chat(two, GREEDY).answer([[user("Hi")]] * 2))
    assert read == ["glad: Hi", "plain: Hi"]


def test_each_model_sees_its_own_answers() -> None:
    chat = FakeChat(["A", "B"], ["yes sir", "no"])
    conversation = Conversation(chat, "Be brief.")
    for text in ("one", "two"):
        list(conversation.ask([user(text)]))
    system = {"role": "system", "content": "Be brief."}
    assert chat.heard[1] == [
        [system, user("one"), assistant("yes sir"), user("two")],
        [system, user("one"), assistant("no"), user("two")],
    ]
    conversation.reset(None)
    list(conversation.ask([user("three")]))
    assert chat.heard[2] == [[user("three")], [user("three")]]


def test_what_was_written_when_the_reader_stopped_is_the_answer() -> None:
    chat = FakeChat(["A", "B"], ["one two three", "four five six"])
    conversation = Conversation(chat)
    updates = conversation.ask([user("Count.")])
    for _ in range(3):
        next(updates)
    updates.close()
    list(conversation.ask([user("On.")]))
    answers = [messages[1]["content"] for messages in chat.heard[1]]
    assert answers == ["one two", "four"]


def test_a_question_that_is_refused_was_never_asked(column: Column) -> None:
    conversation = Conversation(Chat([column], GREEDY))
    assert "Start a new conversation" in mistake(conversation.ask, [user("x" * 100)])
    assert list(conversation.ask([user("Hi")]))
