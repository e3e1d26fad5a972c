"""The example of a vLLM server, as it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.processes import free_port

SCRIPT = Path(__file__).parents[2] / "examples" / "clusters" / "vllm.sh"


@pytest.mark.model
def test_the_script_trains_an_adapter_with_a_server_s_completions(tmp_path: Path) -> None:
    """It ends within three minutes."""
    own = {"PYTHON": sys.executable, "OUT": str(tmp_path), "PORT": str(free_port())}
    done = subprocess.run([SCRIPT], env=os.environ | own, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    weights = [float(value) for value in re.findall(r'"importance_weight": ([\d.]+)', done.stdout)]
    assert weights == [pytest.approx(1.0, abs=1e-3)] * 2
