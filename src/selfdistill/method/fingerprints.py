"""What a run depends on besides its settings, and how a resumed run differs from the one that was begun."""

import hashlib
import json
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfdistill import run_folder
from selfdistill.errors import UserError, quoted
from selfdistill.method.slices import whole
from selfdistill.models.output_head import unwrapped
from selfdistill.records.runs import RunConfig
from selfdistill.settings.method import MethodConfig
from selfdistill.settings.user_functions import fingerprint
from selfdistill.types import NamedScorer, PromptPair

FREE = {
    *("output_dir", "run_name", "report_to", "project", "trackio_space_id", "disable_tqdm", "rollouts_logged_per_step"),
    *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_prefetch_factor"),
    *("teacher_home", "skip_memory_metrics", "logging_nan_inf_filter", "overwrite_output_dir", "ddp_timeout"),
    *("vllm_url", "vllm_weight_transfer", "vllm_memory_share", "teacher_server"),
}
"""Settings that may differ when a run is resumed, since its weights do not depend on them. What a server teaches by is
told by its model's name, wherever it is."""
FREE_KINDS = ("logging_", "log_", "save_", "hub_", "push_to_hub", "include_", "eval_", "load_best_")
"""Beginnings of the names of others."""
SERVED = "served teacher"
"""Name of the model of ``teacher_server`` among the fingerprints."""
PROCESSES = "processes"
"""Name of the number of processes among the fingerprints."""
ABSENT = {PROCESSES: "1"}
"""What it means that a fingerprint is missing, other than that there was none."""
OF_THE_PLACE = ("_name_or_path", "transformers_version", "architectures", "use_cache", "dtype", "torch_dtype")
"""Keys of a model's config that depend on how it was loaded or saved, or are compared by themselves."""
SET_BY_TRAINING = ("bos_token_id", "eos_token_id", "pad_token_id")
"""Keys that transformers' Trainer changes when training begins."""
SHORT = 20
"""Characters of a value in a message."""
SHOWN = 12
"""Hexadecimal digits of a hash: enough to tell two sets of rows apart."""


def of_data(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[PromptPair], anchors: Sequence[PromptPair]
) -> dict[str, str]:
    """Hashes, in hex, of what a run reads, by what they are of.

    Args:
        tokenizer: the model's tokenizer.
        pairs: the rendered training rows, in the order given.
        anchors: the rendered anchor prompts.
    """
    found = {
        "training rows": _of_pairs(pairs),
        "tokenizer": _of_json([sorted(tokenizer.get_vocab().items()), tokenizer.special_tokens_map]),
        "chat template": _of_json(tokenizer.chat_template),
    }
    return found | ({"anchor prompts": _of_pairs(anchors)} if anchors else {})


def of_scoring(config: MethodConfig, pairs: Sequence[PromptPair], scorer: NamedScorer | None) -> dict[str, str]:
    """What the teacher's prompts depend on once completions are there, by what it is: names with hashes of the scorer
    and of the file of ``feedback_file``, and a hash of the rows that they see. Empty if they depend on nothing.

    Raises:
        UserError: the file can't be read.
    """
    found = {} if scorer is None else {"scorer": scorer[0]}
    if config.feedback_file is not None:
        found["feedback"] = fingerprint(config.feedback_file)
    seen = (json.dumps(asdict(pair.example), sort_keys=True, default=str).encode() for pair in pairs)
    return found | ({"scored rows": f"{len(pairs)} ({_digest(seen)[:SHOWN]})"} if found else {})


