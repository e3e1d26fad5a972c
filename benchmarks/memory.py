"""Peak memory of training runs against what a run holds, and against the estimate that --dry_run prints.

Three runs of the embedded model, a few steps each, in fresh processes: SFT and SDFT of all weights, SDFT of a LoRA
adapter. A fourth, the LoRA run on a model that keeps one layer only, shows what a process holds besides tensors
(libraries, compiled kernels, rows): its memory minus its tensors. A copy is all weights in the compute dtype.

What full fine-tuning in bf16 holds, bytes per weight: weights 2, fp32 masters 4, AdamW's two moments 8, an EMA
teacher 4 + 2, and from backward pass to optimizer fp32 gradients 4. A copy is 2.

peak_copies, standing_copies  at the peak and after the last step, without what the fourth run holds besides tensors
live_copies                   all tensors after the last step, adapter, optimizer and teacher included
lora_copies                   copies of the base model in a LoRA run: the memory it holds beyond the fourth run, without
                              adapter, optimizer and teacher, divided by the bytes of the layers that the fourth lacks

Keys of the result: estimate_ratio, estimate / measured peak of each run; one_copy (lora_copies below 1.5); runs.
"""

import ctypes
import gc
import sys
import tempfile
from typing import Any

from common import finish, in_child, make_parser, resident

RUNS: dict[str, dict[str, Any]] = {
    "sft full": {"method": "sft", "lora_r": None},
    "sdft full": {"method": "sdft", "lora_r": None},
    "sdft lora": {"method": "sdft", "lora_r": 16},
}


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


def run(method: str, lora_r: int | None, arguments: dict[str, Any], layers: int | None = None) -> dict[str, int]:
    """Trains in this process, with the first ``layers`` of the model only if given.

    Returns bytes: the peak, all memory and tensors after the last step, one copy of the weights, the estimate's parts.
    """
    from peft import LoraConfig
    from transformers import TrainerCallback

    from selfdistill.method.config import SDFTConfig
    from selfdistill.method.memory import MemoryCheck
    from selfdistill.method.trainer import SDFTTrainer
    from selfdistill.models import loading
    from selfdistill.settings.groups import DEFAULT_MODEL
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
    model: Any = loading.load_model(DEFAULT_MODEL, device="cpu")
    if layers is not None:
        model.model.layers = model.model.layers[:layers]
    copy = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    tokenizer = loading.load_tokenizer(DEFAULT_MODEL)
    lora = LoraConfig(r=lora_r, lora_alpha=2 * lora_r, target_modules="all-linear") if lora_r else None
    with tempfile.TemporaryDirectory() as folder:
        args = SDFTConfig(
            output_dir=folder,
            method=method,  # type: ignore[arg-type]
            per_device_train_batch_size=arguments["micro_batch"],
            gradient_accumulation_steps=arguments["micro_batches"],
            max_completion_length=arguments["new_tokens"],
            warmup_steps=0,
            **{**SHARED, "max_steps": arguments["steps"]},
        )
        examples = get_task("assistant-tools").load_train(None)[:200]
        trainer = SDFTTrainer(model, args, examples, tokenizer, peft_config=lora, callbacks=[])
        trainer.add_callback(Scale())
        trainer.train()
    pairs: Any = trainer.train_dataset
    config = loading.load_config(DEFAULT_MODEL)
    check = MemoryCheck(config, pairs, dtype="auto", lora_r=lora_r, device=model.device)
    parts = check.estimate(args).as_dict()
    measured = {"peak": peaks[-1], "standing": standing[-1], "live": live[-1], "copy": copy}
    return measured | {"estimate": parts.pop("peak"), **parts}


def main() -> None:
    """Measures the runs asked for."""
    parser = make_parser(__doc__)
    parser.add_argument("--runs", choices=list(RUNS), nargs="+", default=list(RUNS))
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--micro_batch", type=int, default=4, help="prompts per micro-batch")
    parser.add_argument("--micro_batches", type=int, default=4, help="micro-batches per step")
    parser.add_argument("--new_tokens", type=int, default=64, help="longest completion")
    arguments = parser.parse_args()
    shallow = in_child(run, *RUNS["sdft lora"].values(), vars(arguments), 1)
    base = shallow["standing"] - shallow["live"]
    runs: dict[str, Any] = {}
    lora_copies = None
    for name in arguments.runs:
        taken = in_child(run, *RUNS[name].values(), vars(arguments))
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
