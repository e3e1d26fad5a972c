"""The chat as a web page, served on 127.0.0.1 only, to whoever knows its address, and to no page of another site.

The page itself holds the conversation and sends it with each question, so a reload starts a new one and two tabs don't
mix.
"""

import html
import json
import secrets
import sys
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import BaseModel, Field, ValidationError
from rich.console import Console
from rich.markup import escape

from selfdistill.chat.columns import Chat
from selfdistill.errors import UserError
from selfdistill.types import Message

ADDRESS = "127.0.0.1"
OWN_HOSTS = (ADDRESS, "localhost")
MAX_REQUEST = 4_000_000
"""Largest request that is read, in bytes."""
PAGE = Path(__file__).with_name("page.html")
POLICY = (
    "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


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


class ChatServer(ThreadingHTTPServer):
    """The chat's web server. It binds its port at once, so that a port in use is refused before models are loaded.

    Args:
        port: 0 for any free one, which ``server_port`` then holds.

    ``path`` is the page's, and begins with a token, which no other user of the machine can guess.

    Raises:
        UserError: the port can't be used.
    """

    chat: Chat
    page: str
    facts: str

    def __init__(self, port: int) -> None:
        try:
            super().__init__((ADDRESS, port), _Handler)
        except OSError as error:
            raise UserError(
                f"--port {port} can't be used: {error.strerror}. Name another, or 0 for any free one."
            ) from error
        self.path = f"/{secrets.token_urlsafe(16)}/"
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
        address = f"http://{ADDRESS}:{self.server_port}{self.path}"
        console.print(f"The chat is at {escape(address)}  (ctrl-C ends it)", soft_wrap=True)
        try:
            self.serve_forever()
        except KeyboardInterrupt:
            console.print()
        finally:
            self.stopping = True
            self.server_close()
            with self.generating:  # wait for the current token: torch may crash if the process exits inside it
                pass

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Prints nothing of a client that left; else as in the base class."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    timeout = 60
    """Seconds after which a silent connection is closed."""

    def do_GET(self) -> None:
        """Serves the page."""
        if not self._is_own():
            return
        if not self._is_at(""):
            self.send_error(404, explain="The whole address, with its token, is where the chat was started.")
            return
        nonce = secrets.token_urlsafe()
        body = self._server.page.replace("%NONCE%", nonce).replace("%FACTS%", self._server.facts).encode()
        self._start("text/html; charset=utf-8", f"{POLICY}; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'")
        self.wfile.write(body)

    def do_POST(self) -> None:
        """Answers a question."""
        if not self._is_own():
            return
        length = self.headers.get("Content-Length", "")
        if not self._is_at("chat"):
            self.send_error(404)
        elif self.headers.get_content_type() != "application/json":  # a form of another site can't send this type
            self.send_error(415)
        elif not (length.isascii() and length.isdecimal()):
            self.send_error(411)
        elif len(length) > 10 or int(length) > MAX_REQUEST:  # int() takes no number of 5,000 digits
            self.send_error(413)
        else:
            self._answer(self.rfile.read(int(length)))

    def _is_at(self, place: str) -> bool:
        """Whether the request is for that place below the token."""
        return secrets.compare_digest(self.path.encode(), f"{self._server.path}{place}".encode())

    def _is_own(self) -> bool:
        """True for a request of our own page. Refuses the request and returns False if another site's page made it.

        Such a page may have pointed its own host name at this address (DNS rebinding); the Host header reveals it.
        """
        host = self.headers.get("Host", "")
        name, _, port = host.partition(":")
        origin = self.headers.get("Origin")
        if name in OWN_HOSTS and (not port or port.isdecimal()) and origin in (None, f"http://{host}"):
            return True
        self.send_error(403, explain=f"This page is for http://{ADDRESS}:{self._server.server_port} only.")
        return False

    def _answer(self, body: bytes) -> None:
        """Streams one JSON object per line: the growing answers, then an error or the end."""
        try:
            conversations = Question.model_validate_json(body).conversations(len(self._server.chat.names))
        except (ValidationError, ValueError):
            self.send_error(400)
            return
        self._start("application/x-ndjson", POLICY)
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

    def _start(self, content_type: str, policy: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Security-Policy", policy)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()

    @property
    def _server(self) -> ChatServer:
        return cast(ChatServer, self.server)

    def log_message(self, format: str, *args: Any) -> None:
        """Prints nothing: requests are not worth a line."""