def of_model(model: PreTrainedModel, dtype: torch.dtype | None = None) -> dict[str, str]:
    """Hashes, in hex, of a model's config, its adapter and its frozen weights, and the dtype of the trained ones, whose
    values come from the checkpoint. ``dtype``: that of the trained ones, if it is not their own."""
    inner: Any = unwrapped(model)
    config = {k: v for k, v in inner.config.to_dict().items() if k not in (*OF_THE_PLACE, *SET_BY_TRAINING)}
    trained = sorted({str(dtype or p.dtype).removeprefix("torch.") for p in model.parameters() if p.requires_grad})
    found = {"model config": _of_json(config), "dtype": ", ".join(trained)}
    adapters: dict[str, Any] = getattr(model, "peft_config", None) or {}
    for name, adapter in adapters.items():
        kept = {k: v for k, v in adapter.to_dict().items() if k not in ("base_model_name_or_path", "inference_mode")}
        found[f"adapter {name}"] = _of_json(kept)
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    return found | ({"frozen weights": _of_json([_sum(whole(parameter)) for parameter in frozen])} if frozen else {})


def changes(before: RunConfig, now: RunConfig) -> dict[str, tuple[str, str]]:
    """Old and new value, as text, by name: of each setting that differs, the method first, then of fingerprints."""
    old_values: dict[str, Any] = {"model_name": before.model_name, **before.settings}
    new_values: dict[str, Any] = {"model_name": now.model_name, **_as_json(now.settings)}
    differing: dict[str, tuple[str, str]] = {}
    for name in sorted(old_values.keys() & new_values.keys(), key=lambda name: (name != "method", name)):
        old, new = old_values[name], new_values[name]
        if old != new and not _is_free(name) and not (name == "model_name" and _same_place(old, new)):
            differing[name] = (quoted(old, SHORT), quoted(new, SHORT))
    for name in sorted(before.fingerprints.keys() | now.fingerprints.keys()):
        missing = ABSENT.get(name, "none")
        old, new = before.fingerprints.get(name, missing), now.fingerprints.get(name, missing)
        if old != new:
            differing[name] = (old, new)
    return differing


def check_same_run(configs: Sequence[RunConfig]) -> None:
    """Compares the runs that the processes of one run are about to make, by rank.

    Raises:
        UserError: a process has other settings, data or another model than the main one.
    """
    for rank, other in enumerate(configs):
        if differing := changes(configs[0], other):
            raise UserError(
                f"Process 0 and process {rank} differ: {in_words(differing)}. Give all the same command, data and "
                "model."
            )


def in_words(differing: dict[str, tuple[str, str]]) -> str:
    """``seed 1, now 2; also learning_rate and 3 more``."""
    (name, (old, new)), *more = differing.items()
    words = f"{name} {old}, now {new}"
    if not more:
        return words
    return f"{words}; also {more[0][0]}" + (f" and {len(more) - 1} more" if len(more) > 1 else "")


def order_of(indices: Iterable[int]) -> str:
    """Hash of an order of rows."""
    return _digest([array("q", indices).tobytes()])


def _is_free(name: str) -> bool:
    return name in FREE or name.startswith(FREE_KINDS)


def _same_place(old: str, new: str) -> bool:
    return Path(old).exists() and Path(new).exists() and Path(old).resolve() == Path(new).resolve()


def _of_pairs(pairs: Sequence[PromptPair]) -> str:
    def parts() -> Iterable[bytes]:
        for pair in pairs:
            yield json.dumps(pair.example.id).encode()
            for ids in (pair.student_ids, pair.teacher_ids, pair.demonstration_ids, pair.demonstration_mask):
                yield b"-" if ids is None else array("q", ids).tobytes()
                yield b"/"

    return f"{len(pairs)} ({_digest(parts())[:SHOWN]})"


def _of_json(value: Any) -> str:
    def plain(one: Any) -> Any:
        return sorted(one, key=str) if isinstance(one, set | frozenset) else str(one)

    return _digest([json.dumps(value, sort_keys=True, default=plain).encode()])[:SHOWN]


def _sum(weights: torch.Tensor) -> int:
    """Sum of a tensor's bytes, computed where it lies."""
    return int(weights.detach().contiguous().view(-1).view(torch.uint8).sum(dtype=torch.int64))


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.blake2b(digest_size=32)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _as_json(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as they are read back from run_config.json."""
    return json.loads(json.dumps(run_folder.plain(settings), default=str))
