"""Tests with vLLM itself, which are skipped where it is not installed. Its two servers start together, and once."""

import os
from collections.abc import Iterator
from importlib import util

import pytest

from tests.support.gloo_transfer import plugin
from tests.support.vllm_server import Server, Servers, running

for name, value in {
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # it would bind every server to the same core, whatever runs there
}.items():
    os.environ.setdefault(name, value)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = util.find_spec("vllm") is None
    for item in items:
        if missing and item.path.parent.name == "vllm" and item.path.parent.parent.name == "tests":
            item.add_marker(pytest.mark.skip(reason="vLLM is not installed; make test-vllm has an environment with it"))


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    folder = tmp_path_factory.mktemp("adapting")
    over_nccl = ("--weight-transfer-config", '{"backend": "nccl"}')
    adapting = Server(folder, *over_nccl, environment=plugin(folder))
    try:
        with running(tmp_path_factory.mktemp("plain"), lora=False) as plain:
            adapting.wait()
            yield Servers(adapting, plain)
    finally:
        adapting.kill()
