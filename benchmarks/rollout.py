"""Tokens per second while completions are sampled: transformers' generate, our engine, and vLLM where it is installed.

The embedded model in bf16, greedy, on general prompts that come with the package. transformers has the model as it
loads it, with its own attention. It and ours live in this process and run in turn; vLLM has one of its own.

equal    every completion has the same length
unequal  a line break ends a completion, for each engine alike; prompts are chosen such that the lengths are spread
         evenly over 5 to 80 tokens

Keys of the result: speedup_16 and speedup_32, our tokens per second / generate's with 16 and 32 unequal completions;
cases, with tokens per second by engine; same_tokens, the share of 16 unequal completions that are the same to the last
token in fp32, where rounding decides least. Where rounding decides, bf16 completions may differ, in length too: each
engine's own tokens are counted.
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from common import finish, in_child, make_parser

BATCHES = (1, 4, 16, 32)
EQUAL_LENGTHS = (20, 80)
SHORTEST, LONGEST = 5, 80

POOL = 128
"""Prompts that are chosen from."""
NO_TOKEN = -1
"""As the only end of a sequence it lets every completion reach the limit."""

Prompts = list[tuple[int, ...]]
Completions = list[tuple[int, ...]]


def spread(lengths: Sequence[int], count: int) -> list[int]:
    """Places of ``count`` of the ``lengths`` that lie nearest to an even spread from SHORTEST to LONGEST."""
    left = set(range(len(lengths)))
    chosen = []
    for rank in range(count):
        wanted = SHORTEST + rank * (LONGEST - SHORTEST) / max(1, count - 1)
        nearest = min(left, key=lambda place: (abs(lengths[place] - wanted), place))
        left.remove(nearest)
        chosen.append(nearest)
    return chosen


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is sampled at once."""

    kind: str
    """``equal`` or ``unequal``."""
    prompts: Prompts
    limit: int
    """Longest completion in tokens."""
    ends: frozenset[int]
    """Ids that end a completion."""


def find_cases(batches: Sequence[int], lengths: Sequence[int]) -> list[Case]:
    """The cases, in a process of its own: prompts of the embedded model, chosen by how long it answers."""
    from selfdistill.data.general import anchor_examples
    from selfdistill.method.prompts import PromptRenderer
    from selfdistill.models import loading
    from selfdistill.models.tokens import eos_token_ids
    from selfdistill.settings.groups import DEFAULT_MODEL

    model = loading.load_model(DEFAULT_MODEL, device="cpu")
    tokenizer = loading.load_tokenizer(DEFAULT_MODEL)
    breaks = {token for token in range(len(tokenizer)) if "\n" in str(tokenizer.decode([token]))}
    ends = frozenset(breaks | eos_token_ids(model, tokenizer))
    renderer = PromptRenderer(tokenizer)
    pairs = renderer.render_all(anchor_examples()[:POOL], teacher=False, answers=False)
    prompts = [pair.student_ids for pair in pairs]
    answered = [len(ids) for ids in complete_ours(model, Case(kind="pool", prompts=prompts, limit=LONGEST, ends=ends))]
    never = frozenset({NO_TOKEN})
    cases = [
        Case(kind="equal", prompts=prompts[:size], limit=length, ends=never) for size in batches for length in lengths
    ]
    return cases + [
        Case(kind="unequal", prompts=[prompts[at] for at in spread(answered, size)], limit=LONGEST, ends=ends)
        for size in batches
        if size > 1
    ]


def complete_ours(model: Any, case: Case) -> Completions:
    """By our engine."""
    from selfdistill.method.rollout.engine import Sampling
    from selfdistill.method.rollout.own import OwnEngine

    engine = OwnEngine(model, case.ends, 0)
    rollouts = engine.generate(case.prompts, Sampling(max_new_tokens=case.limit, temperature=0))
    return [rollout.completion_ids for rollout in rollouts]


