"""The step without transformers' Trainer around it, and what it says of its cost."""

import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

from selfdistill.method.rows import anchor_pairs, training_pairs
from selfdistill.method.step import Step
from tests.support.engines import Scripted, stopped
from tests.support.tiny import byte_tokenizer
from tests.support.training import ROWS, make_config, make_trainer, script, student

ANCHORS = [{"prompt": f"Say {n} words."} for n in range(3)]


def loop() -> str:
    """The code in the docstring of Step."""
    assert Step.__doc__ is not None
    _, _, after = Step.__doc__.partition("is a list of lists of pairs::\n")
    code, _, _ = after.partition("\n    The optimizer is made for")
    assert code.strip()
    return textwrap.dedent(code)


def watched(step: Step) -> tuple[list[Any], list[float]]:
    """The pairs of every step, and the loss of every micro-batch, from now on."""
    batches: list[Any] = []
    losses: list[float] = []
    rollout, learn = step.rollout, step.learn

    def noted_rollout(pairs: Any, number: int) -> Any:
        batches.append(list(pairs))
        return rollout(pairs, number)

    def noted_learn(*arguments: Any) -> Any:
        loss = learn(*arguments)
        losses.append(float(loss))
        return loss

    step.rollout, step.learn = noted_rollout, noted_learn  # type: ignore[method-assign]
    return batches, losses


@pytest.mark.parametrize(
    "settings",
    [
        {"teacher_update_rate": 0.5},
        {"teacher": "frozen", "anchor_share": 0.34},
        {"method": "sft", "anchor_share": 0.2, "max_completion_length": 64},
        {"method": "offline", "teacher": "live"},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loop_in_the_docstring_learns_as_the_trainer_does(
    tmp_path: Path, dtype: torch.dtype, settings: dict[str, Any]
) -> None:
    chosen = {**settings, "max_steps": 3, "num_train_epochs": 3}
    trainer = make_trainer(tmp_path, model=student(dtype), options={"anchor_dataset": ANCHORS}, **chosen)
    batches, losses = watched(trainer.step)
    trainer.train()
    assert len(batches) == 3
    assert len(losses) == 6
    assert len(set(losses)) == 6

    model, tokenizer = student(dtype), byte_tokenizer()
    config = make_config(tmp_path, **chosen)
    anchors = anchor_pairs(ANCHORS, config, tokenizer, model.config)
    step = Step(model, tokenizer, config, anchors=anchors, engine=Scripted(script()))
    _, found = watched(step)
    optimizer = torch.optim.SGD([master for _, _, master in step.masters.items()], lr=config.learning_rate)
    exec(loop(), {"step": step, "batches": batches, "optimizer": optimizer, "count": 2})
    assert found == losses
    assert all(torch.equal(p, trainer.model.get_parameter(name)) for name, p in model.named_parameters())


def test_the_loop_leaves_the_model_to_others(tmp_path: Path) -> None:
    """Outside ``attached`` gradients are the parameters' own again."""
    model, tokenizer = student(torch.bfloat16), byte_tokenizer()
    config = make_config(tmp_path)
    step = Step(model, tokenizer, config, engine=Scripted(script()))
    batches = [training_pairs(ROWS, config, tokenizer, model.config)]
    optimizer = torch.optim.SGD([master for _, _, master in step.masters.items()], lr=1e-2)
    exec(loop(), {"step": step, "batches": batches, "optimizer": optimizer, "count": 1})
    ids = torch.tensor([[3, 4, 5]])
    model(input_ids=ids, labels=ids).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


# -- cost ------------------------------------------------------------------------------------------


def flops(tmp_path: Path, method: str, **settings: Any) -> tuple[int, int]:
    """FLOPs of one step of one row with a prompt of p, a teacher's prompt of t, and c completion tokens; and those of
    a pass of one token."""
    tokenizer, model = byte_tokenizer(), student()
    rows = [{"prompt": "What?", "demonstration": "It."}]
    config = make_config(tmp_path, method=method, max_completion_length=64, **settings)
    pairs = training_pairs(rows, config, tokenizer, model.config)
    base = dict(model.named_parameters()) if method == "reinvoke" else None
    anchors = anchor_pairs([{"prompt": "Well?!"}], config, tokenizer, model.config)
    step = Step(
        model, tokenizer, config, engine=Scripted(lambda _: stopped(70, 71)), base_weights=base, anchors=anchors
    )
    (micro_batch,) = step.micro_batches(step.rollout(pairs, 0), 1)
    head_and_layers = sum(p.numel() for name, p in model.named_parameters() if "embed_tokens" not in name)
    return step.flops(micro_batch), head_and_layers


# "[user] What?<|end|>\n[assistant] ": 7 + 5 + 1 + 1 + 12 = 26 tokens. The earlier turn that the teacher is shown first
# is the same with "It.<|end|>\n" after it: 26 + 3 + 1 + 1 = 31, and 57 with the question again.
P, T, C = 26, 57, 2


@pytest.mark.parametrize(
    ("method", "passes"),
    [
        pytest.param("sdft", 2 * (P + C) + 2 * (T + C) + 6 * (P + C), id="sampled by the student"),
        pytest.param("offline", 2 * (T + C) + 2 * (T + C) + 6 * (P + C), id="sampled by the teacher"),
        pytest.param("reinvoke", 2 * (P + C) + 2 * (P + C) + 6 * (P + C), id="the teacher reads what the student does"),
        pytest.param("sft", 6 * (P + 4), id="the demonstration and its end: nothing is sampled or compared"),
    ],
)
def test_flops_count_the_passes_of_each_method(tmp_path: Path, method: str, passes: int) -> None:
    found, weight = flops(tmp_path, method)
    assert found == passes * weight


def test_an_anchor_counts_its_own_passes_beside_a_demonstration(tmp_path: Path) -> None:
    one = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 1}
    found, weight = flops(tmp_path, "sft", anchor_share=0.5, **one)
    anchor = 27 + C  # "Well?!" has one character more than "What?"
    assert found == (6 * (P + 4) + (2 + 2 + 6) * anchor) * weight


def test_anchors_without_prompts_are_refused(tmp_path: Path) -> None:
    config = make_config(tmp_path, anchor_share=0.5)
    with pytest.raises(ValueError, match="no anchor prompts"):
        Step(student(), byte_tokenizer(), config)


def test_reinvoke_without_a_base_is_refused(tmp_path: Path) -> None:
    config = make_config(tmp_path, method="reinvoke")
    with pytest.raises(ValueError, match="needs base_weights"):
        Step(student(), byte_tokenizer(), config)
