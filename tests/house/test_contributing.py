"""Every recipe of CONTRIBUTING.md is followed as it stands there, from outside the package."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from selfdistill import SDFTConfig, SDFTTrainer
from selfdistill.cli import main
from selfdistill.method.divergence import DIVERGENCES, chunked_divergence
from selfdistill.method.methods import METHODS
from selfdistill.method.prompts import make_renderer
from selfdistill.method.rollout.engines import ENGINES, describe, make_engine
from selfdistill.method.targets import TARGETS, target_log_probs
from selfdistill.method.templates import TEMPLATES, tried_templates
from selfdistill.method.token_weights import TOKEN_WEIGHTS, token_weights
from selfdistill.settings.method import MethodConfig
from selfdistill.tasks import TASKS
from selfdistill.tasks.scorers import NAMED, scorer_from
from selfdistill.types import Example
from tests.support.tiny import byte_tokenizer, random_model

PAGE = Path(__file__).parents[2] / "CONTRIBUTING.md"
TABLES: tuple[dict[Any, Any], ...] = (
    TASKS,
    METHODS,
    TEMPLATES,
    DIVERGENCES,
    TARGETS,
    TOKEN_WEIGHTS,
    ENGINES,
    NAMED,
)
ROWS = [{"prompt": f"What is {n}?", "demonstration": f"It is {n}."} for n in range(4)]
EXAMPLE = Example(
    id="1",
    prompt=({"role": "user", "content": "How?"},),
    demonstration=({"role": "assistant", "content": "So."},),
    reference="two words",
)


@pytest.fixture(autouse=True)
def tables_as_they_were() -> Iterator[None]:
    before = [dict(table) for table in TABLES]
    yield
    for table, rows in zip(TABLES, before, strict=True):
        table.clear()
        table.update(rows)


def follow(title: str) -> dict[str, Any]:
    """Runs the code under a heading; returns the names it defines."""
    section = PAGE.read_text(encoding="utf-8").partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    return names


def losses(folder: Path, **settings: Any) -> list[float]:
    """Of a run of two steps."""
    tokenizer = byte_tokenizer()
    shared: dict[str, Any] = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, "warmup_steps": 0}
    config = SDFTConfig(
        output_dir=str(folder), max_steps=2, max_completion_length=6, **{**shared, "learning_rate": 1e-2, **settings}
    )
    trainer = SDFTTrainer(random_model(vocab_size=len(tokenizer)), config, ROWS, tokenizer)
    trainer.train()
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def test_a_task(tmp_path: Path) -> None:
    follow("A task")
    tokenizer, folder = byte_tokenizer(), tmp_path / "model"
    random_model(vocab_size=len(tokenizer), max_position_embeddings=512).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    shared = ["--dataset_name", "greetings", "--dtype", "float32"]
    sizes = ["--max_steps", "1", "--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "1"]
    run = str(tmp_path / "run")
    assert main(["train", *shared, *sizes, "--model_name", str(folder), "--method", "sft", "--output_dir", run]) == 0
    assert main(["eval", *shared, "--model_path", run]) == 0
    numbers = json.loads((tmp_path / "run" / "eval" / "greetings.json").read_text())
    assert numbers["num_total"] == 8
    assert numbers["config"]["metric"] == "says_welcome"


def test_a_method(tmp_path: Path) -> None:
    follow("A method")
    assert all(loss > 0 for loss in losses(tmp_path, method="hard_labels", template="prior_turn"))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all("cross_entropy" in line and "divergence" not in line for line in lines if "loss" in line)


def test_a_template(tmp_path: Path) -> None:
    follow("A template")
    config = MethodConfig(template="answer_first")  # type: ignore[arg-type]
    renderer = make_renderer([EXAMPLE], config, byte_tokenizer())
    assert renderer.teacher_text(EXAMPLE) == "[user] The answer will be: So.\n\nHow?<|end|>\n[assistant] "
    assert ("answer_first", 1) in tried_templates()
    assert all(loss > 0 for loss in losses(tmp_path, template="answer_first"))


def test_a_divergence(tmp_path: Path) -> None:
    follow("A divergence")
    hidden = torch.eye(3)
    student, teacher = torch.tensor([[0.5, 0.3, 0.2]]).log(), torch.tensor([[0.2, 0.3, 0.5]]).log()
    value = chunked_divergence(student, hidden, teacher, hidden, kind="total_variation")  # type: ignore[arg-type]
    torch.testing.assert_close(value, torch.tensor([0.3]))
    assert all(0 < loss < 1 for loss in losses(tmp_path, divergence="total_variation"))


def test_a_target(tmp_path: Path) -> None:
    follow("A target")
    student, teacher = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[2 / 3, 1 / 3]]).log()
    found = target_log_probs("sharpened", student, teacher, weight=1.0)  # type: ignore[arg-type]
    torch.testing.assert_close(found.exp(), torch.tensor([[4 / 5, 1 / 5]]))  # odds of 2, squared
    first, second = (losses(tmp_path / str(w), target="sharpened", target_weight=w) for w in (0.25, 1.0))
    assert all(0 < one < other for one, other in zip(first, second, strict=True))


def test_a_token_weight(tmp_path: Path) -> None:
    follow("A token weight")
    found = token_weights("surprise", {"student_logprobs": lambda: torch.tensor([0.75, 0.5]).log()})  # type: ignore[arg-type]
    assert found is not None
    torch.testing.assert_close(found, torch.tensor([0.25, 0.5]))
    plain, less = losses(tmp_path / "plain"), losses(tmp_path / "surprise", token_weight="surprise")
    assert 0 < less[0] < plain[0]


def test_a_rollout_engine(tmp_path: Path) -> None:
    follow("A rollout engine")
    tokenizer = byte_tokenizer()
    engine = make_engine(random_model(vocab_size=len(tokenizer)), tokenizer, name="one_by_one")
    assert describe(engine) == "one_by_one"
    assert losses(tmp_path / "a", rollout_engine="one_by_one") == losses(tmp_path / "b", rollout_engine="generate")


def test_a_scorer() -> None:
    follow("A scorer")
    name, score = scorer_from("same_length")
    assert name == "same_length"
    assert score("one two", EXAMPLE) == 1.0
    assert score("one two three", EXAMPLE) == 0.0
