"""What SDFTTrainer refuses before it trains, and in which words."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import TrainingArguments

from selfdistill import SDFTConfig, SDFTTrainer
from tests.support.mistakes import mistake
from tests.support.tiny import byte_tokenizer
from tests.support.training import ROWS, make_config, make_trainer, student, weights


def refused(folder: Path, **options: Any) -> str:
    return mistake(make_trainer, folder, **options)


def test_settings_of_another_class_are_a_mistake_of_the_caller(tmp_path: Path) -> None:
    plain: Any = TrainingArguments(output_dir=str(tmp_path))
    with pytest.raises(TypeError, match="args must be a SDFTConfig, not TrainingArguments"):
        SDFTTrainer(student(), plain, ROWS, byte_tokenizer())


def test_float16_weights(tmp_path: Path) -> None:
    text = refused(tmp_path, model=student(torch.float16))
    assert "model.embed_tokens.weight is float16" in text
    assert "bfloat16 or float32" in text


def test_frozen_float16_weights_do_no_harm(tmp_path: Path) -> None:
    """Only gradients vanish in float16: under an adapter in fp32 there are none to the base."""
    adapter = LoraConfig(r=2, target_modules="all-linear")
    trainer = make_trainer(tmp_path, model=student(torch.float16), options={"peft_config": adapter})
    assert {master.dtype for _, _, master in trainer.step.masters.items()} == {torch.float32}


def test_a_model_on_several_devices(tmp_path: Path) -> None:
    model = student()
    model.hf_device_map = {"model.embed_tokens": 0, "model.layers": 1, "lm_head": 0}
    assert "spread over 2 devices" in refused(tmp_path, model=model)
    model.hf_device_map = {"": "cpu"}
    make_trainer(tmp_path, model=model)


def test_nothing_trainable(tmp_path: Path) -> None:
    text = refused(tmp_path, model=student().requires_grad_(False))
    assert "requires_grad_(True)" in text
    assert "peft_config" in text


def test_logits_that_are_no_numbers(tmp_path: Path) -> None:
    model = student()
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    assert "not finite numbers" in refused(tmp_path, model=model)


@pytest.mark.parametrize(
    ("adapter", "named"),
    [
        (LoraConfig(r=2, target_modules="all-linear", alora_invocation_tokens=[65]), "LORA"),
        (PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2), "PROMPT_TUNING"),
        (PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2), "PREFIX_TUNING"),
    ],
    ids=["alora", "prompt tuning", "prefix tuning"],
)
@pytest.mark.parametrize("given", ["as peft_config", "on the model"])
def test_adapters_that_would_learn_nothing(tmp_path: Path, adapter: Any, named: str, given: str) -> None:
    """They act through the wrapper's own forward pass, which the loss goes around."""
    if given == "on the model":
        text = refused(tmp_path, model=get_peft_model(student(), adapter))
    else:
        text = refused(tmp_path, options={"peft_config": adapter})
    assert f"adapter {named} " in text
    assert "it would learn nothing" in text


def test_plain_lora_learns(tmp_path: Path) -> None:
    adapter = LoraConfig(r=2, target_modules="all-linear")
    trainer = make_trainer(tmp_path, options={"peft_config": adapter})
    before = weights(trainer)
    trainer.train()
    moved = {name for name, weight in weights(trainer).items() if not torch.equal(weight, before[name])}
    assert moved
    assert all("lora_B" in name for name in moved)  # A has no gradient as long as B is 0


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        pytest.param(None, "give rows", id="none"),
        pytest.param("rows.jsonl", "give rows", id="a path"),
        pytest.param({"train": ROWS, "test": ROWS}, "a mapping of train, test. Give one split", id="splits"),
    ],
)
def test_what_is_no_rows(tmp_path: Path, rows: Any, words: str) -> None:
    assert words in refused(tmp_path, rows=rows)


def test_a_model_in_memory_needs_its_tokenizer(tmp_path: Path) -> None:
    assert "processing_class" in mistake(SDFTTrainer, student(), make_config(tmp_path), ROWS)


def test_answers_that_would_never_end(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = str(tokenizer.chat_template).replace("<|end|>", "<|done|>")
    model = student(vocab_size=len(tokenizer))
    message = mistake(SDFTTrainer, model, make_config(tmp_path), ROWS, tokenizer)
    assert message.startswith("The chat template ends an answer with '<|done|>', which holds no token that ends")
    SDFTTrainer(model, make_config(tmp_path, method="cpt"), ROWS, tokenizer)  # no chat, no turns


def test_processes_that_did_not_find_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would train as if alone, and write into the same folder."""
    monkeypatch.setattr(SDFTConfig, "world_size", property(lambda _: 2))
    said = mistake(make_config, tmp_path)
    assert said.startswith("WORLD_SIZE=1, but transformers found 2 processes on cpu. Start with torchrun ")


@pytest.mark.parametrize("wrapper", [torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel])
def test_a_wrapped_model(tmp_path: Path, wrapper: Any) -> None:
    wrapped = wrapper.__new__(wrapper)  # __init__ would need GPUs, or other processes
    torch.nn.Module.__init__(wrapped)
    said = refused(tmp_path, model=wrapped)
    assert said.startswith(f"The model is wrapped in {wrapper.__name__}: give the model itself. torchrun ")


def test_of_several_gpus_one_is_used_and_that_is_said(tmp_path: Path) -> None:
    """transformers would take twice the prompts in a step."""
    config = make_config(tmp_path)
    config._n_gpu = 2
    with pytest.warns(UserWarning, match="2 GPUs are visible; one of them is used"):
        trainer = SDFTTrainer(student(), config, ROWS, byte_tokenizer())
    assert trainer.args.n_gpu == 1
    assert trainer.args.train_batch_size == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        SDFTTrainer(student(), config, ROWS, byte_tokenizer())  # said once


def test_reinvoke_needs_the_model_to_distil_from(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="base_weights"):
        make_trainer(tmp_path, method="reinvoke")
