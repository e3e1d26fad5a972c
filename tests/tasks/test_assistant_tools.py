"""Assistant tools: no phrasing, value or tool of the held-out parts is trained on, and how calls are scored."""

import json
import re
from collections import Counter

import pytest

from selfdistill.tasks.assistant_tools import (
    TASK,
    Tool,
    evaluation_rows,
    exact_call,
    looks_like_call,
    read_tools,
    tool_choice,
    training_rows,
)
from selfdistill.types import Example
from tests.support.mistakes import mistake

TRAIN = TASK.load_train(None)
EVAL = TASK.load_eval(None)
TRAINED, REPHRASED, NEW = map(read_tools, ("training.toml", "new_phrasings.toml", "new_tools.toml"))

ALARM = Example(
    id="alarm",
    prompt=({"role": "user", "content": "Wake me up at 07:30."},),
    reference={"tool": "set_alarm", "arguments": {"time": "07:30"}},
)
GOOD = '{"tool": "set_alarm", "arguments": {"time": "07:30"}}'


def request(row: Example) -> str:
    return row.prompt[-1]["content"].splitlines()[0].removeprefix("Request: ")


def listed(row: Example) -> list[str]:
    return re.findall(r"^- (\w+): needs ", row.prompt[-1]["content"], re.MULTILINE)


def part(name: str) -> list[Example]:
    return [row for row in EVAL if row.part == name]


def holds(text: str, value: str) -> bool:
    return value.lower() in text.lower() and re.search(rf"(?i)\b{re.escape(value)}\b", text) is not None


def values_of(row: Example) -> list[str]:
    return list(row.reference["arguments"].values())


def skeleton(phrasing: str) -> str:
    """The phrasing's words in lower case, without punctuation and with every placeholder alike."""
    return " ".join(re.findall(r"\w+|\*", re.sub(r"\{\w+\}", "*", phrasing.lower())))


def request_skeleton(row: Example) -> str:
    text = request(row)
    for value in sorted(values_of(row), key=len, reverse=True):
        text = text.replace(value, "{value}", 1)
    return skeleton(text)


def test_counts_and_ids():
    assert [row.id for row in TRAIN] == [f"assistant-tools/train/{i}" for i in range(1600)]
    assert [row.id for row in EVAL] == [f"assistant-tools/eval/{i}" for i in range(400)]
    counts = {"new-combinations": 200, "new-phrasings": 100, "new-tools": 100}
    assert Counter(row.part for row in EVAL) == counts
    assert len(TRAINED) >= 14
    assert len(NEW) >= 6
    assert all(len(set(tool.phrasings)) >= 10 for tool in TRAINED)


@pytest.mark.parametrize(
    ("rows", "tools"),
    [
        (TRAIN, TRAINED),
        (part("new-combinations"), TRAINED),
        (part("new-phrasings"), TRAINED),
        (part("new-tools"), NEW),
    ],
)
def test_numbers_of_rows_per_tool_differ_by_at_most_one(rows: list[Example], tools: tuple[Tool, ...]):
    counts = Counter(row.reference["tool"] for row in rows)
    assert counts.keys() == {tool.name for tool in tools}
    assert max(counts.values()) - min(counts.values()) <= 1


def test_no_request_occurs_twice_in_training_or_evaluation():
    requests = [request(row) for row in [*TRAIN, *EVAL]]
    assert [text for text, count in Counter(requests).items() if count > 1] == []


def test_new_combinations_are_made_of_phrasings_and_values_seen_in_training():
    seen = {(row.reference["tool"], value) for row in TRAIN for value in values_of(row)}
    wanted = {(row.reference["tool"], v) for row in part("new-combinations") for v in values_of(row)}
    assert wanted <= seen
    phrased = {request_skeleton(row) for row in part("new-combinations")}
    assert phrased <= {request_skeleton(row) for row in TRAIN}


def test_held_out_values_and_tools_are_not_in_training():
    text = "\n".join(row.prompt[0]["content"] + "\n" + row.demonstration_text for row in TRAIN)
    assert holds(text, "SET_ALARM")
    assert holds(text, "quarter to seven")
    held_out = {v for tool in REPHRASED + NEW for values in tool.values.values() for v in values}
    assert [value for value in sorted(held_out) if holds(text, value)] == []
    assert [tool.name for tool in NEW if holds(text, tool.name)] == []


def test_held_out_phrasings_are_not_in_training():
    trained = {request_skeleton(row) for row in TRAIN}
    assert trained == {skeleton(phrasing) for tool in TRAINED for phrasing in tool.phrasings}
    held_out = {skeleton(phrasing) for tool in REPHRASED + NEW for phrasing in tool.phrasings}
    assert not trained & held_out
    assert {request_skeleton(row) for row in EVAL if row.part != "new-combinations"} <= held_out


def test_held_out_phrasings_are_for_the_training_tools():
    assert [(t.name, list(t.values)) for t in REPHRASED] == [(t.name, list(t.values)) for t in TRAINED]
    assert not {t.name for t in NEW} & {t.name for t in TRAINED}


