"""The growing report as a web page, served on 127.0.0.1 only, to whoever knows its address."""

import html
import json
import os
import sys
import threading
import webbrowser
from dataclasses import asdict
from pathlib import Path
from typing import cast

from rich.console import Console
from rich.markup import escape

from selfdistill.page_server import POLICY, PageHandler, PageServer, tunnel
from selfdistill.report.live import LiveReport

PAGE = Path(__file__).with_name("live.html")
FRAMED = "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
"""Policy of the report itself, beside the one that it holds: only our own page frames it."""


class ReportServer(PageServer):
    """The web server of a growing report.

    Args:
        folder: of the run or the study.
        port: as in PageServer.

    Raises:
        UserError: the port can't be used.
    """

    def __init__(self, folder: Path, port: int) -> None:
        super().__init__(port, _Handler)
        self.report = LiveReport(folder)
        self.page = PAGE.read_text(encoding="utf-8")
        self.facts = html.escape(json.dumps({"folder": folder.resolve().name}))

    def refresh(self) -> None:
        """Makes the report anew if it must be, while requests are answered."""
        threading.Thread(target=self.report.refresh, daemon=True).start()

    def serve(self, console: Console, *, browser: bool) -> None:
        """Serves the page until ctrl-C.

        Args:
            console: where the address is printed.
            browser: whether to open a browser, if this machine has a screen.
        """
        console.print(f"The report is at {escape(self.url)}  (ctrl-C ends it)", soft_wrap=True)
        console.print(
            f"[dim]From another machine, first: {escape(tunnel(self.server_port))}[/dim]",
            highlight=False,
            soft_wrap=True,
        )
        if browser and _has_screen():
            webbrowser.open(self.url)
        try:
            self.serve_forever()
        except KeyboardInterrupt:
            console.print()
        finally:
            self.server_close()


class _Handler(PageHandler):
    def do_GET(self) -> None:  # noqa: N802  # the name that http.server calls
        """Serves the page, what there is to see, and the report."""
        if not self.is_own():
            return
        server = cast(ReportServer, self.server)
        if self.is_at(""):
            self.send_page(server.page, server.facts)
        elif self.is_at("look"):
            self.begin("application/json", POLICY)
            self.wfile.write(json.dumps(asdict(server.report.look())).encode())
            server.refresh()
        elif self.is_at("report") and server.report.page:
            self.begin("text/html; charset=utf-8", FRAMED)
            self.wfile.write(server.report.page.encode())
        else:
            self.send_error(404, explain="The whole address, with its token, is where the watch was started.")


def _has_screen() -> bool:
    """Whether a browser opened here would be seen by the person who started the command."""
    if "SSH_CONNECTION" in os.environ:
        return False
    return sys.platform in ("darwin", "win32") or bool({"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys())
