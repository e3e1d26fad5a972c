"""SDFTTrainer on a tiny model: the update by hand, accumulation, nothing to learn, teachers, importance weights."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import selfdistill
from selfdistill import SDFTTrainer
from selfdistill.method.accepted import where_to_load
from selfdistill.method.divergence import divergence
from tests.support.engines import Scripted
from tests.support.tiny import byte_tokenizer
from tests.support.training import ROWS, lines, make_trainer, script, steps, student, weights


def test_one_step_is_gradient_descent_on_the_mean_over_rollouts_of_mean_kl(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    model = student()
    pairs: Any = trainer.train_dataset
    losses = []
    for pair in pairs:
        ids = script()(pair.student_ids).completion_ids
        one, other = (
            model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            for prompt in (pair.student_ids, pair.teacher_ids)
        )
        losses.append(divergence(one, other.detach(), kind="forward_kl").mean())
    loss = torch.stack(losses).mean()
    loss.backward()
    expected = {name: p.detach() - 1e-2 * p.grad for name, p in model.named_parameters()}
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(loss.item(), rel=1e-4)
    for name, weight in weights(trainer).items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["sdft", "sft", "dft", "cpt", "offline"])
def test_micro_batches_change_nothing(tmp_path: Path, method: str) -> None:
    found = []
    for size, count in ((8, 1), (2, 4), (1, 8)):
        settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": count, "method": method}
        trainer = make_trainer(tmp_path / str(count), **settings, max_completion_length=64)
        before = weights(trainer)
        trainer.train()
        found.append(weights(trainer))
        assert any(not torch.equal(before[key], value) for key, value in found[-1].items())
    for other in found[1:]:
        for name, weight in found[0].items():
            torch.testing.assert_close(other[name], weight, rtol=1e-5, atol=1e-6)


def test_nothing_to_learn_changes_nothing(tmp_path: Path) -> None:
    cut = Scripted(script(finish="length"))
    settings = {"mask_truncated_completions": True, "optim": "adamw_torch", "max_steps": 2}
    trainer = make_trainer(tmp_path, engine=cut, **settings)
    before = weights(trainer)
    trainer.train()
    assert all(torch.equal(before[name], weight) for name, weight in weights(trainer).items())
    assert trainer.state.global_step == 2


def test_a_micro_batch_with_nothing_to_learn_is_passed_over(tmp_path: Path) -> None:
    """Half the rollouts have no loss token left: the step is that of the other half alone."""
    short = Scripted(script(length=lambda prompt: 1 if sum(prompt) % 2 else 6))
    one = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8}
    trainer = make_trainer(tmp_path / "all", engine=short, num_loss_tokens_to_skip=2, **one)
    pairs: Any = trainer.train_dataset
    rows = [row for row, pair in zip(ROWS, pairs, strict=True) if sum(pair.student_ids) % 2 == 0]
    assert 0 < len(rows) < 8
    together = {"per_device_train_batch_size": len(rows), "gradient_accumulation_steps": 1}
    alone = make_trainer(tmp_path / "alone", engine=short, rows=rows, num_loss_tokens_to_skip=2, **together)
    trainer.train()
    alone.train()
    for name, weight in weights(alone).items():
        torch.testing.assert_close(weights(trainer)[name], weight, rtol=1e-5, atol=1e-6)


def test_bf16_training_moves_an_ema_teacher(tmp_path: Path) -> None:
    """32 small steps: rounded to bf16 at every step, neither student nor teacher would move as fp32 ones do."""
    settings = {"max_steps": 32, "learning_rate": 1e-4, "optim": "adamw_torch", "teacher_update_rate": 0.01}
    trainer = make_trainer(tmp_path, model=student(torch.bfloat16), num_train_epochs=32, **settings)
    masters = trainer.step.masters
    start = {name: masters.value(name).clone() for name in masters.parameters}
    trainer.train()
    average = trainer.step.teachers["teacher"].state_dict()
    moved = torch.cat([(average[name] - start[name]).flatten() for name in start])
    distance = torch.cat([(masters.value(name) - start[name]).flatten() for name in start])
    share = float(moved.norm() / distance.norm())
    # a student that walks straight for n steps of length 1 leads its average by about n - 1/a (1 - (1 - a)^n):
    # after 32 steps at a = 0.01 the average has come 14% of the way
    assert 0.08 < share < 0.25
    assert average[next(iter(start))].dtype == torch.float32


def test_what_a_run_leaves(tmp_path: Path) -> None:
    make_trainer(tmp_path, rollouts_logged_per_step=None, max_steps=2).train()
    rollouts = lines(tmp_path, "rollouts.jsonl")
    assert [row["step"] for row in rollouts] == [1] * 8 + [2] * 8
    assert all(len(row["per_token_kl"]) == len(row["loss_positions"]) for row in rollouts)
    metrics = steps(tmp_path)
    assert [row["step"] for row in metrics] == [1, 2]
    mean = sum(sum(r["per_token_kl"]) / len(r["per_token_kl"]) for r in rollouts[:8]) / 8
    assert metrics[0]["loss"] == pytest.approx(mean, rel=1e-3)


@pytest.mark.parametrize("kind", ["ema", "frozen"])
def test_a_teacher_on_the_host_changes_nothing(tmp_path: Path, kind: str) -> None:
    ends = []
    for home in ("device", "host"):
        settings = {"teacher": kind, "teacher_home": home, "max_steps": 3, "learning_rate": 1e-2}
        trainer = make_trainer(tmp_path / home, model=student(torch.bfloat16), **settings)
        trainer.train()
        losses = [row["loss"] for row in steps(tmp_path / home)]
        ends.append((losses, weights(trainer), trainer.step.teachers["teacher"].state_dict()))
    (losses, here, teacher), (others, there, other) = ends
    assert losses == others
    assert all(torch.equal(here[name], there[name]) for name in here)
    assert all(torch.equal(teacher[name], other[name]) for name in teacher)


def test_the_teacher_scores_the_whole_step_before_any_gradient_exists(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_steps=2, options={"anchor_dataset": ROWS}, anchor_share=0.5)
    phase, seen = trainer.timer.phase, list[str]()

    def watched(name: str) -> Any:
        seen.append(name)
        if name == "teacher":
            assert all(master.grad is None for master in trainer.step.masters.masters.values())
        return phase(name)

    trainer.timer.phase = watched  # type: ignore[method-assign]
    trainer.train()
    assert seen.count("teacher") == 2 * 2  # in each step the teacher, and the start model for the anchors
    assert seen[:3] == ["rollout", "teacher", "teacher"]


@pytest.mark.parametrize(("kind", "share"), [("frozen", 0.0), ("ema", 0.5), ("live", 1.0)])
def test_teacher_kinds(tmp_path: Path, kind: str, share: float) -> None:
    rate = {"teacher_update_rate": 0.5} if kind == "ema" else {}
    trainer = make_trainer(tmp_path, teacher=kind, **rate)
    start = weights(trainer)
    trainer.train()
    end = weights(trainer)
    with trainer.step.teachers["teacher"].active():
        seen = weights(trainer)
    for name in start:
        torch.testing.assert_close(seen[name], start[name] + share * (end[name] - start[name]))


def test_the_teacher_begins_at_the_weights_that_training_begins_with(tmp_path: Path) -> None:
    """Weights that are loaded between building the trainer and training are what is trained, and who teaches."""
    for dtype in (torch.float32, torch.bfloat16):
        trainer = make_trainer(tmp_path / str(dtype), model=student(dtype), teacher="frozen", learning_rate=0.0)
        other = {name: p.detach() * 0.5 for name, p in trainer.model.named_parameters()}
        trainer.model.load_state_dict(other)
        trainer.train()
        with trainer.step.teachers["teacher"].active():
            teacher = weights(trainer)
        for name, weight in weights(trainer).items():
            assert torch.equal(weight, other[name].float())
            assert torch.equal(teacher[name], other[name].float())


def test_a_model_given_by_name_is_loaded_on_the_training_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where another device would be the default."""
    asked: list[Any] = []

    def load(name: str, **options: Any) -> Any:
        asked.append((name, options))
        return student()

    monkeypatch.setattr("selfdistill.method.accepted.load_model", load)
    make_trainer(tmp_path, model="a-name", use_cpu=True)
    assert asked == [("a-name", {"dtype": "auto", "device": "cpu"})]


