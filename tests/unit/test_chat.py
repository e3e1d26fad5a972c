"""Streams, columns and conversations."""

import pytest
import torch
from chat_fakes import FakeChat

from selfdistill.chat import columns
from selfdistill.chat.columns import Chat, Column, Conversation
from selfdistill.method.rollout.batched import make_engine
from selfdistill.method.rollout.engine import Sampling
from selfdistill.method.rollout.stream import stream
from selfdistill.settings.chat import ChatOptions
from selfdistill.types import UserError

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14, 15]]
GREEDY = Sampling(max_new_tokens=12, temperature=0)
SAMPLED = Sampling(max_new_tokens=12, temperature=1, top_p=0.9, seed=3)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "gemma2"])
def test_a_stream_is_the_engines_greedy_completion(tiny_model, model_type):
    model = tiny_model(model_type)
    free = [tuple(stream(model, prompt, set(), GREEDY)) for prompt in PROMPTS]
    eos = {free[0][3], free[2][5]}
    rollouts = make_engine(model, eos, 0).generate(PROMPTS, GREEDY)
    assert [tuple(stream(model, prompt, eos, GREEDY)) for prompt in PROMPTS] == [r.completion_ids for r in rollouts]
    assert {rollout.finish_reason for rollout in rollouts} >= {"stop"}


def test_a_model_without_attention_streams_as_greedy_decoding_is_defined(tiny_model):
    model = tiny_model("mamba", state_size=4)
    ids = list(PROMPTS[0])
    for _ in range(GREEDY.max_new_tokens):
        ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    assert list(stream(model, PROMPTS[0], set(), GREEDY)) == ids[3:]


def test_sampling_is_repeatable_whatever_is_drawn_in_between(tiny_model):
    model = tiny_model()
    alone = list(stream(model, PROMPTS[0], set(), SAMPLED))
    mixed = []
    two = [stream(model, prompt, set(), SAMPLED) for prompt in PROMPTS[:2]]
    for token, _ in zip(*two, strict=True):
        mixed.append(token)
        torch.rand(1)
    assert mixed == alone
    others = [list(stream(model, PROMPTS[0], set(), Sampling(max_new_tokens=12, seed=seed))) for seed in range(5)]
    assert len({tuple(ids) for ids in others}) > 1


def test_a_stream_leaves_the_callers_grad_mode_alone(tiny_model):
    for _ in stream(tiny_model(), PROMPTS[0], set(), GREEDY):
        assert torch.is_grad_enabled()


@pytest.fixture
def column(tiny_model, tokenizer):
    return Column("tiny", tiny_model(vocab_size=len(tokenizer), max_position_embeddings=64), tokenizer)


def says(monkeypatch, ids):
    """Makes every model say these ids."""
    monkeypatch.setattr(columns, "stream", lambda model, prompt_ids, eos, sampling: iter(ids))


def test_no_half_characters_are_shown(monkeypatch, column, tokenizer):
    text = "né 🙂!"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(ids) == 9  # é has two bytes, the face four, and each is a token
    says(monkeypatch, [*ids, tokenizer.eos_token_id])
    answers = list(column.answer([user("Hi")], Sampling(max_new_tokens=20)))
    assert [answer.text for answer in answers] == ["n", "n", "né", "né ", "né ", "né ", "né ", "né 🙂", text, text]
    assert [answer.num_tokens for answer in answers] == list(range(1, 11))
    assert [answer.finish_reason for answer in answers] == [""] * 9 + ["stop"]


def test_bytes_that_never_become_a_character_are_shown_at_the_end(monkeypatch, column, tokenizer):
    ids = tokenizer("aé", add_special_tokens=False)["input_ids"][:2]
    says(monkeypatch, ids)
    answers = list(column.answer([user("Hi")], Sampling(max_new_tokens=2)))
    assert [answer.text for answer in answers] == ["a", "a\ufffd"]
    assert answers[-1].finish_reason == "length"


def test_an_answer_ends_where_the_context_does(column):
    length = len("[user] Hi<|end|>\n[assistant] ") - len("<|end|>") + 1
    answers = list(column.answer([user("Hi")], Sampling(max_new_tokens=999, temperature=0)))
    assert answers[-1].finish_reason in ("stop", "length")
    assert answers[-1].num_tokens <= 64 - length
    with pytest.raises(UserError, match=r"has 85 tokens, tiny reads 64\. Start anew"):
        column.answer([user("x" * (85 - length + 2))], GREEDY)


def test_columns_take_turns_and_each_question_draws_anew(monkeypatch, column, tokenizer):
    seeds = []

    def recorded(model, prompt_ids, eos, sampling):
        seeds.append(sampling.seed)
        return iter([40, 41])

    monkeypatch.setattr(columns, "stream", recorded)
    chat = Chat([column, column], Sampling(max_new_tokens=5, seed=1))
    order = [index for index, _ in chat.answer([[user("a")], [user("b")]])]
    assert order == [0, 1, 0, 1]
    list(chat.answer([[user("a")], [user("b")]]))
    assert seeds[0] == seeds[1] != seeds[2] == seeds[3]
    again = Chat([column], Sampling(max_new_tokens=5, seed=1))
    list(again.answer([[user("a")]]))
    assert seeds[4] == seeds[0]


def test_each_model_sees_its_own_answers():
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


def test_what_was_written_when_the_reader_stopped_is_the_answer():
    chat = FakeChat(["A", "B"], ["one two three", "four five six"])
    conversation = Conversation(chat)
    updates = conversation.ask([user("Count.")])
    for _ in range(3):
        next(updates)
    updates.close()
    list(conversation.ask([user("On.")]))
    answers = [messages[1]["content"] for messages in chat.heard[1]]
    assert answers == ["one two", "four"]


def test_a_question_that_is_refused_was_never_asked(column):
    conversation = Conversation(Chat([column], GREEDY))
    with pytest.raises(UserError, match="Start anew"):
        conversation.ask([user("x" * 100)])
    assert list(conversation.ask([user("Hi")]))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_new_tokens": 0}, "--max_new_tokens 0"),
        ({"temperature": -1.0}, "--temperature -1.0"),
        ({"temperature": 1.0, "top_p": 0.0}, "--top_p 0.0"),
        ({"top_p": 0.9}, "--temperature 1"),
        ({"port": 8000}, "--web"),
        ({"web": True, "port": 70000}, "--port 70000"),
    ],
)
def test_settings_that_make_no_sense(settings, words):
    with pytest.raises(UserError, match=words):
        ChatOptions(**settings).check()
    ChatOptions(web=True, port=0, temperature=1.0, top_p=0.9).check()
