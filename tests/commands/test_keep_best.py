"""``selfdistill train --keep_best``: the best evaluation's model is saved, and a run that gets no better may end."""

import pytest

from selfdistill.settings.watch import KeepRule
from selfdistill.training import run as training_run
from tests.support.killed import records, stopped
from tests.support.tiny_home import TinyHome, train

SAME = ("--max_steps=4", "--learning_rate=1e-2", "--eval_share=0.4", "--eval_steps=1", "--drift_prompts=2")
"""The score never changes, and drift grows."""


@pytest.fixture
def rows(home: TinyHome) -> TinyHome:
    home.rows(*({"prompt": f"What is {n}+1?", "demonstration": str(n + 1)} for n in range(10)))
    return home


def steps(home: TinyHome, folder: str = "out") -> list[int]:
    return [line["step"] for line in home.lines(f"{folder}/metrics.jsonl") if "loss" in line]


def model(home: TinyHome, folder: str) -> bytes:
    (weights,) = (home.folder / folder).glob("*.safetensors")
    return weights.read_bytes()


def checkpoints(home: TinyHome, folder: str = "out") -> list[str]:
    return sorted(path.name for path in (home.folder / folder).glob("checkpoint-*"))


def test_the_model_of_the_best_step_is_saved(rows: TinyHome) -> None:
    assert rows.run(*train(*SAME, "--save_steps=1", output="plain")).code == 0
    drift = [line["eval/drift"] for line in rows.lines("plain/metrics.jsonl") if "eval/drift" in line]
    assert drift[0] < drift[1] < drift[2]
    rule = f"--keep_best=accuracy where drift > {(drift[0] + drift[1]) / 2}"
    said = rows.run(*train(*SAME, rule))
    assert said.code == 0
    assert "The model saved is that of step 2 of 4, the best by --keep_best.\n" in said.out
    assert steps(rows) == [1, 2, 3, 4]
    assert checkpoints(rows) == ["checkpoint-2"]
    assert model(rows, "out") == model(rows, "plain/checkpoint-2") != model(rows, "plain")


def test_the_adapter_of_the_best_step_is_saved(rows: TinyHome) -> None:
    assert rows.run(*train(*SAME, "--lora_r=2", "--keep_best=drift")).code == 0
    assert model(rows, "out") == model(rows, "out/checkpoint-1")


def test_a_run_that_gets_no_better_ends(rows: TinyHome) -> None:
    said = rows.run(*train(*SAME, "--keep_best=accuracy", "--stop_after=2"))
    assert said.code == 0
    assert "The run ends after step 3: 2 evaluations in a row were no better.\n" in said.out
    assert "The model saved is that of step 1 of 3, the best by --keep_best.\n" in said.out
    assert steps(rows) == [1, 2, 3]
    before = rows.files()
    assert "is finished. Nothing is left to train." in rows.run(*train(*SAME, "--keep_best=accuracy")).out
    assert rows.files() == before


def test_without_an_evaluation_that_meets_the_rule_the_last_model_is_saved(rows: TinyHome) -> None:
    assert rows.run(*train(*SAME, output="plain")).code == 0
    said = rows.run(*train(*SAME, "--keep_best=accuracy where drift < 0"))
    assert said.code == 0
    assert "Warning: no evaluation met --keep_best; the model saved is that of the last step, 4.\n" in said.out
    assert checkpoints(rows) == []
    assert model(rows, "out") == model(rows, "plain")


def test_the_best_checkpoint_outlives_the_limit(rows: TinyHome) -> None:
    limited = ("--save_steps=1", "--set=save_total_limit=2")
    assert rows.run(*train(*SAME, *limited, "--keep_best=drift")).code == 0
    assert checkpoints(rows) == ["checkpoint-1", "checkpoint-3", "checkpoint-4"]


@pytest.mark.parametrize("step", [1, 3])
def test_a_killed_run_knows_its_best(rows: TinyHome, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    line = (*SAME, "--save_steps=2", "--keep_best=drift")
    assert rows.run(*train(*line, output="whole")).code == 0
    stopped(rows, monkeypatch, step, *train(*line, output="cut"))
    said = rows.run(*train(*line, output="cut"))
    assert "The model saved is that of step 1 of 4, the best by --keep_best.\n" in said.out
    assert records(rows, "cut") == records(rows, "whole")


def test_a_best_checkpoint_that_was_damaged_is_not_saved_as_the_model(
    rows: TinyHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = train(*SAME, "--save_steps=1", "--keep_best=drift")
    stopped(rows, monkeypatch, 4, *line)
    (rows.folder / "out" / "checkpoint-1" / "model.safetensors").unlink()
    message = rows.refused(*line, code=6)
    assert message.startswith("out/checkpoint-1, the best by --keep_best: model.safetensors is missing.")
    assert not (rows.folder / "out" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("rule", "measured", "value"),
    [
        ("accuracy", {"accuracy": 0.5}, 0.5),
        ("drift", {"drift": 0.5}, -0.5),
        ("accuracy where drift < 0.1", {"accuracy": 0.5, "drift": 0.05}, 0.5),
        ("accuracy where drift < 0.1", {"accuracy": 0.5, "drift": 0.1}, None),
        (" leak  where accuracy>3e-1 ", {"accuracy": 0.5, "leak": 0.0}, 0.0),
        ("leak where accuracy > 0.5", {"accuracy": 0.5, "leak": 0.0}, None),
        ("accuracy", {"accuracy": float("nan")}, None),
        ("drift where accuracy > 0", {"accuracy": float("nan"), "drift": 0.1}, None),
    ],
)
def test_a_rule_says_what_is_best(rule: str, measured: dict[str, float], value: float | None) -> None:
    assert KeepRule.parsed(rule).value(measured) == value


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--keep_best=loss",),
            "--keep_best 'loss': write METRIC, or METRIC where METRIC < NUMBER (or >); metrics are",
        ),
        (("--keep_best=accuracy where loss < 1",), "metrics are accuracy, drift, leak."),
        (("--keep_best=accuracy where drift < much",), "--keep_best 'accuracy where drift < much': write METRIC"),
        (("--keep_best=accuracy where drift = 1",), "--keep_best 'accuracy where drift = 1': write METRIC"),
        (("--keep_best=accuracy where leak < nan",), "--keep_best 'accuracy where leak < nan': write METRIC"),
        (("--keep_best=",), "--keep_best '': write METRIC"),
        (("--keep_best=drift", "--drift_prompts=0"), "--keep_best 'drift' needs drift, which --drift_prompts 0 leaves"),
        (("--stop_after=2",), "--stop_after 2 changes nothing without --keep_best. Leave it out."),
        (("--keep_best=drift", "--set=save_total_limit=1"), "Give save_total_limit=2 or more."),
    ],
)
def test_what_is_refused_before_the_model_is_loaded(
    rows: TinyHome, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr(training_run, "load_student", None)
    assert message in rows.refused(*train(*SAME, *flags))


def test_a_rule_without_evaluations_is_refused(rows: TinyHome) -> None:
    assert "--keep_best drift changes nothing without --eval_steps." in rows.refused(*train("--keep_best=drift"))
