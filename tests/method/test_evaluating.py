"""trainer.evaluate() and predict(): the loss of held-out rows, and that measuring it leaves no trace."""

import math
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch

from selfdistill.method.divergence import divergence
from tests.support.engines import Scripted
from tests.support.mistakes import mistake
from tests.support.training import ROWS, lines, make_trainer, script, steps, student, weights

EIGHT_AT_ONCE = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}
THREE_AT_ONCE = {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 1}


def divergences_by_hand(trainer: Any) -> list[torch.Tensor]:
    """Forward KL at every token of each row's scripted completion."""
    model, found = student(), []
    for pair in trainer.train_dataset:
        ids = script()(pair.student_ids).completion_ids
        one, other = (
            model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            for prompt in (pair.student_ids, pair.teacher_ids)
        )
        found.append(divergence(one, other, kind="forward_kl").detach())
    return found


@pytest.mark.parametrize("sizes", [EIGHT_AT_ONCE, THREE_AT_ONCE])
@pytest.mark.parametrize("reduction", ["rollout_mean", "token_mean"])
def test_the_loss_by_hand(tmp_path: Path, sizes: dict[str, Any], reduction: str) -> None:
    """Eight rows at once, or three, three and two: the same mean over rollouts, or over tokens."""
    trainer = make_trainer(tmp_path, loss_reduction=reduction, **sizes)
    values = divergences_by_hand(trainer)
    expected = (
        torch.stack([each.mean() for each in values]).mean()
        if reduction == "rollout_mean"
        else (torch.cat(values).mean())
    )
    found = trainer.evaluate(ROWS)
    assert found["eval_loss"] == pytest.approx(expected.item(), rel=1e-4)
    assert found["eval_tokens"] == sum(map(len, values))
    assert found["eval_samples_per_second"] == pytest.approx(8 / found["eval_runtime"])
    assert trainer.state.log_history[-1]["eval_loss"] == found["eval_loss"]


def test_anchors_are_left_out(tmp_path: Path) -> None:
    plain = make_trainer(tmp_path / "plain", **EIGHT_AT_ONCE).evaluate(ROWS)
    anchored = make_trainer(tmp_path / "anchored", anchor_share=0.5, options={"anchor_dataset": ROWS}, **EIGHT_AT_ONCE)
    assert anchored.evaluate(ROWS)["eval_loss"] == pytest.approx(plain["eval_loss"], rel=1e-5)


def test_evaluations_leave_no_trace_in_a_run(tmp_path: Path) -> None:
    """Each step draws its completions: the same weights, losses and rollouts with and without evaluations."""
    sampled = {
        "rollout_engine": "own",
        "max_steps": 3,
        "save_strategy": "steps",
        "save_steps": 1,
        "optim": "adamw_torch",
    }
    plain = make_trainer(tmp_path / "plain", **sampled)
    plain.train()
    watched = make_trainer(
        tmp_path / "watched",
        options={"eval_dataset": ROWS[:3]},
        eval_strategy="steps",
        eval_steps=1,
        eval_on_start=True,
        **sampled,
    )
    watched.train()
    assert all(torch.equal(weights(plain)[name], weight) for name, weight in weights(watched).items())
    one, other = ([row["loss"] for row in steps(tmp_path / name)] for name in ("plain", "watched"))
    assert one == other
    one, other = (
        [row["completion"] for row in lines(tmp_path / name, "rollouts.jsonl")] for name in ("plain", "watched")
    )
    assert one == other
    measured = [row for row in lines(tmp_path / "watched", "metrics.jsonl") if "eval_loss" in row]
    assert [row["step"] for row in measured] == [0, 1, 2, 3]
    assert len({row["eval_loss"] for row in measured}) == 4  # the model moves
    again = make_trainer(tmp_path / "again", model=plain.model, **(sampled | {"max_steps": 1}))
    assert again.evaluate(ROWS[:3])["eval_loss"] == again.evaluate(ROWS[:3])["eval_loss"]


def test_a_model_in_training_mode_is_evaluated_without_its_dropout(tmp_path: Path) -> None:
    plain = make_trainer(tmp_path / "plain").evaluate(ROWS)["eval_loss"]
    noisy = make_trainer(tmp_path / "noisy", model=student(attention_dropout=0.5).train())
    assert noisy.evaluate(ROWS)["eval_loss"] == pytest.approx(plain, rel=1e-5)
    assert noisy.model.training


