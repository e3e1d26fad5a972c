"""``--push_to_hub``, against a local stand-in of the Hub's API."""

import base64
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import huggingface_hub
import pytest

from tests.support.tiny_home import TinyHome

TOKEN = "hf_" + "s3cret" * 4


class Hub:
    """What a hub holds and was asked."""

    def __init__(self) -> None:
        self.address = ""
        self.repositories: dict[str, bool] = {}
        """Whether each is private."""
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.authorized: list[str | None] = []
        self.refuses: dict[str, int] = {}
        """Status by the end of a path."""

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        self.asked.append(f"{method} {path}")
        for end, status in self.refuses.items():
            if path.endswith(end):
                return status, {"error": f"refused, and here is what you sent: {TOKEN}"}
        if path.endswith("/whoami-v2"):
            return 200, {"name": "me", "type": "user"}
        if path.endswith("/repos/create"):
            made = json.loads(body)
            name = f"{made.get('organization') or 'me'}/{made['name']}"
            private = made.get("private", made.get("visibility") == "private")
            self.repositories.setdefault(name, bool(private))
            return 200, {"url": f"{self.address}/{name}", "name": name}
        if path.endswith("/validate-yaml"):
            return 200, {"errors": [], "warnings": []}
        if "/preupload/" in path:
            asked = json.loads(body)["files"]
            return 200, {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]}
        if "/commit/" in path:
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            return 200, {"commitUrl": f"{self.address}/me/model/commit/abc", "commitOid": "abc", "hookOutput": ""}
        name = path.removeprefix("/api/models/").partition("/revision")[0].partition("?")[0]
        if method == "GET" and name in self.repositories:
            return 200, {"id": name, "private": self.repositories[name], "siblings": [], "sha": "abc", "tags": []}
        return 404, {"error": "Repository not found"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that answers on this machine, and a token for it."""
    held = Hub()

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            held.authorized.append(self.headers.get("authorization"))
            status, said = held.answer(self.command, self.path, body)
            text = json.dumps(said).encode()
            self.send_response(status)
            if status == 404:
                self.send_header("x-error-code", "RepoNotFound")
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = _do  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    held.address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", held.address)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield held
    server.shutdown()
    server.server_close()


def pushed(home: TinyHome, run: str, form: str, *more: str) -> Any:
    return home.run("export", run, f"--to={form}", "--output_dir=out", "--push_to_hub=me/model", *more)


def test_weights_tokenizer_and_card_go_up_and_nothing_else(home: TinyHome, hub: Hub) -> None:
    said = pushed(home, "lora", "merged")
    assert (said.code, said.err) == (0, "")
    assert set(hub.files) == {
        *("README.md", "config.json", "generation_config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
    }
    assert hub.files["model.safetensors"] == (home.folder / "out" / "model.safetensors").read_bytes()
    assert hub.repositories == {"me/model": True}
    assert "private" in said.out
    assert 'from_pretrained("me/model")' in hub.files["README.md"].decode()


def test_no_row_no_folder_and_no_token_goes_up_or_is_printed(home: TinyHome, hub: Hub) -> None:
    said = pushed(home, "full", "safetensors")
    assert said.code == 0
    sent = b"".join(hub.files.values())
    assert b"rows.jsonl" in hub.files["README.md"]
    for secret in ("What is 1+1?", str(home.folder), str((home.folder / "full").resolve()), TOKEN):
        assert secret.encode() not in sent
    assert TOKEN not in said.out + said.err
    assert all(TOKEN.encode() not in content for content in home.files().values())
    assert {f"Bearer {TOKEN}"} == set(hub.authorized) - {None}


def test_a_new_repository_is_public_if_that_is_said(home: TinyHome, hub: Hub) -> None:
    assert pushed(home, "full", "gguf", "--public").code == 0
    assert hub.repositories == {"me/model": False}
    assert set(hub.files) == {"README.md", "model.gguf"}


@pytest.mark.parametrize(
    ("private", "more", "words"),
    [(False, [], "me/model is public already. Give --public"), (True, ["--public"], "me/model is there and private")],
)
def test_a_repository_of_another_visibility_is_refused(
    home: TinyHome, hub: Hub, private: bool, more: list[str], words: str
) -> None:
    hub.repositories["me/model"] = private
    argv = ("export", "full", "--to=gguf", "--output_dir=out", "--push_to_hub=me/model", *more)
    assert words in home.refused(*argv)
    assert not (home.folder / "out").exists()


@pytest.mark.parametrize(
    ("end", "status", "words", "kept"),
    [
        ("/whoami-v2", 401, "the token is not valid. Nothing was written", False),
        ("/repos/create", 403, "may not write there. out is whole: `hf upload me/model out`", True),
        ("/commit/main", 413, "the Hub answers 413. out is whole", True),
    ],
)
def test_what_the_hub_refuses_is_told_without_its_words(
    home: TinyHome, hub: Hub, end: str, status: int, words: str, kept: bool
) -> None:
    hub.refuses[end] = status
    said = home.run("export", "full", "--to=gguf", "--output_dir=out", "--push_to_hub=me/model")
    assert said.code == 2
    assert words in said.err
    assert TOKEN not in said.out + said.err
    assert (home.folder / "out" / "model.gguf").exists() == kept


def test_without_a_token_nothing_begins(home: TinyHome, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(home.folder / "none"))
    message = home.refused("export", "full", "--to=gguf", "--output_dir=out", "--push_to_hub=me/model")
    assert "hf auth login" in message
    assert hub.asked == []


def test_a_hub_that_does_not_answer(home: TinyHome, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    message = home.refused("export", "full", "--to=gguf", "--output_dir=out", "--push_to_hub=me/model")
    assert "the Hub can't be reached. Nothing was written" in message


def test_an_adapter_whose_base_is_here_only_is_refused(home: TinyHome, hub: Hub) -> None:
    argv = ("export", "lora", "--to=adapter", "--output_dir=out", "--push_to_hub=me/model")
    assert "is not on the Hub, so nobody could load it" in home.refused(*argv)
    assert hub.asked == []
