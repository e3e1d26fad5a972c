"""Is it right? The parts of a step on the device, against the CPU or against the plain way of computing them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from gpu_check.models import NO_TOKEN, Scripted, pairs, random_ids, relative_error, tiny_model, tokenizer
from gpu_check.report import Report
from selfdistill.method.divergence import (
    DIVERGENCES,
    chunked_divergence,
    chunked_logprobs,
    chunked_sampled_divergence,
)
from selfdistill.method.master_weights import MasterWeights
from selfdistill.method.other_teacher import OtherTeacher
from selfdistill.method.rollout.engine import Sampling, row_seeds
from selfdistill.method.rollout.engines import ENGINES
from selfdistill.method.rollout.sampling import sample, uniforms
from selfdistill.method.step import Step
from selfdistill.method.teacher import Teacher
from selfdistill.settings.method import MethodConfig

TOLERANCE = 1e-4
"""Largest relative error of fp32 results on the device."""
VARIANTS: dict[str, dict[str, Any]] = {
    "full": {},
    "scaled, capped": {"temperature": 0.7, "logit_scale": 0.5, "softcap": 3.0},
    "clipped": {"clip": 3.0},
    "top k of teacher": {"top_k": 20},
    "top k of student, tail": {"top_k": 20, "top_k_of": "student", "tail": True},
}
"""Arguments of ``chunked_divergence``."""

CHUNK = 16
"""Rows of a chunk, so that a loss has several."""

Sides = tuple[Tensor, Tensor, Tensor, Tensor]
"""The student's hidden states [N, H] and head [V, H], and the teacher's."""
Loss = Callable[[Sides, Tensor, Tensor | None], Tensor]
"""Values [N] of both sides, the sampled ids [N], and factors [N] that are known beforehand."""


def _losses() -> dict[str, Loss]:
    """All ways to compute a loss, by name."""

    def compared(kind: Any, variant: dict[str, Any]) -> Loss:
        return lambda sides, ids, weights: chunked_divergence(
            *sides, kind=kind, beta=0.3, weights=weights, chunk_size=CHUNK, **variant
        )

    def sampled(sides: Sides, ids: Tensor, weights: Tensor | None) -> Tensor:
        return chunked_sampled_divergence(*sides, ids, weights=weights, chunk_size=CHUNK)

    def cross_entropy(sides: Sides, ids: Tensor, weights: Tensor | None) -> Tensor:
        return chunked_logprobs(*sides[:2], ids, weights=weights, chunk_size=CHUNK)

    kinds = {f"{kind}, {name}": compared(kind, variant) for kind in DIVERGENCES for name, variant in VARIANTS.items()}
    return {**kinds, "reverse_kl, sampled": sampled, "cross-entropy": cross_entropy}


def divergences(report: Report) -> None:
    """Values and gradients of every divergence in fp32 on the device, against the same in fp64 on the CPU."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    tokens, hidden, vocabulary = 70, 48, 1111
    head = normal(vocabulary, hidden) / 4
    sides = (normal(tokens, hidden), head, normal(tokens, hidden), head + normal(vocabulary, hidden) / 20)
    ids = torch.randint(0, vocabulary, (tokens,), generator=generator)
    factors = torch.rand(tokens, generator=generator, dtype=torch.float64)

    def computed(loss: Loss, device: Any, dtype: torch.dtype, weights: Tensor | None) -> list[Tensor]:
        student, student_head, *teacher = (side.to(dtype, copy=True).to(device) for side in sides)
        both: Any = (student.requires_grad_(), student_head.requires_grad_(), *teacher)
        values = loss(both, ids.to(device), None if weights is None else weights.to(dtype).to(device))
        values.sum().backward()
        assert student.grad is not None
        assert student_head.grad is not None
        return [values, student.grad, student_head.grad]

    def error(loss: Loss) -> dict[str, Any]:
        worst = 0.0
        for weights in (None, factors):
            ours = computed(loss, report.device, torch.float32, weights)
            exact = computed(loss, "cpu", torch.float64, weights)
            worst = max(worst, *(relative_error(a, b) for a, b in zip(ours, exact, strict=True)))
        return {"error": worst, "ok": worst < TOLERANCE}

    found = {name: report.part(name, lambda loss=loss: error(loss)) for name, loss in _losses().items()}
    errors = [one["error"] for one in found.values() if one]
    report.say(f"{len(errors)} losses and their gradients: largest relative error {max(errors, default=0):.1e}")