def complete_generate(model: Any, case: Case) -> Completions:
    """By transformers' generate, left-padded, all at once."""
    from selfdistill.method.rollout.engine import Sampling
    from selfdistill.method.rollout.generate import GenerateEngine

    engine = GenerateEngine(model, case.ends, 0, batch_size=len(case.prompts))
    rollouts = engine.generate(case.prompts, Sampling(max_new_tokens=case.limit, temperature=0))
    return [rollout.completion_ids for rollout in rollouts]


def _both(dtype: str) -> list[tuple[str, Callable[[Any, Case], Completions], Any]]:
    from selfdistill.models import loading
    from selfdistill.settings.groups import DEFAULT_MODEL
    from trainers import plain_model

    loading.quiet_libraries()
    plain = plain_model(dtype)
    plain.generation_config.eos_token_id = None  # else generate ends there, too
    ours = loading.load_model(DEFAULT_MODEL, dtype=dtype, device="cpu")
    return [("generate", complete_generate, plain), ("ours", complete_ours, ours)]


def rates(cases: list[Case], repeats: int) -> list[dict[str, Any]]:
    """Median tokens per second of both engines for every case, in this process."""
    engines = _both("bfloat16")
    results = []
    for case in cases:
        result: dict[str, Any] = {"kind": case.kind, "batch": len(case.prompts), "limit": case.limit}
        taken: dict[str, list[float]] = {name: [] for name, _, _ in engines}
        for _ in range(repeats + 1):  # the first warms up
            for name, complete, model in engines:
                start = time.perf_counter()
                count = sum(map(len, complete(model, case)))
                taken[name].append(count / (time.perf_counter() - start))
                result[f"tokens_{name}"] = count
        result |= {name: round(statistics.median(values[1:]), 1) for name, values in taken.items()}
        result["speedup"] = round(result["ours"] / result["generate"], 3)
        print(result, file=sys.stderr, flush=True)
        results.append(result)
    return results


def same_tokens(case: Case) -> float:
    """Share of the case's completions that both engines make alike in fp32."""
    (_, first, one), (_, second, other) = _both("float32")
    pairs = list(zip(first(one, case), second(other, case), strict=True))
    return sum(a == b for a, b in pairs) / len(pairs)


def vllm_rates(cases: list[Case], repeats: int) -> list[float]:
    """Median tokens per second of vLLM for every case, in this process."""
    from vllm import LLM, SamplingParams, TokensPrompt  # pyright: ignore[reportMissingImports]

    from selfdistill.models.embedded import embedded_model_path

    engine = LLM(model=str(embedded_model_path()), dtype="bfloat16", max_model_len=1024, enable_prefix_caching=False)
    results = []
    for case in cases:
        ends = sorted(case.ends - {NO_TOKEN})
        sampling = SamplingParams(temperature=0, max_tokens=case.limit, stop_token_ids=ends, ignore_eos=True)
        taken = []
        for _ in range(repeats + 1):
            start = time.perf_counter()
            prompts = [TokensPrompt(prompt_token_ids=list(prompt)) for prompt in case.prompts]
            outputs = engine.generate(prompts, sampling, use_tqdm=False)
            taken.append(sum(len(o.outputs[0].token_ids) for o in outputs) / (time.perf_counter() - start))
        results.append(round(statistics.median(taken[1:]), 1))
    return results


def main() -> None:
    """Measures the cases asked for."""
    parser = make_parser(__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--lengths", type=int, nargs="*", default=EQUAL_LENGTHS, help="of equal completions")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each case, after one that warms up")
    arguments = parser.parse_args()
    cases = in_child(find_cases, arguments.batches, arguments.lengths)
    results = in_child(rates, cases, arguments.repeats)
    if find_spec("vllm"):
        for result, rate in zip(results, in_child(vllm_rates, cases, arguments.repeats), strict=True):
            result["vllm"] = rate
    unequal = {result["batch"]: result["speedup"] for result in results if result["kind"] == "unequal"}
    checked = min(
        (case for case in cases if case.kind == "unequal"), key=lambda case: abs(len(case.prompts) - 16), default=None
    )
    finish(
        {f"speedup_{batch}": speedup for batch, speedup in unequal.items()}
        | {"same_tokens": checked and in_child(same_tokens, checked), "cases": results}
    )


if __name__ == "__main__":
    main()
