"""The table that ``eval`` prints at the end, cell by cell."""

import io
from dataclasses import replace

from rich.console import Console

from selfdistill.evaluate.results import score_of
from selfdistill.evaluate.table import percent, results_table
from selfdistill.records.evaluations import AgainstBase, DriftRecord, EvalRecord, LeakRecord
from selfdistill.stats.paired import paired_test
from selfdistill.types import EvalConfig
from tests.support.study_records import drift

HALF = score_of([1.0, 0.0])
PLAIN = EvalRecord(
    accuracy=0.5,
    interval=HALF.interval,
    num_correct=1,
    num_total=2,
    num_unscored=0,
    truncated_share=0.0,
    mean_completion_tokens=3.0,
    metrics={"equal": HALF, "short": score_of([1.0, 1.0])},
    parts={},
    mean_of_parts=None,
    per_sample_scores=[1.0, 0.0],
    config=EvalConfig(task="toy", revision="1", metric="equal", num_rows=2, prompt="chat"),
)


def cells(record: EvalRecord | DriftRecord) -> list[list[str]]:
    """The table's rows, headings first, each as its cells."""
    file = io.StringIO()
    Console(file=file, width=200).print(results_table({"toy": record}, title="a [model]"))
    title, *shown = file.getvalue().splitlines()
    assert title.strip() == "a [model]"
    lines = [line[1:-1] for line in shown if line[0] in "│┃"]
    return [[cell.strip() for cell in line.replace("┃", "│").split("│")] for line in lines]


def test_a_mean_with_its_interval():
    # Wilson's interval of 1 in 2: 1/2 -+ 0.4055
    assert percent(HALF) == "50.0% [9.5, 90.5]"
    assert percent(score_of([])) == "unscored"


def test_every_scorer_has_a_row():
    assert cells(PLAIN) == [
        ["task", "score", "rows", "mean [95% interval]"],
        ["toy", "equal", "2", "50.0% [9.5, 90.5]"],
        ["toy", "short", "2", "100.0% [34.2, 100.0]"],
    ]


def test_parts_pass_rates_votes_and_cuts_where_there_are_any():
    record = replace(
        PLAIN,
        parts={"easy": score_of([1.0]), "hard": score_of([0.0])},
        mean_of_parts=0.5,
        pass_at_k={"1": 0.5, "2": 0.75},
        majority_vote=HALF,
        truncated_share=0.25,
    )
    found = {(row[0], row[1]): row[2:] for row in cells(record)[3:]}
    assert found == {
        ("toy", "equal, pass@1"): ["2", "50.0%"],
        ("toy", "equal, pass@2"): ["2", "75.0%"],
        ("toy", "equal, majority vote"): ["2", "50.0% [9.5, 90.5]"],
        ("easy", "equal"): ["1", "100.0% [20.7, 100.0]"],
        ("hard", "equal"): ["1", "0.0% [0.0, 79.3]"],
        ("mean of parts", "equal"): ["2", "50.0%"],
        ("toy", "cut at the token limit"): ["2", "25.0%"],
    }


def test_a_change_stands_beside_the_headline_with_its_corrected_p_value():
    test = replace(paired_test([0.0] * 6, [1.0] * 6), p_value_holm=0.0625)
    against = AgainstBase(base_accuracy=0, accuracy=1, test=test, leak=LeakRecord(num_rows=2, phrase_rate=0.5))
    heads, headline, other, leak = cells(replace(PLAIN, against_base=against))
    assert heads[4:] == ["change from base [95% interval]", "p"]
    # Bonett and Price with 8 items: (7 - 1) / 8, half 1.96 sqrt((8/8 - (6/8)^2) / 8) = 0.4584
    assert headline[4:] == ["+100.0 [+29.2, +100.0]", "0.0625"]
    assert other[4:] == ["", ""]
    assert leak == ["toy", "speaks of an unseen example", "2", "50.0%", "", ""]
    alone = replace(against, test=replace(test, p_value_holm=None))
    assert cells(replace(PLAIN, against_base=alone))[1][5] == "0.0312"


def test_drift_has_three_rows():
    assert cells(drift(0.25, leak=0.5))[1:] == [
        ["toy", "KL from the base, nats per token", "2", "0.250"],
        ["toy", "loss on reference answers", "2", "3.150 (base 2.900)"],
        ["toy", "answers in the task's format", "2", "50.0% [0.0, 100.0]"],
    ]
