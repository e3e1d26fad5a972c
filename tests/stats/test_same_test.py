"""Which evaluations are the same test."""

from dataclasses import fields, replace

import pytest

from selfdistill.stats.same_test import MUST_AGREE, differing_settings, require_comparable
from selfdistill.types import EvalConfig
from tests.support.mistakes import mistake

CONFIG = EvalConfig(
    task="tooluse",
    revision="1",
    metric="reference",
    num_rows=9,
    prompt="chat",
    temperature=0.0,
    top_p=1.0,
    max_new_tokens=64,
)


def test_how_many_rows_and_which_model_is_no_part_of_the_test():
    other = replace(CONFIG, num_rows=3, facts={"dtype": "float32", "model_path": "b"})
    assert differing_settings(CONFIG, other) == []
    require_comparable(CONFIG, other, "tooluse")


def test_all_that_is_sampled_and_scored_is():
    assert {each.name for each in fields(EvalConfig)} - set(MUST_AGREE) == {"num_rows", "facts"}


@pytest.mark.parametrize("field", MUST_AGREE)
def test_each_field_is_refused_by_name(field: str):
    said = mistake(require_comparable, CONFIG, replace(CONFIG, **{field: "another"}), "tooluse")
    assert said.startswith(f"tooluse can't be compared: {field} is ")
    assert "'another' in the other." in said


def test_further_fields_are_named_too():
    said = mistake(require_comparable, CONFIG, replace(CONFIG, revision="2", temperature=1.0), "tooluse")
    assert "revision is '1' in one and '2' in the other (also: temperature)" in said
