"""Evaluation with a scripted engine and with the real ones: order, scores, seeds, context."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from selfdistill.evaluate.run import evaluate, evaluate_model
from selfdistill.method.prompts import PromptRenderer
from selfdistill.method.rollout.engine import Sampling, row_seeds
from selfdistill.models.tokens import eos_token_ids
from selfdistill.tasks.task import Task
from selfdistill.types import EvalResult, Example, Rollout
from tests.support.engines import Scripted, stopped
from tests.support.mistakes import mistake
from tests.support.tiny import byte_tokenizer
from tests.support.toy_task import toy_task

ANSWERS = {"a": "1", "b": "2", "c": "wrong", "d": "?"}


def question_of(prompt: Sequence[int], tokenizer: PreTrainedTokenizerFast) -> str:
    """The first letter of the question."""
    return str(tokenizer.decode(list(prompt))).split("] ")[1][0]


def answering(tokenizer: PreTrainedTokenizerFast) -> Scripted:
    """Answers ANSWERS by the first letter of the question."""

    def answer(prompt: Sequence[int]) -> Rollout:
        text = ANSWERS[question_of(prompt, tokenizer)]
        return stopped(*tokenizer.encode(f"{text}<|end|>"))

    return Scripted(answer)


def example(question: str, reference: Any = None, part: str = "") -> Example:
    return Example(
        id=question,
        prompt=({"role": "user", "content": question},),
        demonstration=({"role": "assistant", "content": "SECRET"},),
        reference=reference,
        part=part,
    )


ROWS = [example("a", "1", "easy"), example("b is longer", "2", "hard"), example("c", "3", "hard"), example("d", "?")]


def task(**fields: Any) -> Task:
    def equal(completion: str, row: Example) -> float:
        return float(completion == row.reference)

    return toy_task(revision="7", **{"scorers": {"equal": equal}} | fields)


def test_samples_come_in_the_datas_order_with_the_scores_of_every_scorer(tokenizer: PreTrainedTokenizerFast):
    scorers = {"equal": lambda text, row: float(text == row.reference), "short": lambda text, _: float(len(text) < 3)}
    engine = answering(tokenizer)
    found = evaluate(task(scorers=scorers), ROWS, engine, PromptRenderer(tokenizer), Sampling(max_new_tokens=8))
    assert [sample.example for sample in found.samples] == ROWS
    assert [sample.completion for sample in found.samples] == ["1", "2", "wrong", "?"]
    assert [sample.scores for sample in found.samples] == [
        {"equal": 1, "short": 1},
        {"equal": 1, "short": 1},
        {"equal": 0, "short": 0},
        {"equal": 1, "short": 1},
    ]
    assert [sample.num_tokens for sample in found.samples] == [2, 2, 6, 2]  # the end of turn is one
    assert found.accuracy == 0.75
    assert engine.synced == 1
    assert len(engine.calls) == 1  # the engine sorts into batches, by length


def test_a_scorer_that_takes_all_rows_at_once_is_asked_once(tokenizer: PreTrainedTokenizerFast):
    calls: list[list[str]] = []

    class AtOnce:
        def __call__(self, completion: str, example: Example) -> float | None:
            raise AssertionError("one by one")

        def score_all(self, completions: Sequence[str], examples: Sequence[Example]) -> list[float | None]:
            calls.append(list(completions))
            return [None, 1.0, 0.0, 0.5]

    chosen = task(scorers={"once": AtOnce()})
    found = evaluate(chosen, ROWS, answering(tokenizer), PromptRenderer(tokenizer), Sampling(max_new_tokens=8))
    assert [sample.scores["once"] for sample in found.samples] == [None, 1.0, 0.0, 0.5]
    assert calls == [["1", "2", "wrong", "?"]]


def test_demonstrations_are_not_shown(tokenizer: PreTrainedTokenizerFast):
    engine = answering(tokenizer)
    found = evaluate(task(), ROWS, engine, PromptRenderer(tokenizer), Sampling(max_new_tokens=8))
    ((prompts, _),) = engine.calls
    assert tokenizer.decode(prompts[1]) == "[user] b is longer<|end|>\n[assistant] "
    assert not any("SECRET" in str(tokenizer.decode(prompt)) for prompt in prompts)
    assert found.samples[1].example.demonstration_text == "SECRET"  # the scorers see it


def test_no_rows_is_an_error(tokenizer: PreTrainedTokenizerFast):
    renderer, sampling = PromptRenderer(tokenizer), Sampling(max_new_tokens=8)
    assert "no evaluation rows" in mistake(evaluate, task(), [], answering(tokenizer), renderer, sampling)


def test_how_it_was_made_is_in_the_config():
    tokenizer = byte_tokenizer("{{ messages[0].content }}] {{ messages[0].content }}{{ mood }}")
    renderer = PromptRenderer(tokenizer, chat_template_kwargs={"mood": "!"})
    engine = answering(tokenizer)
    found = evaluate(
        task(), ROWS[:2], engine, renderer, Sampling(max_new_tokens=8, temperature=0.5, top_p=0.9), num_samples=2
    )
    assert tokenizer.decode(engine.calls[0][0][0]) == "a] a!"
    config = found.config
    assert (config.task, config.revision, config.metric, config.num_rows) == ("toy", "7", "equal", 2)
    assert (config.prompt, config.chat_template_kwargs) == ("chat", {"mood": "!"})
    assert (config.num_samples, config.temperature, config.top_p, config.max_new_tokens) == (2, 0.5, 0.9, 8)
    assert config.facts == {"rollout_engine": "Scripted", "seed": 42}


# -- seeds -------------------------------------------------------------------------------------------------------------


def test_every_completion_has_a_seed_of_its_rows_own(tokenizer: PreTrainedTokenizerFast):
    engine, renderer = answering(tokenizer), PromptRenderer(tokenizer)
    evaluate(task(), ROWS[:2], engine, renderer, Sampling(max_new_tokens=8), num_samples=2, seed=5)
    ((prompts, sampling),) = engine.calls
    assert [question_of(prompt, tokenizer) for prompt in prompts] == ["a", "a", "b", "b"]
    assert sampling.seeds == row_seeds(5, 0, ["a", "a", "b is longer", "b is longer"])
    assert len(set(sampling.seeds or ())) == 4
    evaluate(task(), ROWS[:2], engine, renderer, Sampling(max_new_tokens=8, temperature=0))
    assert engine.calls[-1][1].seeds is None  # nothing is drawn


Sampled = Callable[..., list[list[str]]]


@pytest.fixture(params=["own", "generate"])
def sampled(
    request: pytest.FixtureRequest, tiny_model: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerFast
) -> Sampled:
    """A random model's completions of rows of different length, by row."""
    model = tiny_model(vocab_size=len(tokenizer), eos_token_id=None)

    def run(rows: int = 7, num_samples: int = 1, **options: Any) -> list[list[str]]:
        chosen = [example("x" * (1 + 3 * number % 8)) for number in range(rows)]
        chosen = [replace(row, id=str(number)) for number, row in enumerate(chosen)]
        sampling = Sampling(max_new_tokens=6, temperature=1.0)
        options = {"engine": request.param, "num_samples": num_samples} | options
        found: EvalResult = evaluate_model(model, tokenizer, task(), chosen, sampling, **options)
        return [[one.completion for one in row.attempts or (row,)] for row in found.samples]

    return run