def test_three_different_tools_are_listed_and_the_right_one_moves_about():
    for row in [*TRAIN, *EVAL]:
        assert len(set(listed(row))) == len(listed(row)) == 3
        assert row.reference["tool"] in listed(row)
    places = Counter(listed(row).index(row.reference["tool"]) for row in TRAIN)
    assert min(places[i] for i in range(3)) > 450


def test_only_new_tools_rows_list_new_tools():
    new = {tool.name for tool in NEW}
    listing = {row.id for row in [*TRAIN, *EVAL] if new & set(listed(row))}
    assert listing == {row.id for row in part("new-tools")}


def test_each_value_stands_verbatim_in_its_request():
    for row in [*TRAIN, *EVAL]:
        assert all(value in request(row) for value in values_of(row)), row.id
        assert "{" not in request(row)
        assert row.prompt[0]["content"].isascii()


def test_training_rows_are_the_same_each_time_and_differ_by_seed():
    assert training_rows() == TRAIN
    assert training_rows(seed=1) != TRAIN


def test_evaluation_does_not_depend_on_the_number_of_training_rows():
    assert training_rows(num_rows=50) == TRAIN[:50]
    assert evaluation_rows() == EVAL
    evaluated = {request(row) for row in EVAL}
    assert not evaluated & {request(row) for row in training_rows(num_rows=2000)}


def test_more_rows_than_the_vocabulary_gives_are_refused():
    assert "100000 rows" in mistake(training_rows, num_rows=100_000)


def test_demonstrations_score_one_on_their_rows_and_evaluation_rows_have_none():
    for row in TRAIN:
        assert len(row.demonstration) == 1
        assert "\n" not in row.demonstration_text
        assert exact_call(row.demonstration_text, row) == tool_choice(row.demonstration_text, row) == 1.0
        assert looks_like_call(row.demonstration_text)
    for row in EVAL:
        assert row.demonstration == ()
        assert exact_call(json.dumps(row.reference), row) == 1.0


def test_demonstrations_are_short():
    # Words, digits and punctuation marks one by one: no tokenizer is in use here, and this one splits finer than most.
    lengths = [len(re.findall(r"[A-Za-z]+|\S", row.demonstration_text)) for row in TRAIN]
    assert max(lengths) <= 45


@pytest.mark.parametrize(
    ("completion", "exact", "choice"),
    [
        (GOOD, 1, 1),
        (f"\n  {GOOD} \n", 1, 1),
        (f"```json\n{GOOD}\n```", 1, 1),
        (f"```json\n{GOOD}", 0, 1),
        ('{"arguments": {"time": " 07:30 "}, "tool": "set_alarm "}', 1, 1),
        (f"Sure! {GOOD}", 0, 1),
        (f"{GOOD}\n{GOOD}", 0, 1),
        (f"[{GOOD}]", 0, 1),
        ('{"tool": "set_alarm", "arguments": {"time": "7:30"}}', 0, 1),
        ('{"tool": "set_alarm", "arguments": {"time": 730}}', 0, 1),
        ('{"tool": "set_alarm", "arguments": {"time": "07:30", "day": "today"}}', 0, 1),
        ('{"tool": "set_alarm", "arguments": {"time": "07:30"}, "note": "ok"}', 0, 1),
        ('{"tool": "set_alarm", "arguments": "07:30"}', 0, 1),
        ('{"tool": "set_alarm"}', 0, 1),
        ('{"tool": "start_timer", "arguments": {"time": "07:30"}}', 0, 0),
        ('{"tool": "Set_Alarm", "arguments": {"time": "07:30"}}', 0, 0),
        ('{"tool": ["set_alarm"], "arguments": {"time": "07:30"}}', 0, 0),
        ("{'tool': 'set_alarm', 'arguments': {'time': '07:30'}}", 0, 0),
        (GOOD[:-1], 0, 0),
        ("set_alarm(07:30)", 0, 0),
        ('"set_alarm"', 0, 0),
        ("null", 0, 0),
        ("```", 0, 0),
        ("", 0, 0),
    ],
)
def test_awkward_completions(completion: str, exact: float, choice: float):
    assert exact_call(completion, ALARM) == exact
    assert tool_choice(completion, ALARM) == choice


@pytest.mark.parametrize(
    "absurd",
    [
        "9" * 5000,
        "[" * 100_000,
        "[" * 900 + "]" * 900,
        '{"a":' * 100_000 + "1" + "}" * 100_000,
    ],
)
def test_absurd_values_score_zero(absurd: str):
    for completion in (absurd, f'{{"tool": {absurd}}}', f'{{"tool": "set_alarm", "arguments": {absurd}}}'):
        assert exact_call(completion, ALARM) == 0.0
        assert tool_choice(completion, ALARM) in (0.0, 1.0)
    assert tool_choice(f'{{"tool": {absurd}}}', ALARM) == 0.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD, True),
        ('  {\n "tool" : "x', True),
        (f"```json\n{GOOD}", True),
        (f"```\n{GOOD}", True),
        ('{"tools": []}', False),
        ('{"name": "tool"}', False),
        (f"Sure! {GOOD}", False),
        ("A tool is a thing.", False),
        ("", False),
    ],
)
def test_looks_like_call(text: str, expected: bool):
    assert looks_like_call(text) is expected
