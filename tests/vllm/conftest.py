"""Tests with vLLM itself, which are skipped where it is not installed."""

import os
from importlib import util

import pytest

for name, value in {
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}.items():
    os.environ.setdefault(name, value)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = util.find_spec("vllm") is None
    for item in items:
        if missing and item.path.parent.name == "vllm" and item.path.parent.parent.name == "tests":
            item.add_marker(pytest.mark.skip(reason="vLLM is not installed; make test-vllm has an environment with it"))
