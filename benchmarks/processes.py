"""Do several processes train as one does? Weights after three steps, compared with one process on the same rows.

Tiny models in fp32 on CPUs, 2 and 3 processes that exchange by gloo, and one process whose micro-batches are as large
as theirs together. Names that begin with "split" are of models whose weights are split over the processes (FSDP2). The
difference is that of the order in which numbers are added. Also compared: that all processes end with the very same
weights, and that the same completions were sampled.

The last line is a JSON object: max_weight_difference by configuration, hangs (processes that had to be killed) and
seconds.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

STEPS = 3
SHAPES = {2: (2, 2), 3: (1, 2)}
"""Rows of a micro-batch in each process, and micro-batches of a step, by number of processes."""
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "full, ema": {"teacher": "ema", "teacher_update_rate": 0.5},
    "full, frozen": {"teacher": "frozen"},
    "full, live": {"teacher": "live"},
    "lora, ema": {"lora": True, "teacher": "ema", "teacher_update_rate": 0.5},
    "lora, frozen": {"lora": True, "teacher": "frozen"},
    "lora, live": {"lora": True, "teacher": "live"},
    "anchors": {"anchor_share": 0.34},
    "token_mean": {"loss_reduction": "token_mean"},
    "anchors, token_mean": {"anchor_share": 0.34, "loss_reduction": "token_mean"},
    "clipped": {"max_grad_norm": 0.01},
    "adamw": {"optim": "adamw_torch", "learning_rate": 1e-3},
    "other demonstrations": {"target": "contrast"},
    "teacher writes": {"method": "offline"},
    "demonstrations": {"method": "sft"},
    "one process masked": {"masked": (1,)},
    "all masked": {"masked": (0, 1), "max_grad_norm": 1.0},
    "5 rows": {"rows": 5},
}
"""Settings by name. Of this file are ``lora``, ``rows`` (their number) and ``masked``: completions of even rows (0) or
odd ones (1) are cut, and so without loss."""
SPLIT = (
    *("full, ema", "full, frozen", "full, live", "lora, ema", "anchors", "token_mean", "clipped", "adamw"),
    *("other demonstrations", "demonstrations", "one process masked", "all masked", "5 rows"),
)
CONFIGURATIONS |= {f"split, {name}": {**CONFIGURATIONS[name], "shard_weights": True} for name in SPLIT}


def train(name: str, folder: Path, shape: tuple[int, int]) -> None:
    """Trains in this process, which is alone or one of several, and saves its weights.

    Args:
        name: of the configuration.
        folder: of the run.
        shape: rows of a micro-batch in this process, and micro-batches of a step.
    """
    from safetensors.torch import save_file

    from selfdistill.launcher import place
    from selfdistill.method.methods import METHODS
    from selfdistill.method.slices import whole
    from selfdistill.models.adapters import lora
    from tests.support.engines import Scripted
    from tests.support.tiny import byte_tokenizer
    from tests.support.training import ROWS, make_trainer, script, student

    settings = {"learning_rate": 0.03, "max_completion_length": 12, **CONFIGURATIONS[name]}
    if place().size == 1:
        settings.pop("shard_weights", None)
    rows = (ROWS * 2)[: settings.pop("rows", 12)]
    model = student()
    if settings.pop("lora", False):
        model = lora(model, r=2, alpha=4, dropout=0.0)
    tokenizer, engine = byte_tokenizer(), None
    cut = settings.pop("masked", ())
    if cut:  # rows come in order, so that every second one is the second process's
        settings |= {"train_sampling_strategy": "sequential", "mask_truncated_completions": True}

        def complete(prompt: Sequence[int]) -> Any:
            number = int(str(tokenizer.decode(list(prompt))).rpartition("What is ")[2].partition("?")[0])
            return script(finish="length" if number % 2 in cut else "stop")(prompt)

        engine = Scripted(complete)
    elif METHODS[settings.get("method", "sdft")].samples:
        settings["rollout_engine"] = "own"
    trainer = make_trainer(
        folder,
        model=model,
        rows=rows,
        tokenizer=tokenizer,
        engine=engine,
        options={"anchor_dataset": [{"prompt": f"Say {n} words."} for n in range(3)]},
        per_device_train_batch_size=shape[0],
        gradient_accumulation_steps=shape[1],
        max_steps=STEPS,
        rollouts_logged_per_step=None,
        **settings,
    )
    trainer.train()
    weights = {name: whole(parameter.detach()).contiguous() for name, parameter in trainer.model.named_parameters()}
    save_file(weights, folder / f"weights-{trainer.processes.rank}.safetensors")


def free_port() -> int:
    """A port of this machine that nobody uses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start(
    size: int, arguments: Sequence[str], seconds: float, folder: Path | None = None
) -> tuple[list[int | None], list[str]]:
    """Runs a Python program in several processes, as a launcher does.

    Args:
        size: number of processes.
        arguments: of the interpreter.
        seconds: time limit of all together.
        folder: to run them in.

    Returns:
        By rank the exit code, None for one that had to be killed, and what was printed.
    """
    shared = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    processes = [
        subprocess.Popen(
            [sys.executable, *arguments],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
        )
        for rank in range(size)
    ]
    end = time.monotonic() + seconds
    codes: list[int | None] = []
    printed: list[str] = []
    for process in processes:
        try:
            out, _ = process.communicate(timeout=max(end - time.monotonic(), 0.1))
            codes.append(process.returncode)
        except subprocess.TimeoutExpired:
            process.kill()
            out, _ = process.communicate()
            codes.append(None)
        printed.append(out)
    return codes, printed


