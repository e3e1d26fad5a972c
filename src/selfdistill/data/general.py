"""General prompts: anchors, which hold a run near its start model, and the prompts on which drift is measured.

The two shipped sets ask for the same kinds of things about different subjects and share no run of five words, so
that drift is never measured on a prompt that was trained on. Their order mixes topics, so that the first N prompts of
either cover many.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources

from selfdistill.data.kept import keep
from selfdistill.data.own import Reading, own_examples
from selfdistill.data.rows import examples_from_rows
from selfdistill.types import Example

ANCHOR_FILE = "anchor_prompts.jsonl"
DRIFT_FILE = "drift_prompts.jsonl"


def anchor_examples(named: str | None = None, reading: Reading | None = None) -> Sequence[Example]:
    """Prompts without demonstrations, with the ids ``anchor/0``, ``anchor/1``, ...

    They are the 200 shipped ones, or the rows of the user's files, folders or Hub datasets, read as ``own_examples``
    reads training rows. Raises UserError if those can't be read, or one of them is wrong.
    """
    if named is None:
        examples = _shipped_examples(ANCHOR_FILE, "anchor")[: reading.train_limit if reading else None]
    else:
        examples = own_examples(named, reading or Reading(), side="train", prefix="anchor", need_demonstration=False)
    # An anchor is held to the start model, which sees only the prompt: demonstrations in the data are not used.
    return keep(replace(example, demonstration=()) for example in examples)


def drift_examples() -> Sequence[Example]:
    """The 64 shipped prompts, each with a short reference answer; their ids are ``drift/0``, ``drift/1``, ..."""
    return _shipped_examples(DRIFT_FILE, "drift")


def _shipped_examples(name: str, prefix: str) -> Sequence[Example]:
    text = resources.files("selfdistill.data").joinpath(name).read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return examples_from_rows(rows, source=name, prefix=prefix, need_demonstration=False)
