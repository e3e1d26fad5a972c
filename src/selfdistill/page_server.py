"""A web server for a page of our own, on 127.0.0.1 only, for whoever knows its address, not for other sites' pages."""

import getpass
import os
import platform
import secrets
import shlex
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

from selfdistill.errors import UserError

ADDRESS = "127.0.0.1"
OWN_HOSTS = (ADDRESS, "localhost")
POLICY = (
    "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""A Content-Security-Policy under which a page asks this server only, and no other page frames it."""


class PageServer(ThreadingHTTPServer):
    """The server. It binds its port at once, so that a port in use is refused before anything is loaded.

    Args:
        port: 0 for any free one, which ``server_port`` then holds.
        handler: answers the requests.

    ``path`` is the page's, and begins with a token, which no other user of the machine can guess.

    Raises:
        UserError: the port can't be used.
    """

    def __init__(self, port: int, handler: "type[PageHandler]") -> None:
        try:
            super().__init__((ADDRESS, port), handler)
        except OSError as error:
            raise UserError(
                f"--port {port} can't be used: {error.strerror}. Name another, or 0 for any free one."
            ) from error
        self.path = f"/{secrets.token_urlsafe(16)}/"

    @property
    def url(self) -> str:
        """The page's address, with its token."""
        return f"http://{ADDRESS}:{self.server_port}{self.path}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Prints nothing of a client that left; else as in the base class."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class PageHandler(BaseHTTPRequestHandler):
    """What requests to a PageServer have in common."""

    timeout = 60
    """Seconds after which a silent connection is closed."""

    def is_at(self, place: str) -> bool:
        """Whether the request is for that place below the token."""
        wanted = f"{cast(PageServer, self.server).path}{place}"
        return secrets.compare_digest(self.path.encode(), wanted.encode())

    def is_own(self) -> bool:
        """True for a request of our own page. Refuses the request and returns False if another site's page made it.

        Such a page may have pointed its own host name at this address (DNS rebinding); the Host header reveals it.
        """
        host = self.headers.get("Host", "")
        name, _, port = host.partition(":")
        origin = self.headers.get("Origin")
        if name in OWN_HOSTS and (not port or port.isdecimal()) and origin in (None, f"http://{host}"):
            return True
        own_port = cast(PageServer, self.server).server_port
        self.send_error(403, explain=f"This page is for http://{ADDRESS}:{own_port} only.")
        return False

    def send_page(self, page: str, facts: str) -> None:
        """Sends a page whose script and style have a nonce, in the places of %NONCE%, and ``facts``, which is HTML, in
        that of %FACTS%."""
        nonce = secrets.token_urlsafe()
        body = page.replace("%NONCE%", nonce).replace("%FACTS%", facts).encode()
        policy = f"{POLICY}; frame-src 'self'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'"
        self.begin("text/html; charset=utf-8", policy)
        self.wfile.write(body)

    def begin(self, content_type: str, policy: str) -> None:
        """Sends the status and the headers of an answer."""
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Security-Policy", policy)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Prints nothing: requests are not worth a line."""


def tunnel(port: int) -> str:
    """The command that makes a port of this machine one of another, which can log in to this one by ssh."""
    connection = os.environ.get("SSH_CONNECTION", "").split()  # client and its port, this machine and its port
    host, own = (connection[2], connection[3]) if len(connection) == 4 else (platform.node() or "HOST", "22")
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a user without a name
        user = "USER"
    door = [] if own == "22" else ["-p", own]
    return shlex.join(["ssh", "-N", "-L", f"{port}:{ADDRESS}:{port}", *door, f"{user}@{host}"])
