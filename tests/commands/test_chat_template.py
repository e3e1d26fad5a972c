"""``--chat_template``: whose words a prompt is in, from training to what is taken away."""

import io
import sys
from typing import Any

import pytest
from transformers import AutoTokenizer

from selfdistill.evaluate import run as evaluate_run
from selfdistill.export import run as exporting
from selfdistill.method.rollout.engine import Sampling
from selfdistill.models import loading
from selfdistill.records.evaluations import DriftSample
from selfdistill.run_folder import read_records
from tests.support.engines import Scripted, stopped
from tests.support.tiny import byte_tokenizer
from tests.support.tiny_home import QUICK, TinyHome, score, train

OWN = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{{ mood }}{% endif %}"
)
OTHER = OWN.replace("<assistant>", "<model>")
FLAG = "--chat_template=own.jinja"
ONE = Sampling(max_new_tokens=1)


@pytest.fixture(autouse=True)
def files(home: TinyHome) -> None:
    for name, text in {"own": OWN, "other": OTHER, "empty": " \n", "open": "{% if %}", "mute": "Hi"}.items():
        (home.folder / f"{name}.jinja").write_text(text)
    (home.folder / "nouns.jinja").write_text("{% for m in messages %}{{ m.content + nouns.first }}{% endfor %}")
    (home.folder / "bytes.jinja").write_bytes(b"\xff\xfe")
    home.rows(*({"prompt": f"{n}?", "demonstration": str(n)} for n in range(40)), name="many.jsonl")


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    """Answers in the place of a model that is evaluated."""
    made = Scripted(lambda _: stopped(256))
    make: Any = lambda *_, **__: made  # noqa: E731
    monkeypatch.setattr(evaluate_run, "make_engine", make)
    return made


def asked(engine: Scripted) -> str:
    """The first prompt of the last call."""
    return str(byte_tokenizer().decode(engine.calls[-1][0][0]))


def done(home: TinyHome, *argv: str) -> str:
    said = home.run(*argv)
    assert said.code == 0, said
    return said.out


def learn(*more: str) -> tuple[str, ...]:
    return ("learn", "--ledger=memory", "--dataset_path=many.jsonl", "--eval_share=0.5", "--method=sft", *QUICK, *more)


# -- where it counts, and that it is kept ---------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [(), ("--lora_r=2",)], ids=["whole", "lora"])
def test_a_run_is_in_its_words_and_so_is_what_reads_the_run(
    home: TinyHome, engine: Scripted, monkeypatch: pytest.MonkeyPatch, lora: tuple[str, ...]
) -> None:
    done(home, *train(FLAG, "--save_steps=2", "--student_chat_template_kwargs", '{"mood": "!"}', *lora))
    (rollout, *_) = home.lines("out/rollouts.jsonl")
    number = int(rollout["id"].rpartition("/")[2])
    question = f"<user>What is {number}+1?<|end|>"
    assert rollout["student_prompt"] == f"{question}<assistant>!"
    assert rollout["teacher_prompt"] == f"{question}<assistant>{number + 1}<|end|>{question}<assistant>"
    for folder in ("out", "out/checkpoint-2"):
        assert AutoTokenizer.from_pretrained(home.folder / folder).chat_template == OWN
    assert home.read("out/run_config.json")["chat_template"] == "own.jinja"
    (home.folder / "own.jinja").unlink()  # the folder suffices

    done(home, *score("rows.jsonl", model="out", output=None))
    assert asked(engine) == "<user>What is 0+1?<|end|><assistant>!"
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hi\n"))
    monkeypatch.setattr("selfdistill.chat.columns.stream", lambda model, ids, *_: engine.generate([ids], ONE) and [])
    done(home, "chat", "--model_path=out", "--dtype=float32")
    assert asked(engine) == "<user>Hi<|end|><assistant>!"


