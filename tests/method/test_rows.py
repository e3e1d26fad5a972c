"""Whatever rows a person gives become prompt pairs; what is no row is refused with a sentence.

The tokenizer makes one token of each ASCII character, and one of ``<|end|>``.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from datasets import Dataset, DatasetDict
from transformers import AutoConfig

from selfdistill.method.config import SDFTConfig
from selfdistill.method.prompts import PromptRenderer
from selfdistill.method.rows import anchor_pairs, as_examples, training_pairs
from selfdistill.method.trainer import SDFTTrainer
from selfdistill.settings.method import MethodConfig
from selfdistill.types import Example, PromptPair
from tests.support.examples import example
from tests.support.mistakes import mistake

ROW = {"prompt": "1+1?", "demonstration": "2"}
SPLITS = DatasetDict({"train": Dataset.from_list([ROW]), "test": Dataset.from_list([ROW])})
SHORT: dict[str, Any] = {"max_completion_length": 100}
ANCHORED: dict[str, Any] = {"anchor_share": 0.25}
CONTEXT = AutoConfig.for_model("llama", max_position_embeddings=400)


@pytest.fixture
def train(tokenizer) -> Callable[..., Sequence[PromptPair]]:
    def call(rows: Any, **settings: Any) -> Sequence[PromptPair]:
        config = MethodConfig(**SHORT | settings)
        return training_pairs(rows, config, tokenizer, CONTEXT)

    return call


@pytest.fixture
def anchor(tokenizer) -> Callable[..., Sequence[PromptPair]]:
    def call(rows: Any, **settings: Any) -> Sequence[PromptPair]:
        config = MethodConfig(**SHORT | ANCHORED | settings)
        return anchor_pairs(rows, config, tokenizer, CONTEXT)

    return call


# -- examples --------------------------------------------------------------------------------------


def test_rows_become_examples_and_examples_stay():
    assert as_examples([ROW], "train") == [example()]
    given = [example()]
    assert as_examples(iter(given), "train")[0] is given[0]
    assert "train_dataset row 1" in mistake(as_examples, [{"prompt": "1+1?"}], "train")
    assert "no rows" in mistake(as_examples, [], "train")


def test_rows_are_numbered_by_what_they_are_for():
    rows = [{"prompt": str(n), "demonstration": "x"} for n in range(3)]
    assert [each.id for each in as_examples(rows, "train")] == ["train/0", "train/1", "train/2"]
    assert [each.id for each in as_examples(rows, "anchor")] == ["anchor/0", "anchor/1", "anchor/2"]
    assert [each.id for each in as_examples([example(id="mine")], "train")] == ["mine"]


def test_without_demonstrations_none_is_needed_and_none_is_kept():
    assert as_examples([{"prompt": "1+1?"}], "anchor", demonstrations=False)[0].demonstration == ()
    for rows in ([ROW], [example()]):
        (found,) = as_examples(rows, "anchor", demonstrations=False)
        assert (found.prompt, found.demonstration) == (example().prompt, ())


def test_typed_parts_of_a_content_are_joined(tokenizer, train):
    def parts(*texts: str) -> list[dict[str, str]]:
        return [{"type": "text", "text": text} for text in texts]

    turns = [{"role": "user", "content": parts("He", "llo")}, {"role": "assistant", "content": parts("Hi")}]
    (pair,) = train([{"messages": turns}], method="sft")
    assert tokenizer.decode(pair.student_ids) == "[user] Hello<|end|>\n[assistant] "
    assert tokenizer.decode(pair.demonstration_ids) == "Hi<|end|>"


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (SPLITS, "holds 'train', which is no row"),
        (["1+1?"], "holds '1+1?', which is no row"),
        ([ROW, None], "holds None, which is no row"),
        ([example(), ROW], "mixes Examples with other rows"),
        ([PromptPair(example=example(), student_ids=(1,)), ROW], "Give rows of one form"),
        ([PromptPair(example=example(), student_ids=(1,)), example()], "Give all rows in one form"),
        ([{"texts": "a"}], "row 1 has columns [texts]"),
    ],
    ids=["splits", "texts", "none", "examples and dicts", "pairs and dicts", "pairs and examples", "other columns"],
)
def test_what_is_no_row_is_refused(train, anchor, rows, message):
    assert message in mistake(train, rows)
    assert message in mistake(anchor, rows)


# -- pairs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [[ROW], Dataset.from_list([ROW]), iter([ROW]), [example()]], ids=type)
def test_training_rows_of_any_form_are_rendered(tokenizer, train, rows):
    (pair,) = train(rows, template="prior_turn")
    assert pair == PromptRenderer(tokenizer, "prior_turn").render(example(), answer=False)


def test_sft_takes_a_row_whose_teachers_prompt_would_be_too_long(train):
    row = {"prompt": "p" * 150, "demonstration": "d" * 100}
    # prompt of 150 + 21 tokens and answer of 101 are within 400; shown to a teacher, they are over 400 - 120
    (pair,) = train([row], method="sft", max_completion_length=120)
    assert (len(pair.student_ids), len(pair.demonstration_ids)) == (171, 101)
    assert "the teacher prompt has" in mistake(train, [row], max_completion_length=120)


def test_rows_over_a_limit_are_refused_or_dropped(train):
    rows = [ROW, {"prompt": "p" * 300, "demonstration": "d"}]
    assert mistake(train, rows).startswith("train/1: the prompt has 321 tokens, the limit is 300;")
    assert [pair.example.id for pair in train(rows, overlong="drop")] == ["train/0"]


def test_pairs_are_taken_as_they_are(train, anchor):
    pairs = [PromptPair(example=example(), student_ids=(1,) * 1000)]
    assert train(pairs) == pairs
    assert anchor(pairs) == pairs


def test_only_methods_that_use_a_demonstration_need_one(train):
    for row in ({"prompt": "Hi"}, ROW):
        (pair,) = train([row], method="reinvoke")
        assert (pair.teacher_ids, pair.example.demonstration) == (None, ())  # the teacher reads what the student does
    for method in ("sdft", "offline", "sft", "dft", "cpt"):
        assert "has no demonstration" in mistake(train, [{"prompt": "Hi"}], method=method)


def test_an_example_without_a_demonstration_is_refused_where_the_method_needs_one(train):
    bare = Example(id="mine", prompt=example().prompt)
    for method in ("sdft", "offline", "sft", "dft", "cpt"):
        assert mistake(train, [example(), bare], method=method).startswith("mine has no demonstration")
    (pair,) = train([bare], method="reinvoke")
    assert pair.example == bare


@pytest.mark.parametrize("method", ["sdft", "sft"])
def test_a_token_that_the_model_does_not_know_is_named(tokenizer, method):
    """The model has an embedding for all ids but the last."""
    small = AutoConfig.for_model("llama", vocab_size=len(tokenizer) - 1, max_position_embeddings=400)
    config, last = MethodConfig(**SHORT, method=method), tokenizer.convert_ids_to_tokens(len(tokenizer) - 1)
    rows = [{"prompt": f"Say {last}", "demonstration": "x"}]
    assert f"train/0: token {last} has id" in mistake(training_pairs, rows, config, tokenizer, small)
    anchored = MethodConfig(**SHORT | ANCHORED, method=method)
    assert f"anchor/0: token {last}" in mistake(anchor_pairs, rows, anchored, tokenizer, small)


def test_anchors_are_prompts_that_both_roles_read(tokenizer, anchor):
    (pair,) = anchor([ROW], method="sft")
    assert tokenizer.decode(pair.student_ids) == "[user] 1+1?<|end|>\n[assistant] "
    assert (pair.teacher_ids, pair.demonstration_ids) == (None, ())
    assert pair.example == Example(id="anchor/0", prompt=example().prompt)


def test_anchors_that_are_not_asked_for_are_not_rendered(anchor):
    assert anchor([ROW], anchor_share=0.0) == []
    assert anchor([]) == []


def test_the_trainer_keeps_the_rows_ids(tiny_model, tokenizer, tmp_path):
    args = SDFTConfig(output_dir=str(tmp_path), max_completion_length=8, overlong="drop", max_prompt_length=50)
    rows = [ROW, {"prompt": "p" * 100, "demonstration": "d"}, ROW]
    model = tiny_model("llama", vocab_size=300, max_position_embeddings=512)
    trainer: Any = SDFTTrainer(model, args, rows, tokenizer)
    assert [pair.example.id for pair in trainer.train_dataset] == ["train/0", "train/2"]
    assert trainer.num_rows == 2