# -- weights -----------------------------------------------------------------------------------------------------------


def teachers(report: Report) -> None:
    """Teachers of every kind that live on the host, against the same on the device, bit for bit, over five steps."""
    for kind in ("frozen", "ema", "live"):
        for dtype in (torch.float32, torch.bfloat16):
            report.part(f"{kind}, {dtype}".replace("torch.", ""), lambda k=kind, d=dtype: _homes(report.device, k, d))
    parts = report.found["parts"].values()
    report.say(f"{sum(part['ok'] for part in parts)} of {len(parts)} teachers are the same on device and host")


def _homes(device: torch.device, kind: Any, dtype: torch.dtype) -> dict[str, Any]:
    config = MethodConfig(teacher=kind, teacher_update_rate=0.3)
    step = Step(tiny_model(device, dtype=dtype), tokenizer(), config, engine=Scripted())
    here = step.teachers["teacher"]
    assert not isinstance(here, OtherTeacher)
    there = Teacher(step.masters, kind, config.teacher_update_rate, config.teacher_sync_steps, home="host")
    rows, equal, moved, error = pairs(4, 20, 30, 300), True, False, 0.0
    start = _shown(there, step.masters)
    optimizer = torch.optim.AdamW([master for _, _, master in step.masters.items()], lr=0.01)
    with step.masters.attached():
        for number in range(5):
            for micro_batch in step.micro_batches(step.rollout(rows, number), 2):
                step.learn(micro_batch)
            step.masters.update(optimizer.step)
            step.follow(number + 1)
            there.update(number + 1)
            shown = _shown(there, step.masters)
            moved = not _same(start, shown)
            equal &= _same(_shown(here, step.masters), shown)
            kept, other = (list(teacher.state_dict().values()) for teacher in (here, there))
            equal &= _same(kept, other)
            error = max([error, *(relative_error(b, a) for a, b in zip(kept, other, strict=True))])
    return {"equal": equal, "error": error, "moved": moved, "ok": equal and moved == (kind != "frozen")}


def _same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(first, second, strict=True))


def _shown(teacher: Teacher, masters: MasterWeights) -> list[Tensor]:
    """The weights that the model has while the teacher is active."""
    with teacher.active():
        return [parameter.detach().clone() for parameter in masters.parameters.values()]


def masters(report: Report) -> None:
    """AdamW on bf16 weights with 16 bits beside them, against AdamW on whole fp32 weights with the same gradients."""
    for name in ("single", "foreach", "fused"):
        options = {"foreach": name == "foreach", "fused": name == "fused"}
        report.part(name, lambda o=options: _against_whole(report.device, o))
    found = report.found["parts"]
    errors = ", ".join(f"{name} {part['error']:.1e}" for name, part in found.items())
    report.say(f"masters against fp32 weights, 20 steps of AdamW, relative error: {errors}")


