"""Requests to a vLLM server: what it serves, and what its answers mean."""

from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

from selfdistill.errors import EngineError, UserError, brief, quoted
from selfdistill.method.http_json import RefusedError, fetched
from selfdistill.method.rollout.copies import check_version

NAME = "vllm-server"
TIMEOUT = 1800.0
"""Seconds that an answer may take."""
CHECK_TIMEOUT = 10.0
"""Seconds that the server may take to say what it serves."""
AGAIN = "Start it, and give the same command again to go on from the last checkpoint."
DEV_MODE = "VLLM_SERVER_DEV_MODE=1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What a server serves."""

    model: str
    """The model's name there."""
    context: int
    """Tokens that it reads."""


def check_server(url: str | None) -> Served:
    """Asks a server what it serves.

    Raises:
        UserError: no address is given, nothing answers there, it is no vLLM, or its version is too low.
    """
    base = base_url(url)
    try:
        version = fetched(f"{base}/version", None, CHECK_TIMEOUT).get("version", "")
        models = fetched(f"{base}/v1/models", None, CHECK_TIMEOUT).get("data", [])
    except (OSError, HTTPException, RefusedError, ValueError) as error:
        raise UserError(
            f"vllm_url {base}: no vLLM server answers there ({brief(error, 10)}). Start one with vllm serve, or take "
            "rollout_engine auto."
        ) from error
    check_version(str(version), f"vllm_url {base}")
    if not models:
        raise UserError(f"vllm_url {base}: the server serves no model. Start it with one.")
    first = models[0]
    return Served(model=str(first["id"]), context=int(first["max_model_len"]))


def base_url(url: str | None) -> str:
    """The address without what follows host and port. Raises UserError if there is none."""
    if url is None:
        raise UserError(f"rollout_engine {NAME}: give the server's address, such as --vllm_url http://localhost:8000.")
    if not url.lower().startswith(("http://", "https://")):
        raise UserError(f"vllm_url {quoted(url)} does not begin with http:// or https://.")
    return url.rstrip("/").removesuffix("/v1")


def post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    """Posts a JSON object and returns the one in the answer, which may be empty.

    Raises:
        RefusedError: the server says why it won't.
        EngineError: there is no answer.
    """
    try:
        return fetched(url, body, TIMEOUT)
    except (OSError, HTTPException, ValueError) as error:
        raise EngineError(f"{url}: the server does not answer ({brief(error, 10)}). {AGAIN}") from error
