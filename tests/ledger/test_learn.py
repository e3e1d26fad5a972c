"""``learn``, ``rollback`` and ``ledger`` with a scripted model in the model's place."""

import errno
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from selfdistill import run_folder
from selfdistill.commands import ledger as ledger_command
from selfdistill.commands import rollback
from selfdistill.ledger import folder as ledger
from selfdistill.ledger.lesson import held_skills
from selfdistill.settings.ledger import LedgerOptions, RollbackOptions
from tests.support.ledger_home import Home, told
from tests.support.mistakes import mistake


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    return Home(tmp_path, monkeypatch)


def console() -> Console:
    return Console(file=io.StringIO(), width=160)


def test_three_skills_of_which_one_destroys_the_first(home: Home) -> None:
    code, shown = home.teach("a", {"a": 18})
    assert code == 0
    assert "PROMOTED: version 1" in shown
    assert home.started_from == "smollm2-135m"
    assert len(home.trained_on) == 20

    code, shown = home.teach("b", {"a": 4, "b": 20})
    assert code == 3
    assert "REFUSED: a would be lost; version 1 stays current." in shown
    assert shown.count("lost: a/eval/") == 3
    assert "now:  wrong" in shown
    # bound by hand: 14 of 20 lost, so -14 / 22 + 1.645 sqrt((16 / 22 - (14 / 22)^2) / 22) = -0.437
    [warning] = home.warnings
    assert "gate: a fell from 90.0% to 20.0% over 20 items, at least 43.7 points beyond noise" in warning
    assert (home.state()["current"], home.state()["held"]) == (1, ["a"])
    assert (home.memory / "refused" / "0002" / "model.safetensors").is_file()

    home.knows = {"a": 18}
    code, shown = home.teach("c", {"a": 17, "c": 20})  # one of 20: inside noise
    assert code == 0
    assert home.started_from == str(home.memory / "versions" / "0001")
    assert (home.state()["current"], home.state()["held"]) == (3, ["a", "c"])
    old, new = home.state()["versions"][2]["verdicts"]
    assert (old["skill"], old["then"], old["now"], old["num_items"]) == ("a", 0.9, 0.85, 20)
    assert (new["skill"], new["then"], new["now"]) == ("c", 0.0, 1.0)


def test_slow_erosion_is_measured_from_where_the_skill_was_learned(home: Home) -> None:
    assert home.teach("a", {"a": 20})[0] == 0
    assert home.teach("b", {"a": 18, "b": 20})[0] == 0
    assert home.teach("c", {"a": 16, "c": 20})[0] == 0
    # 16 to 14 is one more step inside noise, but 20 to 14 is not
    code, shown = home.teach("d", {"a": 14, "d": 20})
    assert code == 3
    assert "a would be lost; version 3 stays" in shown
    verdict = home.state()["versions"][3]["verdicts"][0]
    assert (verdict["compared_with"], verdict["then"], verdict["now"]) == (1, 1.0, 0.7)


def test_the_same_items_are_scored_after_the_users_file_changed(home: Home) -> None:
    home.teach("a", {"a": 20})
    home.data("a", answer="other")
    assert home.teach("b", {"a": 20, "b": 20})[0] == 0
    assert home.state()["versions"][1]["verdicts"][0]["now"] == 1.0


def test_a_skill_that_is_held_is_not_learned_again(home: Home) -> None:
    home.teach("a", {"a": 20})
    assert "Skill a exists: version 1 learned it from the same rows" in mistake(home.teach, "a", {"a": 20})
    said = mistake(home.teach, "a", {"a": 20}, dataset_path=home.data("other"), skill="A")
    assert "from other rows. Give another name with --skill" in said
    assert len(home.state()["versions"]) == 1


