"""A step of self-distillation in plain torch: full logits, one sequence at a time, none of the package's mathematics.

Our trainer makes one step on given completions, and its update is compared with what this computes in fp32 from the
same (bf16) weights. The optimizer is the trainer's AdamW with epsilon 1, far above any gradient here, so that an
update is proportional to its gradient; at the usual epsilon a first step is little more than the gradient's signs,
which say nothing where the gradient is near 0.
"""

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from selfdistill.method.rollout.engine import OnDone, Sampling, row_seeds
from selfdistill.method.rollout.own import OwnEngine
from selfdistill.models import loading
from selfdistill.models.tokens import pad_token_id, vocab_size
from selfdistill.settings.groups import DEFAULT_MODEL
from selfdistill.types import PromptPair, Rollout
from trainers import NO_TOKEN, make_ours, plain_model

EPSILON = 1.0
LEARNING_RATE = 1.0
MAX_NORM = 1.0


class Given:
    """An engine whose completions are given."""

    samples_elsewhere = False

    def __init__(self, completions: dict[tuple[int, ...], Rollout]) -> None:
        self._completions = completions

    def sync(self) -> None:
        """Nothing to do."""

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, on_done: OnDone | None = None
    ) -> list[Rollout]:
        """As in RolloutEngine."""
        return [self._completions[tuple(prompt)] for prompt in prompts]

    def close(self) -> None:
        """Nothing to do."""


def dense_gradient(model: PreTrainedModel, pairs: Sequence[PromptPair], completions: dict) -> dict[str, Tensor]:
    """Gradient of the mean over rollouts of the mean KL(teacher || student) per token; by parameter, fp32.

    ``completions`` gives a Rollout by the student's prompt. The teacher has the student's weights.
    """
    gradient = {name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in model.named_parameters()}
    for pair in pairs:
        completion = completions[pair.student_ids].completion_ids

        def log_probs(prompt: tuple[int, ...], completion: tuple[int, ...] = completion) -> Tensor:
            logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
            return logits.float().log_softmax(-1)

        with torch.no_grad():
            log_p = log_probs(pair.teacher_ids or ())
        log_q = log_probs(pair.student_ids)
        loss = (log_p.exp() * (log_p - log_q)).sum(-1).mean() / len(pairs)
        model.zero_grad()
        loss.backward()
        for name, weight in model.named_parameters():
            assert weight.grad is not None
            gradient[name] += weight.grad
    return gradient


def dense_update(gradient: dict[str, Tensor]) -> dict[str, Tensor]:
    """What AdamW's first step makes of the clipped gradient: -rate * g / (|g| + epsilon)."""
    norm = math.sqrt(sum(part.double().square().sum().item() for part in gradient.values()))
    scale = min(1.0, MAX_NORM / norm)
    return {name: -LEARNING_RATE * (g * scale) / ((g * scale).abs() + EPSILON) for name, g in gradient.items()}


def cosine(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    """Cosine of the angle between two updates of all parameters."""
    return _dot(left, right) / math.sqrt(_dot(left, left) * _dot(right, right))


def relative_error(update: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    """Length of the difference over the length of the exact update."""
    difference = {name: update[name] - exact[name] for name in exact}
    return math.sqrt(_dot(difference, difference) / _dot(exact, exact))


def _dot(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    assert left.keys() == right.keys()
    return sum((left[name].double() * right[name].double()).sum().item() for name in left)


def compare_update(prompts: int, new_tokens: int, micro_batch: int) -> dict[str, float]:
    """Our trainer's update, and one from plain bf16 gradients, against the fp32 one: cosine and relative error."""
    loading.quiet_libraries()
    tokenizer = loading.load_tokenizer(DEFAULT_MODEL)
    with tempfile.TemporaryDirectory() as folder:
        given: dict[tuple[int, ...], Rollout] = {}
        trainer = make_ours(
            Path(folder),
            prompts,
            new_tokens,
            micro_batch,
            Given(given),
            learning_rate=LEARNING_RATE,
            adam_epsilon=EPSILON,
            max_steps=1,
        )
        pairs: list[PromptPair] = list(trainer.train_dataset)  # type: ignore[arg-type]
        sampler = OwnEngine(trainer.model, {NO_TOKEN}, pad_token_id(tokenizer, vocab_size(trainer.model)))
        seeds = row_seeds(0, 0, [pair.example.id for pair in pairs])
        sampling = Sampling(max_new_tokens=new_tokens, seeds=seeds)
        sampled = sampler.generate([pair.student_ids for pair in pairs], sampling)
        given.update(zip((pair.student_ids for pair in pairs), sampled, strict=True))
        before = {name: master.clone() for name, master in trainer.step.masters.state_dict().items()}
        trainer.train()
        ours = {name: master - before[name] for name, master in trainer.step.masters.state_dict().items()}
    exact_model = plain_model("bfloat16").float()  # the same rounded weights, computed in fp32
    exact = dense_update(dense_gradient(exact_model, pairs, given))
    plain = dense_update(dense_gradient(plain_model("bfloat16"), pairs, given))
    return {
        "update_cosine": round(cosine(ours, exact), 5),
        "update_error": round(relative_error(ours, exact), 4),
        "bf16_cosine": round(cosine(plain, exact), 5),
        "bf16_error": round(relative_error(plain, exact), 4),
    }
