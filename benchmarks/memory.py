"""Peak memory of training runs against what a run holds, and against the estimate that --dry_run prints.

Six runs of a model, a few steps each, in fresh processes: SFT of all weights; SDFT of all weights, also with
activations computed again and with moments of 8 bits; SDFT of a LoRA adapter, also beside weights of 4 bits. One more,
the LoRA run on a model that keeps one layer only, shows what a process holds besides tensors (libraries, compiled
kernels, rows): its memory minus its tensors. A copy is all weights in the compute dtype.

What full fine-tuning in bf16 holds, bytes per weight: weights 2, lower halves of the masters 2, AdamW's two moments 8,
an EMA teacher 4 and 2 while it scores, and from backward pass to optimizer fp32 gradients 4. A copy is 2.

The model is the embedded one, or with --shape one of another shape with random weights.

peak_copies, standing_copies  at the peak and after the last step, without what that run holds besides tensors
live_copies                   all tensors after the last step, adapter, optimizer and teacher included
lora_copies                   copies of the base model in a LoRA run: the memory it holds beyond the run of one layer,
                              without adapter, optimizer and teacher, divided by the bytes of the layers that one lacks

Keys of the result: estimate_ratio, estimate / measured peak of each run; one_copy (lora_copies below 1.5); runs.
"""

import argparse
import ctypes
import gc
import sys
import tempfile
from typing import Any

from common import finish, in_child, make_parser, resident
from gpu_check.models import SHAPES as QWEN

RUNS: dict[str, dict[str, Any]] = {
    "sft full": {"method": "sft"},
    "sdft full": {"method": "sdft"},
    "sdft recomputed": {"method": "sdft", "activation_checkpointing": True},
    "sdft 8-bit moments": {"method": "sdft", "optim": "adamw_8bit"},
    "sdft lora": {"method": "sdft", "lora_r": 16},
    "sdft 4-bit lora": {"method": "sdft", "lora_r": 16, "quantize": "4bit"},
}
SHAPES: dict[str, dict[str, Any]] = {
    "smollm2-360m": {
        "model_type": "llama",
        "hidden_size": 960,
        "intermediate_size": 2560,
        "num_hidden_layers": 32,
        "num_attention_heads": 15,
        "num_key_value_heads": 5,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
    },
    "qwen2.5-0.5b": {"model_type": "qwen2", **QWEN["0.5B"]},
}
"""Configs of models that are made with random weights, by name."""


def _settled() -> int:
    """Bytes in memory after freed memory has been returned to the system."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return resident()


def _live() -> int:
    """Bytes of all CPU tensors that Python knows of; shared storage counts once."""
    import torch

    storages = {}
    for thing in gc.get_objects():
        if type(thing) in (torch.Tensor, torch.nn.Parameter) and thing.device.type == "cpu":
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def make_model(shape: str, folder: str) -> None:
    """Saves a model of a shape with random weights in bf16, beside the embedded model's tokenizer, to a folder."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from selfdistill.models.loading import load_tokenizer
    from selfdistill.settings.groups import DEFAULT_MODEL

    settings = {"max_position_embeddings": 8192, **SHAPES[shape]}
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    load_tokenizer(DEFAULT_MODEL).save_pretrained(folder)


