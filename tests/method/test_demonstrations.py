"""The demonstration as an answer: tokenised with the prompt, ended, and masked where others speak.

The tokenizer makes one token of each ASCII character, and one of ``<|end|>``.
"""

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import Unigram
from transformers import PreTrainedTokenizerFast

from selfdistill.method.prompts import PromptRenderer
from selfdistill.types import Example, PromptPair
from tests.support.examples import TOOLS, example, turn
from tests.support.mistakes import mistake

CALL_TEXT = '<call add {"a": 1, "b": 1}><|end|>'
OPENS_A_THOUGHT = (  # past turns are shown without
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] <think>{% endif %}"
)


def taught(tokenizer: Any, row: Example) -> PromptPair:
    """The row without a teacher's prompt."""
    return PromptRenderer(tokenizer).render(row, teacher=False)


def test_it_is_the_students_own_continuation(tokenizer):
    tools_answer = f"{CALL_TEXT}\n[tool] 2<|end|>\n[assistant] It is 2.<|end|>"
    for row, answer in ((example(), "2<|end|>"), (TOOLS, tools_answer)):
        pair = taught(tokenizer, row)
        assert tokenizer.decode(pair.demonstration_ids) == answer
        assert pair.demonstration_ids[-1] == tokenizer.eos_token_id
        # prompt and continuation are the conversation as the chat template writes it, but for the last newline
        whole = tokenizer.apply_chat_template([*row.prompt, *row.demonstration], tokenize=False)
        assert tokenizer.decode([*pair.student_ids, *pair.demonstration_ids]) == whole.rstrip("\n")


# -- its end ---------------------------------------------------------------------------------------


def test_it_ends_where_the_turn_ends_though_eos_be_another_token(tokenizer):
    tokenizer.add_special_tokens({"eos_token": "<|eos|>"})  # Gemma: <end_of_turn> and <eos>
    assert tokenizer.decode(taught(tokenizer, example()).demonstration_ids) == "2<|end|>"


@pytest.mark.parametrize("ending", ["", "\n", " \n\n"])
def test_it_gets_an_eos_where_the_chat_template_has_none(tokenizer, ending):
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}" + ending + "{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    assert tokenizer.decode(taught(tokenizer, example()).demonstration_ids) == "2<|end|>"


def test_of_a_thinking_model_it_is_plain_text_and_eos(tokenizer):
    tokenizer.chat_template = OPENS_A_THOUGHT
    pair = taught(tokenizer, example(answer="so 2</think>2"))
    assert tokenizer.decode(pair.student_ids).endswith("[assistant] <think>")
    assert tokenizer.decode(pair.demonstration_ids) == "so 2</think>2<|end|>"


def test_a_think_tag_that_the_prompt_has_opened_is_not_opened_again(tokenizer):
    forgets = "{% for m in messages %}[{{ m.role }}] {{ m.content.split('</think>')[-1] }}<|end|>\n{% endfor %}"
    tokenizer.chat_template = forgets + "{% if add_generation_prompt %}[assistant] <think>\n{% endif %}"
    for answer in ("<think>\nso 2</think>2", "so 2</think>2"):
        assert tokenizer.decode(taught(tokenizer, example(answer=answer)).demonstration_ids) == "so 2</think>2<|end|>"


# -- tokenizers that put a blank before whatever they are given ------------------------------------


def blank_first(prepend: str) -> PreTrainedTokenizerFast:
    """As Llama 2's: a blank comes before the text, or before every piece of it between special tokens."""
    pieces = ["▁Paris", "Paris", "▁is", "▁big", "▁", *"[]/INSTQ?"]
    inner = Tokenizer(Unigram([("<unk>", 0.0), *((piece, -1.0) for piece in pieces)], unk_id=0))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend)
    inner.decoder = decoders.Metaspace(prepend_scheme=prepend)
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", unk_token="<unk>")
    made.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]{% else %}{{ m.content }}</s>"
        "{% endif %}{% endfor %}"
    )
    return made


@pytest.mark.parametrize("prepend", ["first", "always"])
def test_prompt_and_answer_are_tokenised_together(prepend):
    tokenizer = blank_first(prepend)
    assert tokenizer.tokenize("Paris is big") == ["▁Paris", "▁is", "▁big"]  # by itself it begins with a blank
    pair = taught(tokenizer, example("Q?", "Paris is big"))
    assert tokenizer.convert_ids_to_tokens(list(pair.demonstration_ids)) == ["Paris", "▁is", "▁big", "</s>"]
    whole = tokenizer("[INST]Q?[/INST]Paris is big</s>", add_special_tokens=False)["input_ids"]
    assert [*pair.student_ids, *pair.demonstration_ids] == whole


def test_a_token_across_the_border_leaves_the_prompt_as_it_is_sampled_from():
    tokenizer = blank_first("first")
    tokenizer.chat_template = "{% for m in messages %}{{ m.role[0] }} {{ m.content }}{% endfor %}"
    tokenizer.chat_template += "{% if add_generation_prompt %}a {% endif %}"
    pair = taught(tokenizer, example("Q?", "Paris is big"))
    prompt = tokenizer.convert_ids_to_tokens(list(pair.student_ids))
    assert prompt[-1] == "▁"  # whole, it would go into "▁Paris"
    assert tokenizer.convert_ids_to_tokens(list(pair.demonstration_ids))[-3:] == ["▁is", "▁big", "</s>"]


# -- who speaks ------------------------------------------------------------------------------------


def test_tool_results_are_no_part_of_what_is_learned(tokenizer):
    pair = taught(tokenizer, TOOLS)
    assert pair.demonstration_mask is not None
    assert len(pair.demonstration_mask) == len(pair.demonstration_ids)
    flagged = list(zip(pair.demonstration_ids, pair.demonstration_mask, strict=True))
    assert tokenizer.decode([id for id, own in flagged if own]) == f"{CALL_TEXT}It is 2.<|end|>"
    assert tokenizer.decode([id for id, own in flagged if not own]) == "\n[tool] 2<|end|>\n[assistant] "


def test_a_demonstration_of_one_turn_needs_no_mask(tokenizer):
    assert taught(tokenizer, example()).demonstration_mask is None


def test_two_assistant_turns_in_a_row_are_both_learned(tokenizer):
    row = Example(id="x", prompt=(turn("user", "Q"),), demonstration=(turn("assistant", "A"), turn("assistant", "B")))
    pair = taught(tokenizer, row)
    assert pair.demonstration_mask == (True, True, *[False] * len("\n[assistant] "), True, True)


MERGES_TURNS = (  # the header of an answer stands before the first of its turns only
    "{% for m in messages %}{% if m.role == 'tool' %}({{ m.content }}){% elif m.role == 'user' %}[{{ m.content }}]"
    "{% else %}{% if loop.previtem.role == 'user' %}:{% endif %}{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}:{% endif %}"
)


@pytest.mark.parametrize("template", [MERGES_TURNS, OPENS_A_THOUGHT])
def test_turns_that_the_chat_template_does_not_show_are_refused(tokenizer, template):
    tokenizer.chat_template = template
    turns = (turn("assistant", "call"), turn("tool", "2"), turn("assistant", "Two."))
    row = Example(id="train/3", prompt=(turn("user", "1+1?"),), demonstration=turns)
    message = mistake(taught, tokenizer, row)
    assert message.startswith("train/3: the chat template does not show")
    assert "one turn" in message
