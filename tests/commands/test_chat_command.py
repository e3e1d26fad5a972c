"""``selfdistill chat`` with tiny models on a disk, its questions in a pipe."""

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from selfdistill import run_folder
from selfdistill.chat import columns
from selfdistill.models import loading
from selfdistill.records.runs import RunConfig
from tests.support.tiny import byte_tokenizer
from tests.support.tiny_home import Said, TinyHome

THINKING = "{% if enable_thinking is defined %}thinking {{ enable_thinking }}: {% endif %}{{ messages[-1].content }}"
CHAT = ("chat", "--dtype=float32", "--max_new_tokens=8")


def made_by(home: TinyHome, name: str, **chat_template_kwargs: Any) -> Path:
    """The folder of a run that trained a model with these."""
    folder = home.model(name, template=THINKING)
    record = RunConfig(
        model_name="M",
        num_training_rows=3,
        versions={},
        settings={"chat_template_kwargs": chat_template_kwargs},
        deviations_from_paper={},
    )
    run_folder.write_json(folder / run_folder.RUN_CONFIG, record)
    return folder


def asked(home: TinyHome, monkeypatch: pytest.MonkeyPatch, lines: str, *argv: str) -> Said:
    """Runs the chat on lines of a pipe."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    return home.run(*CHAT, *argv)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The prompts that models read, as text; every answer is one letter."""
    found: list[Any] = []

    def recorded(model: Any, prompt_ids: Sequence[int], eos: Any, sampling: Any) -> Any:
        found.append(byte_tokenizer().decode(list(prompt_ids)))
        return iter([40])

    monkeypatch.setattr(columns, "stream", recorded)
    return found


def test_each_model_is_asked_as_its_run_was(home: TinyHome, monkeypatch: pytest.MonkeyPatch, read: list[Any]) -> None:
    made_by(home, "quiet", enable_thinking=False)
    home.model("plain", template=THINKING)
    assert asked(home, monkeypatch, "Hi\n", "--model_path=quiet", "--against=plain").code == 0
    assert read == ["thinking False: Hi", "Hi"]


def test_what_the_command_line_says_goes_for_both(
    home: TinyHome, monkeypatch: pytest.MonkeyPatch, read: list[Any]
) -> None:
    made_by(home, "quiet", enable_thinking=False)
    home.model("plain", template=THINKING)
    given = f"--chat_template_kwargs={json.dumps({'enable_thinking': True})}"
    assert asked(home, monkeypatch, "Hi\n", "--model_path=quiet", "--against=plain", given).code == 0
    assert read == ["thinking True: Hi", "thinking True: Hi"]
    read.clear()
    assert asked(home, monkeypatch, "Hi\n", "--model_path=quiet", "--chat_template_kwargs={}").code == 0
    assert read == ["Hi"]


def test_a_session_of_the_same_seed_says_the_same(home: TinyHome, monkeypatch: pytest.MonkeyPatch) -> None:
    def session(seed: int) -> list[str]:
        said = asked(home, monkeypatch, "Hi\nHi\nHi\n", "--model_path=M", "--temperature=1", f"--seed={seed}")
        assert said.code == 0
        return said.out.splitlines()

    assert session(1) == session(1)
    assert session(1) != session(2)


def test_greedy_answers_of_one_model_beside_itself_are_the_same_and_it_is_loaded_once(
    home: TinyHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    load = loading.load_model
    monkeypatch.setattr(loading, "load_model", lambda name, **given: loaded.append(name) or load(name, **given))
    said = asked(home, monkeypatch, "Hi\n", "--model_path=M", "--against=M")
    first, second = said.out.removeprefix("--- M\n").split("--- M\n")
    assert first == second
    assert loaded == ["M"]


def test_the_model_that_does_not_load_is_named_by_its_flag(home: TinyHome, monkeypatch: pytest.MonkeyPatch) -> None:
    said = home.refused(*CHAT, "--model_path=M", "--against=nowhere")
    assert "--against nowhere" in said
    assert "--model_name" not in said
    assert "--model_path nowhere" in home.refused(*CHAT, "--model_path=nowhere")


def test_a_model_without_a_chat_template_is_refused(home: TinyHome) -> None:
    home.model(template=None)
    assert "--model_path M has no chat template" in home.refused(*CHAT, "--model_path=M")


def test_a_question_that_does_not_fit_is_refused_in_a_pipe(home: TinyHome, monkeypatch: pytest.MonkeyPatch) -> None:
    home.model(max_position_embeddings=64)
    monkeypatch.setattr(sys, "stdin", io.StringIO("x" * 100 + "\n"))
    assert "the context of M is 64. Start a new conversation." in home.refused(*CHAT, "--model_path=M")


def test_a_broken_record_of_the_run_is_named(home: TinyHome) -> None:
    (home.folder / "M" / "run_config.json").write_text("{")
    assert "M/run_config.json can't be read" in home.refused(*CHAT, "--model_path=M")


@pytest.mark.model
def test_the_embedded_model_answers_a_pipe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from selfdistill.cli import main

    monkeypatch.setattr(sys, "stdin", io.StringIO("What is the capital of France?\n"))
    assert main(["chat", "--max_new_tokens", "12", "--dtype", "float32"]) == 0
    assert "Paris" in capsys.readouterr().out