def run(name: str, settings: dict[str, Any], arguments: dict[str, Any], layers: int | None = None) -> dict[str, int]:
    """Trains the model ``name`` in this process, with its first ``layers`` only if given.

    Returns bytes: the peak, all memory and tensors after the last step, one copy of the weights, the estimate's parts.
    """
    from peft import LoraConfig
    from transformers import TrainerCallback

    from selfdistill.method.config import SDFTConfig
    from selfdistill.method.memory import MemoryCheck
    from selfdistill.method.trainer import SDFTTrainer
    from selfdistill.models import loading
    from selfdistill.tasks import get_task
    from trainers import SHARED

    peaks: list[int] = []
    standing: list[int] = []
    live: list[int] = []

    class Scale(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == args.max_steps:
                peaks.append(resident("VmHWM"))
                standing.append(_settled())
                live.append(_live())

    loading.quiet_libraries()
    settings = dict(settings)
    lora_r, quantize = settings.pop("lora_r", None), settings.pop("quantize", None)
    model: Any = loading.load_model(name, device="cpu", quantize=quantize)
    if layers is not None:
        model.model.layers = model.model.layers[:layers]
    copy = model.num_parameters() * model.dtype.itemsize
    tokenizer = loading.load_tokenizer(name)
    lora = LoraConfig(r=lora_r, lora_alpha=2 * lora_r, target_modules="all-linear") if lora_r else None
    with tempfile.TemporaryDirectory() as folder:
        args = SDFTConfig(
            output_dir=folder,
            per_device_train_batch_size=arguments["micro_batch"],
            gradient_accumulation_steps=arguments["micro_batches"],
            max_completion_length=arguments["new_tokens"],
            warmup_steps=0,
            **{**SHARED, "max_steps": arguments["steps"], **settings},
        )
        examples = get_task("assistant-tools").load_train(None)[:200]
        trainer = SDFTTrainer(model, args, examples, tokenizer, peft_config=lora, callbacks=[])
        trainer.add_callback(Scale())
        trainer.train()
    pairs: Any = trainer.train_dataset
    config = loading.load_config(name)
    check = MemoryCheck(config, pairs, dtype="auto", lora_r=lora_r, device=model.device, quantize=quantize)
    parts = check.estimate(args).as_dict()
    measured = {"peak": peaks[-1], "standing": standing[-1], "live": live[-1], "copy": copy}
    return measured | {"estimate": parts.pop("peak"), **parts}


def main() -> None:
    """Measures the runs asked for."""
    from selfdistill.settings.groups import DEFAULT_MODEL

    parser = make_parser(__doc__)
    parser.add_argument("--shape", choices=list(SHAPES), help="model of this shape instead of the embedded one")
    parser.add_argument("--runs", choices=list(RUNS), nargs="+", default=list(RUNS))
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--micro_batch", type=int, default=4, help="prompts per micro-batch")
    parser.add_argument("--micro_batches", type=int, default=4, help="micro-batches per step")
    parser.add_argument("--new_tokens", type=int, default=64, help="longest completion")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.shape:
            in_child(make_model, arguments.shape, folder)
        measure(folder if arguments.shape else DEFAULT_MODEL, arguments)


def measure(model: str, arguments: argparse.Namespace) -> None:
    """Measures the runs asked for of a model, given by name or folder, and prints the result."""
    shallow = in_child(run, model, RUNS["sdft lora"], vars(arguments), 1)
    base = shallow["standing"] - shallow["live"]
    runs: dict[str, Any] = {}
    lora_copies = None
    for name in arguments.runs:
        taken = in_child(run, model, RUNS[name], vars(arguments))
        copy = taken["copy"]
        runs[name] = {
            "peak_copies": round((taken["peak"] - base) / copy, 2),
            "standing_copies": round((taken["standing"] - base) / copy, 2),
            "live_copies": round(taken["live"] / copy, 2),
            "estimate_ratio": round(taken["estimate"] / taken["peak"], 3),
        } | {f"{part}_mb": round(size / 1e6) for part, size in taken.items()}
        print(f"{name}: {runs[name]}", file=sys.stderr, flush=True)
        if name == "sdft lora":
            layers = copy - shallow["copy"]
            rest = (taken["live"] - copy) - (shallow["live"] - shallow["copy"])
            lora_copies = round((taken["standing"] - shallow["standing"] - rest) / layers, 2)
    finish(
        {
            "estimate_ratio": [taken["estimate_ratio"] for taken in runs.values()],
            "lora_copies": lora_copies,
            "one_copy": lora_copies is not None and lora_copies < 1.5,
            "beside_tensors_mb": round(base / 1e6),
            "runs": runs,
            "settings": {name: value for name, value in vars(arguments).items() if name != "runs"},
        }
    )


if __name__ == "__main__":
    main()
