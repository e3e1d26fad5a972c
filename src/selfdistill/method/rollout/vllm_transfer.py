"""All weights to a vLLM server over NCCL, by vLLM's own weight transfer: no folder that both see, nothing on a disk.

The server has its side of it if it was started with ``--weight-transfer-config '{"backend": "nccl"}'`` and
``VLLM_SERVER_DEV_MODE=1``. Before the first transfer its workers and this process join in a group of NCCL's, made with
vLLM's own classes. In each transfer the server finishes what it samples, drops its caches, receives what this process
broadcasts, tensor by tensor, and samples on.

NCCL waits for ever for a peer that is gone. So what waits for the server runs in threads of its own, and the first
failure of either side ends the run.
"""

import socket
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from http.client import HTTPException
from queue import SimpleQueue
from typing import Any
from urllib.parse import urlsplit

import torch
from transformers import PreTrainedModel

from selfdistill.errors import EngineError, UserError, brief
from selfdistill.method.http_json import RefusedError, fetched
from selfdistill.method.rollout.copies import LOWEST, base_weights, installed_version, is_too_old
from selfdistill.method.rollout.vllm import vllm_part
from selfdistill.method.rollout.vllm_requests import CHECK_TIMEOUT, DEV_MODE, NAME, base_url, post
from selfdistill.types import WeightTransfer

DEVICES = ("cuda",)
"""Where a model must be for NCCL."""
FLAG = f"""{DEV_MODE} and --weight-transfer-config '{{"backend": "nccl"}}'"""
"""What the server must have been started with."""
INFO_TIMEOUT = 120.0
"""Seconds that the server may take to say how it was started: it looks at its machine first."""
NO_ANSWER = (OSError, HTTPException, RefusedError, ValueError)
"""What a request can fail with."""


def goes_by_nccl(setting: WeightTransfer, url: str | None, device: torch.device) -> bool:
    """Whether all weights go over NCCL: if the setting says so, or if it leaves that open and they can.

    Args:
        setting: ``auto``, ``folder`` or ``nccl``.
        url: the server's address.
        device: where the model is.

    Raises:
        UserError: they must, and can't.
    """
    if setting == "folder":
        return False
    reason = _why_not(base_url(url), device)
    if reason is not None and setting == "nccl":
        raise UserError(f"vllm_weight_transfer nccl: {reason}")
    return reason is None


def _why_not(base: str, device: torch.device) -> str | None:
    """What speaks against NCCL, with the remedy; None if nothing does."""
    if device.type not in DEVICES:
        return f"NCCL needs CUDA, and the model is on {device.type}. Take auto or folder."
    if (version := installed_version()) is None or is_too_old(version):
        return f"vLLM {LOWEST}, which has the trainer's side, is not installed here. Install it, or take folder."
    if (backend := _backend(base)) != "nccl":
        return f"the server's weight transfer is {backend or 'off'}. Start it with {FLAG}, or take folder."
    return None


def _backend(base: str) -> str | None:
    """The transport that the server was started with; None if it has none, or does not say."""
    with suppress(*NO_ANSWER, KeyError):
        found = fetched(f"{base}/server_info?config_format=json", None, INFO_TIMEOUT)
        return (found["vllm_config"]["weight_transfer_config"] or {}).get("backend")
    return None


