"""SDFTTrainer on a tiny model: the update by hand, accumulation, nothing to learn, the Python API."""

import json
from dataclasses import replace

import pytest
import torch

import selfdistill
from selfdistill import SDFTConfig, SDFTTrainer
from selfdistill.method.divergence import divergence
from selfdistill.types import Rollout, UserError

ROWS = [{"prompt": f"What is {n}?", "demonstration": f"It is {n}."} for n in range(8)]


class Scripted:
    """An engine whose completions are a function of the prompt, so that runs can be compared."""

    def __init__(self, length=lambda prompt: 3 + len(prompt) % 3, finish="stop"):
        self.length, self.finish = length, finish

    def generate(self, prompts, sampling):
        rollouts = []
        for prompt in prompts:
            generator = torch.Generator().manual_seed(sum(prompt))
            ids = torch.randint(60, 90, (self.length(prompt),), generator=generator).tolist()
            rollouts.append(Rollout(completion_ids=tuple(ids), finish_reason=self.finish))
        return rollouts


@pytest.fixture
def build(tiny_model, tokenizer, tmp_path):
    def make(name="run", engine=None, dtype=torch.float32, rows=ROWS, **settings):
        defaults = {
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "max_completion_length": 8,
            "template": "prior_turn",
            "max_steps": 1,
            "learning_rate": 1e-2,
            "warmup_steps": 0,
            "lr_scheduler_type": "constant",
            "optim": "sgd",
            "max_grad_norm": 0.0,
        }
        config = SDFTConfig(output_dir=str(tmp_path / name), **{**defaults, **settings})
        model = tiny_model("llama", vocab_size=300, max_position_embeddings=512, dtype=dtype)
        return SDFTTrainer(model, config, rows, tokenizer, engine=engine or Scripted())

    return make


def weights(trainer):
    return {name: p.detach().float().clone() for name, p in trainer.model.named_parameters()}


def test_one_step_is_gradient_descent_on_the_mean_over_rollouts_of_mean_kl(build, tiny_model):
    trainer = build()
    model = tiny_model("llama", vocab_size=300, max_position_embeddings=512)
    losses = []
    for pair in trainer.train_dataset:
        (rollout,) = Scripted().generate([pair.student_ids], None)
        ids = rollout.completion_ids
        student, teacher = (
            model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            for prompt in (pair.student_ids, pair.teacher_ids)
        )
        losses.append(divergence(student, teacher.detach(), kind="forward_kl").mean())
    loss = torch.stack(losses).mean()
    loss.backward()
    expected = {name: p.detach() - 1e-2 * p.grad for name, p in model.named_parameters()}
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(float(loss), rel=1e-4)
    for name, weight in weights(trainer).items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["sdft", "sft", "dft", "cpt", "offline"])
def test_micro_batches_change_nothing(build, method):
    found = []
    for size, count in ((8, 1), (2, 4), (1, 8)):
        name = f"{method}-{count}"
        settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": count, "method": method}
        trainer = build(name, **settings, max_completion_length=64)
        before = weights(trainer)
        trainer.train()
        found.append(weights(trainer))
        assert any(not torch.equal(before[key], value) for key, value in found[-1].items())
    for other in found[1:]:
        for name, weight in found[0].items():
            torch.testing.assert_close(other[name], weight, rtol=1e-5, atol=1e-6)


def test_nothing_to_learn_changes_nothing(build):
    trainer = build(engine=Scripted(finish="length"), mask_truncated_completions=True, optim="adamw_torch", max_steps=2)
    before = weights(trainer)
    trainer.train()
    assert all(torch.equal(before[name], weight) for name, weight in weights(trainer).items())
    assert trainer.state.global_step == 2


def test_a_micro_batch_with_nothing_to_learn_is_passed_over(build):
    """Half the rollouts have no loss token left: the step is that of the other half alone."""
    short = Scripted(length=lambda prompt: 1 if sum(prompt) % 2 else 6)
    trainer = build(
        engine=short, num_loss_tokens_to_skip=2, per_device_train_batch_size=1, gradient_accumulation_steps=8
    )
    kept = [pair for pair in trainer.train_dataset if sum(pair.student_ids) % 2 == 0]
    assert 0 < len(kept) < 8
    rows = [row for row, pair in zip(ROWS, trainer.train_dataset, strict=True) if pair in kept]
    alone = build(
        "alone",
        engine=short,
        rows=rows,
        num_loss_tokens_to_skip=2,
        per_device_train_batch_size=len(rows),
        gradient_accumulation_steps=1,
    )
    trainer.train()
    alone.train()
    for name, weight in weights(alone).items():
        torch.testing.assert_close(weights(trainer)[name], weight, rtol=1e-5, atol=1e-6)


