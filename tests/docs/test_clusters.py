"""docs/clusters.md: the scripts run, and the files for schedulers are read, with the commands in them."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from benchmarks.processes import free_port
from selfdistill import cli
from selfdistill.settings import flat

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "clusters"
PAGE = ROOT / "docs" / "clusters.md"
SBATCH = {
    "array": r"\d+-\d+",
    "cpus-per-task": r"\d+",
    "gpus-per-node": r"\d+",
    "gpus-per-task": r"\d+",
    "job-name": r"[\w-]+",
    "nodes": r"\d+",
    "ntasks": r"\d+",
    "ntasks-per-node": r"\d+",
    "open-mode": "append|truncate",
    "output": r"[\w-]+(%[jAa][\w-]*)+\.log",
    "requeue": "",
    "signal": r"(B:)?TERM@\d+",
    "time": r"\d\d:\d\d:\d\d",
}
"""The options of sbatch that the files use, and how their values are written."""


def command(text: str) -> tuple[str, Any]:
    """Name and options of the only command of ours in a shell's text."""
    lines = [line for line in text.replace("\\\n", " ").splitlines() if not line.lstrip().startswith("#")]
    (line,) = (line for line in lines if re.search(r"\bselfdistill [a-z]+ .*--", line))
    words = shlex.split(line)
    words = words[words.index("selfdistill") + 1 :]
    return words[0], cli.parse(words[0], words[1:])


def read(name: str) -> Any:
    return YAML(typ="safe").load((FOLDER / name).read_text(encoding="utf-8"))


# -- the scripts -----------------------------------------------------------------------------------------------------


@pytest.mark.model
@pytest.mark.parametrize(
    ("script", "wanted"),
    [
        ("replicas.sh", ["4 prompts per step in 2 processes", "Model and records are in"]),
        ("fsdp2.sh", ["Going on with the run", "weights in torch.float32"]),
        (
            "ray.sh",
            ["2 CPU cores and 0 GPUs; each run has 1 and 0.", "cell 2 of 2: sdft", "Does self-distillation keep"],
        ),
    ],
)
def test_a_script_runs(script: str, wanted: list[str], tmp_path: Path) -> None:
    own = {"PYTHON": sys.executable, "OUT": str(tmp_path / "out"), "PORT": str(free_port()), "COLUMNS": "200"}
    done = subprocess.run([FOLDER / script], env=os.environ | own, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [text for text in wanted if text not in done.stdout] == []


# -- files for schedulers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "runs"), [("train.sbatch", "train"), ("study.sbatch", "compare")])
def test_a_batch_file_is_one(name: str, runs: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8")
    assert text.startswith("#!/bin/bash\n")
    subprocess.run(["bash", "-n", FOLDER / name], check=True)
    head, body = re.split(r"^(?=[^#\n])", text, maxsplit=1, flags=re.MULTILINE)  # Slurm reads no option after a command
    assert "#SBATCH" not in body
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", head, flags=re.MULTILINE))
    assert len(options) == head.count("#SBATCH") > 5
    for option, value in options.items():
        assert re.fullmatch(SBATCH[option], value), (option, value)
    ours, parsed = command(body)
    assert ours == runs
    parsed.check()
    if "ntasks-per-node" in options:
        assert f"--nproc_per_node {options['gpus-per-node']} " in body


def test_the_task_of_skypilot_is_one() -> None:
    task = read("skypilot.yaml")
    assert task.keys() == {"name", "resources", "workdir", "setup", "run"}
    assert task["resources"].keys() == {"accelerators", "disk_size", "use_spot"}
    for part in ("setup", "run"):
        subprocess.run(["bash", "-n"], input=task[part], text=True, check=True)
    name, parsed = command(task["run"])
    assert (name, flat.flatten(parsed)["shard_weights"]) == ("train", True)
    parsed.check()


def test_the_job_of_kubernetes_is_one() -> None:
    job = read("kubernetes.yaml")
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    assert job["spec"]["parallelism"] == job["spec"]["completions"]
    pod = job["spec"]["template"]["spec"]
    assert pod["restartPolicy"] in ("OnFailure", "Never")
    (container,) = pod["containers"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    program, name = container["command"]
    assert program == "selfdistill"
    parsed = cli.parse(name, container["args"])
    parsed.check()
    (folder,) = {mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "shared"}
    assert str(parsed.place.output_dir).startswith(f"{folder}/")


def test_the_line_for_hugging_face_is_taken_by_its_program() -> None:
    (line,) = re.findall(r"^hf jobs run .*$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    *words, inner = shlex.split(line)
    dry = [sys.executable, "-m", "huggingface_hub.cli.hf", *words[1:3], "--dry-run", *words[3:], inner]
    done = subprocess.run(
        dry, env=os.environ | {"HF_TOKEN": "none", "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    from huggingface_hub import JobHardware

    assert words[words.index("--flavor") + 1] in [hardware.value for hardware in JobHardware]
    for part in inner.split(" && "):
        command(part)[1].check()


def test_the_image_is_made_of_what_is_there() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    instructions = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    known = {"FROM", "ARG", "RUN", "WORKDIR", "COPY", "USER", "CMD"}
    assert {name for name, _ in instructions} == known
    copied = [word for name, rest in instructions if name == "COPY" for word in rest.split()[:-1]]
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for path in copied:
        assert (ROOT / path).exists(), path
        assert f"!{path}" in ignored
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (extras,) = re.findall(r"^ARG EXTRAS=(.*)$", text, flags=re.MULTILINE)
    assert set(extras.split(",")) <= project["optional-dependencies"].keys()
    assert {project["readme"], *project["license-files"]} <= set(copied)
    installs = re.findall(r"pip install (.*?)(?: &&|$)", text, flags=re.MULTILINE)
    assert len(installs) == 2
    assert all("-c constraints.txt" in each for each in installs)
    for name, rest in instructions:
        if name == "RUN":
            subprocess.run(["bash", "-n"], input=rest, text=True, check=True)


def test_every_file_is_named_by_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8") + (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")
    names = [path.name for path in FOLDER.iterdir() if path.is_file() and path.name != "tiny_model.py"]
    assert len(names) >= 8
    assert [name for name in names if name not in text] == []
