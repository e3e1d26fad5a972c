"""Models of a few thousand random weights and a tokenizer of single bytes, made in memory."""

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

TINY: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.5,  # large, so that models with other weights or inputs clearly differ
}

CHAT_TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content or '' }}"
    "{% for call in m.tool_calls or [] %}<call {{ call.function.name }} {{ call.function.arguments | tojson }}>"
    "{% endfor %}<|end|>\n{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
)


def one_token_a_byte() -> Tokenizer:
    """A tokenizer with a token for each byte and no special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(BPE(vocab={character: id for id, character in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    return inner


def byte_tokenizer(template: str = CHAT_TEMPLATE) -> PreTrainedTokenizerFast:
    """One token for each byte, so that text of n ASCII characters has n tokens and ids decode to the very text.

    ``<|end|>`` ends a turn and is the EOS token; ``</think>`` is one token. 260 tokens in all.
    """
    made = PreTrainedTokenizerFast(
        tokenizer_object=one_token_a_byte(),
        eos_token="<|end|>",
        pad_token="<|pad|>",
        additional_special_tokens=["<think>", "</think>"],
    )
    made.chat_template = template
    return made


def random_model(model_type: str = "llama", dtype: torch.dtype = torch.float32, **settings: Any) -> PreTrainedModel:
    """``random_model("gemma2", final_logit_softcapping=3.0)``; same arguments, same weights."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **{**TINY, **settings})
    return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