def test_another_model_is_evaluated_and_asked_in_its_words(
    home: TinyHome, engine: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.model(template=None)
    home.model("N", template="{{ messages[-1].content }}")
    done(home, *score("rows.jsonl", FLAG, '--chat_template_kwargs={"mood": "?"}'))
    assert asked(engine) == "<user>What is 0+1?<|end|><assistant>?"
    assert home.read("out/custom.json")["config"]["facts"]["chat_template"] == "own.jinja"
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hi\n"))
    monkeypatch.setattr("selfdistill.chat.columns.stream", lambda model, ids, *_: engine.generate([ids], ONE) and [])
    done(home, "chat", "--model_path=M", "--against=N", FLAG, "--dtype=float32")
    for call in engine.calls[-2:]:
        assert byte_tokenizer().decode(call[0][0]) == "<user>Hi<|end|><assistant>"


def test_drift_is_measured_in_its_words(home: TinyHome) -> None:
    home.model("N")
    done(home, *score("drift", FLAG, "--base_model=N", "--output_dir=drift"))
    rows = read_records(home.folder / "drift" / "drift.samples.jsonl", DriftSample)
    assert all(row.prompt.startswith("<user>") and row.prompt.endswith("<assistant>") for row in rows)
    assert rows


def test_what_is_exported_holds_it(home: TinyHome) -> None:
    done(home, "export", "M", "--to=safetensors", "--output_dir=out", FLAG)
    assert AutoTokenizer.from_pretrained(home.folder / "out").chat_template == OWN
    done(home, "export", "M", "--to=gguf", "--output_dir=gguf")
    done(home, "export", "M", "--to=gguf", "--output_dir=gguf-own", FLAG)
    plain, own = ((home.folder / name / "model.gguf").read_bytes() for name in ("gguf", "gguf-own"))
    assert (OWN.encode() in plain, OWN.encode() in own) == (False, True)


def test_a_dry_run_shows_it(home: TinyHome) -> None:
    shown = done(home, *train(FLAG, "--dry_run"))
    assert "<user>What is 0+1?<|end|><assistant>" in shown


# -- going on with something that was begun ---------------------------------------------------------------------------


def test_a_run_goes_on_with_the_same_template_and_no_other(home: TinyHome) -> None:
    """The same is what says the same, wherever the file lies."""
    done(home, *train(FLAG, "--save_steps=1"))
    (home.folder / "own.jinja").rename(home.folder / "moved.jinja")
    assert "is finished" in done(home, *train("--save_steps=1", "--chat_template=moved.jinja"))
    for other in ((), ("--chat_template=other.jinja",)):
        said = home.refused(*train("--save_steps=1", *other))
        assert said.startswith("out holds a run with chat template ")


def test_a_ledger_keeps_the_template_that_its_skills_were_scored_with(home: TinyHome) -> None:
    done(home, *learn("--model_name=M", "--skill=a", FLAG))
    assert AutoTokenizer.from_pretrained(home.folder / "memory" / "versions" / "0001").chat_template == OWN
    said = home.refused(*learn("--skill=b", "--chat_template=other.jinja"))
    assert said.startswith("--chat_template other.jinja is another than the one with which the skills in memory were")
    for same in ((), (FLAG,)):
        assert home.run(*learn(f"--skill=b{len(same)}", *same)).code == 0


# -- what is no template ----------------------------------------------------------------------------------------------

COMMANDS = {
    "train": train(),
    "preflight": ("preflight", "--model_name=M", "--dataset_path=rows.jsonl"),
    "eval": score("rows.jsonl"),
    "drift": score("drift"),
    "compare": ("compare", "--model_name=M", "--dataset_path=many.jsonl", "--methods=sft", "--output_dir=out"),
    "continual": ("continual", "--model_name=M", "--stages=many.jsonl", "--method=sft", "--output_dir=out"),
    "learn": learn("--model_name=M"),
    "chat": ("chat", "--model_path=M"),
    "export": ("export", "M", "--to=safetensors", "--output_dir=out"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_that_is_no_template_is_told_before_weights_are_loaded(
    home: TinyHome, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    for room in (loading, exporting):
        monkeypatch.setattr(room, "load_model", lambda *_, **__: pytest.fail("loaded"))
    for file, words in {
        "none": "--chat_template none.jinja can't be read: No such file or directory.",
        "open": "--chat_template open.jinja fails on a user turn: Expected an expression, got 'end of statement block'",
        "mute": "--chat_template mute.jinja leaves out what the user says.",
    }.items():
        said = home.refused(*COMMANDS[command], f"--chat_template={file}.jinja")
        assert said.startswith(words)


def test_other_files_that_are_none(home: TinyHome) -> None:
    for file, words in {
        "empty.jinja": "--chat_template empty.jinja is empty.",
        "bytes.jinja": "--chat_template bytes.jinja can't be read: it is not UTF-8.",
        "M": "--chat_template M can't be read: Is a directory.",
    }.items():
        assert home.refused(*train(f"--chat_template={file}")).startswith(words)


def test_a_template_that_needs_a_variable_asks_for_it(home: TinyHome) -> None:
    own = ("--chat_template=nouns.jinja", "--dry_run")
    said = home.refused(*train(*own))
    assert said.startswith("--chat_template nouns.jinja fails on a user turn: ")
    assert "give what it needs in --chat_template_kwargs" in said
    done(home, *train(*own, "--chat_template_kwargs", '{"nouns": {"first": "!"}}'))


def test_it_is_refused_where_it_would_change_nothing(home: TinyHome) -> None:
    assert "--chat_template changes nothing for prior-quick" in home.refused(*score("prior-quick", FLAG))


def test_a_model_without_one_is_told_of_the_flag(home: TinyHome) -> None:
    home.model(template=None)
    assert "give one with --chat_template FILE, or put one as chat_template.jinja" in home.refused(*train())
    done(home, *train(FLAG, "--dry_run"))


def test_dates_and_lost_thoughts_are_warned_of(home: TinyHome) -> None:
    forgets = "{{ m.content.split('</think>')[-1] if m.role == 'assistant' else m.content }}"
    turns = "{% for m in messages %}{{ m.role }}: " + forgets + "<|end|>{% endfor %}"
    opened = "{% if add_generation_prompt %}assistant: <think>{% endif %}"
    (home.folder / "dated.jinja").write_text("{{ strftime_now('%Y') }} " + turns + opened)
    home.rows({"prompt": "1+1?", "demonstration": [{"role": "assistant", "content": "2", "reasoning": "One more."}]})
    shown = ("--chat_template=dated.jinja", "--dry_run")
    said = " ".join(done(home, *train(*shown, "--template=prior_turn")).split())
    assert "Warning: the chat template writes the current date" in said
    assert "1 of 1 demonstrations hold thoughts, which the chat template leaves out of the teacher's prompt" in said
    said = done(home, *train(*shown, "--template=paper", "--chat_template_kwargs", '{"today": "2001-02-03"}'))
    assert "Warning" not in said
    assert "2001 user: 1+1?" in said  # the date is the template's
