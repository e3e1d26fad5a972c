"""Several completions of a row, with answers worked out by hand."""

from collections.abc import Sequence

import pytest
from transformers import PreTrainedTokenizerFast

from selfdistill.evaluate.attempts import budgets, majority, one_row, pass_rates, vote
from selfdistill.evaluate.results import eval_record, sample_records
from selfdistill.evaluate.run import evaluate
from selfdistill.method.prompts import PromptRenderer
from selfdistill.method.rollout.engine import Sampling
from selfdistill.tasks.task import Task
from selfdistill.types import EvalConfig, EvalResult, Example, Rollout, ScoredSample
from tests.support.engines import Scripted
from tests.support.mistakes import mistake
from tests.support.toy_task import toy_task


def sample(completion: str, score: float | None, answer: str | None = None) -> ScoredSample:
    return ScoredSample(
        example=Example(id="row", prompt=({"role": "user", "content": "q"},)),
        completion=completion,
        num_tokens=1,
        finish_reason="stop",
        scores={"m": score},
        answer=completion if answer is None else answer,
    )


def test_one_attempt_is_the_row_itself():
    only = sample("a", 1.0)
    assert one_row([only]) is only


def test_scores_of_a_row_are_means_over_scored_attempts():
    row = one_row([sample("a", 1.0), sample("b", None), sample("c", 0.5)])
    assert row.completion == "a"
    assert row.scores == {"m": 0.75}
    assert [one.completion for one in row.attempts] == ["a", "b", "c"]
    assert one_row([sample("a", None), sample("b", None)]).scores == {"m": None}


def test_the_most_frequent_answer_wins_and_of_equals_the_first():
    assert vote(one_row([sample("x", 0.0), sample("y1", 1.0, "y"), sample("y2", 1.0, "y")]), "m") == 1.0
    assert vote(one_row([sample("x", 0.0), sample("y", 1.0)]), "m") == 0.0


@pytest.mark.parametrize(
    ("n", "expected"), [(1, [1]), (2, [1, 2]), (4, [1, 2, 4]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])]
)
def test_budgets(n: int, expected: list[int]):
    assert budgets(n) == expected


def script(tokenizer: PreTrainedTokenizerFast, answers: dict[str, list[str]]) -> Scripted:
    """Answers each question with its own texts, one after another; those that end in dots are cut off."""
    left = {name: iter(texts) for name, texts in answers.items()}

    def answer(prompt: Sequence[int]) -> Rollout:
        text = next(left[str(tokenizer.decode(list(prompt))).split("] ")[1][0]])
        ids = tuple(tokenizer.encode(text))
        return Rollout(completion_ids=ids, finish_reason="length" if text.endswith("...") else "stop")

    return Scripted(answer)


def task() -> Task:
    return toy_task(
        scorers={"m": lambda completion, row: float(completion.strip().endswith(row.reference))},
        extract=lambda text: text.strip()[-1],
    )


ROWS = [
    Example(id=name, prompt=({"role": "user", "content": name},), reference=answer)
    for name, answer in (("a", "1"), ("b", "2"))
]


def result(tokenizer: PreTrainedTokenizerFast, num_samples: int = 4) -> EvalResult:
    engine = script(tokenizer, {"a": ["so 1", "2", "is 1", "3..."], "b": ["1", "1", "2", "9"]})
    sampling = Sampling(max_new_tokens=8, temperature=1.0)
    return evaluate(task(), ROWS, engine, PromptRenderer(tokenizer), sampling, num_samples=num_samples)


def test_pass_at_k_vote_and_truncation(tokenizer: PreTrainedTokenizerFast):
    record = eval_record(result(tokenizer))
    # row a: 2 of 4 right, row b: 1 of 4
    assert record.accuracy == pytest.approx((0.5 + 0.25) / 2)
    assert record.pass_at_k["1"] == pytest.approx(0.375)
    # pass@2: a 1 - C(2,2)/C(4,2) = 5/6; b 1 - C(3,2)/C(4,2) = 1/2
    assert record.pass_at_k["2"] == pytest.approx((5 / 6 + 1 / 2) / 2)
    assert record.pass_at_k["4"] == 1.0
    assert list(record.pass_at_k) == ["1", "2", "4"]
    # a votes 1 (twice), which is right; b votes 1, which is wrong
    assert record.majority_vote is not None
    assert (record.majority_vote.num_correct, record.majority_vote.num_total) == (1, 2)
    assert record.truncated_share == pytest.approx(1 / 8)
    assert record.mean_completion_tokens == pytest.approx((4 + 1 + 4 + 4 + 1 + 1 + 1 + 1) / 8)
    assert record.config.num_samples == 4


def test_every_completion_is_kept(tokenizer: PreTrainedTokenizerFast):
    first, second = sample_records(result(tokenizer))
    assert [one.completion for one in first.completions] == ["so 1", "2", "is 1", "3..."]
    assert [one.finish_reason for one in first.completions] == ["stop", "stop", "stop", "length"]
    assert [one.num_tokens for one in second.completions] == [1, 1, 1, 1]
    assert [one.scores["m"] for one in second.completions] == [0, 0, 1, 0]
    assert (first.completion, first.scores) == ("so 1", {"m": 0.5})


def test_unscored_completions_leave_a_rows_budget_smaller():
    config = EvalConfig(task="toy", revision="1", metric="m", num_rows=2, prompt="chat")
    rows = (
        one_row([sample("a", 1.0), sample("b", None), sample("c", None), sample("d", 0.0)]),
        one_row([sample("a", 0.0), sample("b", 0.0), sample("c", 1.0), sample("d", 0.0)]),
    )
    found = pass_rates(EvalResult(samples=rows, config=config))
    # pass@1: 1 of 2 and 1 of 4; pass@2: both right among two of two, 1 - C(3,2)/C(4,2) of four; pass@4: the second row
    assert found == {"1": pytest.approx((1 / 2 + 1 / 4) / 2), "2": pytest.approx((1 + 1 / 2) / 2), "4": 1.0}


def test_a_row_whose_most_frequent_answer_is_unscored_does_not_vote():
    config = EvalConfig(task="toy", revision="1", metric="m", num_rows=2, prompt="chat")
    rows = (one_row([sample("a", None), sample("a", None), sample("b", 1.0)]), one_row([sample("b", 1.0)] * 3))
    assert majority(EvalResult(samples=rows, config=config)) == [1.0]


def test_one_completion_gives_neither(tokenizer: PreTrainedTokenizerFast):
    found = result(tokenizer, num_samples=1)
    record = eval_record(found)
    assert record.pass_at_k == {}
    assert record.majority_vote is None
    assert sample_records(found)[0].completions == []


def test_several_greedy_completions_are_refused(tokenizer: PreTrainedTokenizerFast):
    engine, sampling = script(tokenizer, {}), Sampling(max_new_tokens=8, temperature=0)
    said = mistake(evaluate, task(), ROWS, engine, PromptRenderer(tokenizer), sampling, num_samples=2)
    assert "--num_samples 2" in said
    assert engine.calls == []
