"""The example of a vLLM server, as it stands there."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.processes import free_port

SCRIPT = Path(__file__).parents[2] / "examples" / "clusters" / "vllm.sh"


@pytest.mark.model
def test_the_script_trains_an_adapter_with_a_server_s_completions(tmp_path: Path) -> None:
    """It ends within three minutes, of which a server of the embedded model takes most to start."""
    own = {"PYTHON": sys.executable, "OUT": str(tmp_path), "PORT": str(free_port())}
    with subprocess.Popen(
        [SCRIPT],
        env=os.environ | own,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as script:
        try:
            said, _ = script.communicate(timeout=180)
        except subprocess.TimeoutExpired:
            os.killpg(script.pid, signal.SIGKILL)  # the server, too
            raise
    assert script.returncode == 0, said
    weights = [float(value) for value in re.findall(r'"importance_weight": ([\d.]+)', said)]
    assert weights == [pytest.approx(1.0, abs=1e-3)] * 2
