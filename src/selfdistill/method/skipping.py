"""Steps whose gradients are not finite are skipped: they change no weight. Several in a row end the training."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from selfdistill.errors import NumbersError
from selfdistill.method.master_weights import MasterWeights
from selfdistill.method.sharded import Sharding, Whole
from selfdistill.method.slices import local, whole

MOST_IN_A_ROW = 3
"""Steps that are skipped one after the other until training ends."""


class Skipping:
    """Skips the steps of a training whose gradients are not finite.

    Args:
        masters: which the gradients belong to.
        sharding: where the model's weights, and so their gradients, are.
    """

    def __init__(self, masters: MasterWeights, sharding: Sharding | None = None) -> None:
        self._masters, self._sharding = masters, sharding or Whole()
        self._in_a_row = 0

    def begin(self) -> None:
        """Call when training begins."""
        self._in_a_row = 0

    def gradient_norm(self) -> Tensor:
        """Euclidean norm of all gradients, a scalar; not finite if one of them is not."""
        gradients = [local(m.grad) for _, _, m in self._masters.items() if m.grad is not None]
        return self._sharding.norm(nn.utils.get_total_norm(gradients))

    def decide(
        self, norm: Tensor, largest: float, step: int, rows: Callable[[], Sequence[str]], warn: Callable[[str], None]
    ) -> bool:
        """Whether a step is skipped; then its gradients are dropped, so that the optimizer does nothing. Those of
        another step are clipped. Waits once for the device.

        Args:
            norm: of the gradients, a scalar.
            largest: norm that they are scaled down to if theirs is larger; 0 for any.
            step: number of the step, from 1.
            rows: gives the ids of the rows whose loss is not finite.
            warn: is told of a step that is skipped.

        Raises:
            NumbersError: it is the last of ``MOST_IN_A_ROW``.
        """
        if math.isfinite(norm):
            self._in_a_row = 0
            if largest > 0:
                nn.utils.clip_grads_with_norm_([master for _, _, master in self._masters.items()], largest, norm)
            return False
        self._in_a_row += 1
        cause = f"{self._worst()}; {_in_words(rows())}"
        if self._in_a_row >= MOST_IN_A_ROW:
            raise NumbersError(
                f"Steps up to {step}, {MOST_IN_A_ROW} in a row, have gradients that are not finite: {cause}. They "
                "changed nothing. Lower --learning_rate, or leave such rows out."
            )
        warn(f"Step {step} is skipped, since gradients are not finite: {cause}.")
        self._masters.clear_gradients()
        return True

    def _worst(self) -> str:
        """The first trained tensor that has such a gradient."""
        for name, _, master in self._masters.items():
            if master.grad is not None and not torch.isfinite(whole(master.grad)).all():
                return name
        return "their norm is too large"


def _in_words(rows: Sequence[str]) -> str:
    if not rows:
        return "the loss of all rows is finite"
    more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
    return f"rows {', '.join(rows[:3])}{more}"
