"""Rollouts by vLLM in this process, from a copy of the weights that is refreshed before each call.

A process holds one vLLM, since two would share its global state. It is made from the model's config alone, with dummy
weights; what it samples from is copied into it. So every engine of a process whose model has that config uses the same
one, and the last engine that copied its weights owns it. On a GPU it gives its memory back between two calls.
"""

import os
import tempfile
import warnings
import weakref
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from selfdistill.errors import EngineError, UserError, brief
from selfdistill.launcher import place
from selfdistill.method.fingerprints import OF_THE_PLACE, SET_BY_TRAINING
from selfdistill.method.random_state import unchanged_random_state
from selfdistill.method.rollout.copies import (
    CHECKS,
    CopyOptions,
    SyncFolder,
    adapter_rank,
    base_weights,
    check_arrived,
    check_copied,
    run_limits,
)
from selfdistill.method.rollout.engine import BATCH_SIZE, OnDone, Sampling, with_seeds
from selfdistill.models.output_head import unwrapped
from selfdistill.types import Rollout

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Largest ranks of an adapter that vLLM can be told."""
CACHE_BLOCK = 128
"""Tokens per block of the key-value cache on a CPU; a sequence takes whole blocks."""
ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
"""Variables that are set before vLLM is imported, unless they are set already: no telemetry, errors only."""
IDLE_KEYS = (*OF_THE_PLACE, *SET_BY_TRAINING)
"""Keys of a model's config that loading, training and saving change, without a difference to vLLM."""
REMEDY = "Take rollout_engine auto, and report the model's type."
AGAIN = "Give the same command again to go on from the last checkpoint, or take rollout_engine auto."


