"""Several processes that train one model: each has all weights (a replica) and a share of every step's rows.

Started by ``torchrun`` or ``accelerate launch``, every process reads the same rows in the same order, and knows all
rows of a step. It samples and scores its own, every ``size``-th, and the processes exchange three things a step, each
exactly once, whatever their rows turned out to be; a fourth one before them, if what the teacher is shown depends on
the completions: those that succeeded (``gathered``).

1. after the rollouts the number of loss tokens and of rollouts that have some, which weigh the loss (``totals``);
2. after the backward passes the fp32 gradients of the masters, with the loss (``add_up``): sums, with zeros where a
   process has nothing;
3. after the optimizer's step what goes into the records (``gathered``), and whether one of them wants to stop
   (``agree``).

So gradient norm, clipping, optimizer and teacher see the same numbers in every process, and weights stay equal without
being sent around. A process whose completions are all masked, or one row more than the others, keeps nobody waiting
for ever.

The model is not wrapped in DistributedDataParallel. Its reducer averages gradients of the wrapper's ``forward`` calls
in the model's dtype, and waits for every parameter in every backward pass. Here a loss is a sum weighted over all
processes, a backward pass may be left out, and the gradients are summed in fp32, after the last micro-batch.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor

from selfdistill.errors import UserError, brief
from selfdistill.method.master_weights import MasterWeights

BUCKET_ELEMENTS = 1 << 24
"""Gradients that are sent at once: 17 million, 67 MB. A larger parameter is sent by itself."""
STOPS = ("should_training_stop", "should_epoch_stop")
CONTROLS = (*STOPS, "should_save", "should_log")
"""What a callback can ask transformers' Trainer for, and all processes must do together."""

_T = TypeVar("_T")