def test_a_model_that_will_be_split_is_read_on_the_host() -> None:
    """In the dtype of the training device, of which the model may be too large for one."""
    args: Any = SimpleNamespace(shard_weights=True, device=torch.device("cuda"))
    assert where_to_load("bfloat16", args) == {"dtype": "bfloat16", "device": "cpu"}


def test_a_padding_token_that_the_model_does_not_know(tmp_path: Path) -> None:
    """As after adding one to the tokenizer without resizing the model's embeddings."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    model = student(vocab_size=len(tokenizer) - 1)
    for engine in ("own", "generate"):
        rows = [{"prompt": "?" * n, "demonstration": "!"} for n in range(1, 9)]
        trainer = make_trainer(tmp_path / engine, model=model, rows=rows, tokenizer=tokenizer, rollout_engine=engine)
        trainer.train()
        assert trainer.state.global_step == 1


# -- importance weights ------------------------------------------------------------------------------


def loss(folder: Path, engine: Scripted, **settings: Any) -> tuple[float, dict[str, Any]]:
    """The first step's loss and the other numbers of its line."""
    make_trainer(folder, engine=engine, **settings).train()
    (line,) = steps(folder)
    return line["loss"], line


def elsewhere(logprob: float) -> Scripted:
    """Samples from another copy of the weights, which found every token of this probability."""
    complete = script()

    def with_logprobs(prompt: Any) -> Any:
        rollout = complete(prompt)
        return script(logprobs=(logprob,) * len(rollout.completion_ids))(prompt)

    return Scripted(with_logprobs, samples_elsewhere=True)


