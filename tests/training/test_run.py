"""A prepared run: what it says of itself, the folder that it may empty, the model that it leaves."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from selfdistill import run_folder
from selfdistill.commands import train
from selfdistill.method.rollout import own
from selfdistill.records.runs import RunConfig
from selfdistill.run_folder import read_record, write_json
from selfdistill.settings import flat
from selfdistill.training.run import (
    announce,
    check_overwrite,
    empty_folder,
    load_student,
    make_trainer,
    prepared_run,
    save_whole,
    started_from,
    whole_model,
)
from tests.support.mistakes import mistake
from tests.support.study_home import QUIET, printed
from tests.support.training import lines, student

QUICK: dict[str, Any] = {
    "template": "prior_turn",
    "max_steps": 1,
    "warmup_steps": 0.0,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 1,
}


# -- what it says --------------------------------------------------------------------------------------


def announced(options: Any) -> str:
    prepared = prepared_run(options, QUIET)
    trainer = make_trainer(prepared, load_student(prepared), QUIET, quiet=True)
    return printed(lambda console: announce(prepared, trainer, console))


def test_a_run_says_what_it_is_and_where_it_differs_from_the_paper(options: Any, home: Path) -> None:
    said = announced(options(**QUICK, learning_rate=1e-3))
    rows, model = home / "one.jsonl", home / "model"
    assert f"sdft on {rows}: 30 rows, 2 prompts per step, model {model}" in " ".join(said.split())
    assert "template prior_turn (paper)" in said
    assert "max_completion_length 20 (1024)" in said
    assert "learning_rate" not in said  # the paper has no one rate
    assert "faster loop" not in said


def test_rows_that_were_dropped_are_counted(options: Any) -> None:
    said = announced(options(**QUICK, max_prompt_length=27, overlong="drop"))
    assert "10 rows (20 over a length limit dropped)" in said


def test_a_method_without_a_teacher_does_not_differ_in_one(options: Any) -> None:
    said = announced(options(**QUICK | {"template": "auto"}, method="sft", anchor_share=0.5))
    assert "template" not in said
    assert "teacher" not in said
    assert "anchor_share 0.5 (0.0)" in said


@pytest.mark.parametrize(("method", "told"), [("sdft", True), ("sft", False)])
def test_that_the_faster_loop_does_not_fit_is_said_where_it_counts(
    options: Any, monkeypatch: pytest.MonkeyPatch, method: str, told: bool
) -> None:
    monkeypatch.setattr(own, "has_plain_attention", lambda _: False)
    shown = {} if method == "sdft" else {"template": "auto"}
    assert ("sampled by transformers' generate" in announced(options(**QUICK | shown, method=method))) == told


# -- the model that it leaves ----------------------------------------------------------------------------


@pytest.mark.parametrize("lora_r", [None, 2])
def test_a_run_leaves_its_records_and_a_model_that_loads(options: Any, home: Path, lora_r: int | None) -> None:
    train.run(options(**QUICK, lora_r=lora_r, rollouts_logged_per_step=None), QUIET)
    record = read_record(home / "out" / run_folder.RUN_CONFIG, RunConfig)
    assert (record.model_name, record.task, record.dataset) == (str(home / "model"), "custom", str(home / "one.jsonl"))
    assert record.num_training_rows == 30
    assert record.rollout_engine == "own"
    assert record.settings["max_completion_length"] == 20
    assert record.deviations_from_paper["template"] == ("prior_turn", "paper")
    assert len(lines(home / "out", run_folder.ROLLOUTS)) == 2
    saved = {path.name for path in (home / "out").iterdir()}
    assert ("adapter_model.safetensors" in saved) == (lora_r is not None)
    assert ("model.safetensors" in saved) == (lora_r is None)


@pytest.mark.parametrize("profile", [False, True])
def test_a_trace_is_written_where_it_is_asked_for(options: Any, home: Path, profile: bool) -> None:
    train.run(options(**QUICK, profile=profile), QUIET)
    assert (home / "out" / run_folder.TRACE).exists() == profile


@pytest.mark.parametrize("lora_r", [None, 2])
def test_a_model_is_saved_whole(options: Any, home: Path, lora_r: int | None) -> None:
    """An adapter is merged; the end of a turn and the chat template go along."""
    prepared = prepared_run(options(**QUICK, lora_r=lora_r, learning_rate=1e-1), QUIET)
    trainer = make_trainer(prepared, load_student(prepared), QUIET, quiet=True)
    trainer.train()
    ids = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        expected = trainer.model(input_ids=ids).logits
    save_whole(whole_model(trainer), prepared, home / "whole")
    loaded = AutoModelForCausalLM.from_pretrained(home / "whole")
    with torch.no_grad():
        torch.testing.assert_close(loaded(input_ids=ids).logits, expected, rtol=1e-3, atol=1e-4)
        assert (student()(input_ids=ids).logits - expected).abs().max() > 0.01
    assert 256 in loaded.generation_config.eos_token_id  # of the chat template; the model's own config says 2
    assert AutoTokenizer.from_pretrained(home / "whole").chat_template


def test_a_base_is_the_model_that_a_run_started_from(tmp_path: Path) -> None:
    facts: dict[str, Any] = {"num_training_rows": 1, "versions": {}, "settings": {}, "deviations_from_paper": {}}
    write_json(tmp_path / run_folder.RUN_CONFIG, RunConfig(model_name="start", **facts))
    assert started_from(str(tmp_path)) == "start"
    assert "name the --base_model" in mistake(started_from, str(tmp_path / "elsewhere"))
    (tmp_path / run_folder.RUN_CONFIG).write_text("{}")
    assert "can't be read" in mistake(started_from, str(tmp_path))


# -- the folder that it may empty --------------------------------------------------------------------------


def overwriting(options: Any, folder: Path, **more: Any) -> Any:
    """A run that is to replace what is in ``folder``."""
    prepared = prepared_run(options(template="paper", **more), QUIET)
    changed = flat.changed(prepared.options, {"output_dir": str(folder), "overwrite": True})
    object.__setattr__(prepared, "options", changed)
    return prepared


def test_a_folder_with_data_or_model_of_the_run_is_not_emptied(options: Any, home: Path) -> None:
    """Though a run of ours lies in it: emptying it would delete what is about to be read."""
    (home / run_folder.RUN_CONFIG).write_text("{}")
    said = mistake(check_overwrite, overwriting(options, home))
    assert said.startswith("--overwrite would delete ")
    assert "Name another --output_dir." in said
    assert (home / "one.jsonl").is_file()


@pytest.mark.parametrize("name", ["anchor_data", "config", "template_file"])
def test_nor_is_one_with_another_file_that_the_run_reads(options: Any, home: Path, name: str) -> None:
    inside = home / "inside"
    (inside / "sub").mkdir(parents=True)
    (inside / run_folder.RUN_CONFIG).write_text("{}")
    (inside / "sub" / "file").write_text("")
    prepared = overwriting(options, inside)
    check_overwrite(prepared)
    object.__setattr__(prepared, "options", flat.changed(prepared.options, {name: str(inside / "sub" / "file")}))
    assert str(inside / "sub" / "file") in mistake(check_overwrite, prepared)


def test_a_folder_without_a_run_of_ours_is_not_emptied(options: Any, home: Path) -> None:
    photos = home / "photos"
    photos.mkdir()
    check_overwrite(overwriting(options, photos))  # there is nothing in it
    (photos / "holiday.txt").write_text("sun")
    assert "holds no record of ours" in mistake(check_overwrite, overwriting(options, photos))


def test_a_run_of_ours_is_replaced(options: Any, home: Path) -> None:
    old = home / "old"
    old.mkdir()
    (old / run_folder.RUN_CONFIG).write_text("{}")
    (old / "model.safetensors").write_text("old")
    check_overwrite(overwriting(options, old))
    empty_folder(old)
    assert list(old.iterdir()) == []
    empty_folder(home / "new")
    assert (home / "new").is_dir()


def test_without_overwrite_nothing_is_asked(options: Any, home: Path) -> None:
    prepared = prepared_run(options(template="paper", output_dir=str(home)), QUIET)
    before = sorted(home.rglob("*"))
    check_overwrite(prepared)  # though the run's own rows and model lie in the folder
    assert sorted(home.rglob("*")) == before