def _against_whole(device: torch.device, options: dict[str, bool]) -> dict[str, Any]:
    torch.manual_seed(0)
    module = nn.ParameterList(nn.Parameter(torch.randn(size, 33).to(device, torch.bfloat16)) for size in (7, 64, 1000))
    split = MasterWeights(module)
    whole = {name: nn.Parameter(split.value(name).clone()) for name in split.parameters}
    start = {name: weight.detach().clone() for name, weight in whole.items()}
    settings: dict[str, Any] = {"lr": 1e-4, "weight_decay": 0.01, **options}
    ours = torch.optim.AdamW([master for _, _, master in split.items()], **settings)
    theirs = torch.optim.AdamW(list(whole.values()), **settings)
    with split.attached():
        for _ in range(20):
            for _, parameter, _ in split.items():
                (parameter * torch.randn_like(parameter)).sum().backward()
            for name, _, master in split.items():
                assert master.grad is not None
                whole[name].grad = master.grad.clone()
            split.update(ours.step)
            theirs.step()
    update = {name: split.value(name) - start[name] for name in whole}
    error = max(relative_error(update[name], whole[name] - start[name]) for name in whole)
    # a weight is its master rounded: half a unit in its last place away at most
    rounded = all(
        bool(((p.float() - split.value(name)).abs() <= split.value(name).abs() / 2**8).all())
        for name, p in split.parameters.items()
    )
    equal = all(torch.equal(split.value(name), weight) for name, weight in whole.items())
    return {"error": error, "equal": equal, "ok": error < TOLERANCE and rounded}


# -- decoding ----------------------------------------------------------------------------------------------------------


def sampling(report: Report) -> None:
    """Completions: ours against transformers' generate, the same seed again, and draws against the CPU's."""
    for name, check in {
        "greedy, ours against generate": _greedy,
        "same seed, same completions": _seeds,
        "draws on the device against the CPU": lambda device: _draws(device, 500 if report.quick else 150_000),
    }.items():
        found = report.part(name, lambda check=check: check(report.device))
        if found:
            report.say(f"{name}: {found['share']:.1%} the same")


def _completions(model: Any, name: str, settings: Sampling) -> list[tuple[int, ...]]:
    prompts = [ids[: 5 + place % 7] for place, ids in enumerate(random_ids(12, 12, 300, seed=4))]
    engine = ENGINES[name](model, {NO_TOKEN}, 0, len(prompts))
    return [rollout.completion_ids for rollout in engine.generate(prompts, settings)]


def _share(first: list[Any], second: list[Any]) -> float:
    return sum(a == b for a, b in zip(first, second, strict=True)) / len(first)


def _greedy(device: torch.device) -> dict[str, Any]:
    settings, shares = Sampling(max_new_tokens=16, temperature=0), []
    for family in ("llama", "qwen2"):
        model = tiny_model(device, family)
        shares.append(_share(_completions(model, "own", settings), _completions(model, "generate", settings)))
    return {"share": min(shares), "ok": min(shares) == 1.0}


def _seeds(device: torch.device) -> dict[str, Any]:
    model, names = tiny_model(device), [str(number) for number in range(12)]
    settings = Sampling(max_new_tokens=16, seeds=row_seeds(0, 0, names))
    first, again = _completions(model, "own", settings), _completions(model, "own", settings)
    other = _completions(model, "own", replace(settings, seeds=row_seeds(1, 0, names)))
    share, others = _share(first, again), _share(first, other)
    return {"share": share, "share with another seed": others, "ok": share == 1.0 and others < 0.5}


def _draws(device: torch.device, vocabulary: int) -> dict[str, Any]:
    """Tokens drawn from the same logits with the same random numbers."""
    torch.manual_seed(0)
    logits, shares = torch.randn(128, vocabulary) * 3, {}
    for top_p in (1.0, 0.9):
        settings = Sampling(max_new_tokens=1, top_p=top_p, seeds=tuple(range(128)))
        drawn = []
        for place in (torch.device("cpu"), device):
            numbers = uniforms(settings.seeds, 1, place)
            assert numbers is not None
            drawn.append(sample(logits.to(place), settings, numbers[:, 0])[0].tolist())
        shares[top_p] = _share(*drawn)
    worst = min(shares.values())
    return {"share": worst, "ok": worst > 0.95}  # sums in fp32 place a few draws next to where sums in fp64 do
