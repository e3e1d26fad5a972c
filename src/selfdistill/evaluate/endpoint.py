"""A model behind any OpenAI-compatible API: chats in, texts out."""

import contextlib
import json
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPException
from typing import TypeVar

from selfdistill.errors import UserError, brief
from selfdistill.method.http_json import NoRedirect
from selfdistill.types import Message

KEY_VARIABLE = "OPENAI_API_KEY"
MAX_TRIES = 5
MAX_WAIT = 60.0
"""Longest wait between two tries, in seconds."""
MAX_RESPONSE = 8 << 20
"""Bytes of a response that are read at most."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(slots=True)
class Usage:
    """Counts of what a model was asked."""

    requests: int = 0
    """Requests sent, retries included."""
    cached: int = 0
    """Answers from a cache."""
    unanswered: int = 0
    """Questions without a response, or without a usable one."""
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """A response's text."""

    text: str
    is_cut: bool = False
    """Whether the text was cut at a limit on its tokens."""


class Endpoint:
    """Asks a model, at temperature 0.

    Args:
        url: base of an OpenAI-compatible API, such as ``https://api.openai.com/v1``.
        model: the model's name there.
        api_key: sent as the bearer token; None for servers that need none.
        role: what the model is, for messages, such as ``judge``.
        timeout: seconds to wait for a response.
        num_threads: number of simultaneous requests.
        first_wait: seconds before the second try; each further wait is twice as long.

    Raises:
        UserError: the URL is not http or https.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key: str | None,
        role: str,
        timeout: float = 60.0,
        num_threads: int = 8,
        first_wait: float = 1.0,
    ) -> None:
        if not url.lower().startswith(("http://", "https://")):
            raise UserError(f"The {role}'s URL {url[:60]!r} does not begin with http:// or https://.")
        self.model, self.role, self.usage, self.lock = model, role, Usage(), threading.Lock()
        self.url = f"{url.rstrip('/')}/chat/completions"
        self.stop = threading.Event()
        """Set once nothing more is to be tried."""
        self._key, self._timeout, self._first_wait, self._num_threads = api_key, timeout, first_wait, num_threads
        self._opener = urllib.request.build_opener(NoRedirect)  # a redirect would carry the key elsewhere

    def first_answer(self, chat: Sequence[Message]) -> Answer:
        """The answer to a first question, which is tried once, so that a wrong URL, key or model shows.

        Raises:
            UserError: there is no response, or a refusal.
        """
        try:
            return self._request(chat)
        except urllib.error.HTTPError as error:
            hint = {401: f"Check {KEY_VARIABLE}.", 403: f"Check {KEY_VARIABLE}.", 404: "Check the URL and the model."}
            detail = brief(self._without_key(error.read(2000).decode("utf-8", "replace")), 12)
            raise UserError(
                f"The {self.role} at {self.url} refused (HTTP {error.code}: {detail}). "
                f"{hint.get(error.code, '')}".strip()
            ) from error
        except (OSError, HTTPException) as error:
            reason = brief(getattr(error, "reason", error), 12)
            raise UserError(f"The {self.role} at {self.url} does not respond ({reason}). Check --judge_url.") from error
        except ValueError:  # its text, and the traceback, may show the key
            raise UserError(
                f"The {self.role} at {self.url} can't be asked: the URL or {KEY_VARIABLE} has a character that HTTP "
                "forbids."
            ) from None
        except _BadResponseError as error:
            raise UserError(f"{self.url} gave no chat completion. Check --judge_url.") from error

    def answer(self, chat: Sequence[Message]) -> Answer | None:
        """The answer; None after the last try, or if trying again can't help."""
        for attempt in range(MAX_TRIES):
            wait = self._first_wait * 2**attempt
            try:
                return self._request(chat)
            except urllib.error.HTTPError as error:
                if error.code != 429 and error.code < 500:
                    return None
                with contextlib.suppress(ValueError):  # Retry-After may be a date
                    wait = max(wait, float(error.headers.get("Retry-After") or 0))
            except _BadResponseError:
                return None
            except (OSError, HTTPException):  # timeouts, refused and broken connections
                pass
            if attempt + 1 == MAX_TRIES or self.stop.wait(min(wait, MAX_WAIT)):
                break
        return None

    def each(self, function: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
        """``function`` of every item, in order, in several threads."""
        pool = ThreadPoolExecutor(max_workers=self._num_threads)
        try:
            return list(pool.map(function, items))
        except BaseException:  # interrupted: threads must not wait for their next try
            self.stop.set()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def _request(self, chat: Sequence[Message]) -> Answer:
        """The response to one request.

        Raises OSError or HTTPException without a response, ValueError if the URL or the key can't be sent, and
        _BadResponseError if the response is not a chat completion.
        """
        body = {"model": self.model, "messages": list(chat), "temperature": 0}
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self.url, json.dumps(body).encode(), headers)
        with self.lock:
            self.usage.requests += 1
        with self._opener.open(request, timeout=self._timeout) as response:
            raw = response.read(MAX_RESPONSE)
        try:
            data = json.loads(raw)
            choice = data["choices"][0]
            text, is_cut = choice["message"]["content"], choice.get("finish_reason") == "length"
            usage = data.get("usage") or {}
            tokens = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
            raise _BadResponseError from error
        with self.lock:
            self.usage.prompt_tokens += tokens[0]
            self.usage.completion_tokens += tokens[1]
        return Answer(self._without_key(text) if isinstance(text, str) else "", is_cut)

    def _without_key(self, text: str) -> str:
        """What a server said, which may repeat the key."""
        return text.replace(self._key, "***") if self._key else text


def key_from_environment() -> str | None:
    """The key in OPENAI_API_KEY; None without."""
    return os.environ.get(KEY_VARIABLE)


class _BadResponseError(Exception):
    """A response that is not a chat completion."""
