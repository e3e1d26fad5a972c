"""SDFTConfig: transformers' TrainingArguments and the method's settings in one class, with our defaults."""

import os
import warnings
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from torch import distributed
from transformers import Trainer, TrainingArguments

from selfdistill.errors import UserError, brief
from selfdistill.launcher import place
from selfdistill.method.liger import check_liger
from selfdistill.method.needs import check_choices, check_needs
from selfdistill.method.optimizers import optimizer_name
from selfdistill.method.refused import (
    check_trackers,
    refuse_ignored,
    refuse_launch,
    refuse_with_server,
    refuse_with_split,
)
from selfdistill.method.rollout.engines import check_engine
from selfdistill.models.device import default_device, prepare_device
from selfdistill.settings.method import MethodConfig


@dataclass(kw_only=True)
class SDFTConfig(MethodConfig, TrainingArguments):
    """Settings of one training run.

    An optimizer step uses per_device_train_batch_size x gradient_accumulation_steps prompts in every process. The
    completions of all of them are sampled together, before the first micro-batch.

    Raises:
        UserError: a setting is out of range, would be ignored, or is not supported by this trainer.
    """

    lr_scheduler_type: Any = field(default="cosine", metadata={"help": "Learning-rate schedule."})
    activation_checkpointing: Any = field(default=False, metadata={"help": "Recompute activations."})
    logging_steps: float = field(default=1, metadata={"help": "Steps between lines of metrics.jsonl."})
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Log the loss even if it is not finite."})
    save_strategy: Any = field(default="no", metadata={"help": "When checkpoints are written."})
    report_to: Any = field(default="none", metadata={"help": "No telemetry by default."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must stay false."})
    disable_tqdm: bool | None = field(default=True, metadata={"help": "transformers' progress bar is off."})
    dataloader_pin_memory: bool = field(default=False, metadata={"help": "Rows are Python objects."})

    def __post_init__(self) -> None:
        self.validate()
        check_choices(self)
        if self.template == "auto":
            raise UserError("template: auto is for the command line, which measures it. Name a template here.")
        check_needs(self)
        refuse_with_server(self)
        check_engine(
            self.rollout_engine,
            temperature=self.temperature,
            top_p=self.top_p,
            corrected=self.sampler_correction_cap is not None,
            url=self.vllm_url,
            transfer=self.vllm_weight_transfer,
            on_cpu=self.use_cpu,
        )
        refuse_ignored(self)
        refuse_launch(os.environ)
        optimizer_name(self)
        refuse_with_split(self, place().size)
        if (
            "activation_checkpointing" not in TrainingArguments.__dataclass_fields__
        ):  # its name before transformers 5.24
            self.gradient_checkpointing = self.gradient_checkpointing or self.activation_checkpointing
        if not self.use_cpu:
            prepare_device(default_device())  # before transformers initialises it
        self._join()
        super().__post_init__()
        prepare_device(self.device)
        self.activation_checkpointing = bool(self.activation_checkpointing or self.gradient_checkpointing)
        self._check_device()
        self._check_optimizer()
        check_trackers(self.report_to or ())
        check_liger(self)

    def _join(self) -> None:
        """Makes the process group of CPUs, which transformers makes only for GPUs as the settings say."""
        if place().size == 1 or not (self.use_cpu or default_device().type == "cpu"):
            return
        os.environ["ACCELERATE_USE_CPU"] = "true"
        if not distributed.is_initialized():
            distributed.init_process_group("gloo", timeout=timedelta(seconds=self.ddp_timeout))

    def _check_device(self) -> None:
        """Checks that the environment asks for no autocast, that every process found the others, and uses one device
        in each."""
        precision = getattr(self, "mixed_precision", "no")
        if precision != "no":
            raise UserError(
                f"ACCELERATE_MIXED_PRECISION={precision}: autocast is not used here. Unset it, and load the model in "
                "the dtype to compute in (--dtype bfloat16 or float32)."
            )
        if self.world_size != place().size:
            raise UserError(
                f"WORLD_SIZE={place().size}, but transformers found {self.world_size} processes on {self.device.type}. "
                "Start with torchrun or accelerate launch, on CUDA, XPU or CPUs."
            )
        self.use_one_device()

    def use_one_device(self) -> None:
        """Uses one of several visible GPUs, with a warning. transformers would multiply the batch by their number."""
        if self.n_gpu > 1:
            warnings.warn(
                f"{self.n_gpu} GPUs are visible; one of them is used. torchrun --nproc_per_node {self.n_gpu} -m "
                "selfdistill train ... uses all.",
                stacklevel=4,
            )
            self._n_gpu = 1

    def _check_optimizer(self) -> None:
        """Checks that the optimizer is installed and accepts the fp32 masters as its parameters."""
        name = optimizer_name(self)
        try:
            _, kwargs = Trainer.get_optimizer_cls_and_kwargs(self)
        except (ImportError, ValueError, RuntimeError, AttributeError) as error:
            raise UserError(f"optim={name}: {brief(error, 20)}. Install it, or take adamw_torch.") from error
        if kwargs.keys() & {"params", "model", "optimizer_dict"}:
            raise UserError(
                f"optim={name} chooses parameters by itself; here they are fp32 masters. Take adamw_torch, "
                "adafactor, sgd or another that takes any parameters."
            )
