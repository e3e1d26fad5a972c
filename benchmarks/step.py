"""One optimizer step of ours against TRL's: seconds, peak memory, and whether it is the right step.

Both train all weights of the embedded model on the same 16 rows, with completions of the same length, forward KL
over the full vocabulary, a moving-average teacher and AdamW. Each lives in a process of its own; the parent lets
them make one step at a time in turn, so that only one computes. A step is timed from the parent's word to the
update of the teacher.

--trl_config names TRL's weights and prompts per micro-batch: autocast-N keeps fp32 weights and computes in bf16,
which is the same mathematics as ours; bf16-N keeps weights, optimizer and teacher in bf16, which rounds most
updates away; fp32-N computes in fp32.

Keys of the result: speedup and rss_ratio (ours / TRL's peak); ours_s and trl_s, medians; matrix_peak_share, the
step's matrix FLOPs (flops.py) / seconds / the machine's measured bf16 peak; seconds and tokens_per_s by phase;
update_cosine and update_error against a dense fp32 computation of the same step, and bf16_cosine of a plain bf16
one (oracle.py).
"""

import argparse
import multiprocessing
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import cpu_seconds, finish, in_child, make_parser, matrix_peak
from flops import Shape, step_flops

TRL_CONFIGS = {
    "autocast-4": (4, "float32", True),
    "autocast-16": (16, "float32", True),
    "bf16-4": (4, "bfloat16", False),
    "bf16-16": (16, "bfloat16", False),
    "fp32-4": (4, "float32", False),
}
"""Name to prompts per micro-batch, dtype of the weights, and whether to compute in bf16."""


class Side:
    """A trainer in a process of its own that makes a step when told."""

    def __init__(self, name: str, arguments: argparse.Namespace) -> None:
        self.name = name
        self.steps: list[dict[str, Any]] = []
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_train, args=(theirs, name, vars(arguments)))
        self._process.start()
        theirs.close()
        self._connection.recv()

    def step(self) -> None:
        """Makes one step and keeps what it took."""
        self._connection.send("step")
        self.steps.append(self._connection.recv())
        print(f"{self.name}: {self.steps[-1]['seconds']:.2f} s, {self.steps[-1]['peak'] / 1e9:.2f} GB", file=sys.stderr)

    def cpu_seconds(self) -> float:
        """Processor time of the process so far."""
        assert self._process.pid is not None
        return cpu_seconds(self._process.pid)

    def stop(self) -> list[dict[str, float]]:
        """Ends the process; returns seconds by phase of every step."""
        self._connection.send("stop")
        phases = self._connection.recv()
        self._process.join()
        return phases


def _train(connection: Any, name: str, arguments: dict[str, Any]) -> None:
    """Runs in the child: trains for as long as the parent wants."""
    from selfdistill.models.loading import quiet_libraries
    from trainers import Gate, Watched, make_ours, make_trl

    quiet_libraries()
    gate = Gate(connection)
    with tempfile.TemporaryDirectory() as folder:
        sizes = (Path(folder), arguments["prompts"], arguments["new_tokens"])
        if name == "ours":
            trainer: Any = make_ours(*sizes, arguments["micro_batch"])
            gate.prompts = [(pair.student_ids, pair.teacher_ids) for pair in trainer.train_dataset]
            trainer.step.engine = gate.engine = Watched(trainer.step.engine)
        else:
            trainer = make_trl(*sizes, *TRL_CONFIGS[arguments["trl_config"]])
        trainer.add_callback(gate)
        trainer.train()
    connection.send(gate.phases)


def _measure(arguments: argparse.Namespace) -> tuple[Side, Side, list[dict[str, float]], float]:
    """Steps of both in turn, seconds by phase of ours, and the idle side's share of a processor."""
    ours, trl = Side("ours", arguments), Side("trl", arguments)
    idle = busy = 0.0
    for _ in range(arguments.warmup + arguments.steps):
        for active, other in ((ours, trl), (trl, ours)):
            before = other.cpu_seconds()
            active.step()
            idle += other.cpu_seconds() - before
            busy += active.steps[-1]["seconds"]
    phases = ours.stop()
    trl.stop()
    return ours, trl, phases, idle / busy


