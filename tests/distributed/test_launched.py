"""The command line under a launcher: one voice, one exit code, and no process that waits for a dead one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from benchmarks.processes import free_port, start
from selfdistill import run_folder
from selfdistill.cli import COMMANDS
from tests.support.mistakes import MOST_WORDS
from tests.support.tiny_home import Said, TinyHome, train
from tests.support.training import lines

ROOT = Path(__file__).parents[2]
MESSAGE = (
    "selfdistill: 2 processes were started (WORLD_SIZE), and only train runs in several. Start this command without "
    "torchrun or accelerate launch.\n"
)
RECIPES = ROOT / "recipes" / "accelerate"
RECIPE = RECIPES / "replicas.yaml"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> TinyHome:
    return TinyHome(tmp_path, monkeypatch, capsys)


def said(printed: list[str]) -> list[str]:
    """Lines of all processes that are messages of ours."""
    return [line for text in printed for line in text.splitlines() if line.startswith("selfdistill: ")]


def test_a_fault_of_one_process_ends_all(home: TinyHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAULT", "fault")
    own = ["-m", "tests.distributed.worker", str(home.folder), "command", *train()]
    codes, printed = start(2, own, 60, folder=ROOT)
    assert codes == [1, 1], printed
    assert said(printed) == []
    assert [text.count("Traceback") for text in printed] == [0, 1]
    assert "a bug" in printed[1]
    assert len(lines(home.folder / "out", run_folder.METRICS)) == 1  # the fault was in the second step


def test_a_split_run_is_evaluated_as_it_goes(home: TinyHome) -> None:
    watched = ("--eval_steps=1", "--eval_share=0.4", "--drift_prompts=2", "--keep_best=accuracy", "--dtype=float32")
    more = ("--shard_weights", "--set=save_total_limit=2", *watched)
    codes, printed = start(2, ["-m", "selfdistill", *train(*more)], 120, folder=home.folder)
    assert codes == [0, 0], printed
    assert printed[0].count("held-out rows, drift") == 2  # in two steps
    assert home.lines("out/answers.jsonl")[0]["step"] == 0
    assert (home.folder / "out" / "model.safetensors").is_file()


def test_a_killed_process_ends_all(home: TinyHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAULT", "killed")
    own = ["-m", "tests.distributed.worker", str(home.folder), "command", *train()]
    codes, printed = start(2, own, 60, folder=ROOT)
    assert codes == [2, -9], printed
    (message,) = said(printed)
    assert message.startswith("selfdistill: Another process ended, or did not answer in time (ddp_timeout): ")
    assert len(message.split()) <= MOST_WORDS + 1


def test_other_commands_run_in_one_process(home: TinyHome, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without waiting for the others: WORLD_SIZE may be there for another reason."""
    for rank, message in (("0", MESSAGE), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        for command in COMMANDS.keys() - {"train"}:
            assert home.run(command) == Said(2, "", message)


def launched(*command: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_accelerate_launch_with_the_recipe(home: TinyHome) -> None:
    """Two processes write what one writes, and say it once; one process is refused to go on with their run."""
    launch = ("accelerate.commands.launch", f"--config_file={RECIPE}", "--num_processes=2", "-m", "selfdistill")
    launcher = launched(*launch, *train())
    out, errors = launcher.communicate(timeout=100)
    assert launcher.returncode == 0, errors
    assert out.count("4 prompts per step in 2 processes") == 1
    assert out.count("Model and records are in out.") == 1
    config = home.read("out/run_config.json")
    assert config["fingerprints"]["processes"] == "2"
    first = [row["id"] for row in home.lines("out/rollouts.jsonl") if row["step"] == 1]
    assert len(first) == len(set(first)) == 3  # the rows, none of them twice to fill up a batch
    refused = home.refused(*train())
    assert "processes 2, now 1" in refused
    assert home.run(*train("--allow_changes")).code == 0


def test_two_launchers_say_a_mistake_once(home: TinyHome, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on two machines, which find each other by the address of the first."""
    monkeypatch.setenv("FAULT", "mistake")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    nodes = ("torch.distributed.run", "--nnodes=2", "--master_addr=127.0.0.1", f"--master_port={free_port()}")
    worker = ("-m", "tests.distributed.worker", str(home.folder), "command", *train())
    launchers = [launched(*nodes, f"--node_rank={rank}", *worker) for rank in range(2)]
    printed = [text for launcher in launchers for text in launcher.communicate(timeout=100)]
    assert [launcher.returncode for launcher in launchers] == [1, 1]  # whatever their processes end with
    assert said(printed) == ["selfdistill: the engine is out of order"]
    assert "exitcode  : 2" in printed[3]


def test_accelerate_launches_on_two_machines_with_the_recipe(home: TinyHome) -> None:
    machines = (f"--config_file={RECIPES / 'multinode.yaml'}", "--num_processes=2", "--main_process_ip=127.0.0.1")
    launch = ("accelerate.commands.launch", *machines, f"--main_process_port={free_port()}")
    launchers = [launched(*launch, f"--machine_rank={rank}", "-m", "selfdistill", *train()) for rank in range(2)]
    printed = [launcher.communicate(timeout=100) for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0, 0], printed
    assert ["4 prompts per step in 2 processes" in out for out, _ in printed] == [True, False]
    assert home.read("out/run_config.json")["fingerprints"]["processes"] == "2"


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.name)
def test_accelerate_reads_every_key_of_a_recipe(recipe: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    values = YAML(typ="safe").load(recipe.read_text(encoding="utf-8"))
    config = vars(load_config_from_file(str(recipe)))
    assert {name: getattr(config[name], "value", config[name]) for name in values} == values
