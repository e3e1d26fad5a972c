"""Evaluation with an engine that says what it is told to: order, scores, parts, unscored rows."""

import pytest
from toy_task import toy_task

from selfdistill.evaluate.run import evaluate, responses, summary
from selfdistill.method.prompts import PromptRenderer
from selfdistill.method.rollout.engine import Sampling
from selfdistill.types import Example, Rollout, UserError


class Echo:
    """Answers every prompt with a given text by its length in tokens."""

    def __init__(self, tokenizer, answers):
        self.tokenizer, self.answers, self.batches = tokenizer, answers, []

    def generate(self, prompts, sampling):
        self.batches.append([len(prompt) for prompt in prompts])
        texts = [self.answers[self.tokenizer.decode(list(prompt)).split("] ")[1][0]] for prompt in prompts]
        ids = [(*self.tokenizer(text)["input_ids"], self.tokenizer.eos_token_id) for text in texts]
        return [Rollout(completion_ids=i, finish_reason="stop") for i in ids]


def example(question, reference, part=""):
    return Example(
        id=question,
        prompt=({"role": "user", "content": question},),
        demonstration=({"role": "assistant", "content": "SECRET"},),
        reference=reference,
        part=part,
    )


def equal(completion, row):
    return None if row.reference is None else float(completion == row.reference)


def task(**scorers):
    return toy_task(revision="7", scorers=scorers)


@pytest.fixture
def result(tokenizer):
    rows = [
        example("a", "1", "easy"),
        example("b is longer", "2", "hard"),
        example("c", "3", "hard"),
        example("d is the longest one", None, "hard"),
    ]
    engine = Echo(tokenizer, {"a": "1", "b": "2", "c": "wrong", "d": "?"})
    toy = task(equal=equal, short=lambda completion, _: float(len(completion) < 3))
    found = evaluate(toy, rows, engine, PromptRenderer(tokenizer), Sampling(max_new_tokens=8), batch_size=3)
    return found, engine


def test_samples_come_in_the_datas_order_though_batches_go_by_length(result):
    found, engine = result
    assert [sample.example.id[0] for sample in found.samples] == ["a", "b", "c", "d"]
    assert [sample.completion for sample in found.samples] == ["1", "2", "wrong", "?"]
    lengths = [length for batch in engine.batches for length in batch]
    assert lengths == sorted(lengths, reverse=True)
    assert [len(batch) for batch in engine.batches] == [3, 1]


def test_unscored_rows_are_not_wrong(result):
    found, _ = result
    numbers = summary(found)
    assert numbers["num_total"] == 3
    assert numbers["num_correct"] == 2
    assert numbers["accuracy"] == pytest.approx(2 / 3)
    assert numbers["num_unscored"] == 1
    assert numbers["per_sample_scores"] == [1.0, 1.0, 0.0, None]
    # Wilson's interval of 2 in 3 at 95%, worked out by hand: centre 0.5735, half width 0.3658
    assert numbers["interval"] == pytest.approx([0.2077, 0.9385], abs=1e-4)


def test_parts_and_further_scorers(result):
    found, _ = result
    numbers = summary(found)
    assert numbers["parts"]["easy"]["accuracy"] == 1
    assert numbers["parts"]["hard"] == {
        "accuracy": 0.5,
        "interval": numbers["parts"]["hard"]["interval"],
        "num_correct": 1,
        "num_total": 2,
    }
    assert numbers["metrics"]["short"]["num_correct"] == 3
    assert numbers["metrics"]["equal"]["accuracy"] == numbers["accuracy"]
    assert numbers["config"]["revision"] == "7"


def test_demonstrations_are_not_shown(result, tokenizer):
    found, engine = result
    longest = len(tokenizer("[user] d is the longest one<|end|>\n[assistant] ")["input_ids"])
    assert max(length for batch in engine.batches for length in batch) == longest
    assert responses(found)[3]["prompt"][0]["content"] == "d is the longest one"


def test_no_rows_is_an_error(tokenizer):
    with pytest.raises(UserError, match="no evaluation rows"):
        evaluate(task(equal=equal), [], Echo(tokenizer, {}), PromptRenderer(tokenizer), Sampling(max_new_tokens=8))
