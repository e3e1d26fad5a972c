"""A sequence of tasks with a tiny model: the matrix, replay, anchors, and going on after a kill."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from selfdistill import run_folder
from selfdistill.commands import continual as command
from selfdistill.method.trainer import SDFTTrainer
from selfdistill.records.studies import BaseRecord, ContinualRecord, StageRecord
from selfdistill.settings import flat
from selfdistill.stats.continual import normalized
from selfdistill.studies.continual import Sequences, check_anchor, conclude, with_replay
from selfdistill.types import Example
from tests.support.mistakes import mistake
from tests.support.study_home import QUIET, SHOWN, TASKS, continual_options, printed, read, sequences
from tests.support.study_records import measured, stage

SERVED: dict[str, Any] = {"teacher_server": "http://127.0.0.1:1", "divergence_support": "top_k", **SHOWN}
"""A teacher behind a server; nobody asks it."""


def rows(name: str, count: int) -> list[Example]:
    return [Example(id=f"{name}/{n}", prompt=({"role": "user", "content": name},)) for n in range(count)]


def stage_folders(home: Path, arm: str, name: str = "out") -> list[Path]:
    return [home / name / arm / f"stage-{number}-{task}" for number, task in enumerate(TASKS, 1)]


# -- replay and the matrix -------------------------------------------------------------------------------------------


def test_replay_is_a_share_of_all_rows_and_every_earlier_stage_gives_the_same() -> None:
    own, earlier = rows("c", 12), [rows("a", 10), rows("b", 10)]
    mixed = with_replay(own, earlier, 0.25, "7/3")
    assert mixed[:12] == own
    assert len(mixed) == 16  # 4 of 16 are a quarter
    assert [row.id[0] for row in mixed[12:]] == ["a", "b", "a", "b"]
    assert mixed[12].id == random.Random("7/3/0").sample(earlier[0], 10)[0].id
    assert with_replay(own, earlier, 0.25, "7/3") == mixed
    assert with_replay(own, earlier, 0.25, "8/3") != mixed
    assert with_replay(own, [], 0.25, "7/1") == own
    assert with_replay(own, earlier, 0.0, "7/3") == own


def test_replay_takes_all_there_is_where_that_is_less() -> None:
    mixed = with_replay(rows("c", 12), [rows("a", 1), rows("b", 3)], 0.5, "0/3")
    assert [row.id[0] for row in mixed[12:]] == ["a", "b", "b", "b"]


def test_a_sequence_is_concluded_from_its_stages_alone() -> None:
    base = BaseRecord(measured=measured({"a": 0.25, "b": 0.5}, 0.0, arc=0.5))
    stages = [
        stage(1, "a", measured({"a": 0.75, "b": 0.5}, 0.1, arc=0.5)),
        stage(2, "b", measured({"a": 0.5, "b": 1.0}, 0.3, arc=0.25)),
    ]
    arm: dict[str, Any] = {"settings": {"method": "sft"}, "distils": False, "anchor_share": 0.0, "learning_rate": 1e-4}
    found = conclude(["a", "b"], stages, base, arm="sft", **arm)
    assert (found.arm, found.tasks, found.base) == ("sft", ["a", "b"], [0.25, 0.5])
    assert found.accuracy_matrix == [[0.75, 0.5], [0.5, 1.0]]
    assert (found.average_accuracy, found.learning_accuracy) == (0.75, 0.875)
    assert found.average_incremental_accuracy == (0.75 + (0.5 + 1.0) / 2) / 2
    assert (found.backward_transfer, found.forward_transfer, found.forgetting) == (-0.25, 0.0, 0.25)
    assert found.normalized == [[1.0, 0.0], [0.5, 1.0]]
    assert (found.before, found.stages) == (base.measured, stages)
    assert conclude(["a", "b"], stages, base, arm="sft", **arm) == found


def test_every_stage_is_tested_on_every_task_and_only_the_last_weights_stay(home: Path) -> None:
    shown = printed(lambda console: command.run(continual_options(home, methods="sft,sdft", **SHOWN), console))
    record = run_folder.read_record(home / "out" / run_folder.CONTINUAL, ContinualRecord)
    base = run_folder.read_record(home / "out" / run_folder.BASE, BaseRecord)
    assert [run.arm for run in record.runs] == ["sft", "sdft"]
    for run in record.runs:
        assert run.tasks == list(TASKS)
        folders = stage_folders(home, run.arm)
        assert [run_folder.read_record(folder / run_folder.STAGE, StageRecord) for folder in folders] == run.stages
        for number, (row, folder) in enumerate(zip(run.accuracy_matrix, folders, strict=True)):
            assert row == [read(folder, "eval", f"{task}.json")["accuracy"] for task in TASKS]
            assert row == [run.stages[number].measured.tasks[task].accuracy for task in TASKS]
            assert (folder / "model.safetensors").exists() == (number == 2)
        assert run.average_accuracy == pytest.approx(sum(run.accuracy_matrix[2]) / 3)
        assert run.base == [base.measured.tasks[task].accuracy for task in TASKS]
        assert all(each.measured.drift and each.measured.drift.kl_per_token > 0 for each in run.stages)
        assert run.normalized == normalized(run.accuracy_matrix, run.base)
    assert len({str(row) for run in record.runs for row in run.accuracy_matrix}) > 1
    assert "sdft, stage 3 of 3: three" in shown
    assert "Accuracy matrix of sdft" in shown
    assert "(best R[i, j] before the last stage) - R[last, j]" in shown
    assert (home / "out" / "report.html").is_file()


def test_the_record_reads_back_as_what_the_run_returned(home: Path) -> None:
    found = sequences(home, methods="sft", max_steps=1).run()
    assert run_folder.read_record(home / "out" / run_folder.CONTINUAL, ContinualRecord) == found


def test_each_stage_starts_from_the_one_before(home: Path) -> None:
    sequences(home, keep_models="all", method="sft", max_steps=1).run()
    folders = stage_folders(home, "sft")
    assert all((folder / "model.safetensors").is_file() for folder in folders)
    names = [read(folder, "run_config.json")["model_name"] for folder in folders]
    assert names == [str(home / "model"), str(folders[0]), str(folders[1])]


def test_stages_with_adapters_leave_whole_models(home: Path) -> None:
    sequences(home, method="sft", lora_r=2, max_steps=1).run()
    folder = stage_folders(home, "sft")[-1]
    assert (folder / "model.safetensors").is_file()
    assert not (folder / "adapter_model.safetensors").exists()


# -- going on --------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    pass


def without_seconds(record: ContinualRecord) -> list[StageRecord]:
    return [replace(each, seconds=0.0) for run in record.runs for each in run.stages]


def test_killed_and_started_again_it_ends_with_the_same_stages(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"method": "sdft", "replay": 0.3, **SHOWN}
    whole = sequences(home, "whole", **options).run()
    step = SDFTTrainer.training_step
    steps: list[Any] = []

    def dies(self: SDFTTrainer, *arguments: Any, **named: Any) -> torch.Tensor:
        steps.append(self.args.output_dir)
        if len(steps) == 5:  # in the middle of the second stage
            raise Killed
        return step(self, *arguments, **named)

    monkeypatch.setattr(SDFTTrainer, "training_step", dies)
    with pytest.raises(Killed):
        sequences(home, "killed", **options).run()
    assert (home / "killed" / "sdft" / "stage-2-two").is_dir()
    assert not (home / "killed" / "sdft" / "stage-2-two" / "stage.json").exists()
    shown = printed(lambda console: sequences(home, "killed", console, **options).run())
    assert "sdft, stage 1 of 3: one: done before" in shown
    again = run_folder.read_record(home / "killed" / run_folder.CONTINUAL, ContinualRecord)
    assert without_seconds(again) == without_seconds(whole)
    assert [each.num_rows for each in again.runs[0].stages] == [24, 34, 34]  # 30 less a fifth; 10 of 34 are replayed


def test_killed_after_the_first_stage_was_written(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sequences(home, "whole", method="sft").run()
    train = Sequences._train

    def dies(self: Sequences, at: Any, *rest: Any) -> StageRecord:
        if at.number == 2:
            raise KeyboardInterrupt
        return train(self, at, *rest)

    with monkeypatch.context() as context:
        context.setattr(Sequences, "_train", dies)
        with pytest.raises(KeyboardInterrupt):
            sequences(home, "killed", method="sft").run()
    assert without_seconds(sequences(home, "killed", method="sft").run()) == without_seconds(whole)


def test_every_stage_is_in_the_words_of_the_chat_template(home: Path) -> None:
    (home / "own.jinja").write_text("#{% for m in messages %}{{ m.content }}{% endfor %}")
    sequences(home, method="sdft", max_steps=1, chat_template=str(home / "own.jinja"), **SHOWN).run()
    folders = [path.parent for path in (home / "out").rglob("rollouts.jsonl")]
    assert len(folders) == 3
    for folder in folders:
        rollouts = (folder / "rollouts.jsonl").read_text().splitlines()
        assert all(json.loads(line)["student_prompt"].startswith("#") for line in rollouts)


def test_a_study_grows_by_arms(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sequences(home, methods="sft", max_steps=1).run()
    trained: list[str] = []
    train = Sequences._train
    monkeypatch.setattr(Sequences, "_train", lambda self, at, *rest: trained.append(at.place) or train(self, at, *rest))
    found = sequences(home, methods="sft", arm=("slow: method=sft, learning_rate=1e-5",), max_steps=1).run()
    assert {Path(place).parts[0] for place in trained} == {"slow"}
    assert [run.arm for run in found.runs] == ["sft", "slow"]
    slower = ("slow: method=sft, learning_rate=1e-6",)
    assert "another arm slow" in mistake(sequences, home, methods="sft", arm=slower, max_steps=1)


def test_other_settings_are_refused_by_name(home: Path) -> None:
    sequences(home, method="sft").folder.open()
    assert "another replay: 0.0, now 0.5." in mistake(sequences, home, method="sft", replay=0.5)
    assert "another teacher_anchor" in mistake(sequences, home, methods="sdft", teacher_anchor="base", **SHOWN)


# -- the teacher's anchor --------------------------------------------------------------------------------------------


def test_teacher_and_anchors_start_from_the_base(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``base`` later stages' teachers hold the base's weights, with ``previous`` those of the stage's start."""
    seen: list[dict[str, torch.Tensor]] = []
    name = "model.layers.0.mlp.up_proj.weight"
    train = SDFTTrainer.train

    def spies(self: SDFTTrainer, *arguments: Any, **options: Any) -> Any:
        seen.append({role: held.state_dict()[name].clone() for role, held in self.step.teachers.items()})
        return train(self, *arguments, **options)

    monkeypatch.setattr(SDFTTrainer, "train", spies)
    base = load_file(home / "model" / "model.safetensors")[name]
    stages = f"{home / 'one.jsonl'},{home / 'two.jsonl'}"
    options: dict[str, Any] = {"stages": stages, "keep_models": "all", "anchor_share": 0.5, "method": "sdft", **SHOWN}
    for anchor in ("base", "previous"):
        seen.clear()
        sequences(home, anchor, teacher_anchor=anchor, **options).run()
        before = load_file(home / anchor / "sdft" / "stage-1-one" / "model.safetensors")[name]
        assert not torch.equal(before, base)
        for role in ("teacher", "start"):
            assert torch.equal(seen[0][role], base)
            assert torch.equal(seen[1][role], base if anchor == "base" else before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "sft"}, "no arm has a teacher"),
        ({"method": "sdft", "teacher": "live", **SHOWN}, "a live teacher is the student"),
        (SERVED, "sdft: the model of --teacher_server teaches in every stage, so --teacher_anchor base changes"),
        ({"teacher_model": "larger", **SHOWN}, "sdft: the model of --teacher_model teaches in every stage"),
    ],
)
def test_an_anchor_that_would_be_ignored_is_refused(home: Path, settings: dict[str, Any], message: str) -> None:
    assert message in mistake(sequences, home, teacher_anchor="base", **settings)


