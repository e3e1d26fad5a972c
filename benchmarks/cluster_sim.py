"""What would a cluster of H200s do? An event simulation of self-distillation with rollouts in time, or one step late.

Nothing of this ran on a cluster. A step's prompts are completed by servers that decode continuously, scored and learned
by trainer GPUs that share the weights within a node (HSDP), and the new weights sent to the servers.

together   all GPUs sample, then all of them train
apart      some GPUs sample while the others wait, then these train while the first wait
late       as apart, but while step n trains, completions of step n + 1 are sampled from the weights before step n

What goes in was measured on one H200 (docs/performance.md, "On a GPU"): the time of a decoding step, and the share of
the card's peak that a training step reaches. Links are those of its data sheet and of a network of 400 Gb/s per GPU.
Completions have lognormal lengths with a median of 300 tokens, at most 1,024. The first row sets one H200 against what
was measured there. What it costs to learn from the completions of older weights is not simulated.

The last line is a JSON object: rows, each with seconds of a step and what limits it.
"""

import argparse
import heapq
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from selfdistill.training.cards import BANDWIDTH_SHARE, CARDS, EFFICIENCY
from selfdistill.training.plan import kernel_seconds

NODE = 8
"""GPUs of a node."""
H200 = CARDS["h200"]
FLOPS = EFFICIENCY * H200.flops * 1e12
"""FLOP/s of a GPU in a training step."""
BANDWIDTH = BANDWIDTH_SHARE * H200.bandwidth * 1e12
"""Bytes per second from a GPU's memory."""
PEERS, NETWORK = H200.peers * 1e9, 50e9
"""Bytes per second of a GPU to another of its node, and to other nodes."""
MEMORY = 130e9
"""Bytes of a GPU that weights, masters, moments, gradients and caches may take."""
SLOTS = 64
"""Completions that a server decodes together."""
STEPS = 6
MEASURED = 19.98
"""Seconds of a step on one H200: 7B, all weights, 32 prompts and completions of 1,024 tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What a step's time depends on."""

    name: str
    weights: float
    layers: int
    cache: int
    """Bytes of the key-value cache per token."""
    server: int
    """GPUs of a server of rollouts."""
    trained: float = 1.0
    """Share of the weights that is trained and sent."""


MODELS = (
    Model(name="7B", weights=7.6e9, layers=28, cache=2 * 2 * 28 * 4 * 128, server=1),
    Model(name="70B", weights=70.6e9, layers=80, cache=2 * 2 * 80 * 8 * 128, server=4),
)


def decoding_seconds(model: Model, live: int, context: float) -> float:
    """Seconds of one token of ``live`` sequences with ``context`` tokens each, on one server."""
    read = (2 * model.weights + live * context * model.cache) / (model.server * BANDWIDTH)
    exchange = 0.0 if model.server == 1 else 2 * model.layers * 10e-6  # an all-reduce after each half of a layer
    return read + kernel_seconds(model.layers) + exchange


def sampling_seconds(model: Model, lengths: Sequence[int], servers: int, prompt: int) -> float:
    """Seconds until all completions of a step are there. A server that has finished one takes the next prompt."""
    prefill = 2 * model.weights * prompt / (model.server * FLOPS)
    queue = list(reversed(lengths))
    clocks, done = [0.0] * servers, [0] * servers  # seconds, and tokens that each sequence of a server has had
    live: list[list[int]] = [[] for _ in range(servers)]  # the token counts at which its sequences end
    events: list[tuple[float, int]] = []

    def go_on(server: int) -> None:
        if live[server]:
            tokens = live[server][0] - done[server]
            step = decoding_seconds(model, len(live[server]), prompt + sum(lengths) / len(lengths) / 2)
            heapq.heappush(events, (clocks[server] + tokens * step, server))

    def take(server: int) -> None:
        heapq.heappush(live[server], done[server] + queue.pop())
        clocks[server] += prefill

    for number in range(min(len(queue), servers * SLOTS)):
        take(number % servers)
    for server in range(servers):
        go_on(server)
    end = 0.0
    while events:
        end, server = heapq.heappop(events)
        clocks[server], done[server] = end, live[server][0]
        while live[server] and live[server][0] == done[server]:
            heapq.heappop(live[server])
            if queue:
                take(server)
        go_on(server)
    return end