def test_completions_do_not_depend_on_the_batch_size(sampled: Sampled):
    expected = sampled(batch_size=64)
    assert len({text for (text,) in expected}) > 3
    for batch_size in (1, 2, 3):
        assert sampled(batch_size=batch_size) == expected


def test_completions_do_not_depend_on_the_number_of_rows_or_samples(sampled: Sampled):
    expected = sampled(num_samples=3)
    assert sampled(rows=4, num_samples=3) == expected[:4]
    assert sampled() == [row[:1] for row in expected]
    assert len(set(expected[0])) > 1


def test_completions_depend_on_the_seed(sampled: Sampled):
    assert sampled(seed=1) == sampled(seed=1)
    assert sampled(seed=1) != sampled(seed=2)


# -- the model's context -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_prompt_that_fills_the_context_is_refused(
    tiny_model: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerFast, kind: str
):
    model = tiny_model(kind, vocab_size=len(tokenizer), max_position_embeddings=64)
    frame = len("[user] ") + 2 + len("[assistant] ")  # the end of turn and the line's end are a token each
    fits, full = example("x" * (63 - frame)), example("y" * (64 - frame))
    sampling = Sampling(max_new_tokens=4, temperature=0)
    found = evaluate_model(model, tokenizer, task(), [fits], sampling)
    assert found.samples[0].num_tokens == 1
    said = mistake(evaluate_model, model, tokenizer, task(), [fits, full], sampling)
    assert said.startswith(f"{full.id}: the prompt has 64 tokens, the model reads 64")


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_rows_that_the_context_leaves_less_room_than_asked_for_are_counted(
    tiny_model: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerFast, kind: str
):
    model = tiny_model(kind, vocab_size=len(tokenizer), max_position_embeddings=64, eos_token_id=None)
    rows = [example("x" * length) for length in (1, 30, 31, 35)]  # prompts of 22, 51, 52 and 56 tokens
    tokenizer.eos_token = None  # so that every completion runs to its limit
    head: Any = model.get_output_embeddings()
    with torch.no_grad():
        for id in eos_token_ids(model, tokenizer):  # the end of turn is left
            head.weight[id] = 0
    for room, short in ((200, 4), (12, 1), (8, 0)):
        found = evaluate_model(model, tokenizer, task(), rows, Sampling(max_new_tokens=room, temperature=0))
        assert found.config.facts.get("rows_short_of_context", 0) == short
        assert found.config.max_new_tokens == room
        lengths = [sample.num_tokens for sample in found.samples]
        assert lengths == [min(room, 64 - prompt) for prompt in (22, 51, 52, 56)]
