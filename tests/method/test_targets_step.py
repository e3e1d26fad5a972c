"""Targets and token weights in a training step: the loss against whole logits of whole models, and short runs."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from selfdistill.method.rows import training_pairs
from selfdistill.method.step import Step
from tests.support.dense_oracle import dense_target
from tests.support.engines import Scripted
from tests.support.tiny import byte_tokenizer
from tests.support.training import ROWS, make_config, make_trainer, script, steps, student, weights

ANCHORS = [{"prompt": f"Say {n} words."} for n in range(3)]
TARGETS: list[dict[str, Any]] = [
    {"target": "mix", "target_weight": 0.3},
    {"target": "mix", "target_reference": "student"},
    {"target": "budget", "target_budget": 0.2},
    {"target": "contrast"},
]
WEIGHTS: list[dict[str, Any]] = [
    {"token_weight": "support"},
    {"token_weight": "position", "token_weight_half_life": 2.0},
    {"token_weight": "late", "token_weight_half_life": 2.0},
    {"token_weight": "entropy"},
]
BOUNDS: list[dict[str, Any]] = [{"vocab_clip": 0.02}]
PLAIN: dict[str, Any] = {"target": "teacher"}


def name(settings: dict[str, Any]) -> str:
    return "-".join(map(str, settings.values()))


def probabilities(model: Any, prompt: Sequence[int], ids: Sequence[int]) -> Tensor:
    """[tokens, V] in fp64: the model's distributions of every completion token."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *ids]])).logits
    return logits[0, len(prompt) - 1 : -1].double().softmax(-1)


def noisy(model: Any, seed: int) -> Any:
    """A copy of the model with other weights."""
    torch.manual_seed(seed)
    other = copy.deepcopy(model)
    for parameter in other.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return other


def three_models(folder: Path, settings: dict[str, Any]) -> tuple[Step, dict[str, Any], Any]:
    """A step whose start model, student and teacher differ, the three as models of their own, and its rows."""
    model, tokenizer = student(), byte_tokenizer()
    config = make_config(folder, **settings)
    pairs = training_pairs(ROWS, config, tokenizer, model.config)
    step = Step(model, tokenizer, config, rows=pairs, engine=Scripted(script()))
    models = {"start": copy.deepcopy(model), "student": noisy(model, 1), "teacher": noisy(model, 2)}
    for key, parameter in models["student"].named_parameters():
        step.masters.set_value(key, parameter.data)
    step.teachers["teacher"].load_state_dict(dict(models["teacher"].named_parameters()))
    return step, models, pairs


@pytest.mark.parametrize("settings", [PLAIN, *TARGETS], ids=name)
def test_the_loss_is_that_of_whole_logits(tmp_path: Path, settings: dict[str, Any]) -> None:
    step, models, pairs = three_models(tmp_path, settings)
    samples = step.rollout(pairs, 0)
    numbers = {key: settings[f"target_{key}"] for key in ("weight", "budget") if f"target_{key}" in settings}
    target = dense_target(settings["target"], **numbers)
    means = []
    for sample in samples:
        ids, asked = sample.rollout.completion_ids, sample.pair.student_ids
        q = probabilities(models["student"], asked, ids)
        p = probabilities(models["teacher"], sample.teacher_ids, ids)
        others = []
        if settings["target"] == "contrast" or (settings["target"] == "mix" and "target_reference" not in settings):
            others.append(probabilities(models["start"], asked, ids))
        if settings["target"] == "contrast":
            assert sample.other_ids is not None
            others.append(probabilities(models["teacher"], sample.other_ids, ids))
        t = p if target is None else target(q, p, *others)
        means.append((t * (t / q).log()).sum(-1).mean())
    found = sum(float(step.learn(batch)) for batch in step.micro_batches(samples, 3))
    assert found == pytest.approx(float(torch.stack(means).mean()), rel=1e-3)


@pytest.mark.parametrize("settings", WEIGHTS, ids=name)
def test_a_token_counts_by_its_weight(tmp_path: Path, settings: dict[str, Any]) -> None:
    step, models, pairs = three_models(tmp_path, {**settings, "num_loss_tokens_to_skip": 1, "temperature": 0.8})
    samples = step.rollout(pairs, 0)
    parts: list[Any] = []
    step.on_part = lambda part, loss: parts.append((part, loss))
    found = sum(float(step.learn(batch)) for batch in step.micro_batches(samples, 2))
    losses, seen = [], []
    for sample in samples:
        ids = sample.rollout.completion_ids
        q, p = (
            (probabilities(models[who], prompt, ids).log() / 0.8).softmax(-1)[1:]
            for who, prompt in (("student", sample.pair.student_ids), ("teacher", sample.teacher_ids))
        )
        places = torch.arange(1, len(ids)).double()
        drawn = torch.tensor(ids[1:])[:, None]
        supported = (p.gather(1, drawn) / q.gather(1, drawn)).clamp(max=1)[:, 0]
        factor = {
            "support": torch.cat([torch.ones(1), supported.cumprod(0)[:-1]]),
            "position": 2 ** (-places / 2),
            "late": 1 - 2 ** (-(places + 1) / 2),
            "entropy": torch.exp((p * p.log()).sum(-1)),
        }[settings["token_weight"]]
        losses.append((factor * (p * (p / q).log()).sum(-1)).mean())
        seen.append((p * (p / q).log()).sum(-1))
    assert found == pytest.approx(float(torch.stack(losses).mean()), rel=1e-4)
    of_sample = {part.samples[i].pair.example.id: v for part, loss in parts for i, v in split(part, loss)}
    for sample, values in zip(samples, seen, strict=True):  # what is logged is not weighted
        torch.testing.assert_close(of_sample[sample.pair.example.id].double(), values, rtol=1e-3, atol=1e-5)


