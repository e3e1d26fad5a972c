"""Another model as the teacher: what it predicts, samples and costs, and which models can be it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from selfdistill import SDFTConfig
from selfdistill.cli import main
from selfdistill.method.memory import MemoryCheck
from selfdistill.method.other_teacher import check_vocabulary
from selfdistill.method.rollout.engine import Sampling, row_seeds
from selfdistill.method.rollout.own import OwnEngine
from selfdistill.method.rows import training_pairs
from selfdistill.method.step import Step
from selfdistill.models.tokens import eos_token_ids
from tests.support.checkpointed import CHECKPOINTS, resumed
from tests.support.engines import Scripted
from tests.support.mistakes import mistake
from tests.support.tiny import byte_tokenizer
from tests.support.training import ROWS, lines, make_config, make_trainer, script, steps, student, weights

WIDE: dict[str, Any] = {"hidden_size": 24, "num_hidden_layers": 3}
"""A model of the student's vocabulary that is larger."""


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of the larger model."""
    return saved(tmp_path_factory.mktemp("other"), **WIDE)


def saved(folder: Path, tokenizer: Any = None, **settings: Any) -> str:
    student(**settings).save_pretrained(folder)
    (tokenizer or byte_tokenizer()).save_pretrained(folder)
    return str(folder)


def make_step(folder: Path, teacher: Any, *, engine: Any = None, **settings: Any) -> tuple[Step, Any]:
    model, tokenizer = student(), byte_tokenizer()
    config = make_config(folder, teacher_model="other", **settings)
    pairs = training_pairs(ROWS, config, tokenizer, model.config)
    return Step(model, tokenizer, config, teacher_model=teacher, engine=engine, rows=pairs), pairs


def log_probs(model: Any, prompt: Any, ids: Any) -> torch.Tensor:
    """[tokens, V] fp64."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *ids]])).logits
    return logits[0, len(prompt) - 1 : -1].double().log_softmax(-1)


@pytest.mark.parametrize("template", ["prior_turn", "question"])
@pytest.mark.parametrize("target", ["teacher", "mix"])
def test_the_student_is_held_to_the_other_models_distribution(tmp_path: Path, template: str, target: str) -> None:
    teacher = student(**WIDE)
    step, pairs = make_step(tmp_path, teacher, engine=Scripted(script()), template=template, target=target)
    samples = step.rollout(pairs, 0)
    means = []
    for sample in samples:
        ids, asked = sample.rollout.completion_ids, sample.pair.student_ids
        assert (sample.teacher_ids == asked) == (template == "question")
        q, p = log_probs(step.model, asked, ids), log_probs(teacher, sample.teacher_ids, ids)
        t = p if target == "teacher" else (0.5 * q + 0.5 * p).log_softmax(-1)  # the student is the start model yet
        means.append((t.exp() * (t - q)).sum(-1).mean())
    found = sum(float(step.learn(batch)) for batch in step.micro_batches(samples, 3))
    assert found == pytest.approx(float(torch.stack(means).mean()), rel=1e-3)


@pytest.mark.parametrize(
    "settings", [{"method": "offline"}, {"completion_source": "mixture", "mixture_of": "teacher", "mixture_share": 1}]
)
def test_where_the_teacher_writes_the_other_model_does(tmp_path: Path, settings: dict[str, Any]) -> None:
    teacher, tokenizer = student(**WIDE), byte_tokenizer()
    step, pairs = make_step(tmp_path, teacher, **settings)
    found = [replace(sample.rollout, logprobs=None) for sample in step.rollout(pairs, 4)]
    seeds = row_seeds(step.config.seed, 4, [pair.example.id for pair in pairs])
    alone = OwnEngine(teacher, eos_token_ids(step.model, tokenizer), 0)
    sampling = Sampling(max_new_tokens=8, seeds=seeds, context=512)
    assert found == alone.generate([pair.teacher_ids for pair in pairs], sampling)


def test_the_other_model_judges_too(tmp_path: Path) -> None:
    """One that puts all mass on a token is followed; the student itself lets everything pass."""
    sure = student(**WIDE)
    with torch.no_grad():
        sure.get_output_embeddings().weight.mul_(1e6)
    chosen: dict[str, Any] = {"completion_source": "interleaved", "interleaved_top_k": 1}
    step, pairs = make_step(tmp_path, sure, **chosen)
    for sample in step.rollout(pairs, 0):
        ids = sample.rollout.completion_ids
        assert log_probs(sure, sample.teacher_ids, ids).argmax(-1).tolist() == list(ids)
    step, pairs = make_step(tmp_path, student(), completion_source="accepted", template="question")
    assert {sample.rollout.finish_reason for sample in step.rollout(pairs, 0)} <= {"stop", "length"}


