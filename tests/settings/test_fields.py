"""Settings' ranges and choices, and the mappings that the command line takes as JSON."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
import tyro

from selfdistill.settings.fields import JsonObject, at_least, check_fields, number, path
from tests.support.mistakes import mistake, refusal


@dataclass(frozen=True, kw_only=True)
class Toy:
    share: float = number(0.5, 0, 1, "between 0 and 1")
    count: int = at_least(1, 3)
    limit: int | None = at_least(1, None)
    cap: float | None = number(2.0, 0, 10, "between 0 and 10")
    kind: Literal["a", "b"] = "a"
    place: str | None = path()


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"share": 0, "count": 1, "limit": 1, "cap": 10},
        {"share": 1.0, "count": 10**9, "limit": None, "cap": None, "kind": "b", "place": "x"},
    ],
)
def test_what_is_in_range_passes(values: dict[str, Any]):
    assert refusal(check_fields, Toy(**values)) is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"share": -0.1}, "share: -0.1 is not between 0 and 1."),
        ({"share": 1.01}, "share: 1.01 is not between 0 and 1."),
        ({"share": math.nan}, "share: nan is not between 0 and 1."),
        ({"share": math.inf}, "share: inf is not between 0 and 1."),
        ({"share": "0.5"}, "share: '0.5' is not between 0 and 1."),
        ({"share": True}, "share: True is not between 0 and 1."),
        ({"share": None}, "share: None is not between 0 and 1."),
        ({"count": 0}, "count: 0 is not at least 1."),
        ({"count": None}, "count: None is not at least 1."),
        ({"limit": 0}, "limit: 0 is not at least 1."),
        ({"limit": math.nan}, "limit: nan is not at least 1."),
        ({"cap": -1.0}, "cap: -1.0 is not between 0 and 10."),
        ({"kind": "c"}, "kind: 'c' is not one of a, b."),
        ({"kind": None}, "kind: None is not one of a, b."),
    ],
)
def test_what_is_out_of_range_is_named_with_its_value(values: dict[str, Any], message: str):
    assert mistake(check_fields, Toy(**values)) == message


def test_the_first_field_that_is_wrong_is_named():
    assert mistake(check_fields, Toy(count=0, share=2.0)).startswith("share: ")


def test_choices_that_are_a_table_elsewhere_are_left_to_it():
    toy = Toy(kind="c")  # pyright: ignore[reportArgumentType]
    assert refusal(check_fields, toy) is not None
    assert refusal(check_fields, toy, open_choices=("kind",)) is None


@dataclass(frozen=True, kw_only=True)
class Wider(Toy):
    other: int = at_least(5, 5)


def test_only_the_fields_of_the_class_that_is_named_are_checked():
    check_fields(Wider(other=0), Toy)
    assert mistake(check_fields, Wider(other=0)) == "other: 0 is not at least 5."


@dataclass(frozen=True, kw_only=True)
class WithJson:
    kwargs: Annotated[JsonObject, tyro.conf.arg(help="")] | None = None


def parsed(text: str) -> Any:
    return tyro.cli(WithJson, args=["--kwargs", text]).kwargs


def test_a_mapping_is_json_on_the_command_line():
    assert parsed('{"enable_thinking": false, "n": [1, 2.5, null]}') == {"enable_thinking": False, "n": [1, 2.5, None]}
    assert tyro.cli(WithJson, args=[]).kwargs is None


@pytest.mark.parametrize("text", ["{enable_thinking: false}", "[1]", "3"])
def test_what_is_no_json_object_is_refused(text: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        parsed(text)
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert "JSON" in said
    assert '{"name": value}' in said
