"""An engine whose completions a test decides."""

from collections.abc import Callable, Sequence

from selfdistill.method.rollout.engine import OnDone, Sampling
from selfdistill.types import Rollout

Script = Callable[[Sequence[int]], Rollout]
"""From a prompt to its completion."""


class Scripted:
    """Completes prompts by ``script``.

    ``calls`` has the prompts and the sampling of every call of generate; ``synced`` counts the calls of sync.
    """

    def __init__(self, script: Script, *, samples_elsewhere: bool = False) -> None:
        self.samples_elsewhere = samples_elsewhere
        self.calls: list[tuple[list[list[int]], Sampling]] = []
        self.synced = 0
        self._script = script

    def sync(self) -> None:
        self.synced += 1

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, on_done: OnDone | None = None
    ) -> list[Rollout]:
        self.calls.append(([list(prompt) for prompt in prompts], sampling))
        return [self._script(prompt) for prompt in prompts]

    def close(self) -> None:
        pass


def stopped(*completion_ids: int) -> Rollout:
    """A completion that ended by itself."""
    return Rollout(completion_ids=completion_ids, finish_reason="stop")
