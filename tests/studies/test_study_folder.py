"""A study's folder: what is resumed, what is refused, what ``--overwrite`` may delete."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from selfdistill import run_folder
from selfdistill.errors import DamagedFilesError
from selfdistill.studies.compare import Comparison
from tests.support.mistakes import mistake
from tests.support.study_home import SHOWN, comparison, printed, read, sequences

SHORT: dict[str, Any] = {"methods": "sft", "max_steps": 1, "checkpoints": 1}


def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Places of the cells that are trained from now on."""
    places: list[str] = []
    train = Comparison._train
    monkeypatch.setattr(
        Comparison, "_train", lambda self, cell, *rest: places.append(cell.place) or train(self, cell, *rest)
    )
    return places


# -- going on --------------------------------------------------------------------------------------------------------


def test_finished_cells_are_not_run_again_and_half_finished_ones_are(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = Comparison._train

    def breaks(self: Comparison, cell: Any, *rest: Any) -> Any:
        if cell.arm.name == "sft":
            raise KeyboardInterrupt
        return train(self, cell, *rest)

    with monkeypatch.context() as context:
        context.setattr(Comparison, "_train", breaks)
        with pytest.raises(KeyboardInterrupt):
            comparison(home, **SHOWN).run()
    half = home / "out" / "sft" / "lr-0.01" / "seed-0"
    half.mkdir(parents=True)
    (half / "rest").touch()
    places = trained(monkeypatch)
    shown = printed(lambda console: comparison(home, console=console, **SHOWN).run())
    assert places == ["sft/lr-0.01/seed-0"]
    assert f"Going on with the study in {home / 'out'}" in " ".join(shown.split())
    assert "cell 1 of 2: sdft, lr 0.01, seed 0: done before" in shown
    assert not (half / "rest").exists()
    first = read(home, "out", "compare.json")
    comparison(home, **SHOWN).run()
    assert len(places) == 1
    assert read(home, "out", "compare.json") == first


@pytest.mark.parametrize("name", ["cell.json", "cell.seal.json", "eval/*.json"])
def test_a_cell_that_was_changed_is_named_and_not_counted(home: Path, name: str) -> None:
    comparison(home, **SHORT).run()
    cell = home / "out" / "sft" / "lr-0.01" / "seed-0"
    changed = next(cell.glob(name))
    text = changed.read_text()
    at = max(i for i, letter in enumerate(text) if letter.isdigit() and text[i - 1] in ".0123456789")
    changed.write_text(text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :])
    with pytest.raises(DamagedFilesError) as caught:
        comparison(home, **SHORT).run()
    assert f"is not as it was written. Delete {cell}, and the same command makes it again." in str(caught.value)
    shutil.rmtree(cell)
    comparison(home, **SHORT).run()


def test_a_cell_of_another_seed_is_not_taken(home: Path) -> None:
    comparison(home, seeds="0,1", **SHORT).run()
    place = home / "out" / "sft" / "lr-0.01"
    shutil.rmtree(place / "seed-1")
    shutil.copytree(place / "seed-0", place / "seed-1")
    with pytest.raises(DamagedFilesError, match=r"seed-0/cell\.json is not as it was written"):
        comparison(home, seeds="0,1", **SHORT).run()


def test_a_study_grows_by_arms_seeds_and_rates(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"max_steps": 1, "checkpoints": 1, "validation_rows": 4, **SHOWN}
    arm = ("slow: method=sdft",)
    comparison(home, methods="sft", arm=arm, learning_rates="sft:1e-3,2e-3;slow:1e-4", **options).run()
    places = trained(monkeypatch)
    grown = "sft:1e-3,2e-3,3e-3;slow:1e-4,1e-5"
    comparison(home, methods="sft,sdft", arm=arm, learning_rates=grown, **options).run()
    assert places == [
        f"{name}/seed-0" for name in ("sft/lr-0.003", "sdft/lr-0.01", "slow/lr-0.0001", "slow/lr-1e-05")
    ]  # slow's first rate once more: it has no validation score
    places.clear()
    found = comparison(home, methods="sft,sdft", seeds="0,1", learning_rates="sft:2e-3,1e-3", **options).run()
    assert [Path(place).name for place in places] == ["seed-1", "seed-1"]
    assert {each.arm for each in found.checkpoints} == {"sft", "sdft"}  # it may shrink, too
    said = mistake(comparison, home, methods="sdft", arm=("slow: method=dft",), learning_rates="2e-3,1e-3", **options)
    assert "another arm slow" in said  # though the study before this one had it not


