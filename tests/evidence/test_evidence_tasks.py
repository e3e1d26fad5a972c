"""The tasks of the evidence, their scorers and the list of studies."""

import json
from pathlib import Path

import pytest

from evidence import make_tasks
from evidence.run import read_studies
from evidence.scorer import right_value, same_answer
from selfdistill.cli import parse
from selfdistill.studies.arms import parse_arms
from selfdistill.tasks.custom import custom_task
from selfdistill.types import Example


def test_rows_are_the_same_each_time_and_read_by_the_package(tmp_path: Path) -> None:
    make_tasks.write(tmp_path)
    first = {path.name: path.read_text() for path in tmp_path.iterdir()}
    make_tasks.write(tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == first
    for name, scorer in {"notes": same_answer, "orders": right_value, "tickets": same_answer}.items():
        task = custom_task(str(tmp_path / f"{name}.jsonl"), str(tmp_path / f"{name}-eval.jsonl"))
        train, evaluation = task.load_train(None), task.load_eval(None)
        assert (len(train), len(evaluation)) == (300, 100)
        assert all(scorer(row.demonstration_text, row) == 1 for row in train)
        assert len({row.prompt[0]["content"] for row in [*train, *evaluation]}) == 400


def test_notes_of_the_evaluation_have_values_of_their_own() -> None:
    train, evaluation = ([json.loads(row["answer"]) for row in rows] for rows in make_tasks.notes())
    for key in ("who", "what", "when"):
        assert not {row[key] for row in train} & {row[key] for row in evaluation}


def test_values_stand_in_the_note_as_they_are() -> None:
    for row in (row for rows in make_tasks.notes() for row in rows):
        assert all(value.lower() in row["prompt"].lower() for value in json.loads(row["answer"]).values())


def test_orders_of_the_evaluation_have_values_of_their_own() -> None:
    train, evaluation = ({row["answer"] for row in rows} for rows in make_tasks.orders())
    assert not train & evaluation


@pytest.mark.parametrize(
    ("completion", "score"),
    [
        ("bruno ordered The kayak.", 0.0),
        ("Bruno ordered two tents for 3 May.", 1.0),
        ("Two tents.", 1.0),
        ("Two tents, and Ann a kayak.", 0.0),
        ("Two tents, not the lease.", 1.0),  # nobody in the prompt has a lease
        ("Tents.", 0.0),
        ("", 0.0),
    ],
)
def test_an_answer_in_orders_has_the_value_asked_for_and_no_other(completion: str, score: float) -> None:
    text = "Ann ordered a kayak for 2 May. Bruno ordered two tents for 5 May.\nWhat did Bruno order?"
    example = Example(id="x/0", prompt=({"role": "user", "content": text},), reference="two tents")
    assert right_value(completion, example) == score


def test_tickets_of_the_evaluation_have_phrasings_and_products_of_their_own() -> None:
    train, evaluation = make_tasks.DATA["tickets"]["train"], make_tasks.DATA["tickets"]["eval"]
    assert not set(train["products"]) & set(evaluation["products"])
    for word, phrasings in train["phrasings"].items():
        assert not set(phrasings) & set(evaluation["phrasings"][word])
    rows = make_tasks.tickets()[1]
    assert [row["answer"] for row in rows[:4]] == ["billing", "delivery", "access", "repair"]


@pytest.mark.parametrize(
    ("completion", "reference", "score"),
    [
        ('{"what": "tea",\n "who": "Ann"}', '{"who": "Ann", "what": "tea"}', 1.0),
        ('{"who": "Ann", "what": "tea"}.', '{"who": "Ann", "what": "tea"}', 0.0),
        ('{"who": "Ann"}', '{"who": "Ann", "what": "tea"}', 0.0),
        (' {"tool": "call", "arguments": {}}', {"tool": "call", "arguments": {}}, 1.0),
        ("billing\n", "billing", 1.0),
        ("billing team", "billing", 0.0),
    ],
)
def test_the_scorer_reads_json_and_takes_words_as_they_are(completion: str, reference: object, score: float) -> None:
    assert same_answer(completion, Example(id="x/0", prompt=(), reference=reference)) == score


def test_a_study_of_several_seeds_is_several(tmp_path: Path) -> None:
    studies = list(read_studies("full"))
    assert [study.name for study in studies] == [
        "compare-orders",
        "compare-notes",
        "compare-few-orders",
        "compare-assistant-tools",
        *(f"continual-{seed}" for seed in (0, 1, 2)),
    ]
    arguments = studies[1].arguments(tmp_path)
    assert arguments[:3] == ["compare", "--output_dir", str(tmp_path / "compare-notes")]
    assert arguments[arguments.index("--eval_path") + 1] == str(tmp_path / "tasks" / "notes-eval.jsonl")
    assert arguments.count("--arm") == 7
    assert "--limit" not in arguments
    assert {study.name for study in read_studies("quick")} < {study.name for study in studies}


def test_a_single_change_is_one_setting_beside_the_method(tmp_path: Path) -> None:
    for study in read_studies("wide"):
        options = parse(study.command, study.arguments(tmp_path)[1:])
        arms = {arm.name: dict(arm.settings) for arm in parse_arms(options.arms, options.recipe, default="")}
        assert arms.pop("sdft") == {"method": "sdft"}
        assert arms.pop("teacher-samples") == {"method": "offline"}
        assert arms.pop("sft") == {"method": "sft", "learning_rate": 4e-5}
        assert arms.pop("sft-anchored") == {"method": "sft", "learning_rate": 4e-5, "anchor_share": 0.25}
        for settings in arms.values():
            assert settings.pop("method") == "sdft"
            groups = {name.partition("_")[0] for name in settings if name != "completion_source"}
            assert len(groups) == 1 or settings.keys() == {"completion_source"}