def test_the_seconds_of_a_run_are_its_own(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    trainer.timer.reset({"rollout": 2.0})
    trainer.evaluate(ROWS)
    assert trainer.timer.so_far() == {"rollout": 2.0}


def test_several_sets_by_name(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, options={"eval_dataset": {"first": ROWS[:2], "rest": ROWS[2:]}})
    found = trainer.evaluate()
    assert {name for name in found if name.endswith("loss")} == {"eval_first_loss", "eval_rest_loss"}
    whole = trainer.evaluate(ROWS, metric_key_prefix="all")["all_loss"]
    assert (2 * found["eval_first_loss"] + 6 * found["eval_rest_loss"]) / 8 == pytest.approx(whole, rel=1e-4)


def test_predictions_are_the_models_greedy_answers(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, rollout_engine="own", max_completion_length=5)
    found = trainer.predict(ROWS[:3])
    model: Any = trainer.model
    pairs: Any = trainer.train_dataset
    for pair, text in zip(pairs, found.predictions, strict=False):
        ids: list[int] = []
        while len(ids) < 5 and not (ids and ids[-1] in trainer.eos_ids):
            logits = model(input_ids=torch.tensor([[*pair.student_ids, *ids]])).logits
            ids.append(int(logits[0, -1].argmax()))
        assert text == trainer.tokenizer.decode(ids, skip_special_tokens=True)
    assert len(found.predictions) == 3
    assert found.label_ids == ["It is 0.", "It is 1.", "It is 2."]
    assert found.metrics["test_loss"] > 0
    assert not any("test_loss" in entry for entry in trainer.state.log_history)


def test_metrics_of_a_persons_own(tmp_path: Path) -> None:
    """They see texts, and are logged beside the loss, for trackers and metrics.jsonl."""

    def shares(found: Any) -> dict[str, float]:
        assert all(isinstance(text, str) for text in found.predictions)
        return {"rows": len(found.predictions), "eval_right": float(found.label_ids[2] == "It is 2.")}

    options = {"compute_metrics": shares, "eval_dataset": ROWS}
    trainer = make_trainer(tmp_path, rollout_engine="own", max_completion_length=2, options=options)
    found = trainer.evaluate()
    assert (found["eval_rows"], found["eval_right"]) == (8, 1.0)
    assert lines(tmp_path, "metrics.jsonl")[-1]["eval_rows"] == 8
    assert trainer.predict(ROWS[:3]).metrics["test_rows"] == 3


def test_rows_that_are_streamed_are_read_to_their_end(tmp_path: Path) -> None:
    """datasets.IterableDataset, for training and for evaluations."""
    streamed = datasets.IterableDataset.from_generator(lambda: iter(ROWS))
    ours = make_trainer(tmp_path / "streamed", rows=streamed, options={"eval_dataset": streamed})
    listed = make_trainer(tmp_path / "listed", options={"eval_dataset": ROWS})
    assert ours.num_rows == 8
    assert ours.evaluate()["eval_loss"] == listed.evaluate()["eval_loss"]
    ours.train()
    listed.train()
    assert all(torch.equal(weights(ours)[name], weight) for name, weight in weights(listed).items())


def test_rows_without_a_token_to_learn_have_no_loss(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, engine=Scripted(script(finish="length")), mask_truncated_completions=True)
    found = trainer.evaluate(ROWS)
    assert math.isnan(found["eval_loss"])
    assert found["eval_tokens"] == 0


def test_what_can_not_be_evaluated_is_said(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    assert mistake(trainer.evaluate).startswith("evaluate: there are no rows. Give SDFTTrainer or evaluate")
    assert "eval_dataset row 2 has no demonstration" in mistake(trainer.evaluate, [*ROWS[:1], {"prompt": "a"}])
    bad = {"eval_dataset": {"mine": [{"prompt": "a"}]}}  # before anything is trained
    assert "eval_dataset row 1 has no demonstration" in mistake(make_trainer, tmp_path, options=bad)
    said = mistake(make_trainer, tmp_path, eval_strategy="steps")
    assert said.startswith(
        "eval_strategy='steps' needs rows to evaluate on. In Python give SDFTTrainer an eval_dataset"
    )
