"""The loss alone, forward and backward to hidden states and head: seconds and memory against vocabulary and tokens.

Forward KL over the full vocabulary, bf16 hidden states of width 576 and heads of the same dtype, three ways:

dense  fp32 log-probabilities of both models as whole tensors
trl    the chunked function of TRL's DistillationTrainer (its SDFTTrainer is dense)
ours   selfdistill.method.divergence.chunked_divergence

Every case runs in a fresh process. Its extra memory is the peak during a call less what was in memory before,
gradients included; a first call on a few tokens loads what a call needs. Seconds are the median of further calls.
Dense is left out where its tensors would exceed --dense_limit_gib.

Keys of the result: memory_ratio and time_ratio, ours / dense at 151,936 tokens of vocabulary and 4,096 positions
(medians over rounds); cases with vocabulary, tokens, seconds and extra_mb by way; agreement, the largest relative
difference of a loss from the dense one.
"""

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from common import finish, in_child, make_parser, reset_peak, resident

VOCABULARIES = (32_000, 65_536, 151_936, 256_000)
TOKENS = (512, 2048, 4096, 8192)
HEADLINE = (151_936, 4096)
HIDDEN = 576
WAYS = ("dense", "trl", "ours")
DENSE_TENSORS = 6
"""fp32 tensors of [tokens, vocabulary] that the dense way holds at its peak."""


def dense_gib(vocabulary: int, tokens: int) -> float:
    """What the dense way needs at most."""
    return DENSE_TENSORS * 4 * vocabulary * tokens / 2**30


def loss_function(way: str) -> Callable[..., Any]:
    """The mean loss as a function of student's and teacher's hidden states and heads, in one of WAYS."""
    import torch
    from torch.nn import functional

    if way == "ours":
        from selfdistill.method.divergence import chunked_divergence

        def ours(hidden: Any, *others: Any) -> Any:
            weights = torch.full(
                (len(hidden),), 1 / len(hidden), device=hidden.device
            )  # known beforehand, as in training
            return chunked_divergence(hidden, *others, weights=weights).sum()

        return ours
    if way == "trl":
        from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

        def chunked(hidden: Any, head: Any, teacher_hidden: Any, teacher_head: Any) -> Any:
            return ChunkedDivergenceFunction.apply(hidden, head, None, teacher_hidden, teacher_head, None, 0.0)[
                0
            ].mean()

        return chunked

    def dense(hidden: Any, head: Any, teacher_hidden: Any, teacher_head: Any) -> Any:
        with torch.no_grad():
            log_p = (teacher_hidden @ teacher_head.T).float().log_softmax(-1)
        log_q = (hidden @ head.T).float().log_softmax(-1)
        return functional.kl_div(log_q, log_p, reduction="sum", log_target=True) / len(hidden)

    return dense


def two_models(vocabulary: int, tokens: int, width: int, device: Any, dtype: Any = None) -> tuple[Any, Any, Any, Any]:
    """Hidden states and head of a student, which take gradients, and of a teacher that mostly agrees with it."""
    import torch

    dtype = dtype or torch.bfloat16
    head, teacher_head = (torch.randn(vocabulary, width, dtype=dtype, device=device) * width**-0.5 for _ in range(2))
    hidden = torch.randn(tokens, width, dtype=dtype, device=device)
    teacher_hidden = hidden + 0.5 * torch.randn_like(hidden)
    teacher_head.mul_(0.1).add_(head)
    return hidden.requires_grad_(), head.requires_grad_(), teacher_hidden.detach(), teacher_head


def measure(way: str, vocabulary: int, tokens: int, repeats: int) -> dict[str, float]:
    """One case, in this process: its loss in nats, median seconds, extra memory in MB."""
    import torch

    from selfdistill.models.device import prepare_device

    prepare_device(torch.device("cpu"))  # for all ways alike
    torch.manual_seed(0)
    loss_of = loss_function(way)
    hidden, head, teacher_hidden, teacher_head = two_models(vocabulary, tokens, HIDDEN, torch.device("cpu"))

    def call(count: int) -> tuple[float, float]:
        head.grad = hidden.grad = None
        start = time.perf_counter()
        loss = loss_of(hidden[:count], head, teacher_hidden[:count], teacher_head)
        loss.backward()
        return loss.item(), time.perf_counter() - start

    call(8)
    head.grad = hidden.grad = None
    before = resident()
    reset_peak()
    loss, first = call(tokens)
    extra = resident("VmHWM") - before
    seconds = [call(tokens)[1] for _ in range(repeats)]
    return {"loss": loss, "seconds": statistics.median(seconds or [first]), "extra_mb": extra / 1e6}


def _case(vocabulary: int, tokens: int, ways: list[str], repeats: int, rounds: int) -> dict[str, Any]:
    results: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(rounds):  # ways in turn, so that a slow moment of the machine hits all
        for way in ways:
            results[way].append(in_child(measure, way, vocabulary, tokens, repeats))
    case: dict[str, Any] = {"vocabulary": vocabulary, "tokens": tokens}
    for way, taken in results.items():
        case[way] = {key: round(statistics.median(one[key] for one in taken), 6) for key in taken[0]}
        print(f"{vocabulary:,} x {tokens:,} {way}: {case[way]}", file=sys.stderr, flush=True)
    return case


def main() -> None:
    """Measures the cases asked for."""
    parser = make_parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="the case of the headline figures only")
    parser.add_argument("--vocabularies", type=int, nargs="+", default=VOCABULARIES)
    parser.add_argument("--tokens", type=int, nargs="+", default=TOKENS)
    parser.add_argument("--ways", choices=WAYS, nargs="+", default=WAYS)
    parser.add_argument("--repeats", type=int, default=1, help="timed calls of a case after its first")
    parser.add_argument("--rounds", type=int, default=3, help="fresh processes for each way of the headline case")
    parser.add_argument("--dense_limit_gib", type=float, default=16.0)
    arguments = parser.parse_args()
    sizes = [(v, t) for v in arguments.vocabularies for t in arguments.tokens]
    cases = []
    for vocabulary, tokens in [HEADLINE] if arguments.quick else sizes:
        fits = dense_gib(vocabulary, tokens) <= arguments.dense_limit_gib
        ways = [way for way in arguments.ways if way != "dense" or fits]
        rounds = arguments.rounds if (vocabulary, tokens) == HEADLINE else 1
        cases.append(_case(vocabulary, tokens, ways, arguments.repeats, rounds))
    both = [case for case in cases if "dense" in case and "ours" in case]
    result: dict[str, Any] = {}
    for case in (case for case in both if (case["vocabulary"], case["tokens"]) == HEADLINE):
        result["memory_ratio"] = round(case["ours"]["extra_mb"] / case["dense"]["extra_mb"], 4)
        result["time_ratio"] = round(case["ours"]["seconds"] / case["dense"]["seconds"], 4)
    others = [(case[way]["loss"], case["dense"]["loss"]) for case in both for way in ("trl", "ours") if way in case]
    result["agreement"] = max((abs(loss / exact - 1) for loss, exact in others), default=None)
    finish(result | {"hidden": HIDDEN, "cases": cases})


if __name__ == "__main__":
    main()