def test_a_study_gone_on_with_keeps_the_versions_it_began_with(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    comparison(home, **SHORT).run()
    began = read(home, "out", "study.json")["versions"]
    monkeypatch.setattr(run_folder, "versions", lambda: {"torch": "another"})
    more: dict[str, Any] = SHORT | {"methods": "sft,dft"}
    comparison(home, **more).run()
    assert read(home, "out", "study.json")["versions"] == began


def test_what_a_study_does_not_depend_on_may_change(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    comparison(home, **SHORT).run()
    places = trained(monkeypatch)
    comparison(home, **SHORT, eval_batch_size=3, data_dir=str(home), skip_memory_check=True).run()
    assert places == []


def test_a_study_of_an_earlier_version_goes_on(home: Path) -> None:
    """A setting that came later is the default there; it counts only if it is not the default now. What has no effect
    on results may differ."""
    comparison(home, **SHORT).run()
    study = home / "out" / run_folder.STUDY
    record = json.loads(study.read_text())
    del record["settings"]["weight_decay"]
    record["settings"]["vllm_url"] = "http://elsewhere"
    study.write_text(json.dumps(record))
    comparison(home, **SHORT, report_to="tensorboard")
    said = mistake(comparison, home, **SHORT, weight_decay=0.5)
    assert "another weight_decay: 0.0, now 0.5." in said


# -- another study in the folder -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_steps": 2}, "another max_steps: 1, now 2."),
        ({"arm": ("a: method=dft, weight_decay=0.1",)}, "another arm a: {'method': 'dft'}, now {'method': 'dft', "),
        ({"limit": 20}, "another limit: None, now 20."),
        ({"max_new_tokens": 3}, "another max_new_tokens: 4, now 3."),
    ],
)
def test_other_settings_are_refused_by_name(home: Path, options: dict[str, Any], message: str) -> None:
    before: dict[str, Any] = {**SHORT, "arm": ("a: method=dft",)}
    study = comparison(home, **before)
    study.folder.open()
    said = mistake(comparison, home, **before | options)
    assert said.startswith(f"{home / 'out'} holds a study with {message}")
    assert said.endswith("Start the same command, name another --output_dir, or give --overwrite.")


def test_other_rows_are_refused(home: Path) -> None:
    comparison(home, **SHORT).folder.open()
    with (home / "one.jsonl").open("a") as file:
        file.write(json.dumps({"prompt": "new?", "demonstration": "new"}) + "\n")
    assert "another training rows of one: " in mistake(comparison, home, **SHORT)


def test_another_chat_template_in_the_same_file_is_refused(home: Path) -> None:
    file = home / "own.jinja"
    file.write_text("{{ messages[-1].content }}")
    comparison(home, **SHORT, chat_template=str(file)).folder.open()
    comparison(home, **SHORT, chat_template=str(file))
    file.write_text("{{ messages[-1].content }}!")
    assert "another chat template: " in mistake(comparison, home, **SHORT, chat_template=str(file))


def test_other_rows_to_score_are_refused(home: Path) -> None:
    own: dict[str, Any] = {"eval_path": str(home / "two.jsonl")}
    comparison(home, **SHORT, **own).folder.open()
    rows = (home / "two.jsonl").read_text().splitlines(keepends=True)
    (home / "two.jsonl").write_text("".join(rows[::-1]))
    assert "another evaluation rows of one: " in mistake(comparison, home, **SHORT, **own)


def test_the_same_rows_at_another_place_are_the_same_study(home: Path) -> None:
    comparison(home, **SHORT, eval_path=str(home / "two.jsonl")).folder.open()
    (home / "moved").mkdir()
    moved = str(shutil.copy(home / "two.jsonl", home / "moved" / "two.jsonl"))
    assert comparison(home, **SHORT, eval_path=moved).folder.open()
    assert read(home, "out", "study.json")["settings"]["eval_path"] == moved


def test_an_edited_scorer_is_refused(home: Path) -> None:
    scorer = home / "own.py"
    scorer.write_text("def right(completion, example):\n    return 1.0\n")
    comparison(home, **SHORT, scorer=f"{scorer}:right").folder.open()
    scorer.write_text("def right(completion, example):\n    return 0.0\n")
    assert "another scorer of one: " in mistake(comparison, home, **SHORT, scorer=f"{scorer}:right")


def test_a_study_of_the_other_command_is_refused(home: Path) -> None:
    (home / "out").mkdir()
    record = {"command": "continual", "settings": {}, "data": {}, "arms": {}, "versions": {}}
    run_folder.write_json(home / "out" / run_folder.STUDY, record)
    assert f"{home / 'out'} holds a study with another" in mistake(comparison, home, **SHORT)


