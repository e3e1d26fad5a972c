"""Wiki: its rows, the passages of articles, and a model's questions about them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest

from selfdistill.tasks import wiki
from selfdistill.tasks.build.wiki import (
    INDIRECT_PROMPT,
    Passage,
    is_usable,
    parse_questions,
    question_chat,
    read_passages,
    split_text,
    wiki_rows,
)
from selfdistill.types import Example, Message
from tests.support.mistakes import mistake

ROW = {"article": "Flood", "passage": "It rained.", "question": "Why?", "answer": "Rain.", "part": ""}


def save(rows: list[dict[str, Any]], folder: Path, split: str) -> None:
    datasets.Dataset.from_list(rows).save_to_disk(str(folder / "wiki_data" / split))


def test_the_teacher_sees_the_passage_and_the_answer(tmp_path: Path):
    save([ROW], tmp_path, "train_data")
    (example,) = wiki.TASK.load_train(tmp_path)
    assert example.prompt == ({"role": "user", "content": "Why?"},)
    assert example.demonstration_text == "Flood: It rained.\n\nAnswer: Rain."
    assert example.reference == "Rain."


def test_evaluation_rows_have_parts_and_no_demonstration(tmp_path: Path):
    save([ROW | {"part": "direct"}, ROW | {"question": "Who?", "part": "ood"}], tmp_path, "eval_data")
    examples = wiki.TASK.load_eval(tmp_path)
    assert [(row.part, row.demonstration, row.reference) for row in examples] == [
        ("direct", (), "Rain."),
        ("ood", (), "Rain."),
    ]
    save([ROW | {"answer": ""}], tmp_path, "train_data")
    assert "wiki_data/train_data row 1 has no text in answer" in mistake(wiki.TASK.load_train, tmp_path)


def words(count: int, name: str = "w") -> str:
    return " ".join([name] * count)


def test_passages():
    assert split_text(f"# Title\n\n{words(30)}\n\n{words(40, 'x')}") == [f"Title {words(30)} {words(40, 'x')}"]
    assert split_text(f"{words(100)}\n\n{words(60, 'x')}") == [words(100), words(60, "x")]
    # 90 + 60 words are 150; the next sentence of 25 begins a passage
    long = f"{words(89)} a. {words(59)} b. {words(24)} c."
    assert split_text(long) == [f"{words(89)} a. {words(59)} b.", f"{words(24)} c."]
    # a rest of under 20 words joins the passage before
    assert split_text(f"{words(150)}\n\n{words(5, 'x')}") == [f"{words(150)} {words(5, 'x')}"]
    assert split_text(words(19)) == []
    assert split_text("") == []


def test_articles(tmp_path: Path):
    (tmp_path / "b_flood.md").write_text(words(30, "b"))
    (tmp_path / "a.txt").write_text(words(30, "a"))
    (tmp_path / "notes.pdf").write_text(words(30))
    assert read_passages(tmp_path) == [Passage("a", words(30, "a")), Passage("b flood", words(30, "b"))]
    assert "is not a folder" in mistake(read_passages, tmp_path / "a.txt")
    (tmp_path / "empty").mkdir()
    assert "no .txt or .md file" in mistake(read_passages, tmp_path / "empty")
    (tmp_path / "a.txt").write_bytes(b"\xff")
    assert "not UTF-8" in mistake(read_passages, tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "Q: Who came?\nA: Ann came.\nQ: When was it?\nA: In May.",
        "Sure!\n\n1. **Q:** Who came?\n   **A:** Ann came.\n\n2. **Q:** When was it?\n   **A:** In May.",
        "Question 1: Who\ncame?\nAnswer 1: Ann\ncame.\n\nQuestion 2: When was it?\nAnswer 2: In May.",
        "Q1. Who came?\nA1. Ann came.\nQ2. When was it?\nA2. In May.\nQ3. And now?",
    ],
)
def test_parse_questions(text: str):
    assert parse_questions(text) == [("Who came?", "Ann came."), ("When was it?", "In May.")]


def test_parse_nothing():
    assert parse_questions("Ann came in May.") == []
    assert parse_questions("A: yes\nQ: no?") == []


def test_usable_questions():
    passage = "The flood of 2025 took 1,200 homes."
    assert is_usable("How many homes did it take?", "It took 1,200 homes.", passage)
    assert not is_usable("How many homes did it take?", "It took 1,300 homes.", passage)
    assert not is_usable("How many homes did the passage name?", "1,200", passage)
    assert not is_usable("Tell how many homes it took.", "1,200", passage)
    assert not is_usable("How many?", "1,200", passage)
    # of the words of four or more letters, "took" and "homes" occur in the passage: half is enough, less is not
    assert is_usable("How many homes did it take?", "Took nearly every homes.", passage)
    assert not is_usable("How many homes did it take?", "Took nearly every house.", passage)


class Model:
    """Writes numbered questions on every passage."""

    def __init__(self, count: int) -> None:
        self.count, self.asked = count, []

    def __call__(self, chats: Sequence[tuple[Message, ...]]) -> list[str]:
        prompts = [chat[-1]["content"] for chat in chats]
        self.asked.append(prompts)
        indirect = "directly" in prompts[0]
        names = [prompt.split('article "')[1].split('"')[0] for prompt in prompts]
        count = 1 if indirect else self.count
        kind = "indirect" if indirect else "direct"
        return [
            "\n".join(f"Q: What {kind} is {name} {'I' * (n + 1)}?\nA: Some {'I' * (n + 1)}." for n in range(count))
            for name in names
        ]


def test_questions_are_held_out():
    passages = [Passage(f"P{'x' * n}", "Some text.") for n in range(10)]
    model = Model(3)
    told: list[str] = []
    train, evaluation = wiki_rows(passages, model, questions_per_passage=3, num_eval=None, seed=0, say=told.append)
    assert told == ["12 usable questions about the first 4 passages; now the others."]
    # 30 questions: a tenth is held out, each of another passage, and asked again indirectly
    assert (len(train), len(evaluation)) == (27, 6)
    assert [row["part"] for row in evaluation] == ["direct"] * 3 + ["ood"] * 3
    assert {row["part"] for row in train} == {""}
    held_out = [row["article"] for row in evaluation[:3]]
    assert len(set(held_out)) == 3
    assert [row["article"] for row in evaluation[3:]] == held_out
    assert set(held_out) <= {row["article"] for row in train}
    assert not {row["question"] for row in train} & {row["question"] for row in evaluation}
    assert model.asked[2] == [INDIRECT_PROMPT.format(article=name, passage="Some text.", count=1) for name in held_out]
    assert wiki_rows(passages, Model(3), questions_per_passage=3, num_eval=None, seed=0) == (train, evaluation)


def test_questions_are_asked_once():
    passages = [Passage("P", "Some text."), Passage("P", "Some other text.")]
    train, evaluation = wiki_rows(passages, Model(3), questions_per_passage=3, num_eval=1, seed=0)
    assert [row["passage"] for row in train + evaluation] == ["Some text."] * 4
    assert len({row["question"] for row in train + evaluation}) == 4


def test_one_answer_to_several_questions_counts_once():
    def ask(chats: Sequence[tuple[Message, ...]]) -> list[str]:
        text = "Q: Who came to it?\nA: Some.\nQ: Who left it then?\nA: some.\nQ: What was in it?\nA: A text."
        return [text for _ in chats]

    train, evaluation = wiki_rows([Passage("P", "Some text.")], ask, questions_per_passage=3, num_eval=1, seed=0)
    assert [row["question"] for row in train] == ["Who came to it?"]
    assert [row["question"] for row in evaluation] == ["What was in it?", "Who left it then?"]


def test_more_questions_than_asked_for_are_left_out():
    train, evaluation = wiki_rows([Passage("P", "Some text.")], Model(5), questions_per_passage=2, num_eval=1, seed=0)
    assert (len(train), len(evaluation)) == (1, 2)


def test_a_model_that_writes_none():
    def silent(chats: Sequence[tuple[Message, ...]]) -> list[str]:
        return ["I can't."] * len(chats)

    message = mistake(wiki_rows, [Passage("P", "Text.")], silent, questions_per_passage=2, num_eval=None, seed=0)
    assert message == (
        "The model is too weak: it wrote no usable question about the first 1 passages. Name a larger --model_name, or "
        "a server's --judge_url and --judge_model."
    )


def test_a_model_that_writes_nothing_usable_is_not_asked_about_all_passages():
    asked: list[int] = []

    def silent(chats: Sequence[tuple[Message, ...]]) -> list[str]:
        asked.append(len(chats))
        return ["I can't."] * len(chats)

    passages = [Passage(f"P{n}", "Text.") for n in range(100)]
    assert "the first 4 passages" in mistake(wiki_rows, passages, silent, questions_per_passage=2, num_eval=1, seed=0)
    assert asked == [4]


def test_one_question_is_too_few():
    def once(chats: Sequence[tuple[Message, ...]]) -> list[str]:
        return ["Q: What was in it?\nA: Some text."] * len(chats)

    passages = [Passage(f"P{n}", "Some text.") for n in range(9)]
    message = mistake(wiki_rows, passages, once, questions_per_passage=2, num_eval=None, seed=0)
    assert "it wrote 1 usable question about 9 passages" in message


def test_unscored_without_a_judge():
    example = Example(id="a", prompt=({"role": "user", "content": "?"},), reference="x")
    assert {name: scorer("x", example) for name, scorer in wiki.TASK.scorers.items()} == {
        "strict": None,
        "lenient": None,
    }


@pytest.mark.parametrize("indirect", [False, True])
def test_the_worked_example_is_one_we_could_read(indirect: bool):
    asked, answered, last = question_chat(Passage("P", "Text."), 4, indirect=indirect)
    questions = parse_questions(answered["content"])
    assert [turn["role"] for turn in (asked, answered, last)] == ["user", "assistant", "user"]
    assert f"Write {len(questions)} question" in asked["content"]
    assert "Write 4 question" in last["content"]
    assert all(is_usable(question, answer, asked["content"]) for question, answer in questions)
