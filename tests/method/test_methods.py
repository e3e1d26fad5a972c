"""The tables: what each method is, and that settings know the very names that the tables have."""

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from selfdistill.method.divergence import DIVERGENCES
from selfdistill.method.methods import ANCHORS, METHODS, MethodSpec
from selfdistill.method.rollout.engines import ENGINES
from selfdistill.method.sources import SOURCES
from selfdistill.method.templates import TEMPLATES
from selfdistill.types import CompletionSource, DivergenceKind, EngineName, Method, Target, Template

PAGE = (Path(__file__).parents[2] / "docs" / "method.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("names", "table", "others"),
    [
        (Method, METHODS, ()),
        (DivergenceKind, DIVERGENCES, ()),
        (Template, TEMPLATES, ("auto",)),
        (EngineName, ENGINES, ("auto",)),
        (CompletionSource, SOURCES, ()),
    ],
    ids=["methods", "divergences", "templates", "engines", "sources"],
)
def test_a_setting_takes_the_names_of_its_table(names, table, others):
    assert sorted(get_args(names)) == sorted([*table, *others])


@pytest.mark.parametrize(
    "table", [METHODS, DIVERGENCES, TEMPLATES, SOURCES], ids=["methods", "divergences", "templates", "sources"]
)
def test_the_page_of_the_method_has_a_row_for_each_name(table):
    for name in table:
        assert f"\n| `{name}`" in PAGE.replace("\n   |", "\n|")


# -- the rows, as docs/method.md and the paper have them -------------------------------------------

COMPLETIONS = {
    "sdft": "student",
    "offline": "teacher",
    "reinvoke": "student",
    "sft": "demonstration",
    "dft": "demonstration",
    "cpt": "demonstration",
}
"""Who writes the completion."""
TAUGHT = {"sdft", "offline", "reinvoke"}
"""Held to a teacher's distribution at every token; the others to the completion's own tokens."""


def names(holds: Callable[[MethodSpec], bool]) -> set[str]:
    """Methods whose row has the property."""
    return {name for name, spec in METHODS.items() if holds(spec)}


def test_who_writes_the_completion_and_what_it_is_held_to():
    assert {name: spec.completion for name, spec in METHODS.items()} == COMPLETIONS
    assert {name: spec.target for name, spec in METHODS.items()} == {
        name: "teacher" if name in TAUGHT else "tokens" for name in COMPLETIONS
    }
    assert names(lambda spec: spec.compares) == names(lambda spec: spec.has_teacher) == TAUGHT
    assert names(lambda spec: spec.samples) == TAUGHT  # whoever is taught learns from what was sampled


def test_the_teacher_is_shown_the_demonstration_by_self_distillation_alone():
    assert names(lambda spec: spec.shows_demonstration) == {"sdft", "offline"}
    assert names(lambda spec: spec.teacher == "base_model") == {"reinvoke"}


def test_general_prompts_need_no_demonstration():
    assert names(lambda spec: not spec.needs_demonstration) == {"reinvoke"}


def test_dft_alone_weighs_a_token_and_cpt_alone_reads_raw_text():
    assert names(lambda spec: spec.cross_entropy_weight == "own_probability") == {"dft"}
    assert names(lambda spec: spec.prompt == "raw_text") == {"cpt"}


def test_anchors_are_the_students_own_completions_held_to_the_start_model():
    assert MethodSpec(completion="student", target="start", needs_demonstration=False) == ANCHORS
    assert not ANCHORS.has_teacher  # no prompt of a teacher's own
    assert {*(spec.target for spec in METHODS.values()), ANCHORS.target} == set(get_args(Target))