def test_a_rolled_back_skill_is_not_gated_and_can_be_learned_again(home: Home) -> None:
    home.teach("a", {"a": 20})
    home.teach("b", {"b": 20})
    shown = console()
    rollback.run(RollbackOptions(ledger=str(home.memory)), shown)
    assert "rolled back" in told(shown)
    home.knows = {"a": 20}
    assert home.teach("b", {"a": 20, "b": 20})[0] == 0
    assert (home.state()["current"], home.state()["held"]) == (3, ["a", "b"])
    rollback.run(RollbackOptions(ledger=str(home.memory), to=0), console())
    assert home.teach("c", {"a": 0, "b": 0, "c": 20})[0] == 0  # nothing is held
    assert home.started_from == "smollm2-135m"


def test_training_that_makes_the_new_skill_worse_is_refused_too(home: Home) -> None:
    home.knows = {"a": 20}
    code, shown = home.teach("a", {"a": 0})
    assert code == 3
    assert "the base model stays current" in shown


def test_warnings_of_a_blind_gate_and_of_nothing_gained(home: Home) -> None:
    code, shown = home.teach("a", {"a": 0})
    assert code == 0
    assert "a gained nothing: 0.0% before, 0.0% after" in shown
    _, shown = home.teach("b", {"b": 20})
    assert "a scored 0.0% when learned: too little for a loss to be seen" in shown


def test_an_item_that_can_no_longer_be_graded_counts_as_lost(home: Home) -> None:
    scorer = home.folder / "mine.py"
    scorer.write_text("def score(text, example): return None if text == 'wrong' else 1.0\n")
    assert "could score 0 of the 20" in mistake(home.teach, "a", {"a": 20}, scorer=f"{scorer}:score")
    home.knows = {"a": 20}
    assert home.teach("a", {"a": 20}, scorer=f"{scorer}:score")[0] == 0
    assert home.teach("b", {"a": 0, "b": 20})[0] == 3
    verdict = home.state()["versions"][1]["verdicts"][0]
    assert (verdict["num_items"], verdict["then"], verdict["now"]) == (20, 1.0, 0.0)


def test_a_scorers_file_is_copied(home: Home) -> None:
    scorer = home.folder / "mine.py"
    scorer.write_text("def score(text, example): return float(text != 'wrong')\n")
    home.teach("a", {"a": 20}, scorer=f"{scorer}:score")
    scorer.unlink()
    assert home.teach("b", {"a": 0, "b": 20})[0] == 3
    copy = home.memory / "versions" / "0001" / "skill" / "mine.py"
    copy.unlink()
    assert "0001: skill/mine.py is missing. Put back a copy of it" in mistake(home.teach, "c", {"a": 20})


def test_answers_that_are_gone_are_named(home: Home) -> None:
    home.teach("a", {"a": 20})
    (home.memory / "versions" / "0001" / "eval" / "a.samples.jsonl").unlink()
    assert "0001: eval/a.samples.jsonl is missing" in mistake(home.teach, "b", {"a": 20, "b": 20})


def test_a_full_disk_is_not_told_as_lost_answers(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.teach("a", {"a": 20})
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if run_folder.EVAL_BEFORE in path.parts:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):  # which the command line ends with the disk's code
        home.teach("b", {"a": 20, "b": 20})


def test_what_a_crash_left_half_written_is_cleared_away(home: Home) -> None:
    home.teach("a", {"a": 20})
    left = home.memory / f"{run_folder.STAGING}-{run_folder.LEDGER}.abc"
    left.touch()
    home.teach("b", {"a": 20, "b": 20})
    assert not left.exists()


def test_a_scorer_that_fails_on_earlier_answers_is_named(home: Home) -> None:
    scorer = home.folder / "mine.py"
    stop = home.folder / "stop"
    code = f"import os\ndef score(text, example): return 1 / (not os.path.exists({str(stop)!r}))\n"
    scorer.write_text(code)
    home.teach("a", {"a": 20}, scorer=f"{scorer}:score")
    copy = home.memory / "versions" / "0001" / "skill" / "mine.py"
    stop.touch()
    said = mistake(home.teach, "b", {"a": 20, "b": 20})
    assert f"{copy}:score failed on" in said
    assert "lacks the answers" not in said


