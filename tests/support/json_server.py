"""A server on this machine that answers JSON with JSON, as a test decides."""

import json
import threading
from abc import ABC, abstractmethod
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, dict[str, Any]]
"""HTTP status and body."""


class JsonServer(ABC):
    """Serves at ``url`` what ``answered`` returns, from ``start`` to ``stop``, one request at a time."""

    url: str

    def start(self) -> None:
        lock, server = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(None)

            def do_POST(self) -> None:
                self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def _answer(self, body: dict[str, Any] | None) -> None:
                with lock:
                    answer = server.answered(self.path, body, self.headers.get("Authorization"))
                if answer is None:
                    self.close_connection = True
                    return
                status, found = answer
                text = json.dumps(found).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @abstractmethod
    def answered(self, path: str, body: dict[str, Any] | None, authorization: str | None) -> Answer | None:
        """The answer to a request, whose body is None if it has none; None ends the connection without one."""