def _phases(phases: list[dict[str, float]], step: dict[str, Any]) -> dict[str, Any]:
    """Median seconds by phase, and tokens per second of the phases that work on tokens."""
    student = sum(step["student"]) + sum(step["completions"])
    tokens = {
        "rollout": sum(step["completions"]),
        "teacher": sum(step["teacher"]) + sum(step["completions"]),
        "student": student,
        "divergence": sum(step["completions"]),
        "backward": student,
    }
    seconds = {name: statistics.median(step.get(name, 0.0) for step in phases) for name in sorted(set().union(*phases))}
    rates = {name: round(tokens[name] / took) for name, took in seconds.items() if name in tokens and took > 0}
    return {"seconds": {name: round(took, 3) for name, took in seconds.items()}, "tokens_per_s": rates}


def _shape() -> Shape:
    from selfdistill.models.loading import load_config
    from selfdistill.settings.groups import DEFAULT_MODEL

    return Shape.of(load_config(DEFAULT_MODEL))


def _update(new_tokens: int, micro_batch: int) -> dict[str, float]:
    from oracle import compare_update

    return compare_update(prompts=8, new_tokens=new_tokens, micro_batch=min(8, micro_batch))


def main() -> None:
    """Measures, compares, prints."""
    parser = make_parser(__doc__)
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each")
    parser.add_argument("--warmup", type=int, default=2, help="steps of each before them")
    parser.add_argument("--prompts", type=int, default=16, help="prompts per step")
    parser.add_argument("--new_tokens", type=int, default=40, help="length of every completion")
    parser.add_argument("--micro_batch", type=int, default=4, help="our prompts per micro-batch")
    parser.add_argument("--trl_config", choices=list(TRL_CONFIGS), default="autocast-4")
    parser.add_argument("--no_update", action="store_true", help="leave the comparison of the update out")
    arguments = parser.parse_args()

    shape = in_child(_shape)  # also makes the embedded model where it is not in the cache yet
    ours, trl, phases, idle = _measure(arguments)
    timed = {side.name: side.steps[arguments.warmup :] for side in (ours, trl)}
    last, other = ours.steps[-1], trl.steps[-1]
    if last["prompts"] != other["prompts"] or last["completions"] != other["completions"]:
        raise RuntimeError(f"the two did not do the same work: {last}\n{other}")
    ours_s, trl_s = (statistics.median(step["seconds"] for step in timed[name]) for name in ("ours", "trl"))
    peaks = {dtype: in_child(matrix_peak, dtype) for dtype in ("bfloat16", "float32")}
    flops = step_flops(shape, last["student"], last["teacher"], last["completions"])
    finish(
        {
            "speedup": round(trl_s / ours_s, 3),
            "rss_ratio": round(last["peak"] / other["peak"], 3),
            "ours_s": round(ours_s, 3),
            "trl_s": round(trl_s, 3),
            "matrix_peak_share": round(flops / ours_s / peaks["bfloat16"], 3),
            "ours_peak_gb": round(last["peak"] / 1e9, 2),
            "trl_peak_gb": round(other["peak"] / 1e9, 2),
            "trl_config": arguments.trl_config,
            "steps": {name: [round(step["seconds"], 3) for step in steps] for name, steps in timed.items()},
            "idle_share": round(idle, 4),
            "step_tflop": round(flops / 1e12, 3),
            "matrix_peak_gflops": {dtype: round(peak / 1e9) for dtype, peak in peaks.items()},
            "prompts": arguments.prompts,
            "student_tokens": round(statistics.mean(last["student"]), 1),
            "teacher_tokens": round(statistics.mean(last["teacher"]), 1),
            "completion_tokens": arguments.new_tokens,
        }
        | _phases(phases[arguments.warmup :], last)
        | ({} if arguments.no_update else in_child(_update, arguments.new_tokens, arguments.micro_batch))
    )


if __name__ == "__main__":
    main()
