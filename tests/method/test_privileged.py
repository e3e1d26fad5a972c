"""Own successes as demonstrations: what the teacher reads, by hand; the loss; several processes; runs."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from selfdistill.method.batch import Sample, Shown
from selfdistill.method.processes import Processes
from selfdistill.method.rows import anchor_pairs, training_pairs
from selfdistill.method.step import Step
from selfdistill.types import PromptPair
from tests.support.checkpointed import CHECKPOINTS, resumed
from tests.support.mistakes import mistake
from tests.support.own_success import OWN, ROWS, SAID, SCORER, TOKENIZER, Says, right, rolled_out, shown_as, taught
from tests.support.training import lines, make_config, make_trainer, steps, student, weights

# -- own successes -----------------------------------------------------------------------------------


def test_a_completion_is_shown_the_first_other_success_of_its_prompt_else_the_rows_own(tmp_path: Path) -> None:
    _, samples = rolled_out(tmp_path, **OWN)
    demonstrations = ["ok 1", "ok 2", "ok 1", *["row B"] * 3, *[""] * 3, "ok 3", "row D", "ok 3"]
    questions = [row["prompt"] for row in ROWS for _ in range(3)]
    assert list(map(taught, samples)) == list(map(shown_as, questions, demonstrations))
    nothing = [demonstration == "" for demonstration in demonstrations]
    assert [sample.loss_positions == () for sample in samples] == nothing
    assert [sample.shown for sample in samples] == [
        Shown(
            left_out=False,
            untaught=demonstration == "",
            own_success=demonstration.startswith("ok"),
            prompt_succeeded=question in ("Say A", "Say D"),
            score=right(said, sample.pair.example),
        )
        for sample, question, demonstration, said in zip(samples, questions, demonstrations, SAID, strict=True)
    ]


def test_the_student_completes_its_own_prompt(tmp_path: Path) -> None:
    step, samples = rolled_out(tmp_path, **OWN)
    assert isinstance(step.engine, Says)
    ((asked, _),) = step.engine.calls
    assert asked == [list(sample.pair.student_ids) for sample in samples]
    assert [str(TOKENIZER.decode(ids)) for ids in asked[::3]] == [shown_as(row["prompt"], "") for row in ROWS]


def test_loss_and_gradient_are_those_of_rows_that_have_the_successes_as_demonstrations(tmp_path: Path) -> None:
    step, samples = rolled_out(tmp_path, **OWN)
    expected = ["ok 1", "ok 2", "ok 1", *["row B"] * 3, "ok 3", "row D", "ok 3"]
    kept = [sample for sample in samples if sample.loss_positions]
    rows = [
        {"prompt": sample.pair.example.prompt[0]["content"], "demonstration": demonstration}
        for sample, demonstration in zip(kept, expected, strict=True)
    ]
    said = [text for text, sample in zip(SAID, samples, strict=True) if sample.loss_positions]
    by_hand, others = rolled_out(tmp_path, rows=rows, said=said, scorer=None)
    assert learned(step, samples) == learned(by_hand, others)


def learned(step: Step, samples: list[Sample]) -> tuple[float, list[list[float]]]:
    """Loss and gradients."""
    with step.masters.attached():
        (batch,) = step.micro_batches(samples, 1)
        loss = step.learn(batch)
        return loss.item(), [
            [] if master.grad is None else master.grad.flatten().tolist() for _, _, master in step.masters.items()
        ]


def test_anchors_are_what_they_are_without(tmp_path: Path) -> None:
    model, config = student(), make_config(tmp_path, **OWN, anchor_share=0.5)
    pairs = training_pairs(ROWS, config, TOKENIZER, model.config)
    general = anchor_pairs([{"prompt": "Hi"}], config, TOKENIZER, model.config)
    step = Step(model, TOKENIZER, config, rows=pairs, anchors=general, scorer=SCORER, engine=Says(SAID))
    samples = step.rollout(pairs, 0)
    assert [sample.shown is None for sample in samples] == [sample.target == "start" for sample in samples]
    anchors = [sample for sample in samples if sample.target == "start"]
    assert len(anchors) == 12
    assert all(sample.loss_positions for sample in anchors)


def test_a_success_in_which_nothing_can_be_seen_is_not_shown(tmp_path: Path) -> None:
    _, samples = rolled_out(
        tmp_path, rows=ROWS[:1], said=["", " \n", "no"], scorer=("all", lambda text, row: 1.0), **OWN
    )
    assert [taught(sample) for sample in samples] == [shown_as("Say A", "no")] * 2 + [shown_as("Say A", "row A")]


class _Together(Processes):
    """One of two processes that are threads."""

    def __init__(self, rank: int, values: dict[int, Any], barrier: threading.Barrier) -> None:
        super().__init__(rank, 2)
        self._values, self._barrier = values, barrier

    def gathered(self, value: Any) -> list[Any]:
        self._values[self.rank] = value
        self._barrier.wait(60)
        return [self._values[rank] for rank in range(2)]


def test_processes_share_their_successes(tmp_path: Path) -> None:
    step, samples = rolled_out(tmp_path, **OWN)
    assert step._privileged is not None
    shown = step._privileged.shown
    plain = [replace(sample, pair=pair, shown=None) for sample, pair in zip(samples, _rows_own(tmp_path), strict=True)]
    values, barrier, found = dict[int, Any](), threading.Barrier(2), dict[int, list[Sample]]()

    def one(rank: int) -> None:
        processes = _Together(rank, values, barrier)
        found[rank] = shown(processes.own(plain), processes)

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    together = Processes().in_order([found[0], found[1]])
    assert [sample.shown for sample in together] == [sample.shown for sample in samples]
    assert list(map(taught, together)) == list(map(taught, samples))


def _rows_own(folder: Path) -> list[PromptPair]:
    pairs = training_pairs(ROWS, make_config(folder, **OWN), TOKENIZER, student().config)
    return [pair for pair in pairs for _ in range(3)]


# -- runs --------------------------------------------------------------------------------------------

RUN: dict[str, Any] = {**OWN, "rollouts_logged_per_step": None, "max_completion_length": 64}


def test_three_steps_learn_and_say_what_was_shown(tmp_path: Path) -> None:
    trainer = make_trainer(
        tmp_path / "run",
        rows=ROWS,
        engine=Says(SAID),
        max_steps=3,
        num_train_epochs=3,
        options={"scorer": SCORER},
        **RUN,
    )
    before = weights(trainer)
    trainer.train()
    assert any(not torch.equal(before[key], value) for key, value in weights(trainer).items())
    logged = steps(tmp_path / "run")
    assert len(logged) == 3
    rows = lines(tmp_path / "run", "rollouts.jsonl")
    for number, line in enumerate(logged, start=1):
        own = [row for row in rows if row["step"] == number]
        successes = {row["id"] for row in own if row["completion"].startswith("ok")}
        assert line["prompt_succeeded_share"] == len(successes) / 4 > 0
        assert line["own_success_share"] == sum("ok" in row["teacher_prompt"] for row in own) / 12 > 0
        assert line["untaught_share"] == sum(row["loss_positions"] == [] for row in own) / 12
        assert line["left_out_share"] == 0
        assert "feedback_share" not in line
        assert 0.5 < line["rollout_score"] < 1


LONG = "def words(row, completion):\n    return f'{len(completion)} characters.' if len(completion) % 2 else None\n"


def test_a_resumed_run_writes_the_same_and_another_scorer_or_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(LONG)
    chosen: dict[str, Any] = {
        **CHECKPOINTS,
        **RUN,
        "feedback_file": f"{tmp_path / 'own.py'}:words",
        "rollout_engine": "own",
    }
    short = ("short", lambda text, row: float(len(text) % 2))
    make_trainer(tmp_path / "whole", rows=ROWS, options={"scorer": short}, **chosen).train()
    make_trainer(tmp_path / "cut", rows=ROWS, options={"scorer": short}, **chosen).train()
    (tmp_path / "cut" / "checkpoint-4").rename(tmp_path / "last")
    other = make_trainer(tmp_path / "cut", rows=ROWS, options={"scorer": ("long", short[1])}, **chosen)
    assert "scorer short, now long" in mistake(resumed, other)
    (tmp_path / "own.py").write_text(LONG + "# changed\n")
    changed = make_trainer(tmp_path / "cut", rows=ROWS, options={"scorer": short}, **chosen)
    assert "feedback own.py:words@" in mistake(resumed, changed)
    (tmp_path / "own.py").write_text(LONG)
    answers = [{**row, "answer": "x"} for row in ROWS]
    seen = make_trainer(tmp_path / "cut", rows=answers, options={"scorer": short}, **chosen)
    assert "scored rows 4 (" in mistake(resumed, seen)
    assert resumed(make_trainer(tmp_path / "cut", rows=ROWS, options={"scorer": short}, **chosen)) == []
    written = lines(tmp_path / "cut", "rollouts.jsonl")
    assert written == lines(tmp_path / "whole", "rollouts.jsonl")
    assert any("characters." in row["teacher_prompt"] for row in written)


# -- refusals ----------------------------------------------------------------------------------------


def test_a_single_completion_has_no_others_success(tmp_path: Path) -> None:
    said = mistake(make_config, tmp_path, demonstration_from="own_success")
    assert said == (
        "demonstration_from=own_success shows a completion another one's success, and num_rollouts is 1. Set "
        "num_rollouts to 2 or more."
    )
    assert "'mine' is not one of row, own_success" in mistake(make_config, tmp_path, demonstration_from="mine")


def test_a_scorer_goes_with_own_successes_and_only_with_them(tmp_path: Path) -> None:
    for settings, scorer in ((OWN, None), ({}, SCORER)):
        with pytest.raises(ValueError, match="give one together with demonstration_from=own_success"):
            rolled_out(tmp_path, rows=ROWS[:2], scorer=scorer, **settings)


def test_rows_without_a_demonstration_are_taken_only_where_successes_are_shown(tmp_path: Path) -> None:
    assert "train_dataset row 3 has no demonstration" in mistake(rolled_out, tmp_path, scorer=None)
