"""Models of a few thousand random weights and a tokenizer of single bytes, made in memory."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
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


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., PreTrainedModel]:
    """Builds a model: ``tiny_model("gemma2", final_logit_softcapping=3.0)``; same arguments, same weights."""

    def build(model_type: str = "llama", dtype: torch.dtype = torch.float32, **settings: Any) -> PreTrainedModel:
        torch.manual_seed(0)
        config = AutoConfig.for_model(model_type, **{**TINY, **settings})
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()

    return build


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, so that text of n ASCII characters has n tokens and ids decode to the very text.

    ``<|end|>`` ends a turn and is the EOS token; ``</think>`` is one token.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(BPE(vocab={character: id for id, character in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token="<|end|>",
        pad_token="<|pad|>",
        additional_special_tokens=["<think>", "</think>"],
    )
    made.chat_template = CHAT_TEMPLATE
    return made


@pytest.fixture
def real_data() -> Path:
    """The folder of real data: SELFDISTILL_DATA, or a ``shared/data`` beside the checkout."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SELFDISTILL_DATA") or beside)
    if not folder.is_dir():
        pytest.skip("no real data: name their folder with SELFDISTILL_DATA")
    return folder
