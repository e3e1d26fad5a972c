"""The model that answers chats for the builders of data."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from selfdistill.evaluate import ask
from selfdistill.method.rollout.engine import row_seeds
from selfdistill.settings.build import WikiOptions
from selfdistill.types import Message, Rollout
from tests.support.chat_server import ChatServer
from tests.support.engines import Scripted
from tests.support.mistakes import mistake
from tests.support.tiny import byte_tokenizer, random_model

TEXT = "Q: Who came?\nA: Ann came.\nQ: When"


def chat(text: str) -> tuple[Message, ...]:
    return ({"role": "user", "content": text},)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A model with a chat template, saved."""
    random_model(vocab_size=300).save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def asked(folder: str, seed: int = 3, batch_size: int = 32) -> ask.ChatModel:
    return ask.ChatModel(WikiOptions(model_name=folder, batch_size=batch_size), seed, Console(file=io.StringIO()))


def test_an_answer_that_was_cut_loses_its_last_line(folder: str, monkeypatch: pytest.MonkeyPatch):
    tokenizer = byte_tokenizer()

    def script(prompt: Sequence[int]) -> Rollout:
        if "first" in str(tokenizer.decode(list(prompt))):
            return Rollout(completion_ids=tuple(tokenizer.encode(TEXT + "<|end|>")), finish_reason="stop")
        return Rollout(completion_ids=tuple(tokenizer.encode(TEXT)), finish_reason="length")

    engine = Scripted(script)
    batches: list[Any] = []
    monkeypatch.setattr(ask, "make_engine", lambda *_, batch_size: batches.append(batch_size) or engine)
    answers = asked(folder, batch_size=5).answers([chat("second"), chat("first")])
    assert answers == ["Q: Who came?\nA: Ann came.", TEXT]
    assert batches == [5]
    ((prompts, sampling),) = engine.calls
    assert [str(tokenizer.decode(ids)) for ids in prompts] == [
        f"[user] {text}<|end|>\n[assistant] " for text in ("second", "first")
    ]
    assert sampling.seeds == row_seeds(3, 0, ["0", "1"])


def test_answers_stay_inside_the_models_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    random_model(vocab_size=300, max_position_embeddings=64).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    engine = Scripted(lambda _: Rollout(completion_ids=(65,), finish_reason="stop"))
    monkeypatch.setattr(ask, "make_engine", lambda *_, batch_size: engine)
    model = asked(str(tmp_path))
    model.answers([chat("x")])
    assert engine.calls[0][1].context == 64
    said = mistake(model.answers, [chat("x"), chat("x" * 100)])
    assert said.startswith("A question's prompt has 121 tokens, the model reads 64.")


def test_a_model_without_a_chat_template_is_refused(folder: str):
    (Path(folder) / "chat_template.jinja").unlink()
    assert "has no chat template" in mistake(asked, folder)


def test_several_chat_templates_without_a_default_are_named(folder: str):
    path = Path(folder) / "chat_template.jinja"
    templates = Path(folder) / "additional_chat_templates"
    templates.mkdir()
    for name in ("rag", "tool_use"):
        (templates / f"{name}.jinja").write_text(path.read_text())
    path.unlink()
    assert "has several chat templates and no default: rag, tool_use. Choose one: call" in mistake(asked, folder)


def test_a_small_model_is_told_at_once_to_be_weak_and_what_else_there_is(folder: str, monkeypatch: pytest.MonkeyPatch):
    console = Console(file=io.StringIO(), width=300)
    ask.ChatModel(WikiOptions(model_name=folder), 3, console)
    assert isinstance(console.file, io.StringIO)
    said = console.file.getvalue()
    assert said.startswith(f"Warning: {folder} has 0 million weights. So small a model often gets facts wrong")
    assert "A larger --model_name, or a server's --judge_url and --judge_model, writes better ones." in said
    monkeypatch.setattr(ask, "FEW_WEIGHTS", 1000)
    console = Console(file=io.StringIO(), width=300)
    ask.ChatModel(WikiOptions(model_name=folder), 3, console)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == ""


# -- a server's model --------------------------------------------------------------------------------


def server_model(url: str) -> ask.ServerModel:
    return ask.ServerModel(WikiOptions(judge_url=url, judge_model="m"), Console(file=io.StringIO()))


def echo(body: dict[str, Any]) -> tuple[int, str]:
    return 200, str(body["messages"][-1]["content"])


def test_a_server_answers_every_chat_in_order(serve: Callable[..., ChatServer]):
    server = serve(echo)
    assert server_model(server.url).answers([chat(f"{n}") for n in range(20)]) == [f"{n}" for n in range(20)]
    assert {body["model"] for _, body in server.requests} == {"m"}
    assert server_model(server.url).answers([]) == []


def test_what_a_server_cuts_loses_its_last_line(serve: Callable[..., ChatServer]):
    server = serve((200, {"choices": [{"message": {"content": TEXT}, "finish_reason": "length"}]}))
    assert server_model(server.url).answers([chat("x")]) == ["Q: Who came?\nA: Ann came."]


def test_a_server_that_refuses_or_stays_silent_is_named(serve: Callable[..., ChatServer]):
    said = mistake(server_model(serve((401, "bad key")).url).answers, [chat("x")])
    assert said.startswith("The author at http://127.0.0.1")
    assert said.endswith("refused (HTTP 401: bad key). Check OPENAI_API_KEY.")
    said = mistake(server_model(serve((200, "yes"), (400, "no")).url).answers, [chat("x"), chat("y"), chat("z")])
    assert "left 2 of 3 questions unanswered" in said
