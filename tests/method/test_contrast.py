"""Which other row's demonstration a teacher is shown, and what it then reads."""

from pathlib import Path
from typing import Any

from selfdistill.method.contrast import OtherDemonstrations
from selfdistill.method.rows import training_pairs
from tests.support.mistakes import mistake
from tests.support.tiny import byte_tokenizer
from tests.support.training import make_config, make_trainer, student

ROWS = [{"prompt": f"What is {n}?", "demonstration": f"<{n}>"} for n in range(6)]
TOKENIZER = byte_tokenizer()


def made(folder: Path, rows: Any = ROWS, **settings: Any) -> tuple[OtherDemonstrations, Any]:
    config = make_config(folder, **{"target": "contrast", **settings})
    pairs = training_pairs(rows, config, TOKENIZER, student().config)
    return OtherDemonstrations(pairs, config, TOKENIZER, student().config), pairs


def shown(prompts: list[tuple[int, ...]]) -> list[int]:
    """The number of the row whose demonstration each prompt shows."""
    texts = [str(TOKENIZER.decode(list(ids))) for ids in prompts]
    return [next(n for n in range(6) if f"<{n}>" in text) for text in texts]


def test_the_question_stays_and_the_demonstration_is_anothers(tmp_path: Path) -> None:
    others, pairs = made(tmp_path)
    (ids,) = others.prompts(pairs[1:2], 0)
    own = str(TOKENIZER.decode(list(pairs[1].teacher_ids)))
    assert own.count("What is 1?") == 2
    assert TOKENIZER.decode(list(ids)) == own.replace("<1>", "<2>")


def test_it_is_another_row_of_the_step(tmp_path: Path) -> None:
    others, pairs = made(tmp_path)
    step = [pairs[0], pairs[3], pairs[5], pairs[3]]
    for number in range(20):
        found = shown(others.prompts(step, number))
        assert all(other in (0, 3, 5) for other in found)
        assert all(other != own for own, other in zip((0, 3, 5, 3), found, strict=True))
    seen = {shown(others.prompts(step, number))[0] for number in range(20)}
    assert seen == {3, 5}


def test_it_is_a_function_of_seed_step_and_row(tmp_path: Path) -> None:
    others, pairs = made(tmp_path)
    again, _ = made(tmp_path)
    other_seed, _ = made(tmp_path, seed=7)
    found = [shown(others.prompts(pairs, number)) for number in range(6)]
    assert [shown(again.prompts(pairs, number)) for number in (5, 0)] == [found[5], found[0]]
    assert found[0] != found[1]
    assert found != [shown(other_seed.prompts(pairs, number)) for number in range(6)]


def test_a_step_of_one_row_takes_the_next_of_the_data(tmp_path: Path) -> None:
    others, pairs = made(tmp_path)
    assert [shown(others.prompts([pair], 3))[0] for pair in pairs] == [1, 2, 3, 4, 5, 0]
    assert shown(others.prompts([pairs[2], pairs[2]], 3)) == [3, 3]  # twice the same row is no other


# "[user] What is 0?<|end|>\n[assistant] <1><|end|>\n" has 7 + 10 + 1 + 1 + 12 + 3 + 1 + 1 = 36 tokens, the question
# and the header after it 31.
LIMIT = 67


def test_a_demonstration_that_does_not_fit_is_passed_over(tmp_path: Path) -> None:
    long = {"prompt": "?", "demonstration": "<2>" + 8 * "."}  # fits its own short question only
    others, pairs = made(tmp_path, [*ROWS[:2], long, *ROWS[3:]], max_teacher_prompt_length=LIMIT)
    for number in range(10):
        assert 2 not in shown(others.prompts(pairs, number)[:2])
    assert shown(others.prompts(pairs[1:3], 0)) == [3, 1]  # row 1 is next to 2, in the step and in the data


def test_where_none_fits_the_limit_is_named(tmp_path: Path) -> None:
    rows = [ROWS[0], {"prompt": "?", "demonstration": "<1>" + 8 * "."}]
    others, pairs = made(tmp_path, rows, max_teacher_prompt_length=LIMIT)
    message = mistake(others.prompts, pairs[:1], 0)
    assert message.startswith("train/0: with any other row's demonstration the teacher's prompt is over the limit of")
    assert "of 67 tokens. Raise --max_teacher_prompt_length" in message


def test_one_row_has_no_other(tmp_path: Path) -> None:
    message = mistake(make_trainer, tmp_path, rows=ROWS[:1], target="contrast")
    assert message.startswith("target=contrast needs two rows with a demonstration, the data has 1.")
