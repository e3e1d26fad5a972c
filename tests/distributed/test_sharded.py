"""Two and three processes that share a model's weights train as one does that has them all."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from benchmarks.processes import SHAPES, difference, train
from selfdistill.errors import UserError
from selfdistill.method.processes import exchanging
from selfdistill.method.step import Step
from tests.distributed import split
from tests.distributed.together import CLOSE
from tests.distributed.worker import SAVED
from tests.support.engines import Scripted
from tests.support.served_teacher import WIDE, teaching
from tests.support.tiny import byte_tokenizer
from tests.support.training import make_config, make_trainer, script, steps, student

LEFT = "split"
"""Folder of what the processes left, from which the fixtures ``two`` and ``three`` are."""


@pytest.mark.parametrize("name", split.IN_TWO)
def test_two_processes_train_as_one(two: Path, tmp_path: Path, name: str) -> None:
    rows, count = SHAPES[2]
    train(name, tmp_path, (2 * rows, count))
    assert difference(two / "2" / name, tmp_path, 2) <= CLOSE
    own, wanted = steps(two / "2" / name), steps(tmp_path)
    for line, reference in zip(own, wanted, strict=True):
        counted = [key for key in reference if not key.startswith("seconds/") and key != "wall_seconds"]
        assert {key: line[key] for key in counted} == pytest.approx(
            {key: reference[key] for key in counted}, rel=1e-4, abs=1e-5
        )


@pytest.mark.parametrize("name", split.IN_THREE)
def test_three_processes_train_as_one(three: Path, tmp_path: Path, name: str) -> None:
    rows, count = SHAPES[3]
    train(name, tmp_path, (3 * rows, count))
    assert difference(three / "3" / name, tmp_path, 3) <= CLOSE


@pytest.mark.parametrize("name", split.EXCHANGED)
def test_the_teacher_scores_with_weights_of_its_own(two: Path, tmp_path: Path, name: str) -> None:
    """The divergences are those of one process with both models, far from the 0 of a teacher that is the student."""
    step = Step(student(), byte_tokenizer(), make_config(tmp_path, teacher="frozen"), engine=Scripted(script()))
    before = {key: parameter.detach().clone() for key, parameter in step.masters.parameters.items()}
    step.teachers["teacher"].load_state_dict(split.perturbed(before))
    wanted, total = split.scored(step, 5)
    facts = [json.loads((two / f"{name}-{rank}.json").read_text()) for rank in (0, 1)]
    found = torch.cat([torch.tensor(value) for each in facts for value in each["values"]])
    assert torch.allclose(found.sort().values, torch.cat(wanted).sort().values, atol=1e-5)
    assert found.mean() > 0.05
    for each in facts:
        assert each["as before"]
        assert each["teacher as before"]
        assert each["loss"] == pytest.approx(total, rel=1e-5)
    gradients = [load_file(two / f"{name}-{rank}.safetensors") for rank in (0, 1)]
    for key, _, master in step.masters.items():
        assert master.grad is not None
        assert all(torch.allclose(each[key], master.grad, atol=1e-6) for each in gradients)


def test_a_teacher_behind_a_server_teaches_both_processes(two: Path, tmp_path: Path) -> None:
    with teaching(student(**WIDE)) as server:
        one = make_trainer(tmp_path, teacher_server=server.url, per_device_train_batch_size=4, **split.TAUGHT)
        one.train()
    assert (two / "asked").read_text() == str(2 + 5)  # a look by each process, and every sample once
    found = load_file(two / "taught" / "model.safetensors")
    for name, weight in one.model.state_dict().items():
        assert torch.allclose(found[name], weight, rtol=0, atol=CLOSE), name
    assert [line["divergence"] for line in steps(two / "taught")] == pytest.approx(
        [line["divergence"] for line in steps(tmp_path)], rel=1e-4
    )


def test_each_process_has_a_slice(two: Path) -> None:
    first, second = (json.loads((two / f"recomputed-{rank}.json").read_text()) for rank in (0, 1))
    assert first["own"] + second["own"] == first["all"]
    assert abs(first["own"] - second["own"]) < 0.1 * first["all"]
    assert first["dtypes"] == ["torch.float32"]


@pytest.mark.parametrize("name", ["own head", "tied head"])
def test_a_saved_model_is_whole(two: Path, name: str) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(two / name)
    assert model.config.architectures == ["LlamaForCausalLM"]
    for rank in (0, 1):
        wanted = load_file(two / name / f"weights-{rank}.safetensors")
        loaded = dict(model.named_parameters())
        assert loaded.keys() == wanted.keys()
        assert all(torch.equal(loaded[key], wanted[key]) for key in wanted)


def test_a_saved_adapter_is_whole(two: Path) -> None:
    model: Any = PeftModel.from_pretrained(student(), str(two / "adapter"))
    wanted = load_file(two / "adapter" / "weights-0.safetensors")
    for key, loaded in model.named_parameters():
        assert torch.equal(loaded, wanted[key])


def weights(folder: Path, name: str = "model") -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoint-4" / f"{name}.safetensors")


@pytest.mark.parametrize(("name", "file"), [("unbroken", "model"), ("adapter unbroken", "adapter_model")])
def test_two_processes_go_on_as_if_they_had_not_stopped(two: Path, name: str, file: str) -> None:
    unbroken, resumed = weights(two / name, file), weights(two / f"{name} resumed in 2", file)
    assert unbroken.keys() == resumed.keys()
    assert all(torch.equal(unbroken[key], resumed[key]) for key in unbroken)
    last, wanted = steps(two / f"{name} resumed in 2")[-1], steps(two / name)[-1]
    assert {key: last[key] for key in ("loss", "tokens_seen")} == {key: wanted[key] for key in ("loss", "tokens_seen")}


def test_another_number_of_processes_goes_on(three: Path, tmp_path: Path) -> None:
    """Three processes that share the weights, and one that has them all."""
    assert steps(three / "unbroken resumed in 3")[-1]["step"] == 4
    shutil.copytree(three / "unbroken", tmp_path / "run", ignore=shutil.ignore_patterns("checkpoint-4"))
    settings: dict[str, Any] = {**SAVED, "per_device_train_batch_size": 2}  # the same rows a step
    trainer = make_trainer(tmp_path / "run", **settings)
    trainer.checkpoints.on_warning = lambda text: None
    trainer.train(resume_from_checkpoint=True, allow_changes=True)
    unbroken, resumed = weights(three / "unbroken"), weights(tmp_path / "run")
    assert all((unbroken[key] - resumed[key]).abs().max() <= 1e-4 for key in unbroken)  # Adam divides by noise


@pytest.mark.parametrize("text", ["[gloo/transport/tcp/pair.cc] Connection closed by peer", "mat1 and mat2 differ"])
def test_what_failed_in_a_pass_is_told_apart(text: str) -> None:
    """The end of another process is a message, a fault of this one stays what it is."""
    kind, start = (UserError, "Another process ended") if "gloo" in text else (RuntimeError, text)
    with pytest.raises(kind, match=f"^{re.escape(start)}"), exchanging():
        raise RuntimeError(text)


def masters(folder: Path) -> dict[str, torch.Tensor]:
    """The fp32 masters in a checkpoint: bfloat16 weights and what is below them."""
    low = load_file(folder / "checkpoint-4" / "state" / "masters.safetensors")
    upper = weights(folder)
    assert {weight.dtype for weight in upper.values()} == {torch.bfloat16}
    assert {bits.dtype for bits in low.values()} == {torch.int16}
    return {name: (upper[name].float().view(torch.int32) + low[name]).view(torch.float32) for name in low}


def test_in_bfloat16_masters_are_fp32(two: Path, tmp_path: Path) -> None:
    """They are as near those of one process as bfloat16 itself is to fp32."""
    settings: dict[str, Any] = {**SAVED, "optim": "sgd", "per_device_train_batch_size": 2}
    one = make_trainer(tmp_path / "bfloat16", model=student(torch.bfloat16), **settings)
    exact = make_trainer(tmp_path / "float32", model=student(torch.bfloat16).float(), **settings)
    for trainer in (one, exact):
        trainer.train()
    found = [masters(folder) for folder in (two / "bfloat16", tmp_path / "bfloat16")] + [weights(tmp_path / "float32")]
    split, whole, fp32 = (torch.cat([each[name].flatten() for name in sorted(found[2])]) for each in found)
    noise = (whole - fp32).norm()
    moved = (
        fp32 - torch.cat([p.detach().flatten() for _, p in sorted(student(torch.bfloat16).named_parameters())])
    ).norm()
    assert 0 < noise < 0.2 * moved
    assert (split - whole).norm() <= 2 * noise  # of two that are each as far from fp32
    model: Any = AutoModelForCausalLM.from_pretrained(two / "bfloat16" / "model")
    assert model.dtype == torch.bfloat16
