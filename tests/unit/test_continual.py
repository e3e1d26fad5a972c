"""``selfdistill continual`` with a tiny model: the matrix, replay, anchors, and going on after a kill."""

import random
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from study_home import make_home, printed, read, settings

from selfdistill.commands import continual, report
from selfdistill.commands.continual import Sequences, check_anchor, with_replay
from selfdistill.method.trainer import SDFTTrainer
from selfdistill.settings.study import ContinualOptions
from selfdistill.stats.scores import normalized
from selfdistill.types import Example, UserError


@pytest.fixture
def home(tmp_path, tiny_model, tokenizer) -> Path:
    model = tiny_model(vocab_size=len(tokenizer), max_position_embeddings=512)
    return make_home(tmp_path, model, tokenizer)


def options(home: Path, name: str, **more) -> ContinualOptions:
    stages = ",".join(str(home / f"{task}.jsonl") for task in ("one", "two", "three"))
    return ContinualOptions(**{**settings(home, name), "stages": stages, "max_steps": 3, **more})


@pytest.fixture
def study(home, monkeypatch):
    """Runs the command, the report left out unless asked for; returns what it printed."""
    write = report.run

    def run(name="out", *, with_report=False, **more):
        monkeypatch.setattr(report, "run", write if with_report else lambda *_: None)
        return printed(continual.run, options(home, name, **more))

    return run


def rows(name: str, count: int) -> list[Example]:
    return [Example(id=f"{name}/{n}", prompt=({"role": "user", "content": name},)) for n in range(count)]


# -- replay and the matrix -------------------------------------------------------------------------


def test_replay_is_a_share_of_all_rows_and_every_earlier_stage_gives_the_same():
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


def test_replay_takes_all_there_is_where_that_is_less():
    mixed = with_replay(rows("c", 12), [rows("a", 1), rows("b", 3)], 0.5, "0/3")
    assert [row.id[0] for row in mixed[12:]] == ["a", "b", "b", "b"]


def test_normalized_matrix_by_hand():
    matrix = [[0.6, 0.1, 0.5], [0.4, 0.3, 0.5], [0.2, 0.2, 0.5]]
    found = normalized(matrix, [0.2, 0.1, 0.5])
    assert found == [
        [pytest.approx(1.0), pytest.approx(0.0), None],
        [pytest.approx(0.5), pytest.approx(1.0), None],
        [pytest.approx(0.0), pytest.approx(0.5), None],
    ]
    with pytest.raises(ValueError, match="2 scores for 3 tasks"):
        normalized(matrix, [0.0, 0.0])


def test_every_stage_is_tested_on_every_task_and_only_the_last_weights_stay(study, home):
    shown = study(methods="sft,sdft", with_report=True)
    found = read(home, "out", "continual.json")
    assert [run["method"] for run in found["runs"]] == ["sft", "sdft"]
    assert found["tasks"] == ["one", "two", "three"]
    for run in found["runs"]:
        folders = [home / "out" / run["method"] / f"stage-{n}-{task}" for n, task in enumerate(found["tasks"], 1)]
        for stage, (row, folder) in enumerate(zip(run["accuracy_matrix"], folders, strict=True)):
            tested = [read(folder, "eval", f"{task}.json")["accuracy"] for task in found["tasks"]]
            assert row == tested == [read(folder, "stage.json")["tasks"][t]["accuracy"] for t in found["tasks"]]
            assert (folder / "model.safetensors").exists() == (stage == 2)
        assert run["average_accuracy"] == pytest.approx(sum(run["accuracy_matrix"][2]) / 3)
        assert run["base"] == [read(home, "out", "base.json")["tasks"][task]["accuracy"] for task in found["tasks"]]
        assert all(stage["drift"]["kl_per_token"] > 0 for stage in run["stages"])
        assert run["normalized"] == normalized(run["accuracy_matrix"], run["base"])
    assert found["accuracy_matrix"] == found["runs"][0]["accuracy_matrix"]
    assert len({str(row) for run in found["runs"] for row in run["accuracy_matrix"]}) > 1
    assert "sdft, stage 3 of 3: three" in shown
    assert "(best R[i, j] before the last stage) - R[last, j]" in shown
    assert (home / "out" / "report.html").is_file()


def test_each_stage_starts_from_the_one_before(study, home):
    study(keep_models="all", method="sft")
    folders = [home / "out" / "sft" / f"stage-{n}-{task}" for n, task in ((1, "one"), (2, "two"), (3, "three"))]
    assert all((folder / "model.safetensors").is_file() for folder in folders)
    names = [read(folder, "run_config.json")["model_name"] for folder in folders]
    assert names == [str(home / "model"), str(folders[0]), str(folders[1])]


def test_stages_with_adapters_leave_whole_models(study, home):
    study(method="sft", lora_r=2, max_steps=1)
    folder = home / "out" / "sft" / "stage-3-three"
    assert (folder / "model.safetensors").is_file()
    assert not (folder / "adapter_model.safetensors").exists()


