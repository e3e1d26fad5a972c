"""Cost per token as a step grows: longer completions, longer prompts, more prompts, more vocabulary, more layers.

Small models with random weights, our trainer, full fine-tuning with a moving-average teacher. One size grows while the
others stay the same. The unit of cost is what should stay constant:

completion, prompt, batch   seconds per token that the step works on (prompts and completions of both roles)
vocabulary, layers          seconds per matrix FLOP (flops.py), since every token passes through every weight

spread is the largest cost over the smallest; an axis is flat where that is at most --flat. growth is the cost at the
largest size over that at the smallest.
"""

import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from common import finish, in_child, make_parser
from flops import Shape, step_flops

BASE = {"completion": 64, "prompt": 128, "batch": 8, "vocabulary": 49_152, "layers": 6}
AXES = {
    "completion": (32, 64, 128, 256),
    "prompt": (64, 128, 256, 512),
    "batch": (4, 8, 16, 32),
    "vocabulary": (49_152, 98_304, 151_936, 256_000),
    "layers": (3, 6, 12, 24),
}
PER_FLOP = ("vocabulary", "layers")
SIZES: dict[str, Any] = {
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
}
MICRO_BATCH = 4


def _trainer(folder: Path, sizes: dict[str, int], steps: int, ends: list[float]) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback

    from selfdistill.method.config import SDFTConfig
    from selfdistill.method.rollout.own import OwnEngine
    from selfdistill.method.trainer import SDFTTrainer
    from selfdistill.models import loading
    from selfdistill.models.attention import use_fast_attention
    from selfdistill.models.device import compute_dtype
    from selfdistill.models.tokens import pad_token_id, vocab_size
    from selfdistill.settings.groups import DEFAULT_MODEL
    from trainers import NO_TOKEN, SHARED

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    loading.quiet_libraries()
    torch.manual_seed(0)
    tokenizer = loading.load_tokenizer(DEFAULT_MODEL)
    config = LlamaConfig(vocab_size=sizes["vocabulary"], num_hidden_layers=sizes["layers"], **SIZES)
    dtype = compute_dtype("auto", torch.device("cpu"))
    model = cast(Any, LlamaForCausalLM(config)).to(dtype=dtype).eval()
    use_fast_attention(model)
    question = " the" * (sizes["prompt"] - _overhead(tokenizer))
    rows = [{"prompt": question, "demonstration": f"answer {place}"} for place in range(sizes["batch"])]
    args = SDFTConfig(
        output_dir=str(folder),
        per_device_train_batch_size=MICRO_BATCH,
        gradient_accumulation_steps=sizes["batch"] // MICRO_BATCH,
        max_completion_length=sizes["completion"],
        warmup_steps=0,
        **{**SHARED, "max_steps": steps},
    )
    engine = OwnEngine(model, {NO_TOKEN}, pad_token_id(tokenizer, vocab_size(model)))
    trainer = SDFTTrainer(model, args, rows, tokenizer, engine=engine)
    trainer.add_callback(Clock())
    return trainer


def _overhead(tokenizer: Any) -> int:
    """Tokens that the chat template adds to a question."""
    text = tokenizer.apply_chat_template([{"role": "user", "content": ""}], tokenize=False, add_generation_prompt=True)
    return len(tokenizer(text)["input_ids"])


def measure(sizes: dict[str, int], steps: int) -> dict[str, float]:
    """Median seconds of a step after the first, its tokens and its FLOPs, in this process."""
    ends: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(Path(folder), sizes, steps + 1, ends)
        student = [len(pair.student_ids) for pair in trainer.train_dataset]
        teacher = [len(pair.teacher_ids) for pair in trainer.train_dataset]
        completions = [sizes["completion"]] * sizes["batch"]
        trainer.train()
    seconds = statistics.median(end - start for start, end in pairwise(ends))
    return {
        "seconds": seconds,
        "tokens": sum(student) + sum(teacher) + 2 * sum(completions),
        "flops": step_flops(Shape.of(trainer.model.config), student, teacher, completions),
    }


def judge(axis: str, measured: dict[int, dict[str, float]], flat: float) -> dict[str, Any]:
    """Cost by size, its spread, and whether that counts as flat."""
    unit = "flops" if axis in PER_FLOP else "tokens"
    cost = {size: one["seconds"] / one[unit] for size, one in measured.items()}
    spread = max(cost.values()) / min(cost.values())
    scale, name = (1e12, "s_per_tflop") if unit == "flops" else (1e3, "ms_per_token")
    return {
        name: {str(size): round(value * scale, 4) for size, value in cost.items()},
        "spread": round(spread, 3),
        "growth": round(cost[max(cost)] / cost[min(cost)], 3),
        "flat": spread <= flat,
    }


def main() -> None:
    """Measures the axes asked for."""
    parser = make_parser(__doc__)
    parser.add_argument("--axes", choices=list(AXES), nargs="+", default=list(AXES))
    parser.add_argument("--steps", type=int, default=3, help="timed steps of a size, after one that warms up")
    parser.add_argument("--flat", type=float, default=1.5, help="largest spread that counts as flat")
    arguments = parser.parse_args()
    known: dict[str, dict[str, float]] = {}
    result: dict[str, Any] = {}
    for axis in arguments.axes:
        measured = {}
        for size in AXES[axis]:
            sizes = BASE | {axis: size}
            if str(sizes) not in known:
                known[str(sizes)] = in_child(measure, sizes, arguments.steps)
            measured[size] = known[str(sizes)]
            print(f"{axis} {size}: {measured[size]}", file=sys.stderr, flush=True)
        result[axis] = judge(axis, measured, arguments.flat)
    finish(result | {"base": BASE | SIZES, "flat_up_to": arguments.flat})


if __name__ == "__main__":
    main()
