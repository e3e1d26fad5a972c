"""Log-likelihoods against the model's own logits, one sequence at a time."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from selfdistill.evaluate.loglikelihood import encode_pair, loglikelihoods
from tests.support.mistakes import mistake

MakeModel = Callable[..., PreTrainedModel]
REQUESTS = [
    ("Question: x\nAnswer:", " yes"),
    ("Question: x\nAnswer:", " no"),
    ("The", " end of a long text"),
    ("abc", "d"),
]


def by_hand(model: Any, tokenizer: PreTrainedTokenizerFast, context: str, continuation: str) -> float:
    before, after = tokenizer.encode(context), tokenizer.encode(continuation)
    log_probs = model(input_ids=torch.tensor([before + after])).logits[0].log_softmax(-1)
    return sum(log_probs[len(before) + at - 1, token].item() for at, token in enumerate(after))


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_sums_in_order_whatever_the_batch(tiny_model: MakeModel, tokenizer: PreTrainedTokenizerFast, batch_size: int):
    model = tiny_model(vocab_size=len(tokenizer))
    expected = [by_hand(model, tokenizer, *request) for request in REQUESTS]
    done: list[int] = []
    found = loglikelihoods(model, tokenizer, REQUESTS, batch_size=batch_size, progress=done.append)
    assert found == pytest.approx(expected, rel=1e-4)
    assert sum(done) == len(REQUESTS)


def test_logit_transforms_count(tiny_model: MakeModel, tokenizer: PreTrainedTokenizerFast):
    model = tiny_model("gemma2", vocab_size=len(tokenizer), final_logit_softcapping=3.0)
    expected = [by_hand(model, tokenizer, *request) for request in REQUESTS]
    assert loglikelihoods(model, tokenizer, REQUESTS) == pytest.approx(expected, rel=1e-4)


def test_inputs_that_differ_in_their_last_token_only_go_through_the_model_once(
    tiny_model: MakeModel, tokenizer: PreTrainedTokenizerFast
):
    model = tiny_model(vocab_size=len(tokenizer))
    seen: list[torch.Size] = []
    body: Any = model.get_decoder()
    body.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs["input_ids"].shape), with_kwargs=True)
    loglikelihoods(model, tokenizer, [("Answer:", letter) for letter in "ABCD"])
    assert [tuple(shape) for shape in seen] == [(1, 7)]


def test_a_long_context_loses_its_beginning(tiny_model: MakeModel, tokenizer: PreTrainedTokenizerFast):
    model = tiny_model(vocab_size=len(tokenizer), max_position_embeddings=8)
    # 8 inputs predict the last token of 9: the context keeps its last 7
    assert loglikelihoods(model, tokenizer, [("0123456789abcdef", "xy")]) == pytest.approx(
        [by_hand(model, tokenizer, "9abcdef", "xy")], rel=1e-4
    )


def test_a_training_model_is_looked_at_without_dropout_and_left_in_training(
    tiny_model: MakeModel, tokenizer: PreTrainedTokenizerFast
):
    model = tiny_model(vocab_size=len(tokenizer), attention_dropout=0.5)
    expected = loglikelihoods(model, tokenizer, REQUESTS)
    model.train()
    assert loglikelihoods(model, tokenizer, REQUESTS) == pytest.approx(expected)
    assert model.training


def test_blanks_that_end_the_context_belong_to_the_continuation(tokenizer: PreTrainedTokenizerFast):
    context, continuation = encode_pair(tokenizer, "ab  ", "c")
    assert tokenizer.decode(context) == "ab"
    assert tokenizer.decode(continuation) == "  c"


def test_a_context_of_blanks_belongs_to_the_continuation(tokenizer: PreTrainedTokenizerFast):
    context, continuation = encode_pair(tokenizer, "  ", "c")
    assert context == [tokenizer.eos_token_id]
    assert tokenizer.decode(continuation) == "  c"


def test_a_choice_longer_than_the_context_is_refused(tiny_model: MakeModel, tokenizer: PreTrainedTokenizerFast):
    model = tiny_model(vocab_size=len(tokenizer), max_position_embeddings=8)
    said = mistake(loglikelihoods, model, tokenizer, [("a", "123456789")])
    assert said.startswith("The choice '123456789' has 9 tokens, the model reads 8.")


def test_an_empty_context_is_the_start_token(tokenizer: PreTrainedTokenizerFast):
    context, continuation = encode_pair(tokenizer, "", "c")
    assert context == [tokenizer.eos_token_id]  # this tokenizer has no BOS
    assert tokenizer.decode(continuation) == "c"