def test_a_task_brings_its_own_items_and_scorer(home: Home) -> None:
    # a token is a byte here, so demonstrations are longer than the task's own limit
    own = {"dataset_path": None, "eval_share": None, "max_completion_length": 200}
    home.teach("x", {}, eval_limit=10, limit=5, **own)
    made = home.state()["versions"][0]["skill"]
    assert (made["name"], made["task"], made["metric"]) == ("assistant-tools", "assistant-tools", "exact_call")
    assert (made["num_rows"], made["num_items"], made["max_new_tokens"], made["scorer"]) == (5, 10, 48, None)


def test_tables(home: Home) -> None:
    home.teach("a", {"a": 18})
    home.teach("b", {"a": 0, "b": 20})
    shown = console()
    ledger_command.run(LedgerOptions(folder=str(home.memory)), shown)
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in told(shown).splitlines()]
    rows = [line for line in lines if line]
    assert rows[0][:4] == ["0", "", "previous", "base: smollm2-135m"]
    assert rows[1][:6] == ["1", "0", "current", "a", "20", "sft, lr 2e-05"]
    assert rows[2][:4] == ["2", "1", "refused", "b"]
    assert rows[3] == ["a", "1", "exact_match", "20", "0.0%", "90.0%", "90.0%", "-25.0 points"]
    assert f"Current model: {home.memory / 'versions' / '0001'}" in told(shown)


# -- what the chat template is given ------------------------------------------------------------------------------


def test_a_skill_keeps_its_chat_template_kwargs(home: Home) -> None:
    home.teach("a", {"a": 20}, chat_template_kwargs={"enable_thinking": False})
    assert home.asked_with == {"a": {"enable_thinking": False}}
    home.teach("b", {"a": 20, "b": 20}, chat_template_kwargs={"enable_thinking": True})
    assert home.asked_with == {"a": {"enable_thinking": False}, "b": {"enable_thinking": True}}
    kept = [version["skill"]["chat_template_kwargs"] for version in home.state()["versions"]]
    assert kept == [{"enable_thinking": False}, {"enable_thinking": True}]


def test_a_skill_is_scored_with_the_students_own(home: Home) -> None:
    home.teach("a", {"a": 20}, chat_template_kwargs={"mood": "!"}, student_chat_template_kwargs={"mood": "?"})
    assert home.asked_with == {"a": {"mood": "?"}}


# -- mistakes and crashes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"skill": "a"}, "Skill a exists"),
        ({"model_name": "another"}, "the base model of"),
        ({"max_prompt_length": 5}, "the prompt has"),
        ({"set": ("max_grad_nrm=1",)}, "max_grad_nrm"),
        ({"divergence_top_k": 5}, "would be ignored"),
        ({"scorer": "regex:["}, "regex"),
        ({"scorer": "numeric"}, "numeric could score 0 of the 20"),
    ],
)
def test_a_lesson_that_is_refused_changes_nothing_of_the_ledger(
    home: Home, settings: dict[str, Any], message: str
) -> None:
    home.teach("a", {"a": 20})
    before = home.files()
    assert message in mistake(home.teach, "b", {"a": 20, "b": 20}, **settings)
    assert home.files() == before
    assert home.teach("b", {"a": 20, "b": 20})[0] == 0
    assert home.state()["held"] == ["a", "b"]


