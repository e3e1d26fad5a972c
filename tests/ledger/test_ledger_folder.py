"""The ledger's folder: lineage, rollback, and what a crash leaves."""

import json
import re
import subprocess
import sys

import pytest

from selfdistill import run_folder
from selfdistill.errors import UserError
from selfdistill.ledger import folder as ledger
from selfdistill.records.ledger import GateVerdict, Skill, Version
from selfdistill.types import Example
from tests.support.mistakes import mistake


def example(text: str, **more) -> Example:
    return Example(id="x/0", prompt=({"role": "user", "content": text},), **more)


ITEMS = [example("Hi", reference=["a", 1]), example("Ho", demonstration=({"role": "assistant", "content": "he"},))]


def skill(name: str) -> Skill:
    return Skill(
        name=name,
        source="data.jsonl",
        rows_sha256="0",
        num_rows=1,
        items_sha256=ledger.fingerprint(ITEMS),
        num_items=2,
        metric="exact_match",
        task=None,
        scorer="exact_match",
        max_new_tokens=8,
    )


def version(number: int, parent: int, name: str, *, refused: bool = False) -> Version:
    verdict = GateVerdict(
        skill=name,
        compared_with=parent,
        num_items=2,
        then=0.0,
        now=1.0,
        change=1.0,
        bound=1.0,
        smallest_loss=None,
        refused=refused,
    )
    return Version(
        number=number,
        parent=parent,
        created="2026-01-01T00:00:00+00:00",
        refused=refused,
        skill=skill(name),
        method={"method": "sft", "learning_rate": 1e-4},
        max_forgetting=0.02,
        confidence=0.95,
        verdicts=(verdict,),
    )


def add(book: ledger.Ledger, name: str, *, refused: bool = False) -> ledger.Ledger:
    staged = ledger.stage(book)
    (staged / "model.safetensors").touch()
    ledger.write_items(staged, ITEMS)
    return ledger.commit(book, staged, version(int(staged.name), book.current, name, refused=refused))


@pytest.fixture
def book(tmp_path) -> ledger.Ledger:
    """Skills a and b held by versions 1 and 3; 2 was refused."""
    made = add(ledger.begin(tmp_path / "memory", None, "base"), "a")
    return add(add(made, "bad", refused=True), "b")


def roll_back(book: ledger.Ledger, to: int | None) -> ledger.Ledger:
    after = ledger.rolled_back(book, to)
    ledger.write(after)
    return after


def statuses(book: ledger.Ledger) -> list[str]:
    return [book.status(number) for number in range(len(book.versions) + 1)]


def held(book: ledger.Ledger) -> list[str]:
    return [one.skill.name for one in book.lineage()]


def test_promoted_versions_hold_their_skills_and_refused_ones_do_not(book):
    assert held(book) == ["a", "b"]
    assert statuses(book) == ["previous", "previous", "refused", "current"]
    assert book.version(3).parent == 1
    assert book.place(2) == book.folder / "refused" / "0002"
    assert book.model_name(3) == str(book.folder / "versions" / "0003")
    assert book.model_name(0) == "base"
    assert ledger.read(book.folder) == book


def test_the_file_tells_a_script_what_is_held(book):
    state = json.loads((book.folder / "ledger.json").read_text())
    assert state["held"] == ["a", "b"]
    assert [one["status"] for one in state["versions"]] == ["previous", "refused", "current"]


def test_rollback_and_what_is_learned_after_it(book):
    back = roll_back(book, None)
    assert (back.current, held(back)) == (1, ["a"])
    assert statuses(back) == ["previous", "current", "refused", "rolled back"]
    again = add(back, "c")
    assert (again.current, again.version(4).parent, held(again)) == (4, 1, ["a", "c"])
    assert statuses(again)[3] == "rolled back"
    assert (book.folder / "versions" / "0003" / "model.safetensors").is_file()
    forth = roll_back(again, 3)  # a rolled back version can be brought back
    assert held(forth) == ["a", "b"]
    assert held(roll_back(forth, 0)) == []
    assert ledger.read(book.folder).current == 0


@pytest.mark.parametrize(
    ("to", "message"), [(2, "was refused"), (3, "current already"), (9, "no version 9.* 1, 2, 3"), (1, "no weights")]
)
def test_versions_that_can_not_be_rolled_back_to(book: ledger.Ledger, to: int, message: str) -> None:
    (book.place(1) / "model.safetensors").unlink()
    assert re.search(message, mistake(ledger.rolled_back, book, to))
    assert ledger.read(book.folder) == book


def test_nothing_came_before_the_base(tmp_path):
    book = ledger.begin(tmp_path, None, "base")
    assert "nothing came before" in mistake(ledger.rolled_back, book, None)


