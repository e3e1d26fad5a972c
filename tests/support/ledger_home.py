"""A ledger whose model is scripted: it answers an item rightly as long as it knows it."""

import io
import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from selfdistill.commands import learn
from selfdistill.data.prompts import normalized, uniform
from selfdistill.ledger import learn as lessons
from selfdistill.models import loading
from selfdistill.report import write
from selfdistill.report.contents import Results
from selfdistill.settings import flat
from selfdistill.settings.evaluate import DecodingOptions
from selfdistill.settings.ledger import LearnOptions
from selfdistill.types import EvalConfig, EvalResult, ScoredSample
from tests.support.tiny import byte_tokenizer, random_model


def _save(model: Any, prepared: Any, place: Path) -> None:
    (place / "model.safetensors").write_bytes(b"data")


class Home:
    """A folder with data, and the ledger ``memory``.

    The scripted model answers an item rightly where its number in the evaluation is below ``knows[skill]``.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.memory = folder / "memory"
        self.knows: dict[str, int] = {}
        self.after: dict[str, int] = {}
        """What training makes of ``knows``."""
        self.trained_on: list[str] = []
        self.started_from = ""
        self.asked_with: dict[str, Any] = {}
        """What the chat template was last given in the evaluation of a skill."""
        self.warnings: list[str] = []
        """Of the report."""
        config = random_model(vocab_size=300, max_position_embeddings=4096).config
        monkeypatch.setattr(loading, "load_config", lambda _: config)
        monkeypatch.setattr(loading, "load_tokenizer", lambda _, **__: byte_tokenizer())
        monkeypatch.setattr(lessons, "load_student", lambda _: self)
        monkeypatch.setattr(lessons, "make_trainer", self._trainer)
        monkeypatch.setattr(lessons, "score_rows", self._score)
        monkeypatch.setattr(lessons, "save_whole", _save)
        monkeypatch.setattr(write, "write_files", self._report)

    def data(self, name: str, count: int = 40, answer: str = "answer") -> str:
        """Writes rows of a skill, of which an ``eval_share`` of 0.5 holds out half; returns the file."""
        sides = {True: count // 2, False: count - count // 2}
        rows: list[dict[str, str]] = []
        for n in itertools.count():
            side = uniform(normalized(f"{name} {n}?")) < 0.5
            if sides[side]:
                rows.append({"prompt": f"{name} {n}?", "demonstration": f"{answer} {n}"})
                sides[side] -= 1
            if not any(sides.values()):
                break
        path = self.folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    def teach(self, name: str, after: dict[str, int], **settings: Any) -> tuple[int, str]:
        """Learns a skill of 40 rows, half of them held out; the exit code and what was printed."""
        self.after = after
        own: dict[str, Any] = {"dataset_path": self.data(name), "eval_share": 0.5, "method": "sft"}
        options = flat.build(LearnOptions, {"ledger": str(self.memory)} | own | settings)
        console = Console(file=io.StringIO(), width=160)
        code = learn.run(options, console)
        return code, told(console)

    def state(self) -> dict[str, Any]:
        """``ledger.json``."""
        return json.loads((self.memory / "ledger.json").read_text())

    def files(self) -> dict[str, bytes]:
        """What is in the ledger, but for its lock and the folder where a version is prepared."""
        paths = [path for path in self.memory.rglob("*") if path.is_file()]
        names = {str(path.relative_to(self.memory)): path for path in paths}
        return {name: path.read_bytes() for name, path in names.items() if not name.startswith(".")}

    def train(self) -> None:
        self.knows.update(self.after)

    def _trainer(self, prepared: Any, *_: Any) -> Any:
        self.started_from = prepared.options.recipe.model.model_name
        self.trained_on = [item.demonstration_text for item in prepared.rows.examples]
        return SimpleNamespace(train=self.train, model=self, args=prepared.config)

    def _score(self, _: Any, __: Any, rows: Any, decoding: DecodingOptions, console: Console) -> EvalResult:
        task, samples = rows.task, []
        self.asked_with[task.name] = decoding.chat_template_kwargs
        for number, item in enumerate(rows.examples):
            right = number < self.knows.get(task.name, 0)
            completion = item.demonstration_text if right else "wrong"
            scores = {name: scorer(completion, item) for name, scorer in task.scorers.items()}
            samples.append(
                ScoredSample(example=item, completion=completion, num_tokens=1, finish_reason="stop", scores=scores)
            )
        config = EvalConfig(
            task=task.name,
            revision=task.revision,
            metric=next(iter(task.scorers)),
            num_rows=len(samples),
            prompt="chat",
            max_new_tokens=task.max_new_tokens,
        )
        return EvalResult(samples=tuple(samples), config=config)

    def _report(self, results: Results, folder: Path) -> Path:
        self.warnings = list(results.warnings)
        return folder / "report.html"


def told(console: Console) -> str:
    """What was printed on a console that writes into memory."""
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()