def test_a_record_of_another_format_is_refused(home: Path) -> None:
    comparison(home, **SHORT).folder.open()
    path = home / "out" / run_folder.STUDY
    run_folder.write_json(path, json.loads(path.read_text()) | {"format": 2})
    assert "its format is 2, this program reads 1" in mistake(comparison, home, **SHORT)


def test_a_strange_folder_is_left_alone(home: Path) -> None:
    (home / "mine").mkdir()
    (home / "mine" / "thesis.txt").touch()
    assert "is not empty and holds no compare" in mistake(comparison, home, "mine", **SHORT)
    assert "is not empty and holds no continual" in mistake(sequences, home, "mine", methods="sft")
    (home / "file").touch()
    assert "file is a file. Name a folder." in mistake(comparison, home, "file", **SHORT)


# -- overwriting -----------------------------------------------------------------------------------------------------


def everything(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_overwrite_starts_anew(home: Path) -> None:
    comparison(home, **SHORT).run()
    longer: dict[str, Any] = SHORT | {"max_steps": 2}
    found = comparison(home, **longer, overwrite=True).run()
    assert found.checkpoints[-1].step == 2


def test_overwrite_empties_the_folder_that_a_link_leads_to(home: Path) -> None:
    (home / "elsewhere").mkdir()
    (home / "out").symlink_to(home / "elsewhere")
    comparison(home, **SHORT).folder.open()
    run_folder.write_json(home / "out" / "sft" / "cell.json", {})
    assert comparison(home, **SHORT, overwrite=True).folder.open() is False
    assert (home / "out").is_symlink()
    assert everything(home / "elsewhere") == ["study.json"]


def test_what_the_trainer_refuses_is_refused_before_anything_is_deleted(home: Path) -> None:
    comparison(home, **SHORT).folder.open()
    said = mistake(comparison(home, **SHORT, overwrite=True, optim="unheard_of").run)
    assert "unheard_of" in said
    assert everything(home / "out") == ["study.json"]


@pytest.mark.parametrize("make", [comparison, sequences])
def test_overwrite_of_a_folder_that_holds_no_record_of_ours_is_refused(home: Path, make: Any) -> None:
    photos = home / "photos"
    photos.mkdir()
    (photos / "holiday.txt").touch()
    said = mistake(make, home, "photos", methods="sft", max_steps=1, overwrite=True)
    assert said.startswith(f"--overwrite: {photos} holds no record of ours")
    assert everything(photos) == ["holiday.txt"]


@pytest.mark.parametrize("make", [comparison, sequences])
@pytest.mark.parametrize(
    ("name", "setting", "written"),
    [
        ("model", "model_name", "{}"),
        ("scorer.py", "scorer", "{}:parity"),
        ("general.jsonl", "anchor_data", "{}"),
        ("general.jsonl", "arm", "a: method=sft, anchor_share=0.5, anchor_data={}"),
    ],
)
def test_overwrite_of_a_folder_that_holds_what_the_study_reads_is_refused(
    home: Path, make: Any, name: str, setting: str, written: str
) -> None:
    (home / "general.jsonl").write_text((home / "three.jsonl").read_text())
    make(home, methods="sft").folder.open()
    (home / name).rename(home / "out" / name)
    before = everything(home / "out")
    value = written.format(home / "out" / name)
    given = {"methods": "sft", "anchor_share": 0.5, setting: (value,) if setting == "arm" else value}
    said = mistake(make, home, overwrite=True, **given)
    assert said.startswith(f"--overwrite would delete {home / 'out' / name}")
    assert everything(home / "out") == before


def test_overwrite_of_a_folder_with_the_rows_is_refused(home: Path) -> None:
    comparison(home, **SHORT).folder.open()
    for name in ("one", "two"):
        (home / f"{name}.jsonl").rename(home / "out" / f"{name}.jsonl")
    before = everything(home / "out")
    rows = str(home / "out" / "one.jsonl")
    assert "--overwrite would delete" in mistake(comparison, home, **SHORT, overwrite=True, dataset_path=rows)
    others = {"dataset_path": str(home / "three.jsonl"), "eval_path": rows}
    assert "--overwrite would delete" in mistake(comparison, home, **SHORT, overwrite=True, **others)
    stages = f"{home / 'three.jsonl'},{home / 'out' / 'two.jsonl'}:{rows}"
    assert "--overwrite would delete" in mistake(sequences, home, methods="sft", overwrite=True, stages=stages)
    assert everything(home / "out") == before