class VLLMEngine:
    """Samples with vLLM's ``LLM``.

    Args:
        model: the model in memory, with or without a LoRA adapter.
        eos_token_ids: every id that ends a completion.
        pad_token_id: not used: vLLM pads nothing.
        batch_size: sequences decoded together at most.
        options: of the run. With ``longest`` vLLM is made at once, otherwise by the first call.

    Raises:
        UserError: vLLM can't be given this model's weights, or several processes train it.
        EngineError: vLLM can't be made.
    """

    samples_elsewhere = True

    def __init__(
        self,
        model: PreTrainedModel,
        eos_token_ids: Collection[int],
        pad_token_id: int,
        batch_size: int = BATCH_SIZE,
        options: CopyOptions | None = None,
    ) -> None:
        self.model, self.batch_size = model, batch_size
        self.eos_token_ids = frozenset(eos_token_ids)
        self._options = options or CopyOptions()
        self._folder = SyncFolder()
        self._adapter: Any = None  # vLLM's request for the adapter of the last copy
        self._is_current = False
        self._checks_left = CHECKS
        check_copied(model, "vllm")
        if place().size > 1:
            raise UserError(
                f"rollout_engine vllm runs in one process, and {place().size} were started. Start vLLM's server and "
                "take rollout_engine vllm-server, or auto."
            )
        if self._options.longest is not None:
            with unchanged_random_state():
                self._make(self._options.longest, self._options.rows or batch_size)

    def sync(self) -> None:
        """Makes the next ``generate`` copy the module's weights first."""
        self._is_current = False

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, on_done: OnDone | None = None
    ) -> list[Rollout]:
        """As in RolloutEngine. Logprobs are at the sampling temperature, and those after the cut with ``top_p``.

        ``on_done`` is called once, at the end.

        Raises:
            EngineError: vLLM failed, or samples from other weights than it was given.
            ValueError: a prompt fills the model's context, or the number of seeds is wrong.
        """
        sampling, limits = with_seeds(sampling, len(prompts)), run_limits(prompts, sampling)
        if not prompts:
            return []
        longest = max(len(prompt) + limit for prompt, limit in zip(prompts, limits, strict=True))
        with unchanged_random_state():  # vLLM seeds and draws from them, as does whoever orders the rows
            self._make(max(longest, self._options.longest or 0), self._options.rows or len(prompts))
            if is_new := not self._is_current or not _held.is_of(self):
                self._copy()
            if self._checks_left and is_new:
                check_arrived(self.model, self._sample, sampling, "vllm", REMEDY)
                self._checks_left -= 1
            rollouts = self._sample(prompts, sampling)
            self._rest()
        if on_done:
            on_done(len(rollouts))
        return rollouts

    def close(self) -> None:
        """Ends vLLM if this engine used it last."""
        self._folder.delete()
        if _held.is_of(self):
            _held.end()

    # -- vLLM ----------------------------------------------------------------------------------------------------------

    def _make(self, longest: int, rows: int) -> None:
        """Makes vLLM, unless one is held that reads ``longest`` tokens of a model like this."""
        inner: Any = unwrapped(self.model)
        settings = _settings(inner, self._options, self.batch_size, adapter_rank(self.model))
        described = (_described(inner), tuple(sorted(settings.items())))
        if _held.llm is not None and _held.described == described and _held.longest >= longest:
            return
        _held.end()
        if not _sleeps(inner):
            settings["kv_cache_memory_bytes"] = cache_bytes(
                inner.config, inner.dtype.itemsize, longest, min(rows, self.batch_size)
            )
        try:
            _held.llm = _made(inner, settings | {"max_model_len": longest})
        except UserError:
            raise
        except Exception as error:
            with suppress(Exception):  # what is left of it would be in the way of the next one
                vllm_part("distributed").cleanup_dist_env_and_memory()
            raise EngineError(
                f"rollout_engine vllm: vLLM could not be started: {brief(_reason(error), 20)}. Mend that, or take "
                "rollout_engine auto."
            ) from error
        _held.described, _held.longest = described, longest

    def _copy(self) -> None:
        """Copies the module's weights to vLLM, where they overwrite those that are there."""
        llm, sleeps = _held.llm, _sleeps(self.model)
        try:
            if sleeps:
                llm.wake_up(tags=["weights"])
            if sleeps or self._adapter is None or not _held.is_of(self):
                llm.collective_rpc("reload_weights", kwargs={"weights_iterator": base_weights(self.model)})
            if adapter_rank(self.model) is not None:
                folder = self._folder.write(self.model, self.eos_token_ids)
                _held.adapters += 1
                self._adapter = vllm_part("lora.request").LoRARequest(
                    f"adapter-{_held.adapters}", _held.adapters, str(folder)
                )
            if sleeps:
                llm.wake_up(tags=["kv_cache"])
        except Exception as error:
            raise _failed("could not take over the weights", error) from error
        _held.give(self)
        self._is_current = True

    def _rest(self) -> None:
        """Gives the GPU's memory back: what vLLM held there is copied anew by the next call."""
        if _sleeps(self.model):
            _held.llm.sleep(level=2)
            self._is_current = False

    def _sample(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Rollout]:
        seeds = sampling.seeds or (None,) * len(prompts)
        parameters = [
            vllm_part().SamplingParams(
                max_tokens=limit,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                seed=seed,
                logprobs=0 if sampling.logprobs else None,  # of the sampled token alone
                stop_token_ids=sorted(self.eos_token_ids),
                ignore_eos=True,  # the model's config may name fewer ids than end a turn
                detokenize=False,
            )
            for limit, seed in zip(run_limits(prompts, sampling), seeds, strict=True)
        ]
        try:
            answers = _held.llm.generate(
                [{"prompt_token_ids": list(prompt)} for prompt in prompts],
                parameters,
                use_tqdm=False,
                lora_request=self._adapter,
            )
        except Exception as error:
            raise _failed("failed while it sampled", error) from error
        return [_rollout(answer.outputs[0]) for answer in answers]


@dataclass(slots=True)
class _Held:
    """The one vLLM of this process."""

    llm: Any = None
    described: Any = None
    """What it was made for."""
    longest: int = 0
    """Tokens that it reads."""
    owner: "weakref.ref[VLLMEngine] | None" = None
    """Whose weights it has. Its model may be freed meanwhile."""
    adapters: int = 0
    """Number of adapters so far: each has a number of its own, by which vLLM tells them apart."""

    def is_of(self, engine: VLLMEngine) -> bool:
        """Whether vLLM has this engine's weights."""
        return self.owner is not None and self.owner() is engine

    def give(self, engine: VLLMEngine) -> None:
        """Notes that vLLM has this engine's weights."""
        self.owner = weakref.ref(engine)

    def end(self) -> None:
        """Ends vLLM and releases its memory."""
        llm, self.llm, self.described, self.owner, self.longest = self.llm, None, None, None, 0
        if llm is not None:
            # not by dropping it: something may still refer to it, and it would end later, together with the next one
            llm.llm_engine.engine_core.shutdown()