def crash(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_a_lesson_that_is_interrupted_can_be_given_again(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.teach("a", {"a": 20})
    before = home.files()
    with monkeypatch.context() as patch:
        patch.setattr(home, "train", crash)
        with pytest.raises(KeyboardInterrupt):
            home.teach("b", {"a": 20, "b": 20})
    assert home.files() == before
    staging = home.memory / run_folder.STAGING
    assert [path.name for path in staging.iterdir()] == ["0002"]
    (staging / "0002" / "half").touch()
    assert home.teach("b", {"a": 20, "b": 20})[0] == 0
    assert (home.state()["current"], home.state()["held"]) == (2, ["a", "b"])
    assert not (home.memory / "versions" / "0002" / "half").exists()
    assert list(staging.iterdir()) == []


def test_a_crash_before_the_record_leaves_a_folder_that_is_told_of(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.teach("a", {"a": 20})
    with monkeypatch.context() as patch:
        patch.setattr(ledger, "write", lambda book: crash() if len(book.versions) > 1 else None)
        with pytest.raises(KeyboardInterrupt):
            home.teach("b", {"a": 20, "b": 20})
    assert (home.state()["current"], home.state()["held"]) == (1, ["a"])
    shown = console()
    ledger_command.run(LedgerOptions(folder=str(home.memory)), shown)
    assert f"{home.memory / 'versions' / '0002'} is not a recorded version" in " ".join(told(shown).split())
    assert home.teach("b", {"a": 20, "b": 20})[0] == 0
    assert (home.state()["current"], home.state()["held"]) == (3, ["a", "b"])
    assert home.state()["versions"][1]["parent"] == 1


def test_an_interrupted_lesson_lets_go_of_the_lock(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(home, "train", crash)
        with pytest.raises(KeyboardInterrupt):
            home.teach("a", {"a": 20})
    assert (home.state()["current"], home.state()["versions"]) == (0, [])
    with ledger.locked(home.memory):
        pass


def held_scorer(home: Home) -> Path:
    """A skill is learned with a scorer of the user's; returns the file that the ledger keeps of it."""
    scorer = home.folder / "mine.py"
    scorer.write_text("def score(text, example): return float(text != 'wrong')\n")
    home.teach("a", {"a": 20}, scorer=f"{scorer}:score")
    return home.memory / "versions" / "0001" / "skill" / "mine.py"


def test_a_scorer_that_was_changed_is_not_run(home: Home) -> None:
    kept, canary = held_scorer(home), home.folder / "canary"
    kept.write_text(f"open({str(canary)!r}, 'w')\n" + kept.read_text())
    assert "0001: skill/mine.py has " in mistake(home.teach, "b", {"a": 20, "b": 20})
    assert "was changed since a was learned, and is not run" in mistake(held_skills, ledger.read(home.memory))
    assert not canary.exists()


@pytest.mark.parametrize("place", ["{folder}/evil.py:score", "../../../../evil.py:score", "link.py:score"])
def test_a_scorer_that_lies_elsewhere_is_not_run(home: Home, place: str) -> None:
    kept, canary = held_scorer(home), home.folder / "canary"
    evil = home.folder / "evil.py"
    evil.write_text(f"open({str(canary)!r}, 'w')\ndef score(text, example): return 1.0\n")
    (kept.parent / "link.py").symlink_to(evil)
    book = home.memory / "ledger.json"
    data = json.loads(book.read_text())
    data["versions"][0]["skill"] |= {
        "scorer": place.format(folder=home.folder),
        "scorer_sha256": hashlib.sha256(evil.read_bytes()).hexdigest(),
    }
    book.write_text(json.dumps(data))
    assert "0001: ledger.json says something else of it" in mistake(home.teach, "b", {"a": 20, "b": 20})
    assert "lies elsewhere" in mistake(held_skills, ledger.read(home.memory))
    assert not canary.exists()


def test_a_skill_whose_name_is_a_path_is_refused(home: Home) -> None:
    held_scorer(home)
    book = home.memory / "ledger.json"
    data = json.loads(book.read_text())
    data["versions"][0]["skill"]["name"] = "../../outside"
    book.write_text(json.dumps(data))
    assert "'../../outside' is no name of a skill" in mistake(home.teach, "b", {"a": 20, "b": 20})