def test_sampler_correction_is_the_capped_weight_averaged_over_a_rollout(tmp_path: Path) -> None:
    plain, _ = loss(tmp_path / "plain", Scripted(script()))
    # a sampler that found every token next to impossible: all weights hit the cap
    capped, line = loss(tmp_path / "capped", elsewhere(-1000.0), sampler_correction_cap=2.0)
    assert capped == pytest.approx(2 * plain, rel=1e-5)
    assert line["importance_weight"] == pytest.approx(2.0)
    off, line = loss(tmp_path / "off", elsewhere(-1000.0), sampler_correction_cap=None)
    assert off == pytest.approx(plain, rel=1e-5)
    assert "importance_weight" not in line
    # a sampler that was certain: weights are the trainer's own probabilities, below 1
    _, line = loss(tmp_path / "certain", elsewhere(0.0))
    assert 0 < line["importance_weight"] < 0.5


def test_a_mean_weight_that_is_unusual_is_told_once(tmp_path: Path) -> None:
    def told(name: str, engine: Scripted, cap: float) -> list[str]:
        trainer, texts = (
            make_trainer(tmp_path / name, engine=engine, max_steps=3, sampler_correction_cap=cap),
            list[str](),
        )
        trainer.checkpoints.on_warning = texts.append
        trainer.train()
        return texts

    (text,) = told("capped", elsewhere(-1000.0), 2.0)
    assert text.startswith(
        "The mean importance weight is 2 at step 1, outside [0.9, 1.1]: completions are sampled from "
    )
    assert told("usual", elsewhere(-1000.0), 1.05) == []
    assert told("none", Scripted(script()), 2.0) == []


def test_the_divergence_in_the_metrics_holds_no_importance_weights(tmp_path: Path) -> None:
    _, plain = loss(tmp_path / "plain", Scripted(script()))
    _, line = loss(tmp_path / "capped", elsewhere(-1000.0), sampler_correction_cap=2.0)
    assert line["divergence"] == pytest.approx(plain["divergence"], rel=1e-5)


# -- the Python API ----------------------------------------------------------------------------------


def test_public_names() -> None:
    assert selfdistill.SDFTTrainer is SDFTTrainer
    with pytest.raises(AttributeError, match="no attribute 'Trainer'"):
        _ = selfdistill.Trainer


@pytest.mark.parametrize("use_cache", [True, False])
def test_a_trained_model_keeps_its_own_cache_setting(tmp_path: Path, use_cache: bool) -> None:
    trainer = make_trainer(tmp_path, model=student(use_cache=use_cache))
    trainer.train()
    trainer.save_model()
    assert trainer.model.config.use_cache is use_cache
    assert type(trainer.model.config).from_pretrained(tmp_path).use_cache is use_cache


@pytest.mark.parametrize("training", [True, False])
def test_training_leaves_the_model_with_its_dropout_and_mode(tmp_path: Path, training: bool) -> None:
    """Dropout is off while the step runs, and as it was afterwards."""
    model = student(attention_dropout=0.5)
    trainer = make_trainer(tmp_path / "noisy", model=model)
    model.train(training)
    trainer.train()
    plain = make_trainer(tmp_path / "plain")
    plain.train()
    assert all(torch.equal(weights(plain)[name], weight) for name, weight in weights(trainer).items())
    assert {layer.self_attn.attention_dropout for layer in model.model.layers} == {0.5}
