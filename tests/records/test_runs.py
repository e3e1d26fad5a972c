"""What is known of the run that made a model."""

import math
from pathlib import Path
from typing import Any

import pytest

from selfdistill.records.runs import RolloutRecord, RunConfig, run_in
from selfdistill.run_folder import RUN_CONFIG, read_records, write_json, write_jsonl
from tests.support.mistakes import mistake


def config(**settings: Any) -> RunConfig:
    return RunConfig(
        model_name="base", num_training_rows=3, versions={}, settings=settings, deviations_from_paper={"top_p": (1, 2)}
    )


def test_a_run_folder_tells_what_made_the_model(tmp_path: Path):
    write_json(tmp_path / RUN_CONFIG, config(seed=1))
    assert run_in(str(tmp_path)) == config(seed=1)


def test_the_home_folder_may_be_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_json(tmp_path / "run" / RUN_CONFIG, config())
    assert run_in("~/run") == config()


def test_other_models_were_made_by_no_run_of_ours(tmp_path: Path):
    for name in ("smollm2-135m", "owner/name", str(tmp_path), str(tmp_path / "a.gguf")):
        assert run_in(name) is None


def test_a_broken_record_is_a_users_error(tmp_path: Path):
    (tmp_path / RUN_CONFIG).write_text("{")
    assert RUN_CONFIG in mistake(run_in, str(tmp_path))


def test_what_the_chat_template_was_given():
    assert config(chat_template_kwargs={"thinking": False}).chat_template_kwargs == {"thinking": False}
    own = config(chat_template_kwargs={"thinking": True, "mood": "!"}, student_chat_template_kwargs={"thinking": False})
    assert own.chat_template_kwargs == {"thinking": False, "mood": "!"}
    assert config(teacher_chat_template_kwargs={"thinking": True}).chat_template_kwargs == {}
    assert config(chat_template_kwargs=None).chat_template_kwargs == {}
    assert config().chat_template_kwargs == {}


def test_a_divergence_that_is_no_number_does_not_make_the_rollouts_unreadable(tmp_path: Path):
    rollout = RolloutRecord(
        step=1,
        id="a",
        target="teacher",
        student_prompt="q",
        teacher_prompt=None,
        completion="so",
        completion_ids=[3, 4],
        tokens=["s", "o"],
        finish_reason="stop",
        loss_positions=[0, 1],
        per_token_kl=[0.5, math.nan],
    )
    write_jsonl(tmp_path / "rollouts.jsonl", [rollout])
    (found,) = read_records(tmp_path / "rollouts.jsonl", RolloutRecord)
    assert found.per_token_kl == [0.5, None]
