"""gloo where vLLM's weight transfer has NCCL, so that a CPU can do it: the rest of either side stays vLLM's own.

``plugin`` makes a folder from which a server loads ``install`` as one of vLLM's plugins.
"""

from collections.abc import Callable
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import distributed

ROOT = Path(__file__).parents[2]


class Gloo:
    """A group in which one process broadcasts, with the interface of vLLM's PyNcclCommunicator."""

    available = True

    def __init__(self, host: str, port: int, rank: int, size: int, device: Any) -> None:
        wait = timedelta(seconds=60)
        store = distributed.TCPStore(host, port, size, is_master=rank == 0, timeout=wait)
        self._group: Any = distributed.ProcessGroupGloo(store, rank, size, wait)

    def broadcast(self, tensor: torch.Tensor, src: int, stream: Any = None) -> None:
        options = distributed.BroadcastOptions()
        options.rootRank = src
        self._group.broadcast([tensor], options).wait()

    def destroy(self) -> None:
        self._group.abort()


def install(put: Callable[[Any, str, Any], None] = setattr) -> None:
    """Puts gloo into vLLM's place for NCCL, by ``put``, and makes what vLLM asks of a GPU harmless."""
    put(import_module("vllm.distributed.weight_transfer.nccl_common"), "stateless_init_process_group", Gloo)
    put(torch.accelerator, "current_device_index", lambda: 0)
    put(torch.accelerator, "synchronize", lambda *_: None)
    put(torch.cuda, "current_stream", lambda *_: None)


def plugin(folder: Path) -> dict[str, str]:
    """Writes the plugin to ``folder`` and returns the environment in which a server loads it."""
    described = folder / "gloo_transfer-1.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: gloo-transfer\nVersion: 1\n")
    (described / "entry_points.txt").write_text("[vllm.general_plugins]\ngloo = tests.support.gloo_transfer:install\n")
    return {"PYTHONPATH": f"{folder}:{ROOT}"}
