"""Seconds and memory from the command to the first step of training, on a large file of rows.

Writes a JSONL file of ``--rows`` short rows and starts ``selfdistill train`` on it in a process of its own, for one
step of two prompts. The time runs until the step's line is in metrics.jsonl; the memory is the process's peak.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import cpu_seconds, finish, make_parser, resident

WORDS = ("time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school", "state")


def write_rows(path: Path, count: int) -> None:
    """``count`` rows, all different, each with a prompt of about 25 words and a demonstration of 20."""
    rng = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            prompt = f"Row {number}: " + " ".join(rng.choices(WORDS, k=25))
            demonstration = " ".join(rng.choices(WORDS, k=20))
            file.write(json.dumps({"prompt": prompt, "demonstration": demonstration}) + "\n")


def first_step(data: Path, folder: Path, method: str) -> dict[str, float]:
    """Seconds, processor seconds and peak memory of a run of one step."""
    command = [sys.executable, "-m", "selfdistill", "train", "--dataset_path", str(data), "--output_dir", str(folder)]
    command += ["--method", method, "--template", "prior_turn", "--max_completion_length", "32", "--max_steps", "1"]
    command += ["--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "1"]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak, spent = 0, 0.0
    while process.poll() is None:
        try:
            peak, spent = max(peak, resident("VmHWM", process.pid)), cpu_seconds(process.pid)
        except (OSError, ValueError):  # it has just ended
            break
        metrics = folder / "metrics.jsonl"
        if metrics.is_file() and metrics.stat().st_size:
            break
        time.sleep(0.05)
    seconds = time.perf_counter() - start
    if process.wait():
        raise RuntimeError(f"selfdistill train ended with exit code {process.returncode}")
    return {"seconds": seconds, "cpu_seconds": spent, "peak_mb": peak / 1e6}


def main() -> None:
    """Prints the figures."""
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--method", default="sdft")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "rows.jsonl")
        write_rows(data, arguments.rows)
        found = first_step(data, Path(folder, "run"), arguments.method)
    finish({"rows": arguments.rows, "method": arguments.method, **found})


if __name__ == "__main__":
    main()
