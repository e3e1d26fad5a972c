"""A folder as a person has it: a tiny model saved to disk and a few rows; and commands that are run in it."""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from selfdistill.cli import main
from tests.support.mistakes import MOST_WORDS
from tests.support.tiny import CHAT_TEMPLATE, byte_tokenizer, random_model

QUICK = (
    "--dtype=float32",
    "--max_completion_length=16",
    "--max_steps=2",
    "--per_device_train_batch_size=1",
    "--gradient_accumulation_steps=2",
)
"""Flags of a run of a second."""


class Said(NamedTuple):
    """What came of a command."""

    code: int
    out: str
    err: str


class TinyHome:
    """Commands run in ``folder``, which has the model ``M`` and three rows in ``rows.jsonl``."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capsys = capsys
        monkeypatch.chdir(folder)
        monkeypatch.setenv("HOME", str(folder / "home"))
        monkeypatch.setenv("COLUMNS", "250")  # so that no message is wrapped
        monkeypatch.delenv("SELFDISTILL_DATA", raising=False)
        self.model()
        self.rows(*({"prompt": f"What is {n}+1?", "demonstration": str(n + 1)} for n in range(3)))

    def model(self, name: str = "M", *, template: str | None = CHAT_TEMPLATE, **settings: Any) -> Path:
        """Saves a model of two layers whose tokens are bytes, and its tokenizer; ``settings`` are its config's."""
        tokenizer = byte_tokenizer()
        tokenizer.chat_template = template
        shutil.rmtree(self.folder / name, ignore_errors=True)
        own: dict[str, Any] = {
            "vocab_size": 264,
            "max_position_embeddings": 4096,
            "eos_token_id": 256,
            "pad_token_id": 257,
        }
        random_model(**own | settings).save_pretrained(self.folder / name)
        tokenizer.save_pretrained(self.folder / name)
        return self.folder / name

    def rows(self, *rows: dict[str, Any], name: str = "rows.jsonl") -> Path:
        """Writes rows."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    def yaml(self, name: str, **settings: Any) -> Path:
        """Writes a file for ``--config``; JSON is YAML."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{setting}: {json.dumps(value)}\n" for setting, value in settings.items()))
        return path

    def run(self, *argv: str) -> Said:
        """Runs a command."""
        self._capsys.readouterr()
        code = main(argv)
        printed = self._capsys.readouterr()
        return Said(code, printed.out, printed.err)

    def refused(self, *argv: str, code: int = 2) -> str:
        """Runs a command that must end with an error for users; its one message, which has at most 40 words."""
        said = self.run(*argv)
        assert said.code == code, said
        assert "Traceback" not in said.err + said.out
        assert said.err.startswith("selfdistill: "), said.err
        assert said.err.count("\n") == 1, said.err
        message = said.err.removeprefix("selfdistill: ").strip()
        assert len(message.split()) <= MOST_WORDS, message
        return message

    def files(self) -> dict[str, bytes]:
        """Everything below the folder, by path."""
        paths = [path for path in self.folder.rglob("*") if path.is_file()]
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in paths}

    def read(self, name: str) -> Any:
        """The value of a JSON file."""
        return json.loads((self.folder / name).read_text())

    def lines(self, name: str) -> list[Any]:
        """The values of a JSON-lines file."""
        return [json.loads(line) for line in (self.folder / name).read_text().splitlines()]


def train(*more: str, model: str = "M", rows: str = "rows.jsonl", output: str = "out") -> tuple[str, ...]:
    """A command line of ``train``, with the template that needs no preflight."""
    shown = () if any(flag.startswith(("--method", "--template")) for flag in more) else ("--template=prior_turn",)
    own = (f"--model_name={model}", f"--dataset_path={rows}", f"--output_dir={output}")
    return ("train", *own, *QUICK, *shown, *more)


DEMO = {
    "dataset_name": "assistant-tools",
    "method": "sft",
    "model_name": "M",
    "dtype": "float32",
    "max_completion_length": 200,
    "max_steps": 1,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 1,
}
"""Settings of a demo of some seconds."""


def demo(home: TinyHome, output: str = "out", **settings: object) -> tuple[str, ...]:
    """A command line of ``demo --overwrite``, with ``DEMO`` and ``settings`` in ``demo.yaml`` where that is missing."""
    if not (home.folder / "demo.yaml").exists():
        home.yaml("demo.yaml", **DEMO | settings)
    return ("demo", "--config=demo.yaml", f"--output_dir={output}", "--limit=2", "--drift_prompts=2", "--overwrite")


def score(names: str, *more: str, model: str = "M", output: str | None = "out") -> tuple[str, ...]:
    """A command line of ``eval``: two rows, four tokens each; ``names`` are tasks, or the path of rows."""
    source = f"--dataset_path={names}" if names.endswith(".jsonl") else f"--dataset_name={names}"
    one_way = {"drift", "prior-quick", "prior"}  # of decoding: they take no limit on tokens
    limit = () if set(names.split(",")) <= one_way else ("--max_new_tokens=4",)
    place = () if output is None else (f"--output_dir={output}",)
    own = (f"--model_path={model}", source, "--dtype=float32", "--limit=2", *limit, *place)
    return ("eval", *(flag for flag in own if flag.split("=")[0] not in {each.split("=")[0] for each in more}), *more)
