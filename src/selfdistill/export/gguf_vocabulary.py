"""A tokenizer in the terms of a GGUF file: its tokens, merges, the way it splits text, special ids, chat template.

Only tokenizers of byte-level BPE are known, those of Llama 3, Qwen, SmolLM, Mistral NeMo and their like. A program
that reads the file has the ways of splitting by name, so a tokenizer that splits otherwise can't be written.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from gguf import GGUFWriter, TokenType
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfdistill.errors import UserError
from selfdistill.models.tokens import end_of_turn_id, vocab_size

_CONTRACTED = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CASED = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
SPLITS = {
    rf"{_CONTRACTED}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}": "qwen2",
    rf"{_CONTRACTED}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}": "llama-bpe",
    (
        rf"{_CASED}*[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]+|{_CASED}+[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]*"
        r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ): "tekken",
}
"""llama.cpp's names for the regular expressions by which text is split before it is merged."""


def add_vocabulary(writer: GGUFWriter, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Adds the tokenizer and its chat template to a file.

    Raises:
        UserError: the tokenizer is of another kind, or splits text in a way that has no name in GGUF.
    """
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    described = {} if backend is None else json.loads(backend.to_str())
    inner = described.get("model", {})
    if inner.get("type") != "BPE" or inner.get("byte_fallback") or "ByteLevel" not in str(described["pre_tokenizer"]):
        raise UserError(
            "--to gguf knows tokenizers of byte-level BPE only (Llama 3, Qwen, SmolLM). Write this model with --to "
            "safetensors, and convert that by llama.cpp's convert_hf_to_gguf.py."
        )
    tokens, kinds = _tokens(inner["vocab"], described["added_tokens"], vocab_size(model))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(splitting(described))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in inner["merges"]])
    _add_special(writer, tokenizer)


def splitting(described: Mapping[str, Any]) -> str:
    """llama.cpp's name of the way in which a byte-level tokenizer, as its JSON describes it, splits text.

    Raises:
        UserError: there is none.
    """
    outer, normalizer = described["pre_tokenizer"], described["normalizer"]
    steps: Sequence[Any] = outer["pretokenizers"] if outer["type"] == "Sequence" else [outer]
    *before, last = steps
    if normalizer is None or normalizer["type"] == "NFC":  # what is typed is nearly always in that form
        if not described["model"]["merges"]:
            return "gpt-2"  # single bytes, however it is split
        if last["type"] == "ByteLevel" and not last["add_prefix_space"]:
            split = [step["pattern"].get("Regex") for step in before if step["type"] == "Split"]
            if len(before) == 1 and split and not last["use_regex"] and split[0] in SPLITS:
                return SPLITS[split[0]]
            digits = [step["individual_digits"] for step in before if step["type"] == "Digits"]
            if last["use_regex"] and digits == [True] * len(before) and len(before) < 2:
                return "smollm" if before else "gpt-2"
    raise UserError(
        "--to gguf: this tokenizer splits text in a way that we have no GGUF name for. Write --to safetensors, and "
        "convert that by llama.cpp's convert_hf_to_gguf.py."
    )


def _tokens(vocab: Mapping[str, int], added: Sequence[Any], size: int) -> tuple[list[str], list[TokenType]]:
    """Text and kind of every row of the embedding; rows that no token has are filled up."""
    tokens = [f"[PAD{id}]" for id in range(size)]
    kinds = [TokenType.UNUSED] * size
    named = [(id, token, TokenType.NORMAL) for token, id in vocab.items()]
    named += [
        (each["id"], each["content"], TokenType.CONTROL if each["special"] else TokenType.USER_DEFINED)
        for each in added
    ]
    for id, token, kind in named:
        if id < size:  # a padding token may have been added without a row in the embedding
            tokens[id], kinds[id] = token, kind
    return tokens, kinds


def _add_special(writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase) -> None:
    ids: Any = tokenizer("a").input_ids
    bos, eos, pad = (cast(int | None, getattr(tokenizer, f"{name}_token_id")) for name in ("bos", "eos", "pad"))
    turn = end_of_turn_id(tokenizer)
    if bos is not None:
        writer.add_bos_token_id(bos)
    if eos is not None:
        writer.add_eos_token_id(eos)
    if turn is not None and turn != eos:
        writer.add_eot_token_id(turn)
    if pad is not None:
        writer.add_pad_token_id(pad)
    writer.add_add_bos_token(bos is not None and ids[:1] == [bos])
    writer.add_add_space_prefix(False)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)
