"""A step that goes on in smaller pieces when memory is full, with the same result."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from selfdistill.errors import UserError
from selfdistill.method.batch import MicroBatch, Sample
from selfdistill.method.step import Step
from selfdistill.models.within_memory import within_memory

REMEDY = (
    "Take an adapter (--lora_r), --activation_checkpointing, a smaller --max_completion_length or model; selfdistill "
    "plan shows what fits."
)


class Pieces:
    """Scores and learns the micro-batches of a step; when memory is full, halves what a pass takes, from then on.

    Args:
        step: does the work.
        warn: is told when the pieces get smaller.
    """

    def __init__(self, step: Step, warn: Callable[[str], None]) -> None:
        self._step, self._warn = step, warn
        self._halvings = 0
        self._scored_with = 0  # halvings of the micro-batches that the step has made
        self._learned: list[MicroBatch] = []  # those of the present step, the last one included

    def micro_batches(self, samples: Sequence[Sample], count: int) -> list[MicroBatch]:
        """As ``Step.micro_batches``. Raises UserError if memory is full even with one sample at a time."""
        self._learned = []
        batches = within_memory(
            lambda: self._step.micro_batches(samples, count, halvings=self._halvings),
            lambda: self._halve(-(-len(samples) // count)),
            REMEDY,
        )
        self._scored_with = self._halvings
        return batches

    def learn(self, micro_batch: MicroBatch, backward: Callable[[Tensor], Any]) -> Tensor:
        """As ``Step.learn``. A backward pass that broke off has spoilt the gradients: those of the whole step are
        computed again. Raises UserError if memory is full even with one sample at a time."""
        earlier = list[MicroBatch]()

        def attempt() -> Tensor:
            for one in earlier:
                self._step.learn(self._small(one), backward, report=False)
            return self._step.learn(self._small(micro_batch), backward)

        def smaller() -> bool:
            earlier[:] = self._learned
            self._step.masters.clear_gradients()
            return self._halve(max((len(part.samples) for part in micro_batch.parts), default=0))

        total = within_memory(attempt, smaller, REMEDY)
        self._learned.append(micro_batch)
        return total

    def _small(self, micro_batch: MicroBatch) -> MicroBatch:
        return self._step.halved(micro_batch, self._halvings - self._scored_with)

    def _halve(self, largest: int) -> bool:
        """Halves once more; False if pieces were of one sample already. ``largest``: samples of an undivided piece.

        Raises:
            UserError: other processes, which share the weights and take the same passes, would have to do so, too.
        """
        if self._step.sharding.is_split:
            raise UserError(
                "Memory is full. With --shard_weights a step can't go on in smaller pieces: halve "
                "--per_device_train_batch_size and double --gradient_accumulation_steps, and give the command again."
            )
        self._halvings += 1
        if largest <= 2 ** (self._halvings - 1):
            return False
        pieces = 2**self._halvings
        config = self._step.config
        size = max(1, config.per_device_train_batch_size // pieces)
        batches = config.gradient_accumulation_steps * (config.per_device_train_batch_size // size)
        self._warn(
            f"Memory was full: micro-batches are computed in {pieces} pieces, with the same result. "
            f"--per_device_train_batch_size {size} --gradient_accumulation_steps {batches} does so from the start."
        )
        return True
