"""SDFTConfig: transformers' TrainingArguments plus the method's settings, with defaults for this method."""

from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments

from selfdistill.config import MethodConfig
from selfdistill.types import UserError


@dataclass(kw_only=True)
class SDFTConfig(MethodConfig, TrainingArguments):
    """Settings of one training run. A step takes per_device_train_batch_size x gradient_accumulation_steps
    prompts (x processes); the completions of all of them are sampled together, before the first micro-batch.

    Raises:
        UserError: a setting is out of range, or clashes with how this trainer works.
    """

    per_device_train_batch_size: int = field(default=4, metadata={"help": "Prompts per micro-batch."})
    gradient_accumulation_steps: int = field(default=8, metadata={"help": "Micro-batches per step."})
    learning_rate: float = field(default=2e-5, metadata={"help": "Peak learning rate."})
    num_train_epochs: float = field(default=2.0, metadata={"help": "Passes over the training rows."})
    lr_scheduler_type: Any = field(default="cosine", metadata={"help": "Learning-rate schedule."})
    warmup_steps: float = field(default=10, metadata={"help": "Steps (or share below 1) of linear warm-up."})
    weight_decay: float = field(default=0.0, metadata={"help": "AdamW weight decay."})
    logging_steps: float = field(default=1, metadata={"help": "Steps between lines of metrics.jsonl."})
    save_strategy: Any = field(default="no", metadata={"help": "When checkpoints are written."})
    report_to: Any = field(default="none", metadata={"help": "No telemetry unless asked for."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must stay false."})
    disable_tqdm: bool | None = field(default=True, metadata={"help": "Our progress bar is used instead."})
    dataloader_pin_memory: bool = field(default=False, metadata={"help": "Rows are Python objects."})

    def __post_init__(self) -> None:
        self.validate()
        if not self.learning_rate >= 0:
            raise UserError(f"learning_rate: {self.learning_rate} is negative. Use a value such as 2e-5.")
        for name in ("per_device_train_batch_size", "gradient_accumulation_steps"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}: {getattr(self, name)} is not at least 1.")
        if self.bf16 or self.fp16:
            raise UserError(
                "bf16/fp16: autocast is not used here. Load the model in the dtype to compute in (--dtype); "
                "weights are updated in fp32 whatever it is."
            )
        super().__post_init__()
