"""``--demonstration_from own_success`` and ``--feedback_file`` from the command line."""

from typing import Any

import pytest

from tests.support.tiny_home import TinyHome, train

OWN = ("--demonstration_from=own_success", "--num_rollouts=2")
MINE = """
def even(completion, example):
    return float(len(completion) % 2 == 0)


def never(completion, example):
    return None


def words(row, completion):
    return None if len(completion) % 2 == 0 else f"{len(completion)} characters for {row.reference}."
"""


@pytest.fixture
def mine(home: TinyHome) -> TinyHome:
    """A home with functions in ``mine.py``, and rows of which one has no demonstration."""
    (home.folder / "mine.py").write_text(MINE)
    home.rows(
        {"prompt": "What is 1+1?", "answer": 2, "demonstration": "2"},
        {"prompt": "What is 2+1?", "answer": 3},
        {"prompt": "What is 3+1?", "answer": 4, "demonstration": "4"},
        name="own.jsonl",
    )
    return home


def test_a_run_on_rows_of_which_one_has_no_demonstration(mine: TinyHome) -> None:
    """The scorer is a function of a file, as are the words; the same command leaves the finished run as it is."""
    chosen = (*OWN, "--scorer=mine.py:even", "--feedback_file=mine.py:words", "--max_steps=3")
    command = train(*chosen, "--rollouts_logged_per_step=None", rows="own.jsonl")
    assert mine.run(*command).code == 0
    logged = [line for line in mine.lines("out/metrics.jsonl") if "loss" in line]
    rollouts = mine.lines("out/rollouts.jsonl")
    assert len(logged) == 3
    assert all(0 <= line["prompt_succeeded_share"] <= 1 and line["untaught_share"] >= 0 for line in logged)
    odd = [row for row in rollouts if f"{len(row['completion'])} characters for" in row["teacher_prompt"]]
    assert len(odd) == sum(len(row["completion"]) % 2 for row in rollouts) > 0
    record = mine.read("out/run_config.json")
    assert record["fingerprints"]["scorer"].startswith("mine.py:even@")
    assert record["fingerprints"]["feedback"].startswith("mine.py:words@")
    assert record["deviations_from_paper"]["demonstration_from"] == ["own_success", "row"]
    before = mine.files()
    assert mine.run(*command).code == 0
    assert mine.files() == before
    (mine.folder / "mine.py").write_text(MINE + "\n# another\n")
    assert "feedback mine.py:words@" in mine.refused(*command)


def test_a_tasks_scorer_is_taken_by_its_revision(mine: TinyHome) -> None:
    home = mine
    flags = (*OWN, "--template=prior_turn", "--max_steps=1", "--limit=2", "--max_completion_length=16")
    common = ("--dtype=float32", "--per_device_train_batch_size=1", "--gradient_accumulation_steps=2")
    said = home.run("train", "--model_name=M", "--output_dir=out", *flags, *common)
    assert said.code == 0, said
    assert " of assistant-tools " in home.read("out/run_config.json")["fingerprints"]["scorer"]


def test_a_dry_run_tells_how_long_the_teachers_prompt_may_become(mine: TinyHome) -> None:
    """A prompt has 33 tokens; with the row's own demonstration 69. A success adds at most 16, and 64 for its turn."""
    said = mine.run(*train(*OWN, "--scorer=mine.py:even", "--dry_run", rows="own.jsonl"))
    assert said.code == 0
    (line,) = [line for line in said.out.splitlines() if "with an own success, at most" in line]
    assert [cell.strip() for cell in line.split("│") if cell.strip()][1:] == ["149", "149", "149", "4,080"]
    assert "demonstration_from" in said.out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (OWN[:1], "num_rollouts is 1. Set num_rollouts to 2 or more."),
        ((*OWN, "--scorer=judge"), "--demonstration_from own_success: training asks no judge."),
        ((*OWN, "--scorer=mine.py:never"), "can grade none of the training rows."),
        ((*OWN, "--template=auto"), "its preflight shows the rows' demonstrations, and custom/train/1 has none."),
        (("--scorer=mine.py:even",), "--scorer mine.py:even changes nothing without --eval_steps."),
        ((*OWN, "--feedback_file=mine.py:word"), "mine.py has no function 'word'. Did you mean 'words'?"),
        ((*OWN, "--completion_source=accepted"), "demonstration_from='own_success' would be ignored"),
        ((), "own.jsonl line 2 has no demonstration"),
    ],
)
def test_what_can_not_be_is_refused_before_a_model_is_loaded(
    mine: TinyHome, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], words: str
) -> None:
    monkeypatch.setattr("selfdistill.models.loading.load_model", lambda *_, **__: pytest.fail("weights were read"))
    assert words in mine.refused(*train(*flags, rows="own.jsonl"))


def test_an_arm_of_a_comparison_shows_own_successes(mine: TinyHome) -> None:
    rows: list[dict[str, Any]] = [{"prompt": f"Say {n}", "demonstration": str(n)} for n in range(12)]
    mine.rows(*rows, name="many.jsonl")
    said = mine.run(
        *("compare", "--model_name=M", "--dataset_path=many.jsonl", "--output_dir=study", "--methods=sft", "--seeds=0"),
        *("--arm", "own: method=sdft, demonstration_from=own_success, num_rollouts=2, template=prior_turn"),
        *("--scorer=mine.py:even", "--prior=none", "--drift_prompts=0", "--max_new_tokens=4", "--max_steps=2"),
        *("--max_completion_length=12", "--per_device_train_batch_size=2", "--gradient_accumulation_steps=1"),
        *("--checkpoints=1", "--dtype=float32", "--eval_limit=2"),
    )
    assert said.code == 0, said
    (metrics,) = mine.folder.glob("study/own/*/seed-0/metrics.jsonl")
    logged = [line for line in mine.lines(str(metrics.relative_to(mine.folder))) if "loss" in line]
    assert [("prompt_succeeded_share" in line) for line in logged] == [True, True]
