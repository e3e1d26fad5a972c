"""The leak check, with shares counted by hand."""

import pytest

from selfdistill.evaluate.leak import leak_check
from selfdistill.records.evaluations import LeakRecord
from selfdistill.stats.scores import wilson_interval
from selfdistill.types import Example, ScoredSample


def sample(name: str, completion: str, demonstration: str = "") -> ScoredSample:
    shown = ({"role": "assistant", "content": demonstration},) if demonstration else ()
    example = Example(id=name, prompt=({"role": "user", "content": "q"},), demonstration=shown)
    return ScoredSample(example=example, completion=completion, num_tokens=1, finish_reason="stop", scores={})


def test_phrases_copies_lengths_and_variety():
    samples = [
        sample("a", "Based on the example: xyz", "xyz"),  # 25 characters, 3 copied
        sample("b", "a b a b", "none of it"),  # 7 characters, of which one blank is in the demonstration
        sample("c", "not compared"),
    ]
    found = leak_check(samples, {"a": "plain xy", "b": "x y", "z": "as in the example"})
    assert found.num_rows == 2
    assert found.phrase_rate == 0.5
    assert found.phrase_interval == wilson_interval(1, 2)
    assert found.base_phrase_rate == 0
    assert found.copy_rate == pytest.approx((3 / 25 + 1 / 7) / 2)
    assert found.base_copy_rate == pytest.approx((2 / 8 + 1 / 3) / 2)
    assert found.mean_characters == 16
    assert found.length_ratio == pytest.approx(16 / 5.5)
    # Based on, on the, the example:, example: xyz; a b, b a, a b: 6 of 7 differ
    assert found.distinct_2 == pytest.approx(6 / 7)
    assert found.base_distinct_2 == 1


def test_no_demonstration_and_an_empty_base():
    found = leak_check([sample("a", "text")], {"a": ""})
    assert found.copy_rate is None
    assert found.length_ratio is None
    assert leak_check([sample("a", "text")], {}) == LeakRecord(num_rows=0)