_held = _Held()


def cache_bytes(config: Any, width: int, longest: int, rows: int) -> int:
    """Bytes of a key-value cache for ``rows`` sequences of ``longest`` tokens, in whole blocks; ``width``: bytes of a
    number."""
    text = config.get_text_config(decoder=True)
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    a_token = text.num_hidden_layers * 2 * heads * head_dim * width
    blocks = rows * -(-longest // CACHE_BLOCK) + 1  # vLLM keeps one for itself
    return blocks * CACHE_BLOCK * a_token


def _settings(model: Any, options: CopyOptions, batch_size: int, rank: int | None) -> dict[str, Any]:
    """vLLM's arguments, but for lengths and the cache's size."""
    on_cpu = not _sleeps(model)
    settings: dict[str, Any] = {
        "load_format": "dummy",  # weights are copied
        "skip_tokenizer_init": True,  # ids in, ids out
        "dtype": str(model.dtype).removeprefix("torch."),
        "max_num_seqs": batch_size,
        "seed": 0,
        "generation_config": "vllm",  # not the model's own: penalties and cuts would change its distribution
        "logprobs_mode": "processed_logprobs",  # at the sampling temperature
        "enable_prefix_caching": False,  # weights change
        "distributed_executor_backend": "uni",
        "enforce_eager": on_cpu,
    }
    if not on_cpu:
        settings |= {"gpu_memory_utilization": options.memory_share, "enable_sleep_mode": True}
    if rank is not None:
        settings |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": next(size for size in RANKS if size >= rank)}
    return settings


def _made(model: Any, settings: dict[str, Any]) -> Any:
    """vLLM's LLM for the model's config."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # weights are copied within this process
    set_num_threads = torch.set_num_threads
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of vLLM's own calls of torch
            vllm_part()
        built_for = vllm_part("platforms").current_platform.device_type
        if built_for != model.device.type:
            raise UserError(
                f"rollout_engine vllm: this vLLM is built for {built_for}, the model is on {model.device.type}. "
                "Install the other build, or take rollout_engine auto."
            )
        with tempfile.TemporaryDirectory(prefix="selfdistill-") as folder:
            write_config(model, Path(folder))
            return vllm_part().LLM(model=folder, **settings)
    finally:
        torch.set_num_threads = set_num_threads  # on a CPU vLLM replaces it by a function that does nothing


def vllm_part(name: str = "") -> Any:
    """A module of vLLM, or vLLM itself."""
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    return import_module(f"vllm.{name}" if name else "vllm")


def write_config(model: Any, folder: Path) -> None:
    """Writes config.json as vLLM reads it: it names the class of the model."""
    config = type(model.config).from_dict(model.config.to_dict())
    config.architectures = [type(model).__name__]
    config.save_pretrained(str(folder))


def _sleeps(model: PreTrainedModel) -> bool:
    """Whether vLLM gives its memory back between two calls: on a GPU."""
    return unwrapped(model).device.type == "cuda"


def _described(model: Any) -> str:
    """What of a model's config decides how vLLM is made."""
    config = model.config.to_dict()
    return repr((type(model).__name__, sorted((name, repr(config[name])) for name in config if name not in IDLE_KEYS)))


def _rollout(answer: Any) -> Rollout:
    """A rollout of vLLM's answer: ids, finish_reason, and for each token a mapping of ids to logprobs."""
    ids = tuple(answer.token_ids)
    if answer.finish_reason not in ("stop", "length"):
        raise EngineError(f"rollout_engine vllm: a completion ended by {answer.finish_reason}. {AGAIN}")
    logprobs = answer.logprobs
    return Rollout(
        completion_ids=ids,
        finish_reason=answer.finish_reason,
        logprobs=None
        if logprobs is None
        else tuple(float(found[id].logprob) for found, id in zip(logprobs, ids, strict=True)),
    )


def _failed(what: str, error: Exception) -> EngineError:
    """The error for a vLLM that can't be used any more; it is ended."""
    with suppress(Exception):  # what failed may fail again; the error to tell is the first one
        _held.end()
    return EngineError(f"rollout_engine vllm: vLLM {what}: {brief(_reason(error), 12)}. {AGAIN}")


def _reason(error: BaseException) -> str:
    return str(error).strip().rstrip(".") or type(error).__name__