def crash(*_, **__):
    raise KeyboardInterrupt


def test_a_crash_before_the_weights_are_in_place_leaves_the_old_state(book, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(ledger, "place", crash)
        with pytest.raises(KeyboardInterrupt):
            add(book, "c")
    assert ledger.read(book.folder) == book
    assert [path.name for path in (book.folder / ".staging").iterdir()] == ["0004"]
    assert list(ledger.stage(book).iterdir()) == []  # the next learn starts from an empty folder
    assert held(add(book, "c")) == ["a", "b", "c"]


def test_a_crash_between_the_weights_and_the_record_leaves_the_old_state(book, monkeypatch):
    staged = ledger.stage(book)
    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "write_json", crash)
        with pytest.raises(KeyboardInterrupt):
            ledger.commit(book, staged, version(4, 3, "c"))
    after = ledger.read(book.folder)
    assert after == book
    assert after.unrecorded() == [book.folder / "versions" / "0004"]
    later = add(after, "c")  # nothing of the user's is deleted, and nothing is in the way
    assert (later.current, held(later)) == (5, ["a", "b", "c"])


def test_a_crash_while_the_record_is_replaced_leaves_the_old_state(book, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(run_folder.os, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            roll_back(book, 1)
    assert ledger.read(book.folder) == book
    assert not list(book.folder.glob(".ledger.json.*"))


def test_two_commands_at_once_are_refused(book):
    with ledger.locked(book.folder):
        code = f"from selfdistill.ledger.folder import *\nwith locked(Path({str(book.folder)!r})): pass"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "UserError" in done.stderr
        assert "another command is using it" in done.stderr
    with ledger.locked(book.folder):
        pass


def test_a_folder_of_something_else_is_no_ledger(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"), ledger.locked(tmp_path):
        pass
    with pytest.raises(UserError, match="is a file"), ledger.locked(tmp_path / "thesis.txt"):
        pass
    assert "holds no ledger.json" in mistake(ledger.read, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state | {"format": 9}, "its format is 9, this program reads 1"),
        (lambda state: state | {"current": 7}, "no version 7"),
        (lambda state: {"format": 1}, "can't be read (base: Field required)"),
        (lambda state: state | {"versions": [{"number": 1}]}, "can't be read (versions.0.parent: Field required)"),
        (lambda state: state | {"versions": [state["versions"][0] | {"parent": 1}]}, "is broken"),  # its own parent
    ],
)
def test_a_broken_record_is_named(book, change, message):
    path = book.folder / "ledger.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    said = mistake(ledger.read, book.folder)
    assert message in said
    assert str(book.folder) in said


def test_half_a_record_is_named(book):
    path = book.folder / "ledger.json"
    path.write_text(path.read_text()[:100])
    said = mistake(ledger.read, book.folder)
    assert said.startswith(f"{path} can't be read (Unterminated string")
    assert said.endswith("Put back a copy of it.")


def test_the_base_stays(book, tmp_path):
    assert ledger.begin(book.folder, None, "other default") == book
    assert ledger.begin(book.folder, "base", "") == book
    assert f"the base model of {book.folder} is base" in mistake(ledger.begin, book.folder, "another", "")
    (tmp_path / "model").mkdir()
    assert ledger.begin(tmp_path / "new", str(tmp_path / "model"), "").base == str(tmp_path / "model")


def test_a_base_that_was_misspelt_may_be_mended_while_nothing_was_learned(tmp_path):
    ledger.stage(ledger.begin(tmp_path, "typo", "base"))
    assert ledger.read(tmp_path).base == "typo"
    assert ledger.begin(tmp_path, None, "base").base == "base"


def test_fingerprint_is_of_content_not_of_order_or_ids():
    one, two = example("a", reference="b"), example("c", reference="d")
    assert ledger.fingerprint([one, two]) == ledger.fingerprint([two, one])
    renamed = Example(id="y/7", prompt=one.prompt, reference="b")
    assert ledger.fingerprint([renamed]) == ledger.fingerprint([one])
    assert ledger.fingerprint([one]) != ledger.fingerprint([example("a", reference="c")])
    assert ledger.fingerprint([one]) != ledger.fingerprint([one, one])


def test_items_come_back_as_they_were_and_changes_are_noticed(book):
    assert ledger.read_items(book.place(1), skill("a")) == ITEMS
    path = book.place(1) / "skill" / "eval.jsonl"
    path.write_text(path.read_text().replace("Hi", "Hey"))
    assert "was changed since a was learned" in mistake(ledger.read_items, book.place(1), skill("a"))
    path.unlink()
    assert "can't be read" in mistake(ledger.read_items, book.place(1), skill("a"))