def test_bf16_training_moves_an_ema_teacher(build):
    """32 small steps: rounded to bf16 at every step, neither student nor teacher would move as fp32 ones do."""
    settings = {"max_steps": 32, "learning_rate": 1e-4, "optim": "adamw_torch", "teacher_update_rate": 0.01}
    trainer = build(dtype=torch.bfloat16, num_train_epochs=32, **settings)
    start = {name: master.detach().clone() for name, _, master in trainer.masters.items()}
    trainer.train()
    average = trainer.teachers["teacher"].state_dict()
    moved = torch.cat([(average[name] - start[name]).flatten() for name in start])
    distance = torch.cat([(m.detach() - start[name]).flatten() for name, _, m in trainer.masters.items()])
    share = float(moved.norm() / distance.norm())
    # a student that walks straight for n steps of length 1 leads its average by about n - 1/a (1 - (1 - a)^n):
    # after 32 steps at a = 0.01 the average has come 14% of the way
    assert 0.08 < share < 0.25
    assert average[next(iter(start))].dtype == torch.float32


def test_records_of_a_run(build):
    trainer = build(rollouts_logged_per_step=None, max_steps=2)
    trainer.train()
    folder = trainer.recorder.folder
    rollouts = [json.loads(line) for line in (folder / "rollouts.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rollouts] == [1] * 8 + [2] * 8
    assert all(len(row["per_token_kl"]) == len(row["loss_positions"]) for row in rollouts)
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in steps if "loss" in row] == [1, 2]
    mean = sum(sum(r["per_token_kl"]) / len(r["per_token_kl"]) for r in rollouts[:8]) / 8
    assert steps[0]["loss"] == pytest.approx(mean, rel=1e-3)


@pytest.mark.parametrize("kind", ["frozen", "ema", "live"])
def test_teacher_kinds(build, kind):
    trainer = build(teacher=kind, teacher_update_rate=0.5, max_steps=1)
    start = weights(trainer)
    trainer.train()
    end = weights(trainer)
    with trainer.teachers["teacher"].active():
        seen = weights(trainer)
    share = {"frozen": 0.0, "ema": 0.5, "live": 1.0}[kind]
    for name in start:
        torch.testing.assert_close(seen[name], start[name] + share * (end[name] - start[name]))


class Mismatched(Scripted):
    """Reports logprobs that are lower than the trainer's, so that every importance weight is capped or halved."""

    def __init__(self, logprob):
        super().__init__()
        self.logprob = logprob

    def generate(self, prompts, sampling):
        rollouts = super().generate(prompts, sampling)
        return [replace(r, logprobs=(self.logprob,) * len(r.completion_ids)) for r in rollouts]


def test_sampler_correction_is_the_capped_weight_averaged_over_a_rollout(build):
    plain = build("plain")
    plain.train()
    loss = plain.state.log_history[0]["loss"]
    # a sampler that found every token next to impossible: all weights hit the cap
    capped = build("capped", engine=Mismatched(-1000.0), sampler_correction_cap=2.0)
    capped.train()
    assert capped.state.log_history[0]["loss"] == pytest.approx(2 * loss, rel=1e-5)
    assert capped.state.log_history[0]["importance_weight"] == pytest.approx(2.0)
    off = build("off", engine=Mismatched(-1000.0), sampler_correction_cap=None)
    off.train()
    assert off.state.log_history[0]["loss"] == pytest.approx(loss, rel=1e-5)
    # a sampler that was certain: weights are the trainer's own probabilities, below 1
    certain = build("certain", engine=Mismatched(0.0))
    certain.train()
    assert 0 < certain.state.log_history[0]["importance_weight"] < 0.5


def test_several_processes_are_refused(build, monkeypatch):
    monkeypatch.setattr(SDFTConfig, "world_size", property(lambda _: 2))
    with pytest.raises(UserError, match="2 processes"):
        build()


def test_public_names():
    assert selfdistill.SDFTTrainer is SDFTTrainer
    with pytest.raises(AttributeError, match="no attribute 'Trainer'"):
        _ = selfdistill.Trainer


def test_a_model_in_memory_needs_its_tokenizer(tiny_model, tmp_path):
    with pytest.raises(UserError, match="processing_class"):
        SDFTTrainer(tiny_model(), SDFTConfig(output_dir=str(tmp_path)), ROWS)
