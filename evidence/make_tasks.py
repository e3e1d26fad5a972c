"""Writes three small tasks beside assistant-tools: notes (to JSON), orders (a question about three of them) and
tickets (to one of four words).

The rows are made from tasks.toml. In notes and orders no name, item or day of an evaluation row is in a training row;
in tickets no phrasing and no product is.
"""

import argparse
import json
import random
import tomllib
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from selfdistill import run_folder

Row = dict[str, str]
NUM_TRAIN, NUM_EVAL = 300, 100
SEED = 2602
DATA = tomllib.loads(Path(__file__).with_name("tasks.toml").read_text(encoding="utf-8"))


def notes() -> tuple[list[Row], list[Row]]:
    """Training and evaluation rows; a third of all names, items and days occur in evaluation rows only."""
    rng = random.Random(f"{SEED}/notes")
    train, evaluation = _split_values(rng)
    return _notes(train, NUM_TRAIN, rng), _notes(evaluation, NUM_EVAL, rng)


def orders() -> tuple[list[Row], list[Row]]:
    """Training and evaluation rows, split like those of notes; the answer is a value, the demonstration a sentence."""
    rng = random.Random(f"{SEED}/orders")
    train, evaluation = _split_values(rng)
    return _orders(train, NUM_TRAIN, rng), _orders(evaluation, NUM_EVAL, rng)


def tickets() -> tuple[list[Row], list[Row]]:
    """Training and evaluation rows; the four words take turns."""
    rng = random.Random(f"{SEED}/tickets")
    return _tickets(DATA["tickets"]["train"], NUM_TRAIN, rng), _tickets(DATA["tickets"]["eval"], NUM_EVAL, rng)


def _split_values(rng: random.Random) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    pools = {key: rng.sample(values, len(values)) for key, values in DATA["notes"]["values"].items()}
    train = {key: values[len(values) // 3 :] for key, values in pools.items()}
    return train, {key: values[: len(values) // 3] for key, values in pools.items()}


def _notes(pools: Mapping[str, Sequence[str]], count: int, rng: random.Random) -> list[Row]:
    rows: dict[str, Row] = {}
    while len(rows) < count:
        values = {key: rng.choice(pool) for key, pool in pools.items()}
        note = rng.choice(DATA["notes"]["phrasings"]).format(**values)
        prompt = DATA["notes"]["prompt"].format(note=note[0].upper() + note[1:])
        rows[prompt] = _row(prompt, json.dumps(values))
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
        rows[prompt] = _row(prompt, parts[key]["answer"].format(**asked)) | {"answer": asked[key]}
    return list(rows.values())


def _tickets(source: Mapping[str, Any], count: int, rng: random.Random) -> list[Row]:
    drawn: list[list[Row]] = []
    for word, phrasings in source["phrasings"].items():
        texts = [phrasing.format(product=name) for phrasing, name in product(phrasings, source["products"])]
        prompts = [DATA["tickets"]["prompt"].format(ticket=text) for text in texts]
        drawn.append([_row(prompt, word) for prompt in rng.sample(prompts, count // len(source["phrasings"]))])
    return [row for turn in zip(*drawn, strict=True) for row in turn]


def _row(prompt: str, answer: str) -> Row:
    return {"prompt": prompt, "demonstration": answer, "answer": answer}


def write(folder: Path) -> None:
    """Writes <task>.jsonl and <task>-eval.jsonl of the tasks."""
    for name, (train, evaluation) in {"notes": notes(), "orders": orders(), "tickets": tickets()}.items():
        run_folder.write_jsonl(folder / f"{name}.jsonl", train)
        run_folder.write_jsonl(folder / f"{name}-eval.jsonl", evaluation)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    write(parser.parse_args().folder)
