"""JSON over HTTP, as servers of models take and give it."""

import json
import urllib.error
import urllib.request
from typing import Any, cast

LONGEST_REASON = 1 << 16
"""Bytes of a refusal that are read."""


class RefusedError(Exception):
    """A server's refusal of a request, with its reason.

    Args:
        status: HTTP status.
        reason: what the server says.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Makes a redirect a refusal: it would carry a key elsewhere."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> None:
        """Returns None, which makes a redirect an HTTPError."""


def fetched(url: str, body: dict[str, Any] | None, timeout: float, key: str | None = None) -> dict[str, Any]:
    """Posts a JSON object, or asks for one without, and returns the one in the answer; empty if that holds none.

    Args:
        url: where.
        body: the object; None to ask.
        timeout: seconds that the server may be silent.
        key: sent as the bearer token. No error shows it.

    Raises:
        RefusedError: the server says why it won't.
        OSError: there is no answer.
        HTTPException: the answer is no HTTP, or broke off.
        ValueError: the answer is no JSON.
    """
    headers = {"Content-Type": "application/json"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    opener = urllib.request.build_opener(NoRedirect)
    try:
        with opener.open(urllib.request.Request(url, data, headers), timeout=timeout) as answer:
            text = answer.read()
    except urllib.error.HTTPError as error:
        raise RefusedError(error.code, _why(error, key)) from error
    found = json.loads(text) if text.strip().startswith(b"{") else {}
    return cast(dict[str, Any], found)


def _why(error: urllib.error.HTTPError, key: str | None) -> str:
    """The reason that a refusal gives, or its status. A server may repeat the key."""
    try:
        found = json.loads(error.read(LONGEST_REASON))
        reason = str(found["error"]["message"])
    except (ValueError, KeyError, TypeError, OSError):
        return f"HTTP {error.code}"
    return reason.replace(key, "***") if key else reason
