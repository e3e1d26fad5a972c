"""The shipped general prompts: how many, how varied, and that drift is never measured on what was trained on."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from selfdistill.data import general
from selfdistill.data.general import anchor_examples, drift_examples
from selfdistill.tasks import assistant_tools
from selfdistill.types import Example, message_text
from tests.support.mistakes import mistake

TOOL_LISTING = re.compile(r"(?im)\btools?\b|\baction\b|\bAPIs?\b|^\s*[-*]|\bneeds \"|^\s*\w+\(\w*\):")


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def shingles(text: str, size: int) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[start : start + size]) for start in range(len(found) - size + 1)}


def prompt_text(example: Example) -> str:
    (turn,) = example.prompt
    assert turn["role"] == "user"
    return message_text(turn)


def topics(file: str) -> list[str]:
    path = Path(general.__file__).parent / file
    return [json.loads(line)["topic"] for line in path.read_text(encoding="utf-8").splitlines()]


ANCHORS = [prompt_text(example) for example in anchor_examples()]
DRIFT = [prompt_text(example) for example in drift_examples()]


def test_shingles_by_hand():
    assert shingles("A glass of water, please!", 3) == {
        ("a", "glass", "of"),
        ("glass", "of", "water"),
        ("of", "water", "please"),
    }


def test_shipped_anchors():
    examples = anchor_examples()
    assert [example.id for example in examples] == [f"anchor/{number}" for number in range(200)]
    assert all(example.demonstration == () and example.reference is None for example in examples)
    assert len({" ".join(words(text)) for text in ANCHORS}) == 200
    assert all(5 <= len(text.split()) <= 60 for text in ANCHORS)
    assert all(text == text.strip() for text in ANCHORS)


def test_anchor_openings_vary():
    openings = Counter(" ".join(words(text)[:4]) for text in ANCHORS)
    assert max(openings.values()) <= 3
    assert len({words(text)[0] for text in ANCHORS}) >= 40


def test_shipped_drift_prompts():
    examples = drift_examples()
    assert [example.id for example in examples] == [f"drift/{number}" for number in range(64)]
    assert all(example.demonstration == () for example in examples)
    assert len({" ".join(words(text)) for text in DRIFT}) == 64
    assert len({" ".join(words(example.reference)) for example in examples}) == 64
    assert [example.id for example in examples if not 20 <= len(example.reference.split()) <= 70] == []
    assert all(example.reference == example.reference.strip() for example in examples)


def test_anchors_and_drift_share_no_five_words():
    measured = set().union(
        *(shingles(text, 5) for text in DRIFT), *(shingles(example.reference, 5) for example in drift_examples())
    )
    assert [text for text in ANCHORS if shingles(text, 5) & measured] == []


@pytest.mark.parametrize(
    ("file", "prefix", "least"), [("anchor_prompts.jsonl", 20, 10), ("drift_prompts.jsonl", 16, 10)]
)
def test_every_beginning_mixes_topics(file: str, prefix: int, least: int):
    assert len(set(topics(file))) >= 10
    assert len(set(topics(file)[:prefix])) >= least


def test_no_prompt_lists_tools():
    listed = prompt_text(assistant_tools.TASK.load_eval(None)[0])
    assert TOOL_LISTING.search(listed)
    assert [text for text in ANCHORS + DRIFT if TOOL_LISTING.search(text)] == []


def test_no_prompt_is_a_request_of_assistant_tools():
    task = assistant_tools.TASK
    requests = {
        " ".join(words(prompt_text(example).rsplit("Request:", 1)[1]))
        for example in (*task.load_train(None), *task.load_eval(None))
    }
    assert len(requests) > 1000
    assert requests.isdisjoint(" ".join(words(text)) for text in ANCHORS + DRIFT)


def test_no_reference_begins_like_a_tool_call():
    assert not any(re.match(r"\W*(action|tool|answer)\b|[{\[<]", e.reference, re.IGNORECASE) for e in drift_examples())


def test_own_anchor_file(tmp_path: Path):
    path = tmp_path / "mine.jsonl"
    turns = [{"role": "user", "content": "Name a tree."}, {"role": "assistant", "content": "Oak."}]
    rows = [{"prompt": "Why is grass green?"}, {"messages": turns}, {"prompt": "Say hello.", "completion": "Hello!"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    examples = anchor_examples(str(path))
    assert [example.id for example in examples] == ["anchor/0", "anchor/1", "anchor/2"]
    assert [prompt_text(example) for example in examples] == ["Why is grass green?", "Name a tree.", "Say hello."]
    assert [example.demonstration for example in examples] == [(), (), ()]


def test_own_anchor_file_with_a_bad_row(tmp_path: Path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "Why is grass green?"}\n{"prompt": " "}\n', encoding="utf-8")
    message = mistake(anchor_examples, str(path))
    assert message.startswith("mine.jsonl line 2: the prompt is empty")
