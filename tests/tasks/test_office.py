"""The tasks notes, orders and tickets: rows that share nothing with their evaluation, and scorers."""

import pytest

from selfdistill.tasks import TASKS, office
from selfdistill.types import Example, message_text


@pytest.mark.parametrize("name", ["notes", "orders", "tickets"])
def test_rows_are_the_same_each_time_and_their_demonstrations_right(name: str) -> None:
    task = TASKS[name]
    train, evaluation = task.load_train(None), task.load_eval(None)
    assert (list(train), list(evaluation)) == (list(task.load_train(None)), list(task.load_eval(None)))
    assert (len(train), len(evaluation)) == (300, 100)
    (scorer,) = task.scorers.values()
    assert all(scorer(row.demonstration_text, row) == 1 for row in train)
    assert not any(row.demonstration for row in evaluation)
    assert len({message_text(row.prompt[0]) for row in [*train, *evaluation]}) == 400
    assert len({row.id for row in [*train, *evaluation]}) == 400


def test_notes_of_the_evaluation_have_values_of_their_own() -> None:
    train, evaluation = ([values for _, _, values in office.notes(split)] for split in office.NUM_ROWS)
    for key in ("who", "what", "when"):
        assert not {values[key] for values in train} & {values[key] for values in evaluation}


def test_values_stand_in_the_note_as_they_are() -> None:
    for prompt, _, values in (row for split in office.NUM_ROWS for row in office.notes(split)):
        assert all(value.lower() in prompt.lower() for value in values.values())


def test_orders_of_the_evaluation_have_values_of_their_own() -> None:
    train, evaluation = ({value for _, _, value in office.orders(split)} for split in office.NUM_ROWS)
    assert not train & evaluation


def test_tickets_of_the_evaluation_have_phrasings_and_products_of_their_own() -> None:
    train, evaluation = office.DATA["tickets"]["train"], office.DATA["tickets"]["eval"]
    assert not set(train["products"]) & set(evaluation["products"])
    for word, phrasings in train["phrasings"].items():
        assert not set(phrasings) & set(evaluation["phrasings"][word])
    assert [word for _, _, word in office.tickets("eval")[:4]] == ["billing", "delivery", "access", "repair"]


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
    assert office.right_value(completion, example) == score


@pytest.mark.parametrize(
    ("completion", "reference", "score"),
    [
        ('{"what": "tea",\n "who": "Ann"}', {"who": "Ann", "what": "tea"}, 1.0),
        ('{"what": "tea",\n "who": "Ann"}', '{"who": "Ann", "what": "tea"}', 1.0),
        ('{"who": "Ann", "what": "tea"}.', {"who": "Ann", "what": "tea"}, 0.0),
        ('{"who": "Ann"}', {"who": "Ann", "what": "tea"}, 0.0),
        ("[1]", [1], 0.0),
        ("[" * 100_000, {"who": "Ann"}, 0.0),
        ("billing\n", "billing", 1.0),
        ("billing team", "billing", 0.0),
    ],
)
def test_the_same_answer_is_json_of_any_spacing_or_the_word_itself(
    completion: str, reference: object, score: float
) -> None:
    assert office.same_answer(completion, Example(id="x/0", prompt=(), reference=reference)) == score
