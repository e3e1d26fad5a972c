"""Is it fast? Tokens per second while sampling, the loss at a large vocabulary, a step against TRL's."""

import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from gpu_check.models import (
    GIB,
    NO_TOKEN,
    SHAPES,
    free,
    memory,
    random_ids,
    random_model,
    seconds_of,
    shape_config,
    synchronize,
    tokenizer,
)
from gpu_check.report import Report
from gpu_check.steps import Clock
from loss import dense_gib, loss_function, two_models
from selfdistill.method.memory import MemoryCheck, available
from selfdistill.method.rollout.engine import Sampling
from selfdistill.method.rollout.engines import ENGINES
from selfdistill.models.device import compute_dtype

BATCH, PROMPT = 32, 256
"""Completions that are sampled together, and tokens of their prompts."""
NEW_TOKENS = {"own": 128, "generate": 32}
"""Tokens of a completion by engine."""
LOSS = (151_936, 8192)
"""Vocabulary and tokens."""
WIDTHS = (896, 3584)
TRL = "autocast-4"
"""TRL's weights and prompts per micro-batch, by the name that step.py gives them: the same mathematics as ours."""


# -- decoding ----------------------------------------------------------------------------------------------------------


def decode(report: Report) -> None:
    """Tokens per second of our engine and of transformers' generate, for every shape that the device holds."""
    for shape in SHAPES:
        config, dtype = shape_config(shape, report.quick), compute_dtype("auto", report.device)
        check = MemoryCheck(config, [], dtype="auto", lora_r=None, device=report.device)
        needed, there = 1.3 * check.num_parameters() * dtype.itemsize, available(report.device)
        if needed > there:
            report.skip(shape, f"it takes {needed / GIB:.1f} GiB, {there / GIB:.1f} are available")
            continue
        model = report.guarded(shape, lambda c=config, d=dtype: random_model(c, report.device, d))
        rates = []
        for name in NEW_TOKENS if model is not None else ():
            found = report.part(
                f"{shape}, {name}", lambda m=model, n=name: _decode(report, m, n), needs=1.0 if report.quick else 6.0
            )
            rates += [f"{name} {found['tokens_per_s']:,.0f}"] if found else []
        report.say(f"{shape}, {BATCH} completions, tokens per second: {', '.join(rates)}")
        del model
        free(report.device)


def _decode(report: Report, model: Any, name: str) -> dict[str, float]:
    """Seconds of one call after another that warms up."""
    prompts = random_ids(BATCH, 16 if report.quick else PROMPT, model.config.vocab_size, seed=5)
    count = 8 if report.quick else NEW_TOKENS[name]
    sampling = Sampling(max_new_tokens=count, seeds=tuple(range(BATCH)))
    engine = ENGINES[name](model, {NO_TOKEN}, 0, BATCH)
    took = seconds_of(lambda: engine.generate(prompts, sampling), report.device, repeats=1)
    return {"seconds": took, "tokens_per_s": BATCH * count / took, "ms_per_step": took / count * 1e3}


# -- the loss ----------------------------------------------------------------------------------------------------------


def loss(report: Report) -> None:
    """Forward KL and its gradients: seconds and extra memory, ours and dense, and TRL's chunked one if installed."""
    vocabulary, tokens = (2000, 128) if report.quick else LOSS
    with_trl = find_spec("trl") is not None
    if not with_trl:
        report.skip("trl", "it is not installed")
    for width in (16, 32) if report.quick else WIDTHS:
        found = []
        for way in ("ours", "dense", *(["trl"] if with_trl else [])):
            name = f"{way}, hidden size {width}"
            if way == "dense" and dense_gib(vocabulary, tokens) * GIB > 0.8 * available(report.device):
                report.skip(name, f"it takes {dense_gib(vocabulary, tokens):.0f} GiB")
            elif one := report.part(name, lambda w=way, h=width: _loss(report, w, vocabulary, tokens, h), needs=2.0):
                extra = "" if one["extra_bytes"] is None else f" {one['extra_bytes'] / GIB:.2f} GiB"
                found.append(f"{way} {one['seconds']:.3f} s{extra}")
            free(report.device)
        report.say(f"{vocabulary:,} x {tokens:,}, hidden size {width}: {', '.join(found)}")


def _loss(report: Report, way: str, vocabulary: int, tokens: int, width: int) -> dict[str, Any]:
    torch.manual_seed(0)
    device = report.device
    hidden, head, *teacher = two_models(vocabulary, tokens, width, device, compute_dtype("auto", device))
    function, values = loss_function(way), []

    def call() -> None:
        hidden.grad = head.grad = None
        value = function(hidden, head, *teacher)
        value.backward()
        values.append(value.detach())

    free(device)
    before = memory(device, "memory_allocated")
    call()
    synchronize(device)
    peak = memory(device, "max_memory_allocated")
    seconds = seconds_of(call, device)
    extra = None if peak is None or before is None else peak - before
    return {"loss": float(values[-1]), "seconds": seconds, "extra_bytes": extra}


# -- TRL ---------------------------------------------------------------------------------------------------------------


def against_trl(report: Report) -> None:
    """Steps of ours and of TRL's SDFTTrainer on the same prompts: 16, with 64 new tokens each, a model of 0.5B."""
    lacking = [name for name in ("trl", "datasets") if find_spec(name) is None]
    if lacking:
        report.skip("a step against TRL's", f"{' and '.join(lacking)} not installed")
        return
    from step import TRL_CONFIGS
    from trainers import make_ours, make_trl

    count, length = (4, 4) if report.quick else (16, 64)
    micro_batch, dtype, autocast = TRL_CONFIGS[TRL]
    with tempfile.TemporaryDirectory() as folder:
        model_folder = _write_model(report, Path(folder, "model"))
        shared: dict[str, Any] = {"model_name": model_folder, "device": report.device.type, "max_steps": 3}
        sizes = (Path(folder), count, length, 4)
        ours = report.part("ours", lambda: _laps(report, "ours", lambda: make_ours(*sizes, **shared)), needs=5.0)
        free(report.device)
        trl = report.part(
            "trl",
            lambda: _laps(report, "trl", lambda: make_trl(*sizes[:3], micro_batch, dtype, autocast, **shared)),
            needs=5.0,
        )
    if ours and trl:
        number = min(len(ours["seconds"]), len(trl["seconds"]))  # the same step of both: the first ones are slow
        here, there = (found["seconds"][number - 1] for found in (ours, trl))
        report.put("speedup", there / here)
        report.say(f"step {number}: ours {here:.2f} s, TRL {TRL} {there:.2f} s: ratio {there / here:.2f}")


def _write_model(report: Report, folder: Path) -> str:
    """A model and a tokenizer for trainers that load one by its name."""
    model = random_model(shape_config("0.5B", report.quick), report.device, torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


def _laps(report: Report, name: str, make: Callable[[], Any]) -> dict[str, Any]:
    """Seconds of the steps of a trainer, and its peak in bytes, from its making on."""
    free(report.device)
    trainer, clock = make(), Clock(report, name)
    trainer.add_callback(clock)
    trainer.train()
    return {"seconds": clock.seconds, "peak_allocated": clock.peaks and clock.peaks[0]}