@pytest.mark.parametrize(
    "settings", [{"methods": "sdft,sft", **SHOWN}, {"method": "sdft", "anchor_share": 0.5, **SERVED}], ids=str
)
def test_an_anchor_that_counts_somewhere_is_fine(home: Path, settings: dict[str, Any]) -> None:
    """In one arm of two, or for the anchor prompts beside a teacher that stays the same."""
    arms = sequences(home, teacher_anchor="base", **settings).arms
    check_anchor(arms)
    assert "sdft" in [arm.name for arm in arms]


# -- stages ----------------------------------------------------------------------------------------------------------


def own_scorers(home: Path, stages: str, **more: Any) -> Sequences:
    """Sequences whose tasks are graded by scorers of their own."""
    options = continual_options(home, stages=stages, methods="sft", **more)
    return Sequences(flat.changed(options, {"scorer": None}), QUIET)


def test_rows_with_a_test_of_their_own(home: Path) -> None:
    stages = f"{home / 'one.jsonl'}:{home / 'two.jsonl'}, assistant-tools"
    first, second = own_scorers(home, stages, eval_limit=3).subjects
    assert first.task.name == "one"
    assert len(first.train) == 30
    assert [row.prompt[0]["content"] for row in first.test.examples] == ["two 0?", "two 1?", "two 2?"]
    assert second.task.name == "assistant-tools"
    assert len(second.test.examples) == 3


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ("tool-use", "Did you mean 'tooluse'?"),
        ("{home}/none.jsonl", "none.jsonl"),
        ("{home}/one.jsonl,{home}/one.jsonl", "'one' is there twice"),
        ("medical", "--judge_url"),
    ],
)
def test_stages_that_are_none(home: Path, real_data: Path, stages: str, message: str) -> None:
    assert message in mistake(own_scorers, home, stages.format(home=home), data_dir=str(real_data))
