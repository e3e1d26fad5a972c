"""Our trainer and TRL's on the same rows and weights, and a callback that lets a parent allow one step at a time."""

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PrinterCallback, TrainerCallback

from common import resident
from selfdistill.method.config import SDFTConfig
from selfdistill.method.prompts import PromptRenderer
from selfdistill.method.rollout.engine import OnDone, RolloutEngine, Sampling
from selfdistill.method.rollout.own import OwnEngine
from selfdistill.method.trainer import SDFTTrainer
from selfdistill.models import loading
from selfdistill.models.embedded import embedded_model_path
from selfdistill.models.tokens import pad_token_id, vocab_size
from selfdistill.settings.groups import DEFAULT_MODEL
from selfdistill.tasks import get_task
from selfdistill.types import Example, Rollout

TEACHER_PROMPT = (
    "{prompt}\n\nThis is an example for a response to the question:\n{privileged_context}\n\n"
    "Here it is once more:\n{privileged_context}\n\n"
    "Now answer with a response of your own, including the thinking process."
)
"""The demonstration is shown twice, which makes the teacher's prompt about 170 tokens long."""
NO_TOKEN = -1
"""Declared to be the only end of a sequence, it lets every completion reach the limit."""
MANY_STEPS = 1_000_000
SHARED: dict[str, Any] = {
    "teacher_update_rate": 0.02,
    "learning_rate": 1e-5,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 1.0,
    "weight_decay": 0.0,
    "max_steps": MANY_STEPS,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
    "seed": 0,
}


def rows(count: int, model_name: str = DEFAULT_MODEL) -> list[Example]:
    """The assistant-tools training rows, of the first 200, whose student prompts are nearest to 90 tokens."""
    renderer = PromptRenderer(loading.load_tokenizer(model_name))
    examples = get_task("assistant-tools").load_train(None)[:200]
    pairs = renderer.render_all(examples, teacher=False, answers=False)
    return [pair.example for pair in sorted(pairs, key=lambda pair: abs(len(pair.student_ids) - 90))[:count]]


def write_template(folder: Path) -> str:
    """TEACHER_PROMPT as a template file of ours; returns its path."""
    path = folder / "teacher.jinja"
    text = TEACHER_PROMPT.format(prompt="{{ question }}", privileged_context="{{ demonstration }}")
    path.write_text(text, encoding="utf-8")
    return str(path)


def make_ours(
    folder: Path,
    count: int,
    new_tokens: int,
    micro_batch: int,
    engine: Any = None,
    model_name: str = DEFAULT_MODEL,
    device: str = "cpu",
    **more: Any,
) -> SDFTTrainer:
    """Our trainer: full fine-tuning, forward KL over the full vocabulary, moving-average teacher.

    ``engine``: what samples instead of our own. ``more``: settings that differ from SHARED's.
    """
    model = loading.load_model(model_name, device=device)
    tokenizer = loading.load_tokenizer(model_name)
    args = SDFTConfig(
        output_dir=str(folder),
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=count // micro_batch,
        max_completion_length=new_tokens,
        template="file",
        template_file=write_template(folder),
        warmup_steps=0,
        **{**SHARED, "use_cpu": device == "cpu", **more},
    )
    engine = engine or OwnEngine(model, {NO_TOKEN}, pad_token_id(tokenizer, vocab_size(model)))
    return SDFTTrainer(model, args, rows(count, model_name), tokenizer, engine=engine)


