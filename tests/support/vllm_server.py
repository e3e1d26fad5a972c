"""A real vLLM server of a tiny model, in a process of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.tiny import byte_tokenizer
from tests.support.training import student

SIZES: dict[str, Any] = {"hidden_size": 64, "head_dim": 32, "initializer_range": 0.1}
"""vLLM's attention on a CPU takes heads of 32 numbers and more."""
START = 240.0
"""Seconds in which a server must have started."""


def small(**settings: Any) -> Any:
    """A tiny model that vLLM can compute on a CPU; same arguments, same weights."""
    return student(**{**SIZES, **settings})


class Server:
    """A running server at ``url``; with ``lora`` it takes adapters. ``environment``: of its process, beside ours."""

    def __init__(
        self, folder: Path, *arguments: str, lora: bool = True, environment: dict[str, str] | None = None
    ) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url, self._log = f"http://127.0.0.1:{port}", folder / "server.log"
        model = folder / "served"
        if not model.exists():
            small().save_pretrained(model)
            byte_tokenizer().save_pretrained(model)
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
        command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager"]
        command += ["--max-model-len", "256", "--kv-cache-memory-bytes", str(2**26), "--generation-config", "vllm"]
        command += ["--logprobs-mode", "processed_logprobs", "--distributed-executor-backend", "uni", *arguments]
        command += ["--enable-lora", "--max-lora-rank", "8"] if lora else []
        allowed = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                env={**os.environ, **allowed, **(environment or {})},
                start_new_session=True,
            )

    def wait(self) -> None:
        """Returns once the server answers."""
        end = time.monotonic() + START
        while time.monotonic() < end:
            assert self._process.poll() is None, self._log.read_text()[-3000:]
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=1).close()
                return
            except OSError:
                time.sleep(0.3)
        raise AssertionError(self._log.read_text()[-3000:])

    def kill(self) -> None:
        """Kills the server and the processes that it started."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class Servers(NamedTuple):
    """Two that serve ``small()`` at first."""

    adapting: Server
    """Takes adapters, and weights over NCCL, for which gloo stands in."""
    plain: Server
    """Takes weights by a folder alone, and teaches."""


@contextmanager
def running(folder: Path, *arguments: str, **options: Any) -> Generator[Server]:
    """Context with a server of ``small()``."""
    server = Server(folder, *arguments, **options)
    try:
        server.wait()
        yield server
    finally:
        server.kill()
