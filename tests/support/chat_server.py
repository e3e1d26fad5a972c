"""A server in this process that answers as an OpenAI-compatible API does."""

import contextlib
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, str | dict[str, Any]]


class ChatServer:
    """Answers requests in turn with ``replies``, repeating the last one; a text is sent as a chat completion."""

    def __init__(self, *replies: Reply | Callable[[dict[str, Any]], Reply]) -> None:
        self.replies, self.requests, self.headers = list(replies), [], []
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.answer(self)

            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"] or 0)) or "null")
        with self.lock:
            self.requests.append((handler.path, body))
            self.headers.append(dict(handler.headers))
            reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        status, content = reply(body) if callable(reply) else reply
        usage = {"prompt_tokens": 100, "completion_tokens": 5}
        if isinstance(content, str) and status == 200:
            content = {"choices": [{"message": {"content": content}}], "usage": usage}
        raw = (content if isinstance(content, str) else json.dumps(content)).encode()
        handler.send_response(status)
        if status == 302:
            handler.send_header("Location", f"{self.url}/elsewhere")
        if status == 429:
            handler.send_header("Retry-After", "0")
        handler.send_header("Content-Length", str(len(raw)))
        handler.end_headers()
        with contextlib.suppress(BrokenPipeError):  # the other side has given up waiting
            handler.wfile.write(raw)
