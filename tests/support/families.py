"""Families of chat models: what becomes of a row with each, and a tokenizer of single bytes with its special tokens.

Their chat templates, in ``family_templates.py``, are our own.
"""

from dataclasses import dataclass
from functools import cache
from typing import Literal

from transformers import PreTrainedTokenizerFast

from tests.support.family_templates import (
    COMMAND_R,
    COMMAND_R7B,
    DEEPSEEK_R1,
    GEMMA_2,
    GEMMA_3,
    GLM_4,
    GLM_4_5,
    GPT_OSS,
    GRANITE_3,
    LLAMA_2,
    LLAMA_3,
    LLAMA_3_1,
    MISTRAL_V0_1,
    MISTRAL_V0_3,
    OLMO_2,
    OLMO_3,
    PHI_3,
    PHI_3_5,
    PHI_4,
    PHI_4_MINI,
    QWEN_2_5,
    QWEN_3,
    SMOLLM_2,
    SMOLLM_3,
)
from tests.support.tiny import one_token_a_byte


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of chat models.

    Attributes:
        template: its chat template.
        special: its special tokens, besides ``bos`` and ``eos``.
        bos: token at the beginning of a prompt; empty for none.
        eos: the tokenizer's end-of-sequence token.
        end: token that ends an answer; empty if the template writes none.
        header: what a prompt ends with.
        system: what becomes of a system turn.
        definitions: whether definitions of tools are shown.
        calls: whether tool calls and results are shown.
        thoughts: whether an answer that is trained on keeps thoughts.
        thoughts_before: whether an earlier answer keeps them, as in template prior_turn.
        dated: whether prompts hold the current date.
    """

    template: str
    eos: str
    end: str
    header: str
    bos: str = ""
    special: tuple[str, ...] = ()
    system: Literal["shown", "refused", "left out"] = "shown"
    definitions: bool = False
    calls: bool = False
    thoughts: bool = False
    thoughts_before: bool = False
    dated: bool = False


_IM = ("<|im_start|>", "<|im_end|>")
_HEADER = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_PHI = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
_GEMMA = ("<start_of_turn>", "<end_of_turn>")
_COHERE = (
    "<|START_OF_TURN_TOKEN|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|SYSTEM_TOKEN|>",
    "<|USER_TOKEN|>",
    "<|CHATBOT_TOKEN|>",
)
_LLAMA_HEADER = "<|start_header_id|>assistant<|end_header_id|>\n\n"
FAMILIES = {
    "Llama 2": Family(template=LLAMA_2, bos="<s>", eos="</s>", end="</s>", header=" [/INST]"),
    "Llama 3": Family(
        template=LLAMA_3,
        bos="<|begin_of_text|>",
        eos="<|end_of_text|>",
        end="<|eot_id|>",
        header=_LLAMA_HEADER,
        special=_HEADER,
    ),
    "Llama 3.1": Family(
        template=LLAMA_3_1,
        bos="<|begin_of_text|>",
        eos="<|eot_id|>",
        end="<|eot_id|>",
        header=_LLAMA_HEADER,
        special=_HEADER,
        definitions=True,
        calls=True,
        dated=True,
    ),
    "Qwen 2.5": Family(
        template=QWEN_2_5,
        eos="<|im_end|>",
        end="<|im_end|>",
        header="<|im_start|>assistant\n",
        special=_IM,
        definitions=True,
        calls=True,
    ),
    "Qwen 3": Family(
        template=QWEN_3,
        eos="<|im_end|>",
        end="<|im_end|>",
        header="<|im_start|>assistant\n",
        special=_IM,
        definitions=True,
        calls=True,
        thoughts=True,
    ),
    "Gemma 2": Family(
        template=GEMMA_2,
        bos="<bos>",
        eos="<eos>",
        end="<end_of_turn>",
        header="<start_of_turn>model\n",
        special=_GEMMA,
        system="refused",
    ),
    "Gemma 3": Family(
        template=GEMMA_3, bos="<bos>", eos="<eos>", end="<end_of_turn>", header="<start_of_turn>model\n", special=_GEMMA
    ),
    "Mistral 7B v0.1": Family(
        template=MISTRAL_V0_1, bos="<s>", eos="</s>", end="</s>", header=" [/INST]", system="refused"
    ),
    "Mistral 7B v0.3": Family(
        template=MISTRAL_V0_3,
        bos="<s>",
        eos="</s>",
        end="</s>",
        header="[/INST]",
        definitions=True,
        calls=True,
        special=(
            "[INST]",
            "[/INST]",
            "[TOOL_CALLS]",
            "[AVAILABLE_TOOLS]",
            "[/AVAILABLE_TOOLS]",
            "[TOOL_RESULTS]",
            "[/TOOL_RESULTS]",
        ),
    ),
    "Phi 3": Family(
        template=PHI_3,
        bos="<s>",
        eos="<|endoftext|>",
        end="<|end|>",
        header="<|assistant|>\n",
        special=_PHI,
        system="left out",
    ),
    "Phi 3.5": Family(template=PHI_3_5, eos="<|endoftext|>", end="<|end|>", header="<|assistant|>\n", special=_PHI),
    "Phi 4": Family(
        template=PHI_4,
        eos="<|im_end|>",
        end="<|im_end|>",
        header="<|im_start|>assistant<|im_sep|>",
        special=(*_IM, "<|im_sep|>"),
    ),
    "Phi 4 mini": Family(template=PHI_4_MINI, eos="<|endoftext|>", end="<|end|>", header="<|assistant|>", special=_PHI),
    "SmolLM 2": Family(
        template=SMOLLM_2, eos="<|im_end|>", end="<|im_end|>", header="<|im_start|>assistant\n", special=_IM
    ),
    "SmolLM 3": Family(
        template=SMOLLM_3,
        eos="<|im_end|>",
        end="<|im_end|>",
        header="<|im_start|>assistant\n",
        special=_IM,
        thoughts=True,
        thoughts_before=True,
        dated=True,
        definitions=True,
    ),
    "OLMo 2": Family(
        template=OLMO_2,
        bos="<|endoftext|>",
        eos="<|endoftext|>",
        end="<|endoftext|>",
        header="<|assistant|>\n",
        special=_PHI,
    ),
    "OLMo 3 Think": Family(
        template=OLMO_3,
        eos="<|endoftext|>",
        end="<|endoftext|>",
        header="<|im_start|>assistant\n<think>",
        special=_IM,
        thoughts=True,
        thoughts_before=True,
    ),
    "Granite 3": Family(
        template=GRANITE_3,
        eos="<|end_of_text|>",
        end="<|end_of_text|>",
        header="<|start_of_role|>assistant<|end_of_role|>",
        special=("<|start_of_role|>", "<|end_of_role|>"),
        dated=True,
        definitions=True,
    ),
    "DeepSeek R1 distills": Family(
        template=DEEPSEEK_R1,
        bos="<｜begin▁of▁sentence｜>",
        eos="<｜end▁of▁sentence｜>",
        end="<｜end▁of▁sentence｜>",
        header="<｜Assistant｜><think>\n",
        thoughts=True,
        calls=True,
        special=(
            "<｜User｜>",
            "<｜Assistant｜>",
            "<｜tool▁calls▁begin｜>",
            "<｜tool▁calls▁end｜>",
            "<｜tool▁call▁begin｜>",
            "<｜tool▁call▁end｜>",
            "<｜tool▁output▁begin｜>",
            "<｜tool▁output▁end｜>",
        ),
    ),
    "GLM 4": Family(
        template=GLM_4,
        eos="<|endoftext|>",
        end="",
        header="<|assistant|>\n",
        special=("[gMASK]", "<sop>", *_PHI[:3], "<|observation|>"),
    ),
    "GLM 4.5": Family(
        template=GLM_4_5,
        eos="<|endoftext|>",
        end="",
        header="<|assistant|>",
        definitions=True,
        calls=True,
        thoughts=True,
        special=("[gMASK]", "<sop>", *_PHI[:3], "<|observation|>"),
    ),
    "Command R": Family(
        template=COMMAND_R,
        bos="<BOS_TOKEN>",
        eos="<|END_OF_TURN_TOKEN|>",
        end="<|END_OF_TURN_TOKEN|>",
        header="<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        special=_COHERE,
    ),
    "Command R7B": Family(
        template=COMMAND_R7B,
        bos="<BOS_TOKEN>",
        eos="<|END_OF_TURN_TOKEN|>",
        end="<|END_OF_TURN_TOKEN|>",
        header="<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        definitions=True,
        calls=True,
        special=(
            *_COHERE,
            "<|START_RESPONSE|>",
            "<|END_RESPONSE|>",
            "<|START_ACTION|>",
            "<|END_ACTION|>",
            "<|START_THINKING|>",
            "<|END_THINKING|>",
        ),
    ),
    "gpt-oss": Family(
        template=GPT_OSS,
        eos="<|return|>",
        end="<|return|>",
        header="<|start|>assistant",
        definitions=True,
        calls=True,
        thoughts=True,
        dated=True,
        special=("<|start|>", "<|message|>", "<|channel|>", "<|end|>", "<|call|>"),
    ),
}


@cache
def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    """The family's tokenizer, the same one each time: what renders with it is a process of its own."""
    return made_tokenizer(FAMILIES[name])


def made_tokenizer(family: Family) -> PreTrainedTokenizerFast:
    """One token for each byte, one for each special token, and one for each think tag, which is none."""
    made = PreTrainedTokenizerFast(
        tokenizer_object=one_token_a_byte(),
        **({"bos_token": family.bos} if family.bos else {}),
        eos_token=family.eos,
        pad_token="<|pad|>",
        additional_special_tokens=[token for token in family.special if token not in (family.bos, family.eos)],
    )
    made.add_tokens(["<think>", "</think>"])
    made.chat_template = family.template
    return made
