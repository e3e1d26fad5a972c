"""The documents name what is there, and what they name is there."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

from selfdistill import SDFTConfig, SDFTTrainer, run_folder
from tests.support.tiny import byte_tokenizer, random_model

ROOT = Path(__file__).parents[2]
FILES = ROOT / "docs" / "files.md"
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
BY_TRANSFORMERS = {"train_runtime", "train_samples_per_second", "train_steps_per_second", "total_flos", "train_loss"}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    for link in links:
        assert link.startswith(("http://", "https://")) or (page.parent / link).exists(), link


def test_the_index_has_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"]({page.name})" in index


def test_every_file_name_is_described() -> None:
    text = FILES.read_text(encoding="utf-8")
    names = [value for name, value in vars(run_folder).items() if name.isupper() and isinstance(value, str)]
    for name in names:
        unseen = name.startswith(".") or name in (run_folder.WRITE_AGAIN, run_folder.SAMPLES)
        assert unseen or name in text, name


def test_every_record_is_described() -> None:
    """All but those that only stand inside others."""
    text = FILES.read_text(encoding="utf-8")
    for path in (ROOT / "src" / "selfdistill" / "records").glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            has_format = isinstance(node, ast.ClassDef) and any(
                isinstance(field, ast.AnnAssign) and getattr(field.target, "id", "") == "format" for field in node.body
            )
            if isinstance(node, ast.ClassDef) and has_format:
                assert f"`{node.name}`" in text, node.name


@pytest.mark.parametrize(
    "settings",
    [{"method": "sft"}, {"template": "prior_turn", "anchor_share": 0.5}, {"token_weight": "entropy"}],
    ids=str,
)
def test_every_metric_is_described(tmp_path: Path, settings: dict[str, Any]) -> None:
    tokenizer, rows = byte_tokenizer(), [{"prompt": "Why?", "demonstration": "So."}] * 2
    shared: dict[str, Any] = {"max_steps": 1, "max_completion_length": 8, "gradient_accumulation_steps": 1}
    config = SDFTConfig(output_dir=str(tmp_path), **shared, **settings)
    model = random_model(vocab_size=len(tokenizer))
    SDFTTrainer(model, config, rows, tokenizer, anchor_dataset=[{"prompt": "Hi"}]).train()
    described = set(re.findall(r"`([\w/<>]+)`", FILES.read_text(encoding="utf-8")))
    for line in (tmp_path / run_folder.METRICS).read_text(encoding="utf-8").splitlines():
        for key in json.loads(line):
            name = key.partition("/")[2] if key.startswith("seconds/") else key
            assert name in described | BY_TRANSFORMERS | {"format"}, key
