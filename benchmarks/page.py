"""Puts what the benchmarks printed into docs/performance.md, as one table between two markers.

Reads FOLDER/<benchmark>.json for every benchmark; its last line is the result. A benchmark without a file gets no
rows. `make bench` writes the files and calls this.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import machine_text, make_parser, put

Row = tuple[str, str, str]
"""What was measured, the figure, the aim."""


def _start(r: dict[str, Any]) -> list[Row]:
    value = f"{r['seconds']:.1f} s, {r['cpu_seconds']:.1f} s of processor time, peak {r['peak_mb']:,.0f} MB"
    return [(f"`train --method {r['method']}` on {r['rows']:,} rows, from the command to the first step", value, "")]


def _step(r: dict[str, Any]) -> list[Row]:
    size = (
        f"{r['prompts']} prompts of {r['student_tokens']:.0f} tokens (teacher {r['teacher_tokens']:.0f}), "
        f"{r['completion_tokens']} new ones each"
    )
    found = [
        (f"one step, {size}: ours", f"{r['ours_s']:.2f} s, peak {r['ours_peak_gb']:.2f} GB", ""),
        (f"the same, TRL `{r['trl_config']}`", f"{r['trl_s']:.2f} s, peak {r['trl_peak_gb']:.2f} GB", ""),
        ("TRL's seconds / ours", f"{r['speedup']:.2f}", "at least 3"),
        ("our peak / TRL's", f"{r['rss_ratio']:.2f}", "at most 0.5"),
        (
            f"share of the bf16 matrix peak ({r['matrix_peak_gflops']['bfloat16']} GFLOP/s) over the step",
            f"{r['matrix_peak_share']:.0%}",
            "",
        ),
        ("our seconds by phase", ", ".join(f"{name} {value:.2f}" for name, value in r["seconds"].items()), ""),
        ("our tokens per second by phase", ", ".join(f"{name} {v:,}" for name, v in r["tokens_per_s"].items()), ""),
    ]
    if "update_cosine" in r:
        value = f"{r['update_cosine']:.4f} (plain bf16 {r['bf16_cosine']:.4f})"
        found.append(("cosine of our update and a dense fp32 one", value, "as plain bf16"))
    return found


def _loss(r: dict[str, Any]) -> list[Row]:
    found: list[Row] = []
    if "memory_ratio" in r:
        found.append(("extra memory, ours / dense, at 151,936 x 4,096", f"{r['memory_ratio']:.1%}", "at most 5%"))
        found.append(("seconds, ours / dense, there", f"{r['time_ratio']:.2f}", "at most 1"))
    for case in r["cases"]:
        ways = [
            f"{way} {case[way]['seconds']:.2f} s {case[way]['extra_mb']:,.0f} MB" if way in case else f"{way} left out"
            for way in ("dense", "trl", "ours")
        ]
        found.append((f"vocabulary {case['vocabulary']:,}, {case['tokens']:,} tokens", ", ".join(ways), ""))
    return found


def _rollout(r: dict[str, Any]) -> list[Row]:
    found: list[Row] = []
    for case in r["cases"]:
        engines = [f"{name} {case[name]:,.0f}" for name in ("generate", "ours", "vllm") if name in case]
        wanted = "at least 2" if case["kind"] == "unequal" and case["batch"] in (16, 32) else ""
        what = f"tokens per second, {case['batch']} {case['kind']} completions of up to {case['limit']} tokens"
        found.append((what, f"{', '.join(engines)}: ratio {case['speedup']:.2f}", wanted))
    if r["same_tokens"] is not None:
        found.append(("greedy completions that are the same in fp32", f"{r['same_tokens']:.0%}", "100%"))
    return found


def _growth(r: dict[str, Any]) -> list[Row]:
    found: list[Row] = []
    for axis in (axis for axis in ("completion", "prompt", "batch", "vocabulary", "layers") if axis in r):
        unit, words = ("ms_per_token", "ms per token") if "ms_per_token" in r[axis] else ("s_per_tflop", "s per TFLOP")
        costs = ", ".join(f"{int(size):,}: {cost:.3g}" for size, cost in r[axis][unit].items())
        verdict = "flat" if r[axis]["flat"] else "not flat"
        value = f"{costs}: spread {r[axis]['spread']:.2f}, {verdict}"
        found.append((f"{words} as {axis} grows", value, f"spread at most {r['flat_up_to']}"))
    return found


def _memory(r: dict[str, Any]) -> list[Row]:
    found = [
        (
            f"{name}: peak",
            f"{run['peak_mb']:,} MB; {run['peak_copies']:.1f} copies of the model, libraries left out; "
            f"estimate / measured {run['estimate_ratio']:.2f}",
            "0.85 to 1.15",
        )
        for name, run in r["runs"].items()
    ]
    if r["lora_copies"] is not None:
        found.append(("copies of the base model in a LoRA run", f"{r['lora_copies']:.2f}", "below 1.5"))
    return found


def _evaluation(r: dict[str, Any]) -> list[Row]:
    value = f"{r['batched_s']:.1f} s against {r['one_at_a_time_s']:.1f} s: ratio {r['speedup']:.2f}"
    return [
        (f"scoring {r['rows']} rows, batched against one at a time", value, ""),
        ("answers that are the same", f"{r['same_answers']} of {r['rows']}", "all"),
    ]


BENCHMARKS: dict[str, Callable[[dict[str, Any]], list[Row]]] = {
    "start": _start,
    "step": _step,
    "loss": _loss,
    "rollout": _rollout,
    "growth": _growth,
    "memory": _memory,
    "evaluation": _evaluation,
}


def render(results: dict[str, dict[str, Any]]) -> str:
    """The table of all results by benchmark, and where and when they were measured."""
    lines = ["| from `benchmarks/` | measured | figure | aim |", "|---|---|---|---|"]
    places: dict[str, list[str]] = {}
    for name, rows_of in BENCHMARKS.items():
        if name not in results:
            continue
        command = f"`{results[name].get('command', f'{name}.py')}`"
        lines += [f"| {command} | {' | '.join(row)} |" for row in rows_of(results[name])]
        if machine := results[name].get("machine"):
            places.setdefault(machine_text(machine), []).append(name)
    lines.append("")
    lines += [f"{', '.join(names)}: {place}" for place, names in places.items()]
    return "\n".join(lines)


def main() -> None:
    """Rewrites the page."""
    parser = make_parser(__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/bench"))
    parser.add_argument("--page", type=Path, default=Path("docs/performance.md"))
    arguments = parser.parse_args()
    files = {name: arguments.folder / f"{name}.json" for name in BENCHMARKS}
    results = {
        name: json.loads(file.read_text(encoding="utf-8").splitlines()[-1])
        for name, file in files.items()
        if file.is_file()
    }
    text = put(arguments.page.read_text(encoding="utf-8"), render(results))
    arguments.page.write_text(text, encoding="utf-8")
    print(f"{arguments.page}: {', '.join(results) or 'no results'}")


if __name__ == "__main__":
    main()
