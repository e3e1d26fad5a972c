"""The chat as a web page, served on 127.0.0.1 only, to whoever knows its address, and to no page of another site.

The page itself holds the conversation and sends it with each question, so a reload starts a new one and two tabs don't
mix.
"""

import html
import json
import threading
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import BaseModel, Field, ValidationError
from rich.console import Console
from rich.markup import escape

from selfdistill.chat.columns import Chat
from selfdistill.errors import UserError
from selfdistill.page_server import POLICY, PageHandler, PageServer
from selfdistill.types import Message

MAX_REQUEST = 4_000_000
"""Largest request that is read, in bytes."""
PAGE = Path(__file__).with_name("page.html")


class Turn(BaseModel):
    """A question and the answer that each column gave."""

    prompt: str
    answers: list[str]


class Question(BaseModel):
    """A question as the page sends it, with the conversation before it."""

    system: str = ""
    turns: list[Turn] = []
    prompt: Annotated[str, Field(min_length=1)]

    def conversations(self, count: int) -> list[list[Message]]:
        """The chat turns for each of ``count`` columns. Raises ValueError if a turn has another number of answers."""
        conversations: list[list[Message]] = []
        for column in range(count):
            messages: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
            for turn in self.turns:
                if len(turn.answers) != count:
                    raise ValueError(f"{len(turn.answers)} answers for {count} columns")
                messages.append({"role": "user", "content": turn.prompt})
                messages.append({"role": "assistant", "content": turn.answers[column]})
            conversations.append([*messages, {"role": "user", "content": self.prompt}])
        return conversations


class ChatServer(PageServer):
    """The chat's web server.

    Args:
        port: as in PageServer.
    """

    chat: Chat
    page: str
    facts: str

    def __init__(self, port: int) -> None:
        super().__init__(port, _Handler)
        self.generating = threading.Lock()  # one answer at a time; other requests wait
        self.stopping = False

    def serve(self, chat: Chat, system: str | None, console: Console) -> None:
        """Serves the page and its questions until ctrl-C.

        Args:
            chat: answers the questions.
            system: system prompt that the page starts with.
            console: where the address is printed.
        """
        self.chat = chat
        values = json.dumps({"names": chat.names, "system": system or ""})
        self.page = PAGE.read_text(encoding="utf-8")
        self.facts = html.escape(values)
        console.print(f"The chat is at {escape(self.url)}  (ctrl-C ends it)", soft_wrap=True)
        try:
            self.serve_forever()
        except KeyboardInterrupt:
            console.print()
        finally:
            self.stopping = True
            self.server_close()
            with self.generating:  # wait for the current token: torch may crash if the process exits inside it
                pass


class _Handler(PageHandler):
    def do_GET(self) -> None:  # noqa: N802  # the name that http.server calls
        """Serves the page."""
        if not self.is_own():
            return
        if not self.is_at(""):
            self.send_error(404, explain="The whole address, with its token, is where the chat was started.")
            return
        self.send_page(self._server.page, self._server.facts)

    def do_POST(self) -> None:  # noqa: N802
        """Answers a question."""
        if not self.is_own():
            return
        length = self.headers.get("Content-Length", "")
        if not self.is_at("chat"):
            self.send_error(404)
        elif self.headers.get_content_type() != "application/json":  # a form of another site can't send this type
            self.send_error(415)
        elif not (length.isascii() and length.isdecimal()):
            self.send_error(411)
        elif len(length) > 10 or int(length) > MAX_REQUEST:  # int() takes no number of 5,000 digits
            self.send_error(413)
        else:
            self._answer(self.rfile.read(int(length)))

    def _answer(self, body: bytes) -> None:
        """Streams one JSON object per line: the growing answers, then an error or the end."""
        try:
            conversations = Question.model_validate_json(body).conversations(len(self._server.chat.names))
        except (ValidationError, ValueError):
            self.send_error(400)
            return
        self.begin("application/x-ndjson", POLICY)
        try:
            with self._server.generating:
                self._stream(conversations)
        except (BrokenPipeError, ConnectionError, TimeoutError):
            pass  # the reader pressed stop or left

    def _stream(self, conversations: list[list[Message]]) -> None:
        if self._server.stopping:
            return
        try:
            updates = self._server.chat.answer(conversations)
        except UserError as error:
            self._line({"error": str(error)})
            return
        with closing(updates):
            for column, answer in updates:
                if self._server.stopping:
                    return
                self._line(
                    {
                        "column": column,
                        "text": answer.text,
                        "num_tokens": answer.num_tokens,
                        "finish_reason": answer.finish_reason,
                    }
                )
        self._line({"done": True})

    def _line(self, value: dict[str, Any]) -> None:
        self.wfile.write(json.dumps(value).encode() + b"\n")

    @property
    def _server(self) -> ChatServer:
        return cast(ChatServer, self.server)
