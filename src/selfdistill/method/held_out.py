"""The loss of held-out rows: what a step on them would have, without gradients, and without a trace in the run.

Completions are sampled as in the first step of a run, with a random number that depends only on the settings' seed and
the row, so that two evaluations of one model give the same number.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from selfdistill.errors import UserError
from selfdistill.method.lengths import context_length
from selfdistill.method.out_of_memory import Pieces
from selfdistill.method.rollout.engine import Sampling
from selfdistill.method.step import Step
from selfdistill.models.mode import without_noise
from selfdistill.types import PromptPair, Rollout


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """What an evaluation found."""

    loss: float
    """The method's loss in nats, reduced over all rows as ``loss_reduction`` says; NaN if no token carried any."""
    tokens: int
    """Number of tokens with loss."""


@torch.no_grad()
def held_out_loss(step: Step, pieces: Pieces, pairs: Sequence[PromptPair]) -> HeldOut:
    """Measures the loss of rows, as many at a time as in a step, with the teacher as it is, without anchor prompts.

    Args:
        step: of the run. Its clock is left as it was.
        pieces: of the run, which knows how many samples fit into memory.
        pairs: the rows. With several processes all rows, in each of them.

    Raises:
        UserError: the teacher is shown what the run itself has found, which held-out rows have none of.
    """
    config = step.config
    if config.demonstration_from == "own_success" or config.feedback_file is not None:
        raise UserError(
            "The loss of held-out rows can't be measured with demonstration_from=own_success or feedback_file: their "
            "teacher is shown what training rows met. Leave eval_dataset out, or take demonstrations from the rows."
        )
    seconds = step.timer.so_far()
    total = weight = tokens = 0.0
    for start in range(0, len(pairs), step.prompts_a_step):
        samples = step.rollout(pairs[start : start + step.prompts_a_step], 0, anchored=False)
        parts = [part for batch in pieces.micro_batches(samples, _batches(step, samples)) for part in batch.parts]
        with without_noise(step.model):
            own = sum(float(step.loss(part).total) for part in parts)
        counts = [len(sample.loss_positions) for sample in samples if sample.loss_positions]
        loss, learning, count = step.processes.totals(own, len(counts), sum(counts))
        share = learning if config.loss_reduction == "rollout_mean" else count
        total, weight, tokens = total + loss * share, weight + share, tokens + count
    step.timer.reset(seconds)
    return HeldOut(loss=total / weight if weight else float("nan"), tokens=int(tokens))


@torch.no_grad()
def greedy_completions(step: Step, pairs: Sequence[PromptPair]) -> list[Rollout]:
    """The student's greedy completion of every row, of at most ``max_completion_length`` tokens."""
    sampling = Sampling(
        max_new_tokens=step.config.max_completion_length,
        temperature=0.0,
        seeds=(0,) * len(pairs),  # which nothing is drawn with
        context=context_length(step.model.config),
    )
    with step.sharding.gathered():
        step.engine.sync()
        return step.engine.generate([pair.student_ids for pair in pairs], sampling)


def _batches(step: Step, samples: Sequence[object]) -> int:
    """Number of micro-batches for these samples of one process."""
    return max(1, -(-len(samples) // (step.config.per_device_train_batch_size * step.config.num_rollouts)))
