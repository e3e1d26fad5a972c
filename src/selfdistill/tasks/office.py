"""Three small tasks: ``notes`` (a note to JSON), ``orders`` (a question about three orders in the prompt) and
``tickets`` (a support ticket to one of four words).

The rows are made from ``office.toml``. In notes and orders no name, item or day of an evaluation row is in a training
row; in tickets no phrasing and no product is. A small model has a fifth of orders before training, and none of notes.
"""

import json
import random
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from itertools import product
from typing import Any, Literal

from selfdistill.tasks.task import Task
from selfdistill.types import Example, message_text

Split = Literal["train", "eval"]
Row = tuple[str, str, Any]
"""Prompt, demonstration and reference."""

SEED = 2602
NUM_ROWS: dict[Split, int] = {"train": 300, "eval": 100}
DATA: dict[str, Any] = tomllib.loads((resources.files("selfdistill.tasks") / "office.toml").read_text(encoding="utf-8"))


def notes(split: Split) -> list[Row]:
    """Notes with a person, a thing and a day; the demonstration is a JSON object, and the reference its value."""
    rng = random.Random(f"{SEED}/notes")
    pools = _values(rng)
    made = {one: _notes(pools[one], NUM_ROWS[one], rng) for one in NUM_ROWS}
    return made[split]


def orders(split: Split) -> list[Row]:
    """Questions about three orders; the demonstration is a sentence, and the reference the value asked for."""
    rng = random.Random(f"{SEED}/orders")
    pools = _values(rng)
    made = {one: _orders(pools[one], NUM_ROWS[one], rng) for one in NUM_ROWS}
    return made[split]


def tickets(split: Split) -> list[Row]:
    """Tickets and the word for each; the four words take turns."""
    rng = random.Random(f"{SEED}/tickets")
    made = {one: _tickets(DATA["tickets"][one], NUM_ROWS[one], rng) for one in NUM_ROWS}
    return made[split]


def _values(rng: random.Random) -> dict[Split, dict[str, list[str]]]:
    """Names, items and days; a third of all occur in evaluation rows only."""
    pools = {key: rng.sample(values, len(values)) for key, values in DATA["notes"]["values"].items()}
    return {
        "train": {key: values[len(values) // 3 :] for key, values in pools.items()},
        "eval": {key: values[: len(values) // 3] for key, values in pools.items()},
    }


def _notes(pools: Mapping[str, Sequence[str]], count: int, rng: random.Random) -> list[Row]:
    rows: dict[str, Row] = {}
    while len(rows) < count:
        values = {key: rng.choice(pool) for key, pool in pools.items()}
        note = rng.choice(DATA["notes"]["phrasings"]).format(**values)
        prompt = DATA["notes"]["prompt"].format(note=note[0].upper() + note[1:])
        rows[prompt] = prompt, json.dumps(values), values
    return list(rows.values())


def _orders(pools: Mapping[str, Sequence[str]], count: int, rng: random.Random) -> list[Row]:
    parts = DATA["orders"]
    rows: dict[str, Row] = {}
    while len(rows) < count:
        verb, plain = rng.choice(list(parts["verbs"].items()))
        drawn = [rng.sample(pool, 3) for pool in pools.values()]
        values = [dict(zip(pools, of_one, strict=True), verb=verb, plain=plain) for of_one in zip(*drawn, strict=True)]
        asked, key = rng.choice(values), rng.choice(list(pools))
        text = " ".join(parts["sentence"].format(**of_one) for of_one in values)
        prompt = f"{text}\n{parts[key]['question'].format(**asked)}"
        rows[prompt] = prompt, parts[key]["answer"].format(**asked), asked[key]
    return list(rows.values())


def _tickets(source: Mapping[str, Any], count: int, rng: random.Random) -> list[Row]:
    drawn: list[list[Row]] = []
    for word, phrasings in source["phrasings"].items():
        texts = [phrasing.format(product=name) for phrasing, name in product(phrasings, source["products"])]
        prompts = [DATA["tickets"]["prompt"].format(ticket=text) for text in texts]
        drawn.append([(prompt, word, word) for prompt in rng.sample(prompts, count // len(source["phrasings"]))])
    return [row for turn in zip(*drawn, strict=True) for row in turn]


def right_value(completion: str, example: Example) -> float:
    """1.0 where the completion holds the reference, and no other name, item or day of the prompt that it could be.

    In orders three of each kind stand in the prompt, so a sentence may be wrong in two ways: by the others' value, or
    by none.
    """
    kind = next(values for values in DATA["notes"]["values"].values() if example.reference in values)
    prompt = message_text(example.prompt[-1])
    found = [value for value in kind if _holds(completion, value) and _holds(prompt, value)]
    return float(found == [example.reference])


def _holds(text: str, value: str) -> bool:
    return re.search(rf"\b{re.escape(value)}\b", text, re.IGNORECASE) is not None


def same_answer(completion: str, example: Example) -> float:
    """1.0 where the completion is the reference and nothing else, JSON with any spacing and order of keys; else 0.0."""
    if isinstance(example.reference, str) and completion.strip() == example.reference.strip():
        return 1.0
    wanted = _object(example.reference) if isinstance(example.reference, str) else example.reference
    return float(isinstance(wanted, dict) and _object(completion) == wanted)


def _object(text: str) -> dict[str, Any] | None:
    """The JSON object that the text is; None where it is anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _task(name: str, description: str, rows: Callable[[Split], list[Row]], scorer: Callable[..., float]) -> Task:
    def examples(split: Split) -> list[Example]:
        return [
            Example(
                id=f"{name}/{split}/{number}",
                prompt=({"role": "user", "content": prompt},),
                demonstration=({"role": "assistant", "content": demonstration},) if split == "train" else (),
                reference=reference,
            )
            for number, (prompt, demonstration, reference) in enumerate(rows(split))
        ]

    return Task(
        name=name,
        description=description,
        source="written for selfdistill",
        licence="Apache-2.0",
        revision="1",
        load_train=lambda _: examples("train"),
        load_eval=lambda _: examples("eval"),
        scorers={scorer.__name__: scorer},
        max_new_tokens=48,
    )


TASKS = (
    _task("notes", "Turn a note into JSON with who, what and when.", notes, same_answer),
    _task("orders", "Answer a question about three orders in the prompt.", orders, right_value),
    _task("tickets", "Name the one of four teams that a support ticket is for.", tickets, same_answer),
)
