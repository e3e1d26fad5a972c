"""Two and three processes on gloo train as one does: weights, completions, records and checkpoints."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.processes import SHAPES, difference, train
from tests.distributed import worker
from tests.distributed.together import CLOSE
from tests.support.training import lines, make_trainer, steps

LEFT = "worker"
"""Folder of what the processes left, from which the fixtures ``two`` and ``three`` are."""


def test_each_exchange(two: Path) -> None:
    first, second = (json.loads((two / f"exchanges-{rank}.json").read_text()) for rank in (0, 1))
    assert first.pop("raised a fault") == "ValueError: a fault"  # where it happened as it was
    assert second.pop("raised a fault") == "UserError: Process 0: a fault."
    assert first == second
    assert first["once"] == "of 0"
    assert first["gathered"] == [0, 1]
    assert first["totals"] == [3.0, 1.0]
    assert first["raised a mistake"] == "UserError: a mistake"
    assert [name for name, asked in first["agreed"].items() if asked] == ["should_save"]
    assert first["split"].startswith("The model's weights are split over processes (tensor parallelism or FSDP)")
    assert first["loss"] == 0.25 + 1.25
    summed = {"both": [3.0, 30.0], "one": [5.0, 6.0], "none": None, "bf16": [2 * 2.0**-20 + 1, 3.0, 1.0]}
    assert first["gradients"] == summed  # in fp32: bfloat16 would lose the 2 * 2**-20
    assert first["weights"] == dict.fromkeys(summed, 1 + 2.0**-12)  # the main process's, with the bits below bfloat16


@pytest.mark.parametrize("name", worker.IN_TWO)
def test_two_processes_train_as_one(two: Path, tmp_path: Path, name: str) -> None:
    rows, count = SHAPES[2]
    train(name, tmp_path, (2 * rows, count))
    assert difference(two / "2" / name, tmp_path, 2) <= CLOSE
    own, wanted = steps(two / "2" / name), steps(tmp_path)
    assert len(own) == len(wanted) == 3
    for line, reference in zip(own, wanted, strict=True):
        counted = {key for key in reference if not key.startswith("seconds/") and key != "wall_seconds"}
        assert counted == {key for key in line if not key.startswith("seconds/") and key != "wall_seconds"}
        assert {key: line[key] for key in counted} == pytest.approx(
            {key: reference[key] for key in counted}, rel=1e-4, abs=1e-5
        )


@pytest.mark.parametrize("name", worker.IN_THREE)
def test_three_processes_train_as_one(three: Path, tmp_path: Path, name: str) -> None:
    rows, count = SHAPES[3]
    train(name, tmp_path, (3 * rows, count))
    assert difference(three / "3" / name, tmp_path, 3) <= CLOSE


def test_a_masked_process_has_nothing_to_learn_from(two: Path) -> None:
    """The configuration is what its name says: all completions of odd rows, which are process 1's, are cut."""
    rows = lines(two / "2" / "one process masked", "rollouts.jsonl")
    assert [row["finish_reason"] for row in rows if row["step"] == 1] == ["stop", "length"] * 4
    assert all(bool(row["loss_positions"]) == (row["finish_reason"] == "stop") for row in rows)
    assert all(line["loss_tokens"] == 0 for line in steps(two / "2" / "all masked"))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoint-4" / "model.safetensors")


def test_two_processes_go_on_as_if_they_had_not_stopped(two: Path) -> None:
    """They stopped together after the second step, although one callback of one process asked for it."""
    assert [line["step"] for line in steps(two / "stopped")] == [1, 2]
    assert json.loads((two / "resumed in 2-0.json").read_text()) == []
    unbroken, resumed = weights(two / "unbroken"), weights(two / "resumed in 2")
    assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken)
    last, wanted = steps(two / "resumed in 2")[-1], steps(two / "unbroken")[-1]
    assert {name: last[name] for name in ("loss", "tokens_seen")} == {n: wanted[n] for n in ("loss", "tokens_seen")}


def test_another_number_of_processes_is_a_change(three: Path) -> None:
    said = json.loads((three / "resumed in 3-0.json").read_text())
    assert "was made with processes 2, now 3. Resume with the same, or give --allow_changes." in said[0]
    assert said[1:] == ["processes was 2 until step 2, from now on it is 3."]
    quiet = [json.loads((three / f"resumed in 3-{rank}.json").read_text()) for rank in (1, 2)]
    assert [len(others) for others in quiet] == [1, 1]  # refused, too, and warned of nothing
    assert steps(three / "resumed in 3")[-1]["step"] == 4


def test_one_process_goes_on_with_the_run_of_two(two: Path, tmp_path: Path) -> None:
    shutil.copytree(two / "stopped", tmp_path / "run")
    settings: dict[str, Any] = {**worker.SAVED, "per_device_train_batch_size": 2}  # the same rows a step
    trainer = make_trainer(tmp_path / "run", **settings)
    trainer.checkpoints.on_warning = lambda text: None
    trainer.train(resume_from_checkpoint=True, allow_changes=True)
    unbroken, resumed = weights(two / "unbroken"), weights(tmp_path / "run")
    assert all((unbroken[name] - resumed[name]).abs().max() <= 1e-4 for name in unbroken)  # Adam divides by noise


def test_processes_with_other_rows_are_refused_in_all_of_them(two: Path) -> None:
    first, second = ((two / f"other_rows-{rank}.txt").read_text() for rank in (0, 1))
    assert first == second
    assert first.startswith("Process 0 and process 1 differ: training rows 2 (")
    assert first.endswith("). Give all the same command, data and model.")