def split(part: Any, loss: Any) -> Any:
    return enumerate(loss.per_token.split(part.counts))


# -- runs ------------------------------------------------------------------------------------------


def run(folder: Path, **settings: Any) -> tuple[list[float], dict[str, Tensor]]:
    """Losses and weights of three steps of eight rows."""
    trainer = make_trainer(folder, **{"max_steps": 3, "num_train_epochs": 3, **settings})
    trainer.train()
    return [line["loss"] for line in steps(folder)], weights(trainer)


@pytest.mark.parametrize("settings", [*TARGETS, *WEIGHTS, *BOUNDS], ids=name)
def test_three_steps_learn_and_are_not_those_of_the_teacher(tmp_path: Path, settings: dict[str, Any]) -> None:
    plain, untouched = run(tmp_path / "plain", learning_rate=2e-3)
    losses, after = run(tmp_path / "run", learning_rate=2e-3, **settings)
    assert all(0 < loss < 20 for loss in losses)
    assert losses[-1] < losses[0]
    assert all(one != other for one, other in zip(losses, plain, strict=True))
    assert any(not torch.equal(untouched[key], value) for key, value in after.items())


@pytest.mark.parametrize("settings", [*TARGETS, *WEIGHTS], ids=name)
def test_micro_batches_change_nothing(tmp_path: Path, settings: dict[str, Any]) -> None:
    _, whole = run(tmp_path / "one", per_device_train_batch_size=8, gradient_accumulation_steps=1, **settings)
    _, pieces = run(tmp_path / "four", per_device_train_batch_size=2, gradient_accumulation_steps=4, **settings)
    for key, value in whole.items():
        torch.testing.assert_close(pieces[key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("settings", [*TARGETS, *WEIGHTS], ids=name)
def test_anchor_prompts_are_held_to_the_start_model_whatever_the_target(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    shared = {"anchor_share": 0.34, "max_steps": 1, "options": {"anchor_dataset": ANCHORS}}
    rates = {"learning_rate": 1e-1, "max_steps": 2, "num_train_epochs": 2}
    for folder, more in (("plain", {}), ("run", settings)):
        make_trainer(tmp_path / folder, **{**shared, **rates, **more}).train()
    plain, found = (steps(tmp_path / folder) for folder in ("plain", "run"))
    assert found[0]["anchor_divergence"] == plain[0]["anchor_divergence"] == pytest.approx(0, abs=1e-6)
    assert found[1]["anchor_divergence"] > 1e-4
    assert found[0]["divergence"] > 0.01


@pytest.mark.parametrize("kind", ["ema", "frozen", "live"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_homes_give_the_same_numbers(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    found = [
        run(tmp_path / home, model=student(dtype), target="contrast", teacher=kind, teacher_home=home)
        for home in ("device", "host")
    ]
    assert found[0][0] == found[1][0]
    assert all(torch.equal(found[1][1][key], value) for key, value in found[0][1].items())


def test_the_weights_of_tokens_are_logged(tmp_path: Path) -> None:
    run(tmp_path, token_weight="position", token_weight_half_life=1.0, max_completion_length=3, max_steps=1)
    lengths = steps(tmp_path)[0]["loss_tokens"]
    assert 0 < steps(tmp_path)[0]["token_weight"] < 2 / lengths  # 1 + 1/2 + 1/4 + ... a completion
    run(tmp_path / "plain", max_steps=1)
    assert "token_weight" not in steps(tmp_path / "plain")[0]


@pytest.mark.parametrize(
    ("settings", "passes"),
    [(TARGETS[0], ["start"]), (TARGETS[1], []), (TARGETS[2], []), (TARGETS[3], ["start", "other"])],
    ids=lambda value: name(value) if isinstance(value, dict) else "",
)
def test_further_passes_are_counted(tmp_path: Path, settings: dict[str, Any], passes: list[str]) -> None:
    counts = []
    for more in (PLAIN, settings):
        step, _, pairs = three_models(tmp_path, more)
        samples = step.rollout(pairs, 0)
        (batch,) = step.micro_batches(samples, 1)
        counts.append((step.flops(batch), batch.samples))
    (plain, _), (found, samples) = counts
    model = student()
    weight = sum(p.numel() for key, p in model.named_parameters() if "embed_tokens" not in key)
    tokens = {
        "start": sum(sample.student_tokens for sample in samples),
        "other": sum(len(s.other_ids or ()) + len(s.rollout.completion_ids) for s in samples),
    }
    assert found - plain == 2 * weight * sum(tokens[name] for name in passes)
