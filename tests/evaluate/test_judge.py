"""The judge against a server in this process."""

import datetime
import hashlib
import json
import time
import traceback
from collections.abc import Callable
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from selfdistill.errors import UserError
from selfdistill.evaluate import judge as judge_module
from selfdistill.evaluate.endpoint import MAX_TRIES
from selfdistill.evaluate.judge import (
    RUBRICS,
    Judge,
    JudgeScorer,
    judge_from,
    judge_prompt,
    parse_verdict,
    with_judge,
)
from selfdistill.tasks import TASKS
from selfdistill.types import Example
from tests.support.chat_server import ChatServer, Reply
from tests.support.mistakes import mistake

YES, NO = '{"correct": true}', '{"correct": false}'


def judge(server: ChatServer, cache: Path, **settings: Any) -> Judge:
    return Judge(server.url, "m", **{"api_key": "secret", "cache": cache, "first_wait": 0.001, **settings})


def example(reference: Any = "Paris", question: str = "Capital of France?") -> Example:
    return Example(id="t/0", prompt=({"role": "user", "content": question},), reference=reference)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        (YES, True),
        (NO, False),
        ('```json\n{"correct": true, "why": "same"}\n```', True),
        ('Perhaps {"correct": false}? No: {"correct": true}', True),
        ('{"correct": "true"}', None),
        ('{"correct": 1}', None),
        ('{"right": true}', None),
        ('{"correct": tr', None),
        ("correct: true", None),
        ("{{{{ " + NO, False),
        ("[" * 100_000 + "{" * 100, None),
        ("", None),
    ],
)
def test_parse_verdict(text: str, verdict: bool | None):
    assert parse_verdict(text) is verdict


def test_a_request(serve: Callable[..., ChatServer], tmp_path: Path):
    server = serve((200, YES))
    assert JudgeScorer(judge(server, tmp_path), "correct")("It is Paris.", example()) == 1.0
    ((path, body),) = server.requests
    assert path == "/v1/chat/completions"
    assert (body["model"], body["temperature"]) == ("m", 0)
    (turn,) = body["messages"]
    assert turn["role"] == "user"
    assert "<question>\nCapital of France?\n</question>" in turn["content"]
    assert "<reference>\nParis\n</reference>" in turn["content"]
    assert "<answer>\nIt is Paris.\n</answer>" in turn["content"]
    assert server.headers[0]["Authorization"] == "Bearer secret"


def test_no_key_is_no_header(serve: Callable[..., ChatServer], tmp_path: Path):
    server = serve((200, YES))
    judge(server, tmp_path, api_key=None).check()
    assert "Authorization" not in server.headers[0]


def test_too_many_requests_then_an_answer(serve: Callable[..., ChatServer], tmp_path: Path):
    server = serve((429, "slow down"), (503, "busy"), (200, NO))
    asked = judge(server, tmp_path)
    assert asked.verdicts(["p"]) == [False]
    assert (asked.usage.requests, asked.usage.unanswered) == (3, 0)


