"""SDFTConfig: transformers' TrainingArguments plus the method's settings, with defaults for this method."""

from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments

from selfdistill.settings.method import MethodConfig
from selfdistill.types import UserError


@dataclass(kw_only=True)
class SDFTConfig(MethodConfig, TrainingArguments):
    """Settings of one training run. A step takes per_device_train_batch_size x gradient_accumulation_steps
    prompts (x processes); the completions of all of them are sampled together, before the first micro-batch.

    Raises:
        UserError: a setting is out of range, or clashes with how this trainer works.
    """

    lr_scheduler_type: Any = field(default="cosine", metadata={"help": "Learning-rate schedule."})
    logging_steps: float = field(default=1, metadata={"help": "Steps between lines of metrics.jsonl."})
    save_strategy: Any = field(default="no", metadata={"help": "When checkpoints are written."})
    report_to: Any = field(default="none", metadata={"help": "No telemetry unless asked for."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must stay false."})
    disable_tqdm: bool | None = field(default=True, metadata={"help": "Our progress bar is used instead."})
    dataloader_pin_memory: bool = field(default=False, metadata={"help": "Rows are Python objects."})

    def __post_init__(self) -> None:
        self.validate()
        if self.max_completion_length is None:
            raise UserError("max_completion_length: give a number of tokens.")
        if self.bf16 or self.fp16:
            raise UserError(
                "bf16/fp16: autocast is not used here. Load the model in the dtype to compute in (--dtype); "
                "weights are updated in fp32 whatever it is."
            )
        super().__post_init__()