class WeightsOverNccl:
    """Sends a model's weights to a server, all of them each time.

    Args:
        model: the model, without an adapter.
        url: the server's address.
    """

    def __init__(self, model: PreTrainedModel, url: str) -> None:
        self._model, self._base = model, url
        self._group: Any = None  # vLLM's communicator

    def send(self) -> None:
        """Sends the weights as they are now. The server samples with them from then on.

        Raises:
            EngineError: the server refuses, does not answer, or NCCL fails. The server may have a part of the weights.
        """
        self._ask("pause?mode=wait", {})
        try:
            if self._group is None:
                self._join()
            self._ask("start_weight_update", {})
            weights = list(base_weights(self._model))
            described = {
                "names": [name for name, _ in weights],
                "dtype_names": [str(tensor.dtype).removeprefix("torch.") for _, tensor in weights],
                "shapes": [list(tensor.shape) for _, tensor in weights],
            }
            broadcast = partial(self._broadcast, [tensor for _, tensor in weights])
            self._both("update_weights", {"update_info": described}, broadcast)
            self._ask("finish_weight_update", {})
        except BaseException:
            self.close()
            self._try("resume")  # others may be waiting for it
            raise
        self._ask("resume", {})

    def close(self) -> None:
        """Leaves the group, which ends whatever still waits in it, and makes the server leave it."""
        group, self._group = self._group, None
        if group is not None:
            with suppress(Exception):  # if a transfer failed, its error is the one to tell
                group.destroy()
            self._try("shutdown_weight_transfer_engine")

    # -- NCCL --------------------------------------------------------------------------------------------------------

    def _join(self) -> None:
        """Joins in one group with the server's workers, as its number 0."""
        try:
            workers = fetched(f"{self._base}/get_world_size", None, CHECK_TIMEOUT)["world_size"]
            address, port = _own_address(self._base)
        except (*NO_ANSWER, KeyError) as error:
            raise EngineError(f"rollout_engine {NAME}: {self._base} can't be joined: {brief(error, 10)}.") from error
        info = {"master_address": address, "master_port": port, "world_size": 1 + int(workers)}
        join = partial(self._make_group, info)
        # packed, tensors would take 2 GiB beside the weights
        self._both("init_weight_transfer_engine", {"init_info": {**info, "rank_offset": 1, "packed": False}}, join)

    def _make_group(self, info: dict[str, Any]) -> None:
        with self._on_device():
            self._group = vllm_part("distributed.weight_transfer.nccl_common").trainer_init(info)
            if not self._group.available:  # it would send nothing, and say nothing
                raise RuntimeError("vLLM finds no NCCL library")

    def _broadcast(self, tensors: list[torch.Tensor]) -> None:
        device = self._model.device
        with self._on_device():
            stream = torch.cuda.current_stream() if device.type == "cuda" else None  # which has made the weights
            for tensor in tensors:
                self._group.broadcast(tensor.to(device).contiguous(), src=0, stream=stream)
            if stream is not None:
                stream.synchronize()

    def _on_device(self) -> AbstractContextManager[Any]:
        """NCCL takes a thread's current GPU, which at first is the machine's first one."""
        device = self._model.device
        return torch.cuda.device(device) if device.type == "cuda" else nullcontext()

    # -- requests ----------------------------------------------------------------------------------------------------

    def _both(self, path: str, body: dict[str, Any], work: Callable[[], None]) -> None:
        """Asks the server for its part of an exchange while ``work`` does ours. Whatever waits when the other side has
        failed is left behind: its thread keeps nobody from ending."""
        outcomes = SimpleQueue[Exception | None]()
        for part in (partial(self._ask, path, body), work):
            threading.Thread(target=_report, args=(part, outcomes), daemon=True).start()
        for _ in range(2):
            error = outcomes.get()
            if isinstance(error, EngineError):
                raise error
            if error is not None:
                raise EngineError(
                    f"rollout_engine {NAME}: NCCL failed at /{path}: {brief(error, 10)}. Is the server alive, on GPUs "
                    "of its own? Start it again, and give the same command, or also vllm_weight_transfer folder."
                ) from error

    def _ask(self, path: str, body: dict[str, Any]) -> None:
        """Posts a request. Raises EngineError if the server refuses it, or does not answer."""
        try:
            post(f"{self._base}/{path}", body)
        except RefusedError as refusal:
            raise EngineError(
                f"rollout_engine {NAME}: the server refuses /{path}: {brief(refusal, 12)}. Start it again with {FLAG}, "
                "and give the same command."
            ) from refusal

    def _try(self, path: str) -> None:
        """Posts a request whose failure changes nothing."""
        with suppress(*NO_ANSWER):
            fetched(f"{self._base}/{path}", {}, CHECK_TIMEOUT)


def _report(part: Callable[[], None], outcomes: "SimpleQueue[Exception | None]") -> None:
    try:
        part()
    except Exception as error:
        outcomes.put(error)
    else:
        outcomes.put(None)


def _own_address(base: str) -> tuple[str, int]:
    """This machine's address on the way to the server, and a free port. Raises OSError if there is no way."""
    parts = urlsplit(base)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:  # which sends nothing
        way.connect((parts.hostname, parts.port or 80))
        address = way.getsockname()[0]
    with socket.socket() as free:
        free.bind((address, 0))
        return address, free.getsockname()[1]
