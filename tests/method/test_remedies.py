"""What a run that does not fit is told to change, and in which order."""

import pytest

from selfdistill.method.remedies import Change, remedies
from selfdistill.settings.method import MethodConfig


def flags(*, lora_r: int | None = None, on_cpu: bool = False, **settings: object) -> list[str]:
    args = MethodConfig(**settings)  # type: ignore[arg-type]
    return [change.flags for change in remedies(args, lora_r, None, on_cpu=on_cpu)]


def test_what_changes_no_number_comes_first_alone_and_together_then_each_of_the_rest_with_all_of_it() -> None:
    exact = "--activation_checkpointing --teacher_home host"
    assert flags(per_device_train_batch_size=1) == [
        "--activation_checkpointing",
        "--teacher_home host",
        exact,
        "--optim paged_adamw_8bit",
        f"{exact} --optim paged_adamw_8bit",
        "--teacher frozen",
        f"{exact} --teacher frozen",
        "--optim paged_adamw_8bit --teacher frozen",
        f"{exact} --optim paged_adamw_8bit --teacher frozen",
        "--lora_r 16",
        f"{exact} --lora_r 16",
        "--lora_r 16 --quantize 4bit",
        f"{exact} --lora_r 16 --quantize 4bit",
    ]


def test_micro_batches_are_halved_and_the_step_keeps_its_prompts() -> None:
    found = list(
        remedies(MethodConfig(per_device_train_batch_size=8, gradient_accumulation_steps=3), None, None, on_cpu=True)
    )
    halved = [(c.settings["per_device_train_batch_size"], c.settings["gradient_accumulation_steps"]) for c in found[:3]]
    assert halved == [(4, 6), (2, 12), (1, 24)]


@pytest.mark.parametrize(
    ("settings", "absent"),
    [
        ({"on_cpu": True}, ["--teacher_home host", "--optim paged_adamw_8bit"]),
        ({"activation_checkpointing": True}, ["--activation_checkpointing"]),
        ({"teacher": "frozen"}, ["--teacher frozen"]),
        ({"method": "sft"}, ["--teacher frozen", "--teacher_home host"]),
        ({"optim": "sgd"}, ["--optim paged_adamw_8bit"]),
        ({"lora_r": 8}, ["--optim paged_adamw_8bit", "--lora_r 16"]),
        ({"method": "reinvoke"}, ["--teacher frozen", "--lora_r 16", "--quantize 4bit"]),
    ],
)
def test_nothing_is_proposed_that_would_change_nothing_or_be_refused(
    settings: dict[str, object], absent: list[str]
) -> None:
    found = " ".join(flags(**settings))  # type: ignore[arg-type]
    assert [words for words in absent if words in found] == []


def test_an_adapter_may_be_quantized_once() -> None:
    assert flags(lora_r=8)[-1].endswith("--quantize 4bit")
    assert not any(c.quantize for c in remedies(MethodConfig(), 8, "8bit", on_cpu=False))


def test_both_of_two_changes() -> None:
    both = Change(flags="--a", settings={"x": 1}, lora_r=4) + Change(flags="--b", settings={"y": 2}, quantize="4bit")
    assert both == Change(flags="--a --b", settings={"x": 1, "y": 2}, lora_r=4, quantize="4bit")


def test_nothing_is_offered_that_a_split_model_refuses() -> None:
    args = MethodConfig(shard_weights=True)
    offered = " ".join(change.flags for change in remedies(args, None, None, on_cpu=False))
    assert "--teacher frozen" in offered
    assert "--lora_r" in offered
    assert not any(flag in offered for flag in ("--teacher_home", "--optim", "--quantize"))
