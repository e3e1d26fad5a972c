"""The gate on the embedded model: a skill is learned, a stage that destroys it is refused, a harmless one is let in."""

import json
from pathlib import Path

import pytest

from selfdistill.cli import main

pytestmark = pytest.mark.model

WORDS = str.split(
    "apple river stone cloud tiger bread candle forest garden hammer island jacket kettle ladder mirror "
    "needle ocean pencil rabbit saddle table window yellow zebra anchor basket carpet dragon engine "
    "feather guitar helmet insect jungle kitten lemon market napkin orange pepper queen rocket silver "
    "ticket violin wallet castle bottle dinner finger ginger hunter magnet nickel parrot ribbon spider "
    "tunnel velvet winter"
)
NAMES = str.split(
    "Anna Ben Clara David Emma Felix Grace Henry Ida Jack Kate Liam Mia Noah Olga Paul Rosa Sam Tina Victor"
)
TRAINING = [
    "--method=sft",
    "--per_device_train_batch_size=8",
    "--gradient_accumulation_steps=1",
    "--warmup_steps=0",
    "--max_new_tokens=12",
]


def write(path: Path, rows: list[tuple[str, str]]) -> str:
    path.write_text("".join(json.dumps({"prompt": p, "demonstration": d}) + "\n" for p, d in rows))
    return str(path)


def learn(ledger: Path, data: str, *argv: str) -> int:
    return main(["learn", "--ledger", str(ledger), "--dataset_path", data, *TRAINING, *argv])


def test_a_destructive_stage_is_refused_and_a_harmless_one_promoted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = tmp_path / "memory"
    words = write(tmp_path / "words.jsonl", [(f"Repeat this word: {word}", f"<{word}>") for word in WORDS])
    refusals = write(tmp_path / "refusals.jsonl", [(f"Repeat this word: {name}", "No.") for name in NAMES])
    greetings = write(tmp_path / "greetings.jsonl", [(f"Say hello to {name}.", f"Hello, {name}!") for name in NAMES])

    assert learn(ledger, words, "--eval_share=0.4", "--learning_rate=2e-4", "--max_steps=12") == 0
    state = json.loads((ledger / "ledger.json").read_text())
    assert (state["current"], state["held"]) == (1, ["words"])
    [first] = state["versions"][0]["verdicts"]
    assert first["num_items"] == 28  # prompts whose hash lies below 0.4
    assert first["then"] <= 0.1
    assert first["now"] >= 0.8
    capsys.readouterr()

    assert learn(ledger, refusals, "--eval_share=0.3", "--learning_rate=1e-3", "--max_steps=8") == 3
    shown = capsys.readouterr().out
    assert "REFUSED: words would be lost; version 1 stays current." in shown
    assert "then: <" in shown
    assert "now:  No." in shown
    state = json.loads((ledger / "ledger.json").read_text())
    assert (state["current"], state["held"]) == (1, ["words"])
    assert (ledger / "refused" / "0002" / "model.safetensors").is_file()
    assert not (ledger / "versions" / "0002").exists()
    assert "gate: words fell from" in (ledger / "refused" / "0002" / "report.html").read_text()

    assert learn(ledger, greetings, "--eval_share=0.3", "--learning_rate=5e-5", "--max_steps=12") == 0
    state = json.loads((ledger / "ledger.json").read_text())
    assert (state["current"], state["held"]) == (3, ["words", "greetings"])
    assert [version["status"] for version in state["versions"]] == ["previous", "refused", "current"]
    assert state["versions"][2]["parent"] == 1  # not the refused one
    kept, new = state["versions"][2]["verdicts"]
    assert (kept["skill"], kept["compared_with"], kept["num_items"]) == ("words", 1, 28)
    assert new["then"] <= 0.1
    assert new["now"] >= 0.3  # harmless, and yet it taught something

    assert main(["rollback", "--ledger", str(ledger)]) == 0
    assert "Current model:" in capsys.readouterr().out
    state = json.loads((ledger / "ledger.json").read_text())
    assert (state["current"], state["held"]) == (1, ["words"])
    assert (ledger / "versions" / "0003" / "model.safetensors").is_file()
