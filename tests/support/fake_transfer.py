"""A stand-in for vLLM's server and for the trainer's side of its weight transfer, with gloo for NCCL."""

import sys
from collections.abc import Generator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from selfdistill.method.rollout import copies, vllm, vllm_transfer
from tests.support.fake_vllm import FakeServer
from tests.support.gloo_transfer import Gloo
from tests.support.json_server import Answer


class OurGloo(Gloo):
    """The trainer's side of the group."""


class TransferServer(FakeServer):
    """vLLM's server, started with ``--weight-transfer-config``. ``refuses``: a request that it answers with an error;
    ``dies_at``: one that it ends without an answer."""

    group: Any = None
    refuses = dies_at = ""

    def __init__(self, config: Any, backend: str | None = "nccl", **options: Any) -> None:
        self.backend = backend
        super().__init__(config, **options)

    def answered(self, path: str, body: dict[str, Any] | None, authorization: str | None) -> Answer | None:
        if body is None and path == "/get_world_size":
            return 200, {"world_size": 1}
        if body is None and path == "/server_info?config_format=json":
            config = None if self.backend is None else {"backend": self.backend}
            return 200, {"vllm_config": {"weight_transfer_config": config}}
        if path == self.dies_at:
            self.asked.append((path, body or {}))
            return None
        return super().answered(path, body, authorization)

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if path == self.refuses:
            self.asked.append((path, body))
            return 500, {"error": {"message": "Worker failed"}}
        answer = super().answer(path, body)
        if path == "/init_weight_transfer_engine":
            info = body["init_info"]
            assert not info["packed"]
            self.group = Gloo(
                info["master_address"], info["master_port"], info["rank_offset"], info["world_size"], None
            )
        elif path == "/update_weights":
            self.weights.load(dict(self._received(**body["update_info"])))
        return answer

    def _received(
        self, names: list[str], dtype_names: list[str], shapes: list[list[int]]
    ) -> Generator[tuple[str, torch.Tensor]]:
        for name, dtype, shape in zip(names, dtype_names, shapes, strict=True):
            tensor = torch.full(shape, -1, dtype=getattr(torch, dtype))
            self.group.broadcast(tensor, 0)
            yield name, tensor


@contextmanager
def transferring(
    monkeypatch: pytest.MonkeyPatch, config: Any, backend: str | None = "nccl"
) -> Generator[TransferServer]:
    """Context with a server of a model with this config, and with vLLM's trainer side, which takes a CPU for a GPU."""

    def trainer_init(info: dict[str, Any]) -> Gloo:
        return OurGloo(info["master_address"], info["master_port"], 0, info["world_size"], None)

    common = SimpleNamespace(trainer_init=trainer_init)
    monkeypatch.setitem(sys.modules, "vllm.distributed.weight_transfer.nccl_common", common)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace())  # type: ignore[arg-type]
    monkeypatch.setattr(copies.metadata, "version", lambda _: "0.32.0")
    monkeypatch.setattr(vllm_transfer, "DEVICES", ("cpu",))
    for name in vllm.ENVIRONMENT:
        monkeypatch.setenv(name, "")
    server = TransferServer(config, backend)
    try:
        yield server
    finally:
        server.stop()
