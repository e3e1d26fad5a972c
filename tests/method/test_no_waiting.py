"""A step reads nothing back from the device before its last backward pass is queued."""

from pathlib import Path
from typing import Any

import pytest
import torch

from selfdistill.method.divergence import chunked_divergence
from tests.support.dense_oracle import make_case
from tests.support.engines import Scripted
from tests.support.reads import reads
from tests.support.training import make_trainer, script, student

ANCHORS = [{"prompt": f"Say {n} words."} for n in range(3)]
RUNS: list[dict[str, Any]] = [
    {},
    {"method": "sft", "max_completion_length": 64},
    {"method": "dft", "max_completion_length": 64},
    {"divergence_support": "top_k", "divergence_top_k": 5, "divergence_tail": True},
    {"divergence": "reverse_kl", "divergence_support": "sampled", "divergence_clip": 1.0},
    {"anchor_share": 0.34, "max_completion_length": 64, "options": {"anchor_dataset": ANCHORS}},
    {"activation_checkpointing": True},
]


@pytest.mark.parametrize("settings", RUNS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_reads_nothing_back(tmp_path: Path, dtype: torch.dtype, settings: dict[str, Any]) -> None:
    trainer = make_trainer(tmp_path, model=student(dtype), rollouts_logged_per_step=None, **settings)
    step, rows = trainer.step, trainer.train_dataset
    with step.masters.attached():
        samples = step.rollout(list(rows), 0)  # type: ignore[arg-type]
        trainer.run_log.add_samples(1, samples)
        micro_batches = step.micro_batches(samples, 2)
        with reads() as found:
            for micro_batch in micro_batches:
                step.learn(micro_batch)
        assert found == []
        with reads() as found:
            means = trainer.run_log.means()
        assert found == ["tolist in run_log.py"]  # all at once
    assert means["divergence" if "method" not in settings else "cross_entropy"] != 0


def test_importance_weights_read_nothing_back_either(tmp_path: Path) -> None:
    """As for an engine that samples from a copy of the weights."""
    engine = Scripted(script(length=lambda _: 2, logprobs=(-1.0, -1.0)), samples_elsewhere=True)
    trainer = make_trainer(tmp_path, engine=engine)
    (micro_batch,) = trainer.step.micro_batches(trainer.step.rollout(list(trainer.train_dataset), 0), 1)  # type: ignore[arg-type]
    with reads() as found:
        trainer.step.learn(micro_batch)
    assert found == []
    assert trainer.run_log.means()["importance_weight"] > 0


def test_gradients_of_a_sum_are_trusted_and_others_looked_at() -> None:
    """With weights every token's gradient must be the same. That of a sum is, whatever it is multiplied by later."""
    case, weights = make_case(tokens=3, vocabulary=5), torch.ones(3, dtype=torch.float64)
    looks, gradients = [], []
    for reduce in (lambda values: values.sum() * 3, lambda values: (values * 3).sum()):
        hidden = case.student_hidden.clone().requires_grad_()
        total = reduce(chunked_divergence(hidden, *case.tensors[1:], weights=weights))
        with reads() as found:
            total.backward()
        looks.append(found)
        gradients.append(hidden.grad)
    assert looks == [[], ["__bool__ in chunked.py"]]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)
