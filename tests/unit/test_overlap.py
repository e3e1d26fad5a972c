from dataclasses import replace
from pathlib import Path

import pytest

from selfdistill.tasks import TASKS
from selfdistill.tasks.custom import custom_task
from selfdistill.tasks.overlap import num_overlapping, overlap_share, overlap_warning
from selfdistill.types import Example


def rows(*texts: str, system: str = "") -> list[Example]:
    before = ({"role": "system", "content": system},) if system else ()
    return [Example(id=text, prompt=(*before, {"role": "user", "content": text})) for text in texts]


def test_prompts_are_compared_without_case_and_white_space():
    train = rows("What  is\nit?", "Ｈｏｗ?")
    assert num_overlapping(train, rows("what is it?", "how?", "who?", "what is it")) == 2
    assert overlap_share(train, rows("what is it?", "how?", "who?", "what is it")) == 0.5
    assert overlap_share(train, []) == 0


def test_all_turns_count():
    assert num_overlapping(rows("a", system="x"), rows("a", system="y")) == 0


def test_the_warning(tmp_path: Path):
    task = replace(TASKS["science"], load_train=lambda _: rows("a", "b"), load_eval=lambda _: rows("A", "c", "d", "e"))
    warning = overlap_warning(task, None)
    assert warning is not None
    assert warning.startswith("science: 1 of 4 evaluation prompts (25.0%) are in the training rows too")
    assert "\n" not in warning
    assert overlap_warning(task, None, train=rows("z")) is None
    assert overlap_warning(task, None, evaluation=rows("z")) is None


def test_no_warning_where_one_side_is_not_there(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "answer": "b"}\n')
    task = custom_task(None, str(path))
    assert overlap_warning(task, None) is None
    assert overlap_warning(TASKS["science"], tmp_path) is None


@pytest.mark.parametrize("name", ["assistant-tools"])
def test_shipped_data_do_not_overlap(name: str):
    assert overlap_share(TASKS[name].load_train(None), TASKS[name].load_eval(None)) == 0
