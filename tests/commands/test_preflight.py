"""``selfdistill preflight`` on a tiny model."""

import json

import pytest

from selfdistill.models import loading
from tests.support.tiny import CHAT_TEMPLATE
from tests.support.tiny_home import TinyHome, train

NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
TRIED = ["paper", "system", "prior_turn", "prior_turn x2"]


def preflight(*more: str, data: str = "--dataset_path=rows.jsonl") -> tuple[str, ...]:
    return ("preflight", "--model_name=M", data, "--dtype=float32", "--max_completion_length=16", *more)


def test_json_is_one_object_and_nothing_else(home: TinyHome) -> None:
    said = home.run(*preflight("--json"))
    assert said.code == 0
    assert said.err == ""
    assert said.out.count("\n") == 1
    found = json.loads(said.out)
    assert [result["name"] for result in found["templates"]] == TRIED
    assert found["recommended_template"] in TRIED
    assert found["num_rows"] == 3
    assert found["prompt_tokens"]["student"] == {"median": 33, "longest": 33}
    assert found["fits"] is True


def test_json_keeps_to_itself_what_else_would_be_said(home: TinyHome) -> None:
    # the recipe is of a method without a teacher, whose idle settings would be told
    home.yaml("c.yaml", method="sft", template="prior_turn", template_repeat=2)
    said = home.run(*preflight("--json", "--config=c.yaml"))
    assert (said.code, said.err) == (0, "")
    assert json.loads(said.out)["num_rows"] == 3
    assert "sft has no use for them: template, template_repeat" in home.run(*preflight("--config=c.yaml")).out


def test_the_table_names_every_template_and_the_verdict(home: TinyHome) -> None:
    said = home.run(*preflight("--num_rows=2"))
    assert said.code == 0
    assert "preflight on 2 training rows" in said.out
    assert all(f"│ {name} " in said.out for name in TRIED)
    assert "no answer scored above 0" in said.out
    assert "Estimated memory of a training run:" in said.out


def test_it_writes_nothing(home: TinyHome) -> None:
    before = home.files()
    assert home.run(*preflight()).code == 0
    assert home.files() == before


def test_a_template_that_the_model_refuses_is_shown_as_refused(home: TinyHome) -> None:
    home.model(template=NO_SYSTEM + CHAT_TEMPLATE)
    said = home.run(*preflight())
    assert said.code == 0
    [line] = [line for line in said.out.splitlines() if line.startswith("│ system ")]
    assert "refused" in line
    assert "system: The chat template refuses turns of system, user: System role not supported." in said.out
    found = json.loads(home.run(*preflight("--json")).out)
    assert ["System role not supported" in result["refused"] for result in found["templates"]] == [
        result["name"] == "system" for result in found["templates"]
    ]


def test_the_rows_of_trains_own_preflight_have_another_flag(home: TinyHome) -> None:
    assert "--preflight_rows 8 is for train. Here it is --num_rows." in home.refused(*preflight("--preflight_rows=8"))
    home.yaml("c.yaml", preflight_rows=4)
    assert home.run(*preflight("--config=c.yaml", "--num_rows=1")).code == 0  # of a recipe, which may be for train
    assert "--num_rows" in home.refused(*preflight("--config=c.yaml", "--preflight_rows=8"))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--num_rows=0",), "num_rows: 0 is not at least 1"),
        (("--max_steps=0",), "max_steps: 0 steps train nothing"),
        (("--dtype=float16",), "--dtype float16"),
        (("--max_prompt_length=5",), "the prompt has 33 tokens, the limit is 5"),
        (("--limit=0",), "limit: 0 is not at least 1"),
    ],
)
def test_mistakes_are_found_before_the_model_is_loaded(
    home: TinyHome, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], words: str
) -> None:
    monkeypatch.delattr(loading, "load_model")
    assert words in home.refused(*preflight(*flags))


def test_a_tokenizer_without_a_chat_template(home: TinyHome) -> None:
    home.model(template=None)
    assert "put one as chat_template.jinja beside its tokenizer" in home.refused(*preflight())


def test_a_scorer_of_ones_own_tells_what_is_right(home: TinyHome) -> None:
    (home.folder / "mine.py").write_text("def right(completion, example):\n    return 1.0\n")
    said = json.loads(home.run(*preflight("--scorer=mine.py:right", "--json", "--template=paper")).out)
    assert said["base_accuracy"] == 1
    assert [result["accuracy"] for result in said["templates"]] == [1] * len(TRIED)
    assert said["verdict"].endswith(": the teacher is no better than the student, so SDFT has nothing to teach here")
    run = train("--template=auto", "--scorer=mine.py:right")
    assert "preflight: teacher 100% vs base 100% with " in home.refused(*run)
    for scorer, wrong in (("judge", "--scorer judge: a preflight asks no judge."), ("exact", "exact")):
        for command in (preflight(f"--scorer={scorer}"), train("--template=auto", f"--scorer={scorer}")):
            assert wrong in home.refused(*command)


def test_a_template_that_is_named_is_tried_too(home: TinyHome) -> None:
    named = preflight("--json", "--template=prior_turn", "--template_repeat=4")
    assert [result["name"] for result in json.loads(home.run(*named).out)["templates"]] == [*TRIED, "prior_turn x4"]
    tried = preflight("--json", "--template=prior_turn", "--template_repeat=2")
    assert [result["name"] for result in json.loads(home.run(*tried).out)["templates"]] == TRIED
