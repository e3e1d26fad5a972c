"""Several completions of a row, with answers worked out by hand."""

import pytest
from toy_task import toy_task

from selfdistill.evaluate.attempts import budgets, one_row, vote
from selfdistill.evaluate.run import evaluate, responses, summary
from selfdistill.method.prompts import PromptRenderer
from selfdistill.method.rollout.engine import Sampling
from selfdistill.types import Example, Rollout, ScoredSample, UserError


def sample(completion, score, answer=None, num_tokens=1):
    return ScoredSample(
        example=Example(id="row", prompt=({"role": "user", "content": "q"},)),
        completion=completion,
        num_tokens=num_tokens,
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
def test_budgets(n, expected):
    assert budgets(n) == expected


class Script:
    """Answers each prompt with its own list of texts, one after another."""

    def __init__(self, tokenizer, answers):
        self.tokenizer, self.answers = tokenizer, {key: iter(texts) for key, texts in answers.items()}

    def generate(self, prompts, sampling):
        rollouts = []
        for prompt in prompts:
            text = next(self.answers[self.tokenizer.decode(list(prompt)).split("] ")[1][0]])
            cut = text.endswith("...")
            rollouts.append(
                Rollout(
                    completion_ids=tuple(self.tokenizer(text)["input_ids"]), finish_reason="length" if cut else "stop"
                )
            )
        return rollouts


def task():
    return toy_task(
        scorers={"m": lambda completion, row: float(completion.strip().endswith(row.reference))},
        extract=lambda text: text.strip()[-1],
    )


def result(tokenizer, num_samples=4):
    rows = [
        Example(id=name, prompt=({"role": "user", "content": name},), reference=answer)
        for name, answer in (("a", "1"), ("b", "2"))
    ]
    script = Script(tokenizer, {"a": ["so 1", "2", "is 1", "3..."], "b": ["1", "1", "2", "9"]})
    sampling = Sampling(max_new_tokens=8, temperature=1.0)
    return evaluate(task(), rows, script, PromptRenderer(tokenizer), sampling, num_samples=num_samples, batch_size=3)


def test_pass_at_k_vote_and_truncation(tokenizer):
    numbers = summary(result(tokenizer))
    # row a: 2 of 4 right, row b: 1 of 4
    assert numbers["accuracy"] == pytest.approx((0.5 + 0.25) / 2)
    assert numbers["pass_at_k"]["1"] == pytest.approx(0.375)
    # pass@2: a 1 - C(2,2)/C(4,2) = 5/6; b 1 - C(3,2)/C(4,2) = 1/2
    assert numbers["pass_at_k"]["2"] == pytest.approx((5 / 6 + 1 / 2) / 2)
    assert numbers["pass_at_k"]["4"] == 1.0
    assert list(numbers["pass_at_k"]) == ["1", "2", "4"]
    # a votes 1 (twice), which is right; b votes 1, which is wrong
    assert numbers["majority_vote"]["num_correct"] == 1
    assert numbers["majority_vote"]["num_total"] == 2
    assert numbers["truncated_share"] == pytest.approx(1 / 8)
    assert numbers["mean_completion_tokens"] == pytest.approx((4 + 1 + 4 + 4 + 1 + 1 + 1 + 1) / 8)
    assert numbers["config"]["num_samples"] == 4


def test_every_completion_is_kept(tokenizer):
    first, second = responses(result(tokenizer))
    assert [one["completion"] for one in first["completions"]] == ["so 1", "2", "is 1", "3..."]
    assert [one["finish_reason"] for one in first["completions"]] == ["stop", "stop", "stop", "length"]
    assert [one["num_tokens"] for one in second["completions"]] == [1, 1, 1, 1]
    assert [one["scores"]["m"] for one in second["completions"]] == [0, 0, 1, 0]
    assert first["scores"] == {"m": 0.5}


def test_one_completion_gives_neither(tokenizer):
    numbers = summary(result(tokenizer, num_samples=1))
    assert "pass_at_k" not in numbers
    assert "majority_vote" not in numbers
    assert "completions" not in responses(result(tokenizer, num_samples=1))[0]


def test_several_greedy_completions_are_refused(tokenizer):
    with pytest.raises(UserError, match="--num_samples 2"):
        evaluate(
            task(),
            [Example(id="a", prompt=({"role": "user", "content": "a"},), reference="1")],
            Script(tokenizer, {}),
            PromptRenderer(tokenizer),
            Sampling(max_new_tokens=8, temperature=0),
            num_samples=2,
        )