def test_waits_double(serve: Callable[..., ChatServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked = judge(serve((500, "")), tmp_path, first_wait=1.0)
    waits: list[float] = []
    monkeypatch.setattr(asked._endpoint.stop, "wait", lambda seconds: waits.append(seconds))
    assert asked.verdicts(["p"]) == [None]
    assert waits == [1, 2, 4, 8]
    assert asked.usage.requests == MAX_TRIES


def test_what_trying_again_cannot_mend_is_asked_once(serve: Callable[..., ChatServer], tmp_path: Path):
    server = serve((400, "content filter"))
    asked = judge(server, tmp_path)
    assert asked.verdicts(["p"]) == [None]
    assert (asked.usage.requests, asked.usage.unanswered) == (1, 1)


@pytest.mark.parametrize(
    "reply", ["no verdict here", {"choices": []}, {"error": "x"}, {"choices": [{"message": None}]}]
)
def test_garbage_is_unscored_and_not_kept(serve: Callable[..., ChatServer], tmp_path: Path, reply: Any):
    server = serve((200, reply))
    scorer = JudgeScorer(judge(server, tmp_path), "correct")
    assert scorer("x", example()) is None
    assert scorer("x", example()) is None
    assert len(server.requests) == 2
    assert scorer.judge.usage.unanswered == 2


def test_timeouts_are_tried_again(serve: Callable[..., ChatServer], tmp_path: Path):
    def slow(_: Any) -> Reply:
        time.sleep(0.5)
        return 200, YES

    server = serve(slow, (200, YES))
    asked = judge(server, tmp_path, timeout=0.1)
    assert asked.verdicts(["p"]) == [True]
    assert asked.usage.requests == 2


def test_nobody_there_is_unscored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    gone = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    gone.server_close()
    asked = Judge(
        f"http://127.0.0.1:{gone.server_port}", "m", api_key=None, cache=tmp_path, first_wait=0.001, num_threads=1
    )
    assert asked.verdicts([f"p{n}" for n in range(30)]) == [None] * 30
    assert asked.usage.requests == judge_module.GIVE_UP_AFTER * MAX_TRIES  # then it gives up
    assert asked.usage.unanswered == 30
    assert "does not respond" in mistake(asked.check)


def test_the_cache(serve: Callable[..., ChatServer], tmp_path: Path):
    server = serve((200, YES))
    assert judge(server, tmp_path).verdicts(["p"]) == [True]
    again = judge(server, tmp_path)
    assert again.verdicts(["p"]) == [True]
    assert len(server.requests) == 1
    assert (again.usage.requests, again.usage.cached) == (0, 1)
    digest = hashlib.sha256(b'["m", "p"]').hexdigest()
    kept = tmp_path / digest[:2] / f"{digest}.json"
    assert json.loads(kept.read_text())["correct"] is True
    other = Judge(server.url, "other", api_key=None, cache=tmp_path)
    other.verdicts(["p"])
    assert len(server.requests) == 2
    kept.write_text("damaged")
    again.verdicts(["p"])
    assert len(server.requests) == 3


def test_many_rows_keep_their_order_and_equal_ones_are_asked_once(serve: Callable[..., ChatServer], tmp_path: Path):
    def by_name(body: dict[str, Any]) -> Reply:
        answer = body["messages"][0]["content"].split("<answer>\n")[1].split("\n")[0]
        time.sleep(0.02 if answer == "right0" else 0)
        return 200, YES if answer.startswith("right") else NO

    server = serve(by_name)
    scorer = JudgeScorer(judge(server, tmp_path, price=(1.0, 100.0)), "correct")
    answers = ["right0", "wrong1", "right2", "wrong1", "unknown", "right5"]
    rows = [example(), example(), example(), example(), example(None), example(7)]
    assert scorer.score_all(answers, rows) == [1, 0, 1, 0, None, 1]
    use = scorer.judge.usage
    assert (use.requests, use.prompt_tokens, use.completion_tokens) == (4, 400, 20)
    # 400 tokens at $1 and 20 at $100 per million
    assert scorer.judge.cost == pytest.approx(0.0024)
    assert "4 requests" in scorer.judge.report()
    assert "400 + 20 tokens, $0.0024" in scorer.judge.report()


def test_a_demonstration_stands_for_a_missing_reference(serve: Callable[..., ChatServer], tmp_path: Path):
    server = serve((200, YES))
    turn = {"role": "assistant", "content": "Paris, of course"}
    row = Example(id="a", prompt=example().prompt, demonstration=(turn,))
    assert JudgeScorer(judge(server, tmp_path), "correct")("x", row) == 1
    assert "<reference>\nParis, of course\n" in server.requests[0][1]["messages"][0]["content"]


def test_references_that_are_not_json_are_shown_as_text(serve: Callable[..., ChatServer], tmp_path: Path):
    server = serve((200, YES))
    scorer = JudgeScorer(judge(server, tmp_path), "correct")
    rows = [example(datetime.date(2024, 5, 1)), example([Decimal("12.50"), 3])]
    assert scorer.score_all(["x", "x"], rows) == [1, 1]
    prompts = {body["messages"][0]["content"].split("<reference>\n")[1].split("\n")[0] for _, body in server.requests}
    assert prompts == {'"2024-05-01"', '["12.50", 3]'}


@pytest.mark.parametrize("key", ["secret\r\n", "secret\n", "sécret\u2026"])
def test_a_key_that_http_can_not_send_is_not_shown(key: str, tmp_path: Path):
    asked = Judge("http://127.0.0.1:9/v1", "m", api_key=key, cache=tmp_path)
    with pytest.raises(UserError, match="OPENAI_API_KEY has a character that HTTP forbids") as caught:
        asked.check()
    assert "cret" not in "".join(traceback.format_exception(caught.value))


def test_check(serve: Callable[..., ChatServer], tmp_path: Path):
    judge(serve((200, YES)), tmp_path).check()
    assert "Check OPENAI_API_KEY." in mistake(judge(serve((401, "bad key")), tmp_path).check)
    assert "HTTP 404: no such model" in mistake(judge(serve((404, "no such model")), tmp_path).check)
    assert "no JSON verdict but 'Sure thing.'" in mistake(judge(serve((200, "Sure thing.")), tmp_path).check)
    assert "no chat completion" in mistake(judge(serve((200, {"hello": 1})), tmp_path).check)


def test_a_key_that_the_server_repeats_is_neither_shown_nor_kept(serve: Callable[..., ChatServer], tmp_path: Path):
    secret = "sk-of-mine"
    refusing = serve((401, {"error": f"bad key {secret}"}))
    said = mistake(Judge(refusing.url, "m", api_key=secret, cache=tmp_path).check)
    assert "bad key ***" in said
    assert secret not in said
    echoing = serve((200, f"{YES} {secret}"))
    judge = Judge(echoing.url, "m", api_key=secret, cache=tmp_path)
    assert judge.verdicts(["x"]) == [True]
    kept = [path.read_text() for path in tmp_path.rglob("*.json")]
    assert len(kept) == 1
    assert secret not in kept[0]


def test_the_key_does_not_follow_a_redirect(serve: Callable[..., ChatServer], tmp_path: Path):
    server = serve((302, ""), (200, YES))
    assert "HTTP 302" in mistake(judge(server, tmp_path).check)
    assert len(server.requests) == 1


def test_from_flags_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("SELFDISTILL_JUDGE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SELFDISTILL_CACHE", str(tmp_path))
    assert judge_from(None, None) is None
    assert "--judge_model is missing" in mistake(judge_from, "http://a", None)
    assert "has no --judge_url" in mistake(judge_from, None, "m")
    assert "does not begin with http" in mistake(judge_from, "ftp://a", "m")
    monkeypatch.setenv("SELFDISTILL_JUDGE_URL", "http://a/v1/")
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    found = judge_from(None, "m")
    assert found is not None
    assert (found._endpoint.url, found._endpoint._key, found.cache) == (
        "http://a/v1/chat/completions",
        "k",
        tmp_path / "judge",
    )
    assert "k" not in found.facts().values()


def test_with_judge(serve: Callable[..., ChatServer], tmp_path: Path):
    server = serve((200, NO))
    task = with_judge(TASKS["wiki"], judge(server, tmp_path))
    assert list(task.scorers) == ["strict", "lenient"]
    assert [scorer("x", example()) for scorer in task.scorers.values()] == [0, 0]
    assert len(server.requests) == 2  # two rubrics are two prompts
    assert task.revision == f"{TASKS['wiki'].revision}-judge:m:{judge_module.PROMPTS_VERSION}"
    assert with_judge(TASKS["science"], judge(server, tmp_path)) is TASKS["science"]


def test_prompts_are_pinned():
    """A change of a prompt needs a new PROMPTS_VERSION, since scores under two prompts don't compare."""
    text = "".join(RUBRICS[name] for name in sorted(RUBRICS))
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    assert (judge_module.PROMPTS_VERSION, digest) == ("1", "1a5ae3a846a4")


def test_braces_in_an_answer_are_text():
    assert '{"correct": true} {x}' in judge_prompt("correct", "q", "r", '{"correct": true} {x}')
