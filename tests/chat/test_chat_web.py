"""The chat's page, asked over HTTP."""

import http.client
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rich.console import Console

from selfdistill.chat.columns import Answer, Updates
from selfdistill.chat.web import ChatServer
from selfdistill.errors import UserError
from tests.support.chat_fakes import FakeChat
from tests.support.mistakes import mistake

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def chat() -> FakeChat:
    return FakeChat(["runs/a", "runs/<b>"], ["yes sir", "no"])


@pytest.fixture
def server(chat: FakeChat) -> Iterator[ChatServer]:
    made = ChatServer(0)
    thread = threading.Thread(target=made.serve, args=(chat, "Be brief.", Console(file=io.StringIO())))
    thread.start()
    yield made
    made.shutdown()
    thread.join(10)
    assert not thread.is_alive()


def ask(
    server: ChatServer, method: str = "POST", path: str = "/chat", body: Any = "", headers: dict[str, str] = JSON
) -> tuple[http.client.HTTPResponse, str]:
    """A response and its body."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request(method, server.path.rstrip("/") + path, json.dumps(body), headers)
    response = connection.getresponse()
    return response, response.read().decode()


def question(**fields: Any) -> dict[str, Any]:
    return {"system": "", "turns": [], "prompt": "Hi"} | fields


def test_answers_are_streamed_a_line_a_token(server: ChatServer, chat: FakeChat) -> None:
    turns = [{"prompt": "One?", "answers": ["a1", "b1"]}]
    response, body = ask(server, body=question(system="Rhyme.", turns=turns))
    assert response.status == 200
    lines = [json.loads(line) for line in body.splitlines()]
    assert [(line["column"], line["text"], line["finish_reason"]) for line in lines[:-1]] == [
        (0, "yes", ""),
        (1, "no", "stop"),
        (0, "yes sir", "stop"),
    ]
    assert lines[-1] == {"done": True}
    said = [[message["content"] for message in messages] for messages in chat.heard[0]]
    assert said == [["Rhyme.", "One?", "a1", "Hi"], ["Rhyme.", "One?", "b1", "Hi"]]
    assert [message["role"] for message in chat.heard[0][0]] == ["system", "user", "assistant", "user"]


def test_the_page_names_the_models_and_allows_nothing_from_elsewhere(server: ChatServer) -> None:
    response, body = ask(server, "GET", "/")
    assert response.status == 200
    assert "runs/&lt;b&gt;" in body
    assert "%NONCE%" not in body
    policy = response.headers["Content-Security-Policy"]
    nonce = policy.partition("script-src 'nonce-")[2].partition("'")[0]
    assert body.count(f'nonce="{nonce}"') == 2
    assert policy.startswith("default-src 'none'; connect-src 'self';")
    assert "http://" not in body
    assert "https://" not in body


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:7860"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "localhost:7860@evil.example"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "localhost:7860", "Origin": "http://evil.example"}, 403),
        ({"Host": "localhost:7860", "Origin": "null"}, 403),
        ({"Host": "localhost:7860", "Origin": "http://localhost:7860"}, 200),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Length": "99999999"}, 413),
        ({"Content-Length": "9" * 5000}, 413),
        ({"Content-Length": "-1"}, 411),
    ],
)
def test_only_its_own_page_is_answered(
    server: ChatServer, chat: FakeChat, headers: dict[str, str], status: int
) -> None:
    assert ask(server, body=question(), headers=JSON | headers)[0].status == status
    assert len(chat.heard) == (status == 200)
    if status == 403:
        assert ask(server, "GET", "/", headers=headers)[0].status == 403


@pytest.mark.parametrize(
    "body",
    [
        "Hi",
        question(prompt=""),
        question(prompt=3),
        question(turns=[{"prompt": "One?", "answers": ["of two"]}]),
        {"turns": []},
    ],
)
def test_requests_that_are_no_question(server: ChatServer, chat: FakeChat, body: Any) -> None:
    assert ask(server, body=body)[0].status == 400
    assert chat.heard == []


@pytest.mark.parametrize(("method", "path"), [("GET", "/chat"), ("GET", "/etc/passwd"), ("POST", "/")])
def test_there_is_nothing_else(server: ChatServer, method: str, path: str) -> None:
    assert ask(server, method, path, question())[0].status == 404


@pytest.mark.parametrize("path", ["/", "/chat", "//", "/wrong/", "/wrong/chat"])
def test_without_the_token_there_is_nothing(server: ChatServer, chat: FakeChat, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    for method in ("GET", "POST"):
        connection.request(method, path, json.dumps(question()), JSON)
        response = connection.getresponse()
        assert response.status == 404
        assert server.path.strip("/") not in response.read().decode()
    assert chat.heard == []


def test_the_token_is_long_and_another_each_time() -> None:
    with ChatServer(0) as first, ChatServer(0) as second:
        assert first.path != second.path
        assert len(first.path) > 20


def test_what_the_user_can_mend_is_a_line_of_the_answer(
    server: ChatServer, chat: FakeChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(conversations: Any) -> Updates:
        raise UserError("The conversation has 9 tokens.")

    monkeypatch.setattr(chat, "answer", refuse)
    response, body = ask(server, body=question())
    assert (response.status, json.loads(body)) == (200, {"error": "The conversation has 9 tokens."})


class Endless(FakeChat):
    """Never stops by itself; ``at_work`` is how many answers are being written, ``most`` the most there were."""

    at_work = most = 0

    def _updates(self) -> Updates:
        self.at_work += 1
        self.most = max(self.most, self.at_work)
        read = 0
        try:
            while True:
                time.sleep(0.005)
                read += 1
                yield 0, Answer(text="on " * read, num_tokens=read)
        finally:
            self.at_work -= 1
            self.closed_after.append(read)


def open_stream(server: ChatServer) -> socket.socket:
    """A connection that has asked and read nothing yet."""
    body = json.dumps(question()).encode()
    connection = socket.create_connection(("127.0.0.1", server.server_port), timeout=10)
    headers = {"Host": "localhost", "Content-Length": len(body)} | JSON
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    connection.sendall(f"POST {server.path}chat HTTP/1.0\r\n{head}\r\n".encode() + body)
    return connection


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def endless(server: ChatServer) -> Endless:
    server.chat = made = Endless(["A"], [""])
    return made


def test_a_reader_who_leaves_stops_the_answer(server: ChatServer, endless: Endless) -> None:
    connection = open_stream(server)
    while b'"num_tokens": 3' not in connection.recv(4096):
        pass
    connection.close()
    wait_until(lambda: endless.closed_after)
    assert endless.closed_after[0] < 1000


def test_one_answer_at_a_time(server: ChatServer, endless: Endless) -> None:
    first = open_stream(server)
    wait_until(lambda: endless.at_work)
    second = open_stream(server)  # only now: of two at once either may come first
    time.sleep(0.1)
    first.close()
    second_read = threading.Thread(target=lambda: second.recv(4096))
    second_read.start()
    wait_until(lambda: len(endless.closed_after) == 1 and endless.at_work == 1)
    second.close()
    wait_until(lambda: len(endless.closed_after) == 2)
    second_read.join(10)
    assert endless.most == 1


def test_the_server_waits_for_the_answer_it_interrupts() -> None:
    server = ChatServer(0)
    chat = Endless(["A"], [""])
    thread = threading.Thread(target=server.serve, args=(chat, None, Console(file=io.StringIO())))
    thread.start()
    connection = open_stream(server)
    wait_until(lambda: chat.at_work)
    server.shutdown()
    thread.join(10)
    assert chat.at_work == 0
    connection.close()


def test_a_port_in_use_is_refused() -> None:
    with ChatServer(0) as first:
        assert f"--port {first.server_port} can't be used" in mistake(ChatServer, first.server_port)


def test_it_listens_on_this_machine_only() -> None:
    with ChatServer(0) as server:
        assert server.server_address[0] == "127.0.0.1"