def in_processes(size: int, names: Sequence[str], folder: Path, seconds: float) -> int:
    """Trains configurations in several processes, each in its folder. Returns how many processes had to be killed.

    Raises:
        RuntimeError: a process failed.
    """
    own = [str(Path(__file__).resolve()), "--worker", str(folder), "--size", str(size), "--names", *names]
    codes, printed = start(size, own, seconds)
    if any(codes):
        rank = next(rank for rank, code in enumerate(codes) if code)
        raise RuntimeError(f"process {rank} of {size} ended with {codes[rank]}:\n{printed[rank][-3000:]}")
    return codes.count(None)


def difference(run: Path, reference: Path, size: int) -> float:
    """Largest difference between a weight of a run in ``size`` processes and of the reference.

    Raises:
        RuntimeError: the processes ended with different weights, or sampled other completions than the reference.
    """
    import torch
    from safetensors.torch import load_file

    first = load_file(run / "weights-0.safetensors")
    for rank in range(1, size):
        other = load_file(run / f"weights-{rank}.safetensors")
        if not all(torch.equal(first[name], other[name]) for name in first):
            raise RuntimeError(f"{run}: process {rank} has other weights than process 0")
    if sampled(run) != sampled(reference):
        raise RuntimeError(f"{run}: other completions than in one process")
    wanted = load_file(reference / "weights-0.safetensors")
    return max((first[name] - wanted[name]).abs().max().item() for name in wanted)


def sampled(run: Path) -> list[tuple[Any, ...]]:
    """Step, row and completion of everything that a run sampled, in its order."""
    lines = map(json.loads, (run / "rollouts.jsonl").read_text(encoding="utf-8").splitlines())
    return [(line["step"], line["id"], line["target"], tuple(line["completion_ids"])) for line in lines]


def compare(names: Sequence[str], sizes: Sequence[int], folder: Path, seconds: float) -> tuple[dict[str, float], int]:
    """Trains every configuration in one process and in several.

    Args:
        names: of the configurations.
        sizes: numbers of processes.
        folder: where the runs are written.
        seconds: time after which processes are killed, in which nothing should hang.

    Returns:
        The largest difference of a weight by configuration and number of processes, and the number of processes killed.
    """
    found: dict[str, float] = {}
    hangs = 0
    for size in sizes:
        rows, count = SHAPES[size]
        hung = in_processes(size, names, folder / str(size), seconds)
        hangs += hung
        for name in () if hung else names:
            reference = folder / f"as {size}" / name
            train(name, reference, (rows * size, count))
            found[f"{name}, {size} processes"] = difference(folder / str(size) / name, reference, size)
    return found, hangs


def main() -> None:
    """Compares all configurations, and prints one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", nargs="+", choices=list(CONFIGURATIONS), default=list(CONFIGURATIONS))
    parser.add_argument("--sizes", nargs="+", type=int, choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds after which processes count as hanging")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        for name in options.names:
            train(name, Path(options.worker) / name, SHAPES[options.size])
        return
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        found, hangs = compare(options.names, options.sizes, Path(folder), options.timeout)
    seconds = round(time.monotonic() - begin, 1)
    print(json.dumps({"max_weight_difference": found, "hangs": hangs, "seconds": seconds}))


if __name__ == "__main__":
    main()
