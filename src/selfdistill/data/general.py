"""General prompts: anchors, which hold a run near its start model, and the prompts on which drift is measured.

The two shipped sets ask for the same kinds of things about different subjects and share no run of five words, so
that drift is never measured on a prompt that was trained on. Their order mixes topics, so that the first N prompts of
either cover many.
"""

import json
from dataclasses import replace
from importlib import resources
from typing import Any

from selfdistill.data.readers import load_rows
from selfdistill.data.rows import examples_from_rows
from selfdistill.types import Example

ANCHOR_FILE = "anchor_prompts.jsonl"
DRIFT_FILE = "drift_prompts.jsonl"


def anchor_examples(path: str | None = None) -> list[Example]:
    """Prompts without demonstrations, with the ids ``anchor/0``, ``anchor/1``, ...

    They are the 200 shipped ones, or the rows of the user's file, Arrow folder or Hub dataset. Raises UserError if
    those can't be read, or one of them is wrong.
    """
    rows, source = (_shipped_rows(ANCHOR_FILE), ANCHOR_FILE) if path is None else load_rows(path)
    examples = examples_from_rows(rows, source=source, prefix="anchor", need_demonstration=False)
    # An anchor is held to the start model, which sees only the prompt: demonstrations in the data are not used.
    return [replace(example, demonstration=()) for example in examples]


def drift_examples() -> list[Example]:
    """The 64 shipped prompts, each with a short reference answer; their ids are ``drift/0``, ``drift/1``, ..."""
    return examples_from_rows(_shipped_rows(DRIFT_FILE), source=DRIFT_FILE, prefix="drift", need_demonstration=False)


def _shipped_rows(name: str) -> list[dict[str, Any]]:
    text = resources.files("selfdistill.data").joinpath(name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]
