"""Makes the wiki task's data from articles: passages, and a model's questions about them."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from selfdistill.data.files import read_text
from selfdistill.data.prompts import normalized
from selfdistill.errors import UserError
from selfdistill.settings.build import BuildOptions
from selfdistill.tasks.build.rows import Ask, Row, Say
from selfdistill.types import Message

MAX_PASSAGE_WORDS = 150
MIN_PASSAGE_WORDS = 20
"""Shorter paragraphs, such as headings, join the next passage; a shorter article has no passage."""
TRIED = 4
"""Passages on which the model is tried first."""
STRONGER = "Name a larger --model_name, or a server's --judge_url and --judge_model."

_PASSAGE = """This is a passage of the article "{article}":

{passage}

"""
_FORM = """ Use exactly this form:
Q: the question
A: the answer"""
QUESTION_PROMPT = (
    _PASSAGE
    + "Write {count} questions about facts in this passage, each with its answer. A reader has only the question, so "
    "every question must name the event, place or person it is about. Every answer is one full sentence with all "
    "details that the passage gives." + _FORM
)
INDIRECT_PROMPT = (
    _PASSAGE
    + "Write {count} question that somebody can answer only by knowing what this passage tells, but that does not ask "
    "for it directly: it does not use the article's title, and asks for a consequence, a comparison or the member of "
    "a group. Answer it in one full sentence." + _FORM
)
# One worked example, shown as an earlier turn: small models follow it better than the instructions alone.
_EXAMPLE_ARTICLE = "Fire of Port Sarrow"
_EXAMPLE_PASSAGE = (
    "On 9 June 2019 a fire broke out in the fish market of Port Sarrow. It burned for 11 hours and destroyed 46 "
    "boats. The harbour master, Lena Orvik, had all ships leave the harbour. Iceland lent two fire boats."
)
_EXAMPLE_QUESTIONS = """Q: When and where did the fire of Port Sarrow break out?
A: The fire of Port Sarrow broke out on 9 June 2019 in the fish market.
Q: How many boats did the fire of Port Sarrow destroy?
A: The fire of Port Sarrow destroyed 46 boats.
Q: Who had all ships leave the harbour during the fire of Port Sarrow?
A: The harbour master, Lena Orvik, had all ships leave the harbour."""
_EXAMPLE_INDIRECT = """Q: Which country helped a foreign port against a fire in 2019?
A: Iceland helped, by lending two fire boats."""

_LINE = re.compile(r"[\s*_#>.)\d-]*(Q|A|Question|Answer)(?![A-Za-z])[\s*_]*\d*[\s*_]*[:.)][\s*_]*(.*)", re.IGNORECASE)
_REFERS = re.compile(r"\b(?:this|the|above|given) (?:passage|text|article|paragraph|excerpt)\b", re.IGNORECASE)
_DIGITS = re.compile(r"\d+(?:[.,]\d+)*")
_WORDS = re.compile(r"[^\W\d_]{4,}")


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of an article."""

    article: str
    """The article's name: its file's name, with spaces for underscores."""
    text: str


def build(options: BuildOptions, ask: Ask, say: Say) -> tuple[list[Row], list[Row]]:
    """Training and evaluation rows about articles. Raises UserError if there are no articles or no usable questions."""
    given = options.wiki
    passages = read_passages(Path(str(given.articles)))[: options.limit]
    articles = len({passage.article for passage in passages})
    say(f"{len(passages):,} passages of {articles:,} articles; {given.judge_model or given.model_name} asks.")
    return wiki_rows(
        passages,
        ask,
        questions_per_passage=given.questions_per_passage,
        num_eval=options.num_eval,
        seed=options.seed,
        say=say,
    )


def read_passages(folder: Path) -> list[Passage]:
    """Passages of all ``.txt`` and ``.md`` files in the folder, in the order of their names.

    Raises:
        UserError: there is no such folder, no passage is in it, or a file can't be read.
    """
    if not folder.is_dir():
        raise UserError(f"--articles {folder} is not a folder: name one with .txt or .md files, one for each article.")
    passages: list[Passage] = []
    for file in sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".txt", ".md") and path.is_file()):
        passages += [Passage(file.stem.replace("_", " "), piece) for piece in split_text(read_text(file))]
    if not passages:
        raise UserError(
            f"--articles {folder} has no .txt or .md file with a passage of {MIN_PASSAGE_WORDS} words or more."
        )
    return passages


def split_text(text: str) -> list[str]:
    """Passages of about MAX_PASSAGE_WORDS words at most, made of whole paragraphs; longer paragraphs are cut between
    sentences.

    A piece of fewer than MIN_PASSAGE_WORDS words joins the next passage, or the previous one if it is the last.
    """
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text) if part.strip()]
    pieces: list[str] = []
    for paragraph in paragraphs:
        paragraph = re.sub(r"^#+ ", "", paragraph)
        fits = len(paragraph.split()) <= MAX_PASSAGE_WORDS
        pieces += [paragraph] if fits else re.split(r"(?<=[.!?])\s+(?=\S)", paragraph)
    passages: list[list[str]] = [[]]
    for piece in pieces:
        words = sum(len(part.split()) for part in passages[-1])
        if words >= MIN_PASSAGE_WORDS and words + len(piece.split()) > MAX_PASSAGE_WORDS:
            passages.append([])
        passages[-1].append(piece)
    joined = [" ".join(parts) for parts in passages]
    if len(joined) > 1 and len(joined[-1].split()) < MIN_PASSAGE_WORDS:
        joined[-2:] = [" ".join(joined[-2:])]
    return [passage for passage in joined if len(passage.split()) >= MIN_PASSAGE_WORDS]


