"""What share of training is the saving of checkpoints? Recipe sdft-cpu with a checkpoint every 20 steps.

Each save is timed around the trainer's hook, the whole around ``train``, which saves, too.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import finish, make_parser
from selfdistill.cli import main as command
from selfdistill.method.trainer import SDFTTrainer


def timed(name: str) -> list[float]:
    """Has the trainer's method of that name append the seconds of each call to the list that is returned."""
    seconds: list[float] = []
    own: Callable[..., Any] = getattr(SDFTTrainer, name)

    def call(trainer: SDFTTrainer, *arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return own(trainer, *arguments, **options)
        finally:
            seconds.append(time.perf_counter() - start)

    setattr(SDFTTrainer, name, call)
    return seconds


def main() -> int:
    """Trains, and prints the share; returns the command's exit code."""
    parser = make_parser(__doc__)
    parser.add_argument("--recipe", default="sdft-cpu")
    parser.add_argument("--save_steps", type=int, default=20)
    arguments = parser.parse_args()
    saves, whole = timed("_save_checkpoint"), timed("train")
    with tempfile.TemporaryDirectory() as folder:
        run = str(Path(folder, "run"))
        steps = str(arguments.save_steps)
        code = command(["train", "--config", arguments.recipe, "--save_steps", steps, "--output_dir", run])
    if code == 0:
        finish(
            {
                "training_s": round(whole[0], 1),
                "saves_s": [round(seconds, 2) for seconds in saves],
                "share": round(sum(saves) / whole[0], 4),
            }
        )
    return code


if __name__ == "__main__":
    sys.exit(main())