# -- runs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [False, True])
def test_a_run_names_it_and_leaves_it_as_it_is(tmp_path: Path, other: str, lora: bool) -> None:
    from peft import LoraConfig

    adapter = {"peft_config": LoraConfig(r=2, target_modules="all-linear")} if lora else {}
    chosen: dict[str, Any] = {**CHECKPOINTS, "teacher_model": other, "template": "question"}
    chosen.pop("teacher_update_rate")

    def made(name: str) -> Any:
        torch.manual_seed(0)
        return make_trainer(tmp_path / name, options=dict(adapter), **chosen)

    whole = made("whole")
    before = [parameter.clone() for parameter in whole.step.teachers["teacher"].model.parameters()]
    whole.train()
    after = list(whole.step.teachers["teacher"].model.parameters())
    assert all(torch.equal(one, another) for one, another in zip(before, after, strict=True))
    assert all(line["divergence"] > 0 for line in steps(tmp_path / "whole"))
    assert load_file(tmp_path / "whole" / "checkpoint-2" / "state" / "teacher.safetensors") == {}
    assert json.loads((tmp_path / "whole" / "run_config.json").read_text())["settings"]["teacher_model"] == other
    made("cut").train()
    (tmp_path / "cut" / "checkpoint-4").rename(tmp_path / "gone")
    again = made("cut")
    assert resumed(again) == []
    assert all(torch.equal(weight, weights(again)[name]) for name, weight in weights(whole).items())
    (tmp_path / "cut" / "checkpoint-4").rename(tmp_path / "gone too")
    own = make_trainer(
        tmp_path / "cut", options=dict(adapter), **{**chosen, "teacher_model": None, "template": "paper"}
    )
    assert "teacher_model" in mistake(own.train, resume_from_checkpoint=True)


def test_a_command_trains_with_it(tmp_path: Path, other: str) -> None:
    model, rows = saved(tmp_path / "model"), tmp_path / "rows.jsonl"
    rows.write_text("\n".join(map(json.dumps, ROWS)))
    words = [
        "train",
        "--model_name",
        model,
        "--dataset_path",
        str(rows),
        "--teacher_model",
        other,
        "--dtype",
        "float32",
    ]
    words += ["--max_steps", "2", "--max_completion_length", "8", "--per_device_train_batch_size", "2"]
    run = tmp_path / "run"
    assert main([*words, "--output_dir", str(run), "--template", "prior_turn", "--lora_r", "2"]) == 0
    assert [line["step"] for line in steps(run)] == [1, 2]
    assert lines(run, "rollouts.jsonl")[0]["teacher_prompt"].count("What is") == 2
    assert main([*words, "--output_dir", str(run)]) == 2  # template auto


# -- which models can be it --------------------------------------------------------------------------


def test_another_vocabulary_is_refused(tmp_path: Path, other: str) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["new"])
    named = saved(tmp_path / "tokens", tokenizer)
    message = mistake(make_trainer, tmp_path / "run", teacher_model=named)
    assert message.startswith(f"teacher_model {named} has other tokens than the model to train")
    named = saved(tmp_path / "size", vocab_size=320)
    message = mistake(make_trainer, tmp_path / "run", teacher_model=named)
    assert message.startswith(f"teacher_model {named} predicts 320 tokens, the model to train 300.")


def test_other_logits_are_refused() -> None:
    tokenizer, config, capped = byte_tokenizer(), student().config, student().config
    capped.final_logit_softcapping = 3.0
    check_vocabulary("same", tokenizer, config, tokenizer, config)
    assert "caps its logits in another way" in mistake(check_vocabulary, "x", tokenizer, config, tokenizer, capped)


def test_what_is_not_there_is_called_by_the_flag_that_named_it(tmp_path: Path) -> None:
    assert "--teacher_model" in mistake(make_trainer, tmp_path, teacher_model=str(tmp_path / "nothing"))


def test_the_model_as_its_own_teacher_has_to_be_shown_something(tmp_path: Path) -> None:
    message = mistake(SDFTConfig, output_dir=str(tmp_path), template="question")
    assert message.startswith("template: question shows no demonstration")
    with pytest.raises(ValueError, match="give the setting, and the model that it names"):
        Step(student(), byte_tokenizer(), make_config(tmp_path, teacher_model="other"))


# -- cost --------------------------------------------------------------------------------------------


def test_the_estimate_and_the_flops_know_its_size(tmp_path: Path) -> None:
    teacher = student(**WIDE)
    step, pairs = make_step(tmp_path, teacher, engine=Scripted(script()))
    size = sum(parameter.numel() for parameter in teacher.parameters())
    shared: dict[str, Any] = {"dtype": "float32", "lora_r": None, "device": torch.device("cpu")}
    plain, known = (MemoryCheck(step.model.config, pairs, **shared, teacher_config=c) for c in (None, teacher.config))
    assert known.estimate(step.config).teacher == 4 * size
    own = make_config(tmp_path)
    assert plain.estimate(own).teacher == 4 * plain.num_parameters()  # its average
    rows = 8 * step.config.max_completion_length
    assert known.estimate(step.config).loss - plain.estimate(own).loss == 4 * rows * (24 - 16)
    assert known.teacher_size() == size / plain.num_parameters()
    samples = step.rollout(pairs, 0)
    (batch,) = step.micro_batches(samples, 1)
    read = [sum(p.numel() for name, p in m.named_parameters() if "embed" not in name) for m in (step.model, teacher)]
    learned, scored = (sum(getattr(s, name) for s in samples) for name in ("student_tokens", "teacher_tokens"))
    assert step.flops(batch) == 8 * learned * read[0] + 2 * scored * read[1]
