"""How long is a step in one, two and three processes, and is it what two numbers of one process and one of two say?

A step's seconds are those of its rows, which the processes share out, those that every process spends alike (optimizer,
teacher, records), and those of the gradients' exchange. With one process a step is timed with all rows and with half of
them, which gives the first two; two processes time one exchange. From these the seconds of a step in n processes are

    (rows / n + alike) * max(1, n / cores) + exchange(n),   exchange(n) = 2 (n - 1) / n * bytes / bandwidth

as a ring exchanges them. All steps train all weights of a random model in fp32 on CPUs, a thread each, and exchange by
gloo. Best on a machine that does nothing else.

The last line is a JSON object: predicted and measured seconds by number of processes, and what went in.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import machine, machine_text, make_parser
from benchmarks.processes import start

STEPS = 5
SIZES = (1, 2, 3)
ROWS = 12
"""Prompts of a step, of all processes together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What the prediction is made from."""

    rows: float
    """Seconds that the rows of a step take in one process."""
    alike: float
    """Seconds that every process spends whatever its share of the rows."""
    gradient_bytes: int
    bandwidth: float
    """Bytes per second of an exchange between two processes."""
    cores: int


def inputs(whole: float, half: float, gradient_bytes: int, exchange: float, cores: int) -> Inputs:
    """From seconds of a step with all and with half of the rows in one process, and of an exchange between two."""
    return Inputs(
        rows=2 * (whole - half),
        alike=2 * half - whole,
        gradient_bytes=gradient_bytes,
        bandwidth=gradient_bytes / exchange,
        cores=cores,
    )


def predicted(known: Inputs, processes: int) -> float:
    """Seconds of a step in so many processes."""
    exchange = 2 * (processes - 1) / processes * known.gradient_bytes / known.bandwidth
    return (known.rows / processes + known.alike) * max(1.0, processes / known.cores) + exchange


def work(folder: Path, rows: int, width: int) -> None:
    """Trains in this process, which is alone or one of several; the main one writes seconds of a step and of an
    exchange, and the gradient's bytes."""
    import torch
    from torch import distributed

    from selfdistill.launcher import place
    from tests.support.training import ROWS as TEXTS
    from tests.support.training import lines, make_trainer, student

    size = place().size
    shape: dict[str, Any] = {"hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": 8}
    trainer = make_trainer(
        folder,
        model=student(**shape),
        rows=(TEXTS * 2)[:rows],
        rollout_engine="own",
        per_device_train_batch_size=rows // size,
        gradient_accumulation_steps=1,
        max_completion_length=32,
        max_steps=STEPS,
        optim="adamw_torch",
        learning_rate=1e-4,
    )
    trainer.train()
    if size > 1:
        gradients = torch.zeros(sum(parameter.numel() for parameter in trainer.model.parameters()))
        times: list[float] = []
        for _ in range(STEPS):
            distributed.barrier()
            begin = time.perf_counter()
            distributed.all_reduce(gradients)
            times.append(time.perf_counter() - begin)
    if trainer.processes.is_main:
        ends = [line["wall_seconds"] for line in lines(folder, "metrics.jsonl") if "loss" in line]
        steps = [after - before for before, after in pairwise(ends)]
        found = {
            "step": statistics.median(steps),
            "exchange": statistics.median(times) if size > 1 else 0.0,
            "bytes": 4 * sum(parameter.numel() for parameter in trainer.model.parameters()),
        }
        (folder / "found.json").write_text(json.dumps(found), encoding="utf-8")


def timed(size: int, rows: int, width: int, folder: Path) -> dict[str, float]:
    """What ``work`` finds in ``size`` processes. Raises RuntimeError if one of them fails."""
    folder.mkdir(parents=True)
    own = [str(Path(__file__).resolve()), "--worker", str(folder), "--rows", str(rows), "--width", str(width)]
    codes, printed = start(size, own, 300.0)
    if any(code != 0 for code in codes):
        raise RuntimeError(f"{size} processes ended with {codes}:\n{printed[0][-2000:]}")
    return json.loads((folder / "found.json").read_text(encoding="utf-8"))


def main() -> None:
    """Times all numbers of processes, and prints predicted and measured seconds."""
    parser = make_parser(__doc__)
    parser.add_argument("--width", type=int, default=512, help="hidden size of the model")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, default=ROWS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.rows, options.width)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = {size: timed(size, ROWS, options.width, folder / str(size)) for size in SIZES}
        half = timed(1, ROWS // 2, options.width, folder / "half")
    known = inputs(
        found[1]["step"], half["step"], int(found[1]["bytes"]), found[2]["exchange"], len(os.sched_getaffinity(0))
    )
    print(machine_text(machine()))
    table = {size: {"predicted": predicted(known, size), "measured": found[size]["step"]} for size in SIZES}
    for size, row in table.items():
        share = row["predicted"] / row["measured"]
        print(f"{size} processes: {row['predicted']:.3f} s predicted, {row['measured']:.3f} s measured: {share:.2f}")
    print(json.dumps({"seconds": table, "inputs": asdict(known), "machine": machine()}))


if __name__ == "__main__":
    main()
