"""Random models of known shapes, rows of random ids, scripted completions, and a device's clock and memory."""

import gc
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from selfdistill.method.rollout.engine import OnDone, Sampling
from selfdistill.types import Example, PromptPair, Rollout

NO_TOKEN = -1
"""As the only end of a sequence it lets every completion reach the limit."""
GIB = 2**30
SHAPES: dict[str, dict[str, Any]] = {
    "0.5B": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151_936,
        "tie_word_embeddings": True,
    },
    "1.5B": {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 151_936,
        "tie_word_embeddings": True,
    },
    "7B": {
        "hidden_size": 3584,
        "intermediate_size": 18_944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152_064,
        "tie_word_embeddings": False,
    },
}
"""Shapes of Qwen2.5 by name."""
QUICK: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
}
"""What takes the place of every shape's sizes with ``--quick``."""
TINY: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "initializer_range": 0.5,  # large, so that models with other weights or inputs clearly differ
}
NO_SPECIAL_TOKENS: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message.role }} {{ message.content or '' }} {{ eos_token }} {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


def shape_config(shape: str, quick: bool) -> Any:
    """The config of a model of SHAPES, or a tiny one with as many output heads."""
    sizes = SHAPES[shape] | (QUICK if quick else {})
    return AutoConfig.for_model("qwen2", max_position_embeddings=32_768, **sizes, **NO_SPECIAL_TOKENS)


def random_model(config: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """A model with random weights, made on the device; same arguments, same weights."""
    torch.manual_seed(0)
    with device:
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def tiny_model(device: torch.device, family: str = "llama", dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A model of a few thousand random weights, which are the same on every device."""
    config = AutoConfig.for_model(family, **TINY, **NO_SPECIAL_TOKENS)
    return random_model(config, torch.device("cpu"), dtype).to(device)


def tokenizer() -> Any:
    """A tokenizer that knows no word but the names of roles: rows here are made of ids, and texts only need lengths."""
    words = ("<pad>", "<end>", "?", "user", "assistant")
    inner = Tokenizer(WordLevel({word: id for id, word in enumerate(words)}, unk_token="?"))
    inner.pre_tokenizer = WhitespaceSplit()  # type: ignore[assignment]
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<end>", pad_token="<pad>", unk_token="?", padding_side="left"
    )
    made.chat_template = CHAT_TEMPLATE
    return made


def random_ids(count: int, length: int, vocabulary: int, seed: int) -> list[tuple[int, ...]]:
    """``count`` prompts of ``length`` ids of at least 10."""
    generator = torch.Generator().manual_seed(seed)
    return [tuple(row) for row in torch.randint(10, vocabulary, (count, length), generator=generator).tolist()]


def pairs(count: int, prompt: int, teacher_prompt: int, vocabulary: int, demonstration: int = 0) -> list[PromptPair]:
    """Rows of random ids, with the lengths of their parts."""
    students = random_ids(count, prompt, vocabulary, seed=1)
    teachers = random_ids(count, teacher_prompt, vocabulary, seed=2)
    demonstrations = random_ids(count, demonstration, vocabulary, seed=3)
    return [
        PromptPair(
            example=Example(id=f"random/{number}", prompt=({"role": "user", "content": ""},)),
            student_ids=students[number],
            teacher_ids=teachers[number],
            demonstration_ids=demonstrations[number],
        )
        for number in range(count)
    ]


class Scripted:
    """An engine whose completions are a function of the prompt, so that runs on two devices can be compared."""

    samples_elsewhere = False

    def sync(self) -> None:
        """As in RolloutEngine."""

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, on_done: OnDone | None = None
    ) -> list[Rollout]:
        """As in RolloutEngine."""
        lengths = [3 + sum(prompt) % 4 for prompt in prompts]
        made = [
            random_ids(1, length, 300, seed=sum(prompt))[0] for length, prompt in zip(lengths, prompts, strict=True)
        ]
        return [Rollout(completion_ids=ids, finish_reason="stop") for ids in made]

    def close(self) -> None:
        """As in RolloutEngine."""


# -- the device --------------------------------------------------------------------------------------------------------


def synchronize(device: torch.device) -> None:
    """Waits until the device has done everything."""
    torch.get_device_module(device).synchronize()


def free(device: torch.device) -> None:
    """Frees what nothing refers to any more, and resets the device's peak."""
    gc.collect()
    module = torch.get_device_module(device)
    module.synchronize()
    for name in ("empty_cache", "reset_peak_memory_stats"):
        if hasattr(module, name):
            getattr(module, name)()


def memory(device: torch.device, name: str) -> int | None:
    """Bytes by a function of the device's module, such as ``max_memory_allocated``; None if it counts none."""
    function: Any = getattr(torch.get_device_module(device), name, None)
    return None if function is None else int(function())


def taken(device: torch.device) -> int | None:
    """Bytes of the card that are in use, by whomever; None if the device does not tell."""
    function: Any = getattr(torch.get_device_module(device), "mem_get_info", None)
    if function is None:
        return None
    unused, total = function()
    return int(total - unused)


def seconds_of(function: Callable[[], Any], device: torch.device, repeats: int = 3, warmup: int = 1) -> float:
    """Median seconds of a call, by the host's clock around a synchronized device."""
    for _ in range(warmup):
        function()
    times = []
    for _ in range(repeats):
        synchronize(device)
        start = time.perf_counter()
        function()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def relative_error(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Norm of the difference over the norm of what is exact; infinite for NaN, which comparisons would pass over."""
    found, exact = found.detach().cpu().double(), exact.detach().cpu().double()
    error = ((found - exact).norm() / exact.norm().clamp(min=1e-300)).item()
    return math.inf if math.isnan(error) else error