def test_killed_and_started_again_it_ends_with_the_same_matrix(study, home, monkeypatch):
    study("whole", method="sdft", replay=0.3)

    class Killed(BaseException):
        pass

    step = SDFTTrainer.training_step
    steps = []

    def dies(self, *arguments, **named):
        steps.append(self.args.output_dir)
        if len(steps) == 5:  # in the middle of the second stage
            raise Killed
        return step(self, *arguments, **named)

    monkeypatch.setattr(SDFTTrainer, "training_step", dies)
    with pytest.raises(Killed):
        study("killed", method="sdft", replay=0.3)
    assert (home / "killed" / "sdft" / "stage-2-two").is_dir()
    assert not (home / "killed" / "sdft" / "stage-2-two" / "stage.json").exists()
    shown = study("killed", method="sdft", replay=0.3)
    assert "sdft, stage 1 of 3: one: done before" in shown
    whole, again = read(home, "whole", "continual.json"), read(home, "killed", "continual.json")
    assert whole["accuracy_matrix"] == again["accuracy_matrix"]
    kept = [[stage["drift"] for stage in found["stages"]] for found in (whole, again)]
    assert kept[0] == kept[1]
    assert [stage["num_rows"] for stage in again["stages"]] == [24, 34, 34]  # 30 less a fifth; 10 of 34 are replayed


def test_killed_after_the_first_stage_was_written(study, home, monkeypatch):
    study("whole", method="sft")
    train = Sequences._train

    def dies(self, stage):
        if stage.number == 2:
            raise KeyboardInterrupt
        return train(self, stage)

    monkeypatch.setattr(Sequences, "_train", dies)
    with pytest.raises(KeyboardInterrupt):
        study("killed", method="sft")
    monkeypatch.setattr(Sequences, "_train", train)
    study("killed", method="sft")
    matrices = [read(home, name, "continual.json")["accuracy_matrix"] for name in ("whole", "killed")]
    assert matrices[0] == matrices[1]


# -- the teacher's anchor --------------------------------------------------------------------------


def test_teacher_and_anchors_start_from_the_base(study, home, monkeypatch):
    """With ``base`` later stages' teachers hold the base's weights, with ``previous`` those of the stage's start."""
    seen: list[dict[str, dict[str, torch.Tensor]]] = []
    begin = SDFTTrainer.begin_run

    def spies(self):
        states = {role: teacher.state_dict() for role, teacher in self.teachers.items()}
        seen.append({role: {n: t.clone() for n, t in state.items()} for role, state in states.items()})
        begin(self)

    monkeypatch.setattr(SDFTTrainer, "begin_run", spies)
    name = "model.layers.0.mlp.up_proj.weight"
    base = load_file(home / "model" / "model.safetensors")[name]
    for anchor in ("base", "previous"):
        seen.clear()
        more = {"stages": f"{home / 'one.jsonl'},{home / 'two.jsonl'}", "keep_models": "all", "anchor_share": 0.5}
        study(anchor, method="sdft", teacher_anchor=anchor, **more)
        before = load_file(home / anchor / "sdft" / "stage-1-one" / "model.safetensors")[name]
        assert not torch.equal(before, base)
        for role in ("teacher", "start"):
            assert torch.equal(seen[0][role][name], base)
            assert torch.equal(seen[1][role][name], base if anchor == "base" else before)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"method": "sft"}, "no arm has a teacher"),
        ({"method": "sdft", "teacher": "live"}, "a live teacher is the student"),
    ],
)
def test_an_anchor_that_would_be_ignored_is_refused(home, settings_, message):
    with pytest.raises(UserError, match=message) as error:
        Sequences(options(home, "out", teacher_anchor="base", **settings_), Console(quiet=True))
    assert len(str(error.value).split()) <= 40


def test_an_anchor_for_one_arm_of_two_is_fine(home):
    found = Sequences(options(home, "out", teacher_anchor="base", methods="sdft,sft"), Console(quiet=True))
    assert check_anchor(found.arms) is None


# -- stages ----------------------------------------------------------------------------------------


def test_rows_with_a_test_of_their_own(home):
    made = options(home, "out", stages=f"{home / 'one.jsonl'}:{home / 'two.jsonl'}, assistant-tools", eval_limit=3)
    made.scorer = None
    first, second = Sequences(made, Console(quiet=True)).subjects
    assert first.task.name == "one"
    assert len(first.train) == 30
    assert [row.prompt[0]["content"] for row in first.test.examples] == ["two 0?", "two 1?", "two 2?"]
    assert second.task.name == "assistant-tools"


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ("tool-use", "Did you mean 'tooluse'?"),
        ("{home}/none.jsonl", "none.jsonl"),
        ("{home}/one.jsonl,{home}/one.jsonl", "'one' is there twice"),
        ("medical", "--judge_url"),
    ],
)
def test_stages_that_are_none(home, real_data, stages, message):
    made = options(home, "out", stages=stages.format(home=home), data_dir=str(real_data))
    made.scorer = None
    with pytest.raises(UserError, match=message) as error:
        Sequences(made, Console(quiet=True))
    assert len(str(error.value).split()) <= 40


def test_other_settings_are_refused_by_name(study):
    study(method="sft", max_steps=1)
    with pytest.raises(UserError, match=r"another replay: 0\.0, now 0\.5"):
        study(method="sft", max_steps=1, replay=0.5)


def test_a_study_grows_by_arms(study, home, monkeypatch):
    study(methods="sft", max_steps=1)
    trained = []
    train = Sequences._train
    monkeypatch.setattr(Sequences, "_train", lambda self, stage: trained.append(stage.place) or train(self, stage))
    study(methods="sft", arm=("slow: method=sft, learning_rate=1e-5",), max_steps=1)
    assert {Path(place).parts[0] for place in trained} == {"slow"}
    assert [run["method"] for run in read(home, "out", "continual.json")["runs"]] == ["sft", "slow"]
    with pytest.raises(UserError, match="another arm slow"):
        study(methods="sft", arm=("slow: method=sft, learning_rate=1e-6",), max_steps=1)
