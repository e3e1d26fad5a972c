"""What a run records of its rollouts."""

import pytest
from transformers import PreTrainedTokenizerFast

from selfdistill.method.run_log import token_texts


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        pytest.param("ab c", ["a", "b", " ", "c"], id="one token a byte"),
        pytest.param("é!", ["", "é", "!"], id="a character of two tokens belongs to the last"),
        pytest.param("🦊", ["", "", "", "🦊"], id="a character of four"),
        pytest.param("a<|end|>", ["a", "<|end|>"], id="special tokens are shown"),
        pytest.param("", [], id="empty"),
    ],
)
def test_token_texts(tokenizer: PreTrainedTokenizerFast, text: str, tokens: list[str]) -> None:
    assert token_texts(tokenizer, tokenizer(text)["input_ids"]) == tokens


def test_a_character_cut_in_the_middle_is_shown_as_such(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer("aé")["input_ids"][:-1]
    assert token_texts(tokenizer, ids) == ["a", "\N{REPLACEMENT CHARACTER}"]
