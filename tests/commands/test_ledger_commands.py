"""``learn``, ``ledger`` and ``rollback`` on the command line."""

import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from selfdistill.cli import main
from selfdistill.ledger import folder as ledger
from tests.support.ledger_home import Home
from tests.support.tiny_home import QUICK, TinyHome

SCORER = "def parity(completion, example):\n    return float(sum(map(ord, completion)) % 2)\n"
"""A model of random weights is right nowhere, so being right is a coin toss on what it says."""


def learn(home: TinyHome, *more: str) -> tuple[str, ...]:
    """A command line of ``learn`` that takes a second: 40 rows, of which half are held out."""
    home.rows(*({"prompt": f"What is {n}+1?", "demonstration": str(n + 1)} for n in range(40)), name="sums.jsonl")
    (home.folder / "mine.py").write_text(SCORER)
    data = ("--dataset_path=sums.jsonl", "--eval_share=0.5", "--scorer=mine.py:parity", "--max_new_tokens=4")
    return ("learn", "--ledger=memory", "--model_name=M", "--method=sft", *data, *QUICK, *more)


def test_a_version_stands_by_itself_and_the_next_goes_on_from_it(home: TinyHome) -> None:
    said = home.run(*learn(home, "--lora_r=2", "--skill=sums"))
    assert said.code == 0
    assert "PROMOTED: version 1 is current, in memory/versions/0001." in said.out
    version = home.folder / "memory" / "versions" / "0001"
    assert not (version / "adapter_config.json").exists()
    start, end = (AutoModelForCausalLM.from_pretrained(place) for place in (home.folder / "M", version))
    assert any((a != b).any() for a, b in zip(start.parameters(), end.parameters(), strict=True))
    for name in ("report.html", "run_config.json", "gate.json", "skill/eval.jsonl", "skill/mine.py", "eval/sums.json"):
        assert (version / name).is_file()
    told = home.run("ledger", "memory")
    assert (told.code, told.err) == (0, "")
    assert "Current model: memory/versions/0001" in told.out

    tolerant = ("--max_forgetting=0.6", "--skill=more")  # more than a coin toss can lose
    said = home.run(*(part for part in learn(home, *tolerant) if part != "--model_name=M"))
    assert said.code == 0
    assert home.read("memory/versions/0002/run_config.json")["model_name"] == "memory/versions/0001"
    assert home.read("memory/ledger.json")["held"] == ["sums", "more"]

    back = home.run("rollback", "--ledger=memory")
    assert back.code == 0
    assert "Current model: memory/versions/0001" in back.out
    assert home.read("memory/ledger.json")["current"] == 1


def test_a_refused_lesson_is_exit_code_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Home(tmp_path, monkeypatch)
    home.teach("a", {"a": 20})
    home.after = {"a": 0, "b": 20}
    data = ["--dataset_path", home.data("b"), "--eval_share", "0.5", "--method", "sft"]
    assert main(["learn", "--ledger", str(home.memory), *data]) == 3
    assert "REFUSED" in capsys.readouterr().out


def test_a_misspelt_ledger_is_not_made(home: TinyHome) -> None:
    before = home.files()
    assert "memry holds no ledger.json" in home.refused("rollback", "--ledger=memry")
    assert "memry holds no ledger.json" in home.refused("ledger", "memry")
    assert "--ledger is missing" in home.refused("rollback")
    assert home.files() == before
    assert not (home.folder / "memry").exists()


def test_ledger_and_rollback_need_no_torch(tmp_path: Path) -> None:
    ledger.stage(ledger.begin(tmp_path, None, "base"))
    script = (
        "import sys\n"
        "from selfdistill.cli import main\n"
        f"assert main(['ledger', {str(tmp_path)!r}]) == 0\n"
        f"assert main(['rollback', '--ledger', {str(tmp_path)!r}]) == 2\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