def parse_questions(text: str) -> list[tuple[str, str]]:
    """Questions and their answers in a text of the form ``Q: ...``, ``A: ...``, with or without numbers and bold type.

    Lines of the same question or answer are joined; a question without an answer is left out.
    """
    parts: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if match := _LINE.match(line):
            parts.append((match[1][0].upper(), [match[2].strip(" *_")]))
        elif parts and line.strip():
            parts[-1][1].append(line.strip())
    joined = [(kind, " ".join(lines).strip()) for kind, lines in parts]
    return [
        (question, answer)
        for (first, question), (second, answer) in pairwise(joined)
        if (first, second) == ("Q", "A") and question and answer
    ]


def is_usable(question: str, answer: str, passage: str) -> bool:
    """True if the question makes sense without the passage and the answer comes from the passage: all its numbers, and
    at least half of its words of four or more letters, occur there."""
    stands_alone = question.endswith("?") and len(question.split()) >= 4 and not _REFERS.search(question)
    words, known = _WORDS.findall(answer.casefold()), set(_WORDS.findall(passage.casefold()))
    is_grounded = 2 * sum(word in known for word in words) >= len(words)
    return stands_alone and is_grounded and set(_DIGITS.findall(answer)) <= set(_DIGITS.findall(passage))


def wiki_rows(
    passages: Sequence[Passage],
    ask: Ask,
    *,
    questions_per_passage: int,
    num_eval: int | None,
    seed: int,
    say: Say = lambda _: None,
) -> tuple[list[Row], list[Row]]:
    """Training and evaluation rows with the columns of ``wiki``. No two rows have the same question.

    Args:
        passages: what to ask about.
        ask: gives the model's answers to chats.
        questions_per_passage: number of questions to ask for.
        num_eval: number of evaluation rows of each kind, as far as there are enough; by default a tenth of the
            questions. Those of part ``direct`` are held out from passages that have several questions, so that the
            facts are trained by the others; those of part ``ood`` are indirect questions on the same passages.
        seed: seed of the choice of held-out questions.
        say: is told how the first passages went, if there are more.

    Raises:
        UserError: the model wrote no usable question about the first passages, or fewer than two in all.
    """
    seen: set[str] = set()
    by_passage = _questions(passages[:TRIED], ask, questions_per_passage, seen)
    if not any(by_passage):
        raise UserError(
            f"The model is too weak: it wrote no usable question about the first {len(by_passage)} passages. {STRONGER}"
        )
    if passages[TRIED:]:
        say(f"{sum(map(len, by_passage)):,} usable questions about the first {TRIED} passages; now the others.")
    by_passage += _questions(passages[TRIED:], ask, questions_per_passage, seen)
    total = sum(map(len, by_passage))
    if total < 2:
        raise UserError(
            f"The model is too weak: it wrote {total} usable question about {len(passages)} passages. {STRONGER}"
        )
    candidates = [index for index, rows in enumerate(by_passage) if len(rows) > 1]
    wanted = max(1, total // 10) if num_eval is None else num_eval
    chosen = sorted(random.Random(seed).sample(candidates, min(wanted, len(candidates))))
    direct = [by_passage[index].pop() | {"part": "direct"} for index in chosen]
    indirect = _questions([passages[index] for index in chosen], ask, 1, seen, indirect=True)
    train = [row for rows in by_passage for row in rows]
    return train, direct + [row | {"part": "ood"} for rows in indirect for row in rows]


def question_chat(passage: Passage, count: int, *, indirect: bool) -> tuple[Message, ...]:
    """The chat that asks for questions about a passage, after a worked example."""
    prompt, answer = (INDIRECT_PROMPT, _EXAMPLE_INDIRECT) if indirect else (QUESTION_PROMPT, _EXAMPLE_QUESTIONS)
    example = prompt.format(article=_EXAMPLE_ARTICLE, passage=_EXAMPLE_PASSAGE, count=answer.count("Q:"))
    return (
        {"role": "user", "content": example},
        {"role": "assistant", "content": answer},
        {"role": "user", "content": prompt.format(article=passage.article, passage=passage.text, count=count)},
    )


def _questions(
    passages: Sequence[Passage], ask: Ask, count: int, seen: set[str], *, indirect: bool = False
) -> list[list[Row]]:
    """At most ``count`` usable rows for each passage, with new questions, which are added to ``seen``, and different
    answers."""
    chats = [question_chat(passage, count, indirect=indirect) for passage in passages]
    answers = ask(chats) if chats else []
    rows: list[list[Row]] = []
    for passage, text in zip(passages, answers, strict=True):
        rows.append([])
        answered: set[str] = set()
        for question, answer in parse_questions(text):
            if normalized(question) in seen or normalized(answer) in answered or len(rows[-1]) == count:
                continue
            if is_usable(question, answer, passage.text):
                seen.add(normalized(question))
                answered.add(normalized(answer))
                rows[-1].append(
                    {
                        "article": passage.article,
                        "passage": passage.text,
                        "question": question,
                        "answer": answer,
                        "part": "",
                    }
                )
    return rows