def training_seconds(model: Model, tokens: int, gpus: int, micro_batch_tokens: int = 4096) -> float:
    """Seconds to score and learn ``tokens`` and to move weights and gradients between GPUs, which goes on beside it."""
    passes = (4 if model.trained < 1 else 6) + 2 + 2  # student, once more forward for activations, teacher
    computed = passes * model.weights * tokens / (gpus * FLOPS)
    rounds = max(1.0, tokens / gpus / micro_batch_tokens)
    gathered = 4 * rounds * 2 * model.weights * (1 - 1 / NODE) / PEERS if gpus > 1 else 0.0
    nodes = max(1, gpus // NODE)
    reduced = 2 * 4 * model.weights * model.trained / NODE / NETWORK if nodes > 1 else 0.0
    return max(computed, gathered) + reduced


def transfer_seconds(model: Model) -> float:
    """Seconds to send the trained weights to all servers at once, each GPU taking its part and passing it on."""
    return 2 * model.weights * model.trained / (model.server * NETWORK)


def fits(model: Model, trainers: int) -> bool:
    """Whether the trainers hold the weights and, of what is trained, the masters, moments and gradients; the teacher is
    on the host."""
    return model.weights * (2 + 14 * model.trained) <= trainers * MEMORY


def step_seconds(way: str, sampling: Sequence[float], training: Sequence[float], transfer: float) -> float:
    """Mean seconds of a step after the first, by what each step's sampling and training take."""
    sampled = trained = before = 0.0  # when each of the last step ended; when the training before that did
    ends: list[float] = []
    for sample, train in zip(sampling, training, strict=True):
        weights_from = before if way == "late" else trained
        sampled = max(sampled, weights_from + (transfer if weights_from else 0.0)) + sample
        before, trained = trained, max(sampled, trained) + train
        ends.append(trained)
    return (ends[-1] - ends[0]) / (len(ends) - 1)


def lengths_of(step: int, prompts: int) -> list[int]:
    """Tokens of a step's completions."""
    draw = random.Random(step)
    return [min(1024, max(1, round(draw.lognormvariate(5.7, 0.8)))) for _ in range(prompts)]


def simulate(
    model: Model,
    way: str,
    gpus: int,
    prompts: int,
    *,
    prompt: int = 1024,
    lengths: Callable[[int, int], list[int]] = lengths_of,
    steps: int = STEPS,
) -> dict[str, Any]:
    """A step's seconds in a way to use GPUs; apart and late take the share of servers that is best for them.

    Args:
        model: what is trained.
        way: together, apart or late.
        gpus: number of GPUs.
        prompts: prompts of a step.
        prompt: tokens of a prompt.
        lengths: from a step's number and its prompts to the tokens of its completions.
        steps: number of steps.
    """
    if way == "together":
        splits = [(max(1, gpus // model.server), gpus)]
    else:
        whole = range(model.server, gpus, model.server)
        chosen = {round(gpus * share / 8 / model.server) * model.server for share in range(1, 8)} & set(whole)
        splits = [(sampling // model.server, gpus - sampling) for sampling in sorted(chosen)]
    splits = [(servers, trainers) for servers, trainers in splits if fits(model, trainers)]
    drawn = [lengths(step, prompts) for step in range(steps)]
    found: list[dict[str, Any]] = []
    for servers, trainers in splits:
        sampling = [sampling_seconds(model, each, servers, prompt) for each in drawn]
        training = [training_seconds(model, prompts * prompt + sum(each), trainers) for each in drawn]
        transfer = transfer_seconds(model) if way != "together" else 0.0
        seconds = step_seconds(way, sampling, training, transfer)
        parts = {"sampling": sum(sampling) / steps, "training": sum(training) / steps, "transfer": transfer}
        limit = max(parts, key=lambda name: parts[name])
        found.append({"servers": servers, "trainers": trainers, "seconds": seconds, "limit": limit, **parts})
    best = min(found, key=lambda one: one["seconds"], default={"seconds": None})
    return {"model": model.name, "way": way, "gpus": gpus, "prompts": prompts, **best}


def main() -> None:
    """Prints the table and the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts_per_gpu", type=int, default=4, help="4: the paper's 32 prompts are a step of a node")
    per_gpu = parser.parse_args().prompts_per_gpu
    one = simulate(MODELS[0], "together", 1, 32, lengths=lambda step, count: [1024] * count, steps=2)
    print(f"One H200, completions of 1,024 tokens: {one['seconds']:.1f} s a step, measured {MEASURED}")
    rows: list[dict[str, Any]] = []
    for gpus in (8, 64, 1024):
        for model in MODELS:
            for kind in (model, replace(model, name=f"{model.name} LoRA", trained=0.01)):
                for way in ("together", "apart", "late"):
                    row = simulate(kind, way, gpus, per_gpu * gpus)
                    rows.append(row)
                    if row["seconds"] is None:
                        print(f"{gpus:>5} GPUs {row['model']:<9} {way:<9} does not fit")
                        continue
                    split = "" if way == "together" else f"{row['servers']} servers, {row['trainers']} trainers"
                    rate = row["prompts"] / row["seconds"]
                    print(
                        f"{gpus:>5} GPUs {row['model']:<9} {way:<9} {row['seconds']:7.2f} s a step, "
                        f"{rate:8.1f} prompts/s, limit {row['limit']:<9} {split}"
                    )
    print(json.dumps({"one_h200": one["seconds"], "measured": MEASURED, "rows": rows}))


if __name__ == "__main__":
    main()