class Processes:
    """The processes of a run, seen from one of them. With one process nothing is exchanged.

    Every method but ``own``, ``in_order`` and ``postpone`` must be called by all processes, in the same order.

    Args:
        rank: number of this process, from 0. Process 0 is the main one: it alone writes.
        size: number of processes.
        device: where tensors to be exchanged must lie.

    Raises:
        UserError: from every method, if another process has ended, or did not answer within ``ddp_timeout``.
    """

    def __init__(self, rank: int = 0, size: int = 1, device: torch.device | None = None) -> None:
        self.rank, self.size = rank, size
        self.device = device or torch.device("cpu")
        self._postponed: set[str] = set()

    @classmethod
    def here(cls, device: torch.device | None = None) -> "Processes":
        """The processes of torch's default process group; this one alone if there is none. ``device``: of this one."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size(), device)

    @property
    def is_main(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def own(self, rows: Sequence[_T]) -> list[_T]:
        """This process's share of what all of them have: every ``size``-th, from the ``rank``-th on."""
        return list(rows[self.rank :: self.size])

    def in_order(self, shares: Sequence[Sequence[_T]]) -> list[_T]:
        """What all processes have, in its order, from what each of them has of it (``own``)."""
        missing = object()
        rounds = zip_longest(*shares, fillvalue=cast(Any, missing))
        return [one for each in rounds for one in each if one is not missing]

    # -- what is done once -------------------------------------------------------------------------------------------

    def once(self, function: Callable[[], _T]) -> _T:
        """Calls ``function`` in the main process while the others wait, and returns its result in all of them.

        Args:
            function: its result can be pickled.

        Raises:
            UserError: in all processes the one that ``function`` raised; in the others also if it raised another
                exception, which the main process raises itself.
        """
        if self.size == 1:
            return function()
        outcome: list[Any] = [None, None]
        raised: Exception | None = None
        if self.is_main:
            try:
                outcome[0] = function()
            except Exception as error:
                raised = error
                outcome[1] = error if isinstance(error, UserError) else UserError(f"Process 0: {brief(error, 30)}.")
        with _talking():
            distributed.broadcast_object_list(outcome, src=0)
        if raised is not None:
            raise raised
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def gathered(self, value: _T) -> list[_T]:
        """The values of all processes, by rank; they can be pickled."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with _talking():
            distributed.all_gather_object(values, value)
        return values

    def totals(self, *numbers: float) -> list[float]:
        """Sums of numbers over all processes, in float64."""
        if self.size == 1:
            return list(numbers)
        summed = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        self._reduce(summed)
        return summed.tolist()

    def agree(self, control: Any) -> None:
        """Sets what a callback of one process asked for (a TrainerControl's ``CONTROLS``) in all of them."""
        if self.size == 1:
            return
        asked = self.totals(*(float(getattr(control, name) or name in self._postponed) for name in CONTROLS))
        self._postponed.clear()
        for name, count in zip(CONTROLS, asked, strict=True):
            setattr(control, name, count > 0)

    def postpone(self, control: Any) -> None:
        """Keeps what a callback asked for within a step until ``agree``, so that no process leaves the step alone."""
        for name in STOPS if self.size > 1 else ():
            if getattr(control, name):
                self._postponed.add(name)
                setattr(control, name, False)

    # -- weights and gradients ---------------------------------------------------------------------------------------

    def share_weights(self, masters: MasterWeights) -> None:
        """Gives all processes the main one's trainable weights, such as an adapter's, which are random at first."""
        if self.size == 1:
            return
        for name in masters.parameters:
            own = masters.value(name)
            main = self.of_main(own)
            if not torch.equal(main, own):
                masters.set_value(name, main)

    def of_main(self, tensor: Tensor) -> Tensor:
        """The main process's values of a tensor that all processes have."""
        values = tensor.detach().clone(memory_format=torch.contiguous_format)
        with _talking():
            distributed.broadcast(values, src=0)
        return values

    def add_up(self, masters: MasterWeights, loss: Tensor) -> Tensor:
        """Replaces the masters' fp32 gradients by their sums over all processes. A master that none of them has a
        gradient of keeps none; those of slices are sums already (``sharded``).

        Args:
            masters: the trainable parameters.
            loss: scalar, this process's part of the step's loss.

        Returns:
            The step's loss, the sum of the parts, fp32.
        """
        if self.size == 1:
            return loss
        trained = [master for master in masters.masters.values() if not isinstance(master, DTensor)]
        counts = [loss, *(torch.tensor(float(master.grad is not None)) for master in trained)]
        summed = torch.stack([count.to(self.device, torch.float32) for count in counts])
        self._reduce(summed)
        learning = [master for master, count in zip(trained, summed[1:].tolist(), strict=True) if count]
        for bucket in _buckets(learning):
            parts = [_gradient(master).reshape(-1) for master in bucket]
            sent = parts[0] if len(parts) == 1 else torch.cat(parts)
            self._reduce(sent)
            for master, part in zip(bucket, sent.split([master.numel() for master in bucket]), strict=True):
                master.grad = part.view(master.shape)
        return summed[0]

    def _reduce(self, tensor: Tensor) -> None:
        with _talking():
            distributed.all_reduce(tensor)


ALONE = Processes()
"""One process."""


def _gradient(master: nn.Parameter) -> Tensor:
    """The gradient of a master, contiguous; zeros if it has none."""
    if master.grad is None:
        return torch.zeros(master.shape, dtype=torch.float32, device=master.device)
    return master.grad.contiguous()


def _buckets(masters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Splits masters, in order, into lists of at most ``BUCKET_ELEMENTS`` weights, or of one."""
    bucket: list[nn.Parameter] = []
    size = 0
    for master in masters:
        if bucket and size + master.numel() > BUCKET_ELEMENTS:
            yield bucket
            bucket, size = [], 0
        bucket.append(master)
        size += master.numel()
    if bucket:
        yield bucket


@contextmanager
def _talking() -> Generator[None]:
    """Says of an exchange that fails what a user needs to know."""
    try:
        yield
    except RuntimeError as error:
        raise _ended(error) from error


@contextmanager
def exchanging() -> Generator[None]:
    """The same for passes in which processes exchange weights and gradients, and which may fail for other reasons."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, distributed.DistError) or "gloo" in str(error):
            raise _ended(error) from error
        raise


def _ended(error: RuntimeError) -> UserError:
    return UserError(
        f"Another process ended, or did not answer in time (ddp_timeout): {brief(error, 8)}. Mend what it said, "
        "and give the same command again to go on from the last checkpoint."
    )
