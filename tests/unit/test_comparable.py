"""Which results may be compared."""

import pytest

from selfdistill.stats.same_test import MUST_AGREE, differing_settings, require_comparable, shared_scores
from selfdistill.types import UserError

CONFIG = {
    "task": "tooluse",
    "revision": "1",
    "metric": "reference",
    "prompt": "chat",
    "chat_template_kwargs": {},
    "num_samples": 1,
    "temperature": 0.0,
    "top_p": 1.0,
    "max_new_tokens": 64,
}


def test_results_of_the_same_test_may_be_compared():
    other = CONFIG | {"dtype": "float32", "model_path": "b", "num_rows": 3}
    assert differing_settings(CONFIG, other) == []
    require_comparable({"config": CONFIG}, {"config": other}, "tooluse")


@pytest.mark.parametrize("field", MUST_AGREE)
def test_each_field_is_refused_by_name(field):
    with pytest.raises(UserError, match=f"tooluse can't be compared: {field} is .*'another'") as caught:
        require_comparable({"config": CONFIG}, {"config": CONFIG | {field: "another"}}, "tooluse")
    assert len(str(caught.value).split()) <= 40


def test_further_fields_are_named_too():
    other = CONFIG | {"revision": "2", "temperature": 1.0}
    with pytest.raises(UserError, match=r"revision is '1' in one and '2' in the other \(also: temperature\)"):
        require_comparable({"config": CONFIG}, {"config": other}, "tooluse")


def row(score, prompt="q"):
    return {"prompt": [{"role": "user", "content": prompt}], "scores": {"m": score}}


def test_scores_of_shared_rows_in_the_firsts_order():
    first = {"c": row(1.0), "a": row(0.0), "b": row(None), "d": row(1.0)}
    second = {"a": row(1.0), "b": row(1.0), "c": row(0.5), "e": row(1.0)}
    assert shared_scores(first, second, "m", "toy") == ([1.0, 0.0], [0.5, 1.0])


def test_another_prompt_under_the_same_id_is_refused():
    with pytest.raises(UserError, match="the prompt of row a differs"):
        shared_scores({"a": row(1.0)}, {"a": row(1.0, "another")}, "m", "toy")
