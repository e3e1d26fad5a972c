"""What a checkpoint holds, and which one a run goes on from."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, TrainerCallback

from selfdistill.checkpoints import space
from selfdistill.checkpoints.lock import locked
from selfdistill.checkpoints.manifest import verify
from tests.support.checkpointed import CHECKPOINTS, finished, resumed
from tests.support.faults import Disk
from tests.support.mistakes import mistake
from tests.support.training import lines, make_trainer, steps, student, weights


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("checkpoint-*"))


# -- what it holds ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", [False, True], ids=["whole", "lora"])
def test_a_checkpoint_is_a_model_with_a_state_beside_it(tmp_path: Path, adapter: bool) -> None:
    options = {"peft_config": LoraConfig(r=2, target_modules="all-linear")} if adapter else {}
    trainer = make_trainer(tmp_path, model=student(torch.bfloat16), options=options, **CHECKPOINTS)
    trainer.train()
    trainer.save_model()
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-4"]
    last = tmp_path / "checkpoint-4"
    weights_file = "adapter_model.safetensors" if adapter else "model.safetensors"
    for folder in (tmp_path, last):
        assert [path.name for path in folder.glob("*.safetensors")] == [weights_file]
    assert {path.name for path in (last / "state").iterdir()} == {
        *("masters.safetensors", "teacher.safetensors", "run_state.json", "run_config.json"),
        *("optimizer.json", "optimizer.safetensors", "random.json", "random.safetensors"),
    }
    written = {path.relative_to(last).as_posix() for path in last.rglob("*") if path.is_file()}
    assert verify(last).files.keys() == written - {"manifest.json"}
    assert verify(tmp_path, others=True).files.keys() == {name for name in written if "/" not in name} - {
        *("manifest.json", "trainer_state.json")
    }
    pickles = {".bin", ".pt", ".pth", ".pkl"}
    assert not [path for path in tmp_path.rglob("*") if path.suffix in pickles]
    if not adapter:
        loaded = AutoModelForCausalLM.from_pretrained(last, dtype=torch.bfloat16)
        assert all(torch.equal(p.float(), weights(trainer)[name]) for name, p in loaded.named_parameters())


def test_callbacks_are_told_when_the_checkpoint_is_in_place(tmp_path: Path) -> None:
    seen: list[int] = []

    class Told(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            verify(tmp_path / f"checkpoint-{state.global_step}")
            seen.append(state.global_step)

    make_trainer(tmp_path, options={"callbacks": [Told()]}, **CHECKPOINTS).train()
    assert seen == [2, 4]


def test_old_ones_go_once_two_are_there(tmp_path: Path) -> None:
    make_trainer(tmp_path, **{**CHECKPOINTS, "save_steps": 1}, save_total_limit=1).train()
    assert names(tmp_path) == ["checkpoint-3", "checkpoint-4"]


def test_nothing_is_saved_within_a_step(tmp_path: Path) -> None:
    """Training is stopped between two micro-batches, and a checkpoint is asked for at the end of the pass."""

    class Stops(TrainerCallback):
        def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 3:
                control.should_training_stop = True

        def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_save = True

    make_trainer(tmp_path, options={"callbacks": [Stops()]}, **{**CHECKPOINTS, "save_steps": 4}).train()
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
    assert (
        json.loads((tmp_path / "checkpoint-3" / "state" / "run_state.json").read_text())["lines"]["metrics.jsonl"] == 3
    )


def test_checkpoints_of_the_model_alone_can_not_be_gone_on_from(tmp_path: Path) -> None:
    make_trainer(tmp_path, **CHECKPOINTS, save_only_model=True).train()
    verify(tmp_path / "checkpoint-4")
    assert not (tmp_path / "checkpoint-4" / "state").exists()
    trainer = make_trainer(tmp_path, **CHECKPOINTS)
    assert "holds only the model (save_only_model)" in mistake(trainer.train, resume_from_checkpoint=True)


# -- which one -------------------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    "name",
    [
        *("model.safetensors", "trainer_state.json", "config.json", "tokenizer.json", "manifest.json"),
        *("state/masters.safetensors", "state/teacher.safetensors", "state/run_state.json", "state/run_config.json"),
        *("state/optimizer.json", "state/optimizer.safetensors", "state/random.json", "state/random.safetensors"),
    ],
)
@pytest.mark.parametrize("damage", [flip, Path.unlink], ids=["flipped", "deleted"])
def test_a_damaged_checkpoint_is_told_of_and_the_one_before_it_taken(tmp_path: Path, name: str, damage: Any) -> None:
    shutil.copytree(finished(tmp_path), tmp_path / "run")
    damage(tmp_path / "run" / "checkpoint-4" / name)
    trainer = make_trainer(tmp_path / "run", **CHECKPOINTS)
    recorded = lines(tmp_path / "run", "rollouts.jsonl")
    (said,) = resumed(trainer)
    assert said.startswith("checkpoint-4: ")
    assert name in said or name == "manifest.json"  # a bit of which may be one of another file's hash
    assert said.endswith(". The run goes on from checkpoint-2.")
    verify(tmp_path / "run" / "checkpoint-4")
    assert [path.name for path in (tmp_path / "run" / "earlier-1").glob("checkpoint-*")] == ["checkpoint-4"]
    assert lines(tmp_path / "run", "rollouts.jsonl") == recorded


def test_a_damaged_checkpoint_that_was_asked_for_by_name_is_refused(tmp_path: Path) -> None:
    make_trainer(tmp_path, **CHECKPOINTS).train()
    flip(tmp_path / "checkpoint-2" / "model.safetensors")
    trainer = make_trainer(tmp_path, **CHECKPOINTS)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    said = mistake(trainer.train, str(tmp_path / "checkpoint-2"))
    assert "checkpoint-2: model.safetensors was changed. Resume from another checkpoint." in said
    flip(tmp_path / "checkpoint-4" / "config.json")
    said = mistake(trainer.train, resume_from_checkpoint=True)
    assert "holds no whole checkpoint. checkpoint-4: config.json was changed." in said
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_without_a_checkpoint_there_is_nothing_to_resume_from(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, **CHECKPOINTS)
    assert "holds no checkpoint" in mistake(trainer.train, resume_from_checkpoint=True)


def test_a_run_can_go_on_from_an_older_checkpoint(tmp_path: Path) -> None:
    make_trainer(tmp_path, **CHECKPOINTS).train()
    before = weights(make_trainer(tmp_path, **CHECKPOINTS)), lines(tmp_path, "rollouts.jsonl")
    make_trainer(tmp_path, **CHECKPOINTS).train(str(tmp_path / "checkpoint-2"))
    assert names(tmp_path / "earlier-1") == ["checkpoint-4"]
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-4"]
    assert lines(tmp_path, "rollouts.jsonl") == before[1]


def test_lost_lines_are_told_of(tmp_path: Path) -> None:
    make_trainer(tmp_path, **CHECKPOINTS).train()
    path = tmp_path / "metrics.jsonl"
    first, second, *_ = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + bytes(100) + b"\n" + second[:40])
    (tmp_path / "rollouts.jsonl").unlink()
    said = resumed(make_trainer(tmp_path, **CHECKPOINTS))
    assert said == [f"{name} has lost lines of steps up to 4." for name in ("metrics.jsonl", "rollouts.jsonl")]


# -- a disk that is full, a folder in use -----------------------------------------------------------------------------


def test_a_save_that_fails_leaves_the_one_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = make_trainer(tmp_path / "whole", **CHECKPOINTS)
    whole.train()
    trainer = make_trainer(tmp_path / "cut", **CHECKPOINTS)
    save = trainer.checkpoints.save

    def save_on_a_full_disk(parts: Any) -> None:
        with Disk(10 if trainer.state.global_step == 4 else 10**6, killed=False, operations=("fsync",)):
            save(parts)

    monkeypatch.setattr(trainer.checkpoints, "save", save_on_a_full_disk)
    said = mistake(trainer.train)
    assert f"{tmp_path}/cut/checkpoint-4 can't be written: [Errno 28] No space left on device. Once" in said
    assert [path.name for path in (tmp_path / "cut").iterdir() if path.is_dir()] == ["checkpoint-2"]
    again = make_trainer(tmp_path / "cut", **CHECKPOINTS)
    again.train(resume_from_checkpoint=True)
    assert all(torch.equal(weights(again)[name], weight) for name, weight in weights(whole).items())


def test_too_little_space_is_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint of bf16 weights has 2 bytes each, 2 for the master, 4 for the teacher and 8 for Adam."""
    free = type(shutil.disk_usage(tmp_path))(10**6, 10**6, 0)
    monkeypatch.setattr(space.shutil, "disk_usage", lambda _: free)
    number = student().num_parameters()
    trainer = make_trainer(tmp_path, model=student(torch.bfloat16), **CHECKPOINTS)
    said = mistake(trainer.train)
    buffers = sum(b.numel() * b.element_size() for b in student(torch.bfloat16).buffers())
    assert said.startswith(
        f"A checkpoint takes {space.in_words(16 * number + buffers)}, but {tmp_path} has 0 bytes free."
    )
    assert lines_there(tmp_path) == []
    trainer = make_trainer(tmp_path, **{**CHECKPOINTS, "save_steps": 1}, save_total_limit=1)
    assert mistake(trainer.train).startswith("3 checkpoints, of which one is being written, take ")
    make_trainer(tmp_path, **{**CHECKPOINTS, "save_strategy": "no"}).train()  # writes none


def lines_there(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("*") if not path.name.startswith(".")]


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    inner = make_trainer(tmp_path, **CHECKPOINTS)

    class Starts(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            import threading

            thread = threading.Thread(target=lambda: said.append(mistake(inner.train)))
            thread.start()
            thread.join()

    said: list[str] = []
    make_trainer(tmp_path, options={"callbacks": [Starts()]}, **CHECKPOINTS).train()
    assert len(said) == 4
    assert all("another command is using it" in text for text in said)
    assert [line["step"] for line in steps(tmp_path)] == [1, 2, 3, 4]
    with locked(tmp_path):
        pass
