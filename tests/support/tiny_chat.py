"""A model of a few thousand weights, and its tokenizer with a chat template."""

from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
WORDS = [*SPECIAL, "Hi", "zq7mark", "user", "assistant", "END"]
CHATML = (
    "{% for m in messages %}<|im_start|> {{ m.role }} {{ m.content }} <|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)


def tiny_model() -> LlamaForCausalLM:
    """One layer; the same weights each time. Its end-of-sequence id is 2, that of ``</s>``."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config)


def tiny_tokenizer(template: str | None = CHATML, **special: Any) -> PreTrainedTokenizerFast:
    """One token for each of WORDS; ``special`` are tokens by role, such as ``eos_token``. It has no padding token."""
    inner = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token="<unk>",
        additional_special_tokens=SPECIAL[3:],
        **{"bos_token": "<s>", "eos_token": "</s>", **special},
    )
    tokenizer.add_tokens(["END"])
    tokenizer.chat_template = template
    return tokenizer