def make_trl(
    folder: Path,
    count: int,
    new_tokens: int,
    micro_batch: int,
    dtype: str,
    autocast: bool,
    model_name: str | None = None,
    device: str = "cpu",
    **more: Any,
) -> Any:
    """TRL's trainer with the same mathematics.

    ``dtype``: of its weights. ``autocast``: whether to compute in bf16. ``model_name``: a folder; by default the
    embedded model's. ``more``: settings that differ from SHARED's.
    """
    from datasets import Dataset
    from trl.experimental.sdft import SDFTConfig as TRLConfig
    from trl.experimental.sdft import SDFTTrainer as TRLTrainer

    model = plain_model(dtype, model_name)
    model.generation_config.eos_token_id = None  # else generate takes it from here
    args = TRLConfig(
        output_dir=str(folder),
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=count // micro_batch,
        gradient_checkpointing=False,
        bf16=autocast,
        num_generations=1,
        max_prompt_length=None,
        max_completion_length=new_tokens,
        temperature=1.0,
        generation_kwargs={"eos_token_id": None},
        distillation_mode="full_logits",
        distillation_alpha=0.0,  # KL(teacher || student)
        distillation_is_clip=None,
        teacher_model_kind="ema",
        teacher_prompt_template=TEACHER_PROMPT,
        **{**SHARED, "use_cpu": device == "cpu", **more},
    )
    name = model_name or DEFAULT_MODEL
    data = [{"prompt": list(row.prompt), "privileged_context": row.demonstration_text} for row in rows(count, name)]
    tokenizer = loading.load_tokenizer(name)
    trainer = TRLTrainer(model=model, args=args, train_dataset=Dataset.from_list(data), processing_class=tokenizer)
    trainer.eos_token_ids = [NO_TOKEN]
    trainer.remove_callback(PrinterCallback)
    return trainer


def plain_model(dtype: str, folder: str | None = None) -> PreTrainedModel:
    """The model in a folder, by default the embedded one, as transformers loads it, with its own attention."""
    folder = folder or str(embedded_model_path())
    return AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()


class Watched:
    """An engine that remembers how long its last completions were."""

    samples_elsewhere = False

    def __init__(self, engine: RolloutEngine) -> None:
        self._engine = engine
        self.lengths: list[int] = []

    def sync(self) -> None:
        """As in RolloutEngine."""
        self._engine.sync()

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, on_done: OnDone | None = None
    ) -> list[Rollout]:
        """As in RolloutEngine."""
        rollouts = self._engine.generate(prompts, sampling, on_done)
        self.lengths = [len(rollout.completion_ids) for rollout in rollouts]
        return rollouts

    def close(self) -> None:
        """As in RolloutEngine."""
        self._engine.close()


class Gate(TrainerCallback):
    """Waits for the parent's word before every step and answers with what the step took.

    It must be a trainer's last callback, so that a step ends with the teacher's update.
    """

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.phases: list[dict[str, float]] = []
        self.prompts: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
        self.engine: Watched | None = None
        self.completions: list[int] = []
        self._start = 0.0

    def _wait(self, control: Any) -> None:
        if self.connection.recv() == "stop":
            control.should_training_stop = True
        self._start = time.perf_counter()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Set up; nothing of a step has happened yet."""
        self.connection.send({})
        self._wait(control)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The optimizer and the teacher have moved. Logging comes after it, and counts for the next step."""
        seconds = time.perf_counter() - self._start
        text = repr(sorted(self.prompts)).encode()
        self.connection.send(
            {
                "seconds": seconds,
                "peak": resident("VmHWM"),
                "prompts": hashlib.sha256(text).hexdigest(),
                "student": [len(student) for student, _ in self.prompts],
                "teacher": [len(teacher) for _, teacher in self.prompts],
                "completions": self.engine.lengths if self.engine else self.completions,
            }
        )
        self._wait(control)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Keeps our trainer's seconds by phase."""
        prefix = "seconds/"
        phases = {name.removeprefix(prefix): value for name, value in (logs or {}).items() if name.startswith(prefix)}
        if phases:
            self.phases.append(phases)

    def on_self_distillation_batch_prepared(
        self, *_: Any, prompt_ids: Any, completion_ids: Any, teacher_input_ids: Any, processing_class: Any, **__: Any
    ) -> None:
        """TRL calls this with left-padded prompts; none of its completions ends before the limit."""
        width, pad = completion_ids.shape[1], processing_class.pad_token_id
        both = zip(prompt_ids.tolist(), teacher_input_ids[:, :-width].tolist(), strict=True)
        self.prompts = [(_unpadded(student, pad), _unpadded(teacher, pad)) for student, teacher in both]
        self.completions = [width] * len(completion_ids)


def _unpadded(ids: list[int], pad: int) -> tuple[int, ...]:
    start = next(place for place, token in enumerate(ids) if token != pad)
    return tuple(ids[start:])
