"""GGUF files: every family's weights come back, and what a reader needs to run them is in the file."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, TokenType
from tokenizers import Regex, Tokenizer, pre_tokenizers
from tokenizers.models import BPE
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from selfdistill.errors import UserError
from selfdistill.export.gguf_model import check_gguf, interleaved, read_gguf, write_gguf
from selfdistill.export.gguf_vocabulary import splitting
from selfdistill.models.embedded import load_gguf
from tests.support.tiny import byte_tokenizer, random_model

QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SIZES: dict[str, Any] = {
    "vocab_size": 264,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.3,
}
LLAMA3: dict[str, Any] = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"tie_word_embeddings": False}),
    "llama tied, with biases": ("llama", {"tie_word_embeddings": True, "attention_bias": True}),
    "llama 3.2": ("llama", {"rope_parameters": LLAMA3, "max_position_embeddings": 512}),
    "mistral": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
}


def made(family: str) -> PreTrainedModel:
    model_type, settings = FAMILIES[family]
    model = random_model(model_type, **{**SIZES, **settings})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name:  # otherwise all the same, and a mistake would not be seen
                parameter.copy_(torch.randn_like(parameter))
    return model


def written(model: PreTrainedModel, folder: Path, tokenizer: Any = None, **options: Any) -> Path:
    file = folder / "model.gguf"
    values: dict[str, Any] = {"name": "tiny", "dtype": torch.float32, "quantize": None, **options}
    write_gguf(model, tokenizer or byte_tokenizer(), file, **values)
    return file


def values(file: Path) -> dict[str, Any]:
    return {name: field.contents() for name, field in GGUFReader(file).fields.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_come_back_as_they_were(tmp_path: Path, family: str) -> None:
    model = made(family)
    back = read_gguf(written(model, tmp_path), model.config).state_dict()
    assert all(torch.equal(tensor, back[name]) for name, tensor in model.state_dict().items())


def test_the_file_alone_makes_the_model(tmp_path: Path) -> None:
    model = made("llama")
    loaded = load_gguf(written(model, tmp_path), torch.float32, {})
    ids = torch.arange(9)[None]
    with torch.no_grad():
        assert torch.allclose(loaded(input_ids=ids).logits, model(input_ids=ids).logits, atol=1e-5)


def test_rows_of_llama_alternate() -> None:
    """Two heads of four rows: the halves of a head, (0, 1) and (2, 3), lie next to each other."""
    assert interleaved(torch.arange(8), 2).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_what_a_reader_needs_is_there(tmp_path: Path) -> None:
    found = values(written(made("qwen3"), tmp_path))
    expected = {
        "general.architecture": "qwen3",
        "qwen3.block_count": 2,
        "qwen3.context_length": 32768,
        "qwen3.embedding_length": 32,
        "qwen3.feed_forward_length": 64,
        "qwen3.attention.head_count": 4,
        "qwen3.attention.head_count_kv": 2,
        "qwen3.attention.key_length": 8,
        "qwen3.attention.value_length": 8,
        "qwen3.rope.freq_base": 10000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.eos_token_id": 256,
        "tokenizer.ggml.padding_token_id": 257,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": byte_tokenizer().chat_template,
    }
    assert {name: found.get(name) for name in expected} == expected
    kinds, tokens = found["tokenizer.ggml.token_type"], found["tokenizer.ggml.tokens"]
    assert (tokens[256], kinds[256]) == ("<|end|>", TokenType.CONTROL)
    assert (tokens[263], kinds[263]) == ("[PAD263]", TokenType.UNUSED)  # the embedding has rows that no token has
    assert kinds[:256] == [TokenType.NORMAL] * 256


def test_an_end_of_turn_that_is_not_the_end_of_text_is_named(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = "<|pad|>"
    found = values(written(made("llama"), tmp_path, tokenizer))
    assert (found["tokenizer.ggml.eos_token_id"], found["tokenizer.ggml.eot_token_id"]) == (257, 256)


def test_llama_3s_frequencies_by_hand(tmp_path: Path) -> None:
    """Wavelengths 6.28, 167, 4443 and 118143 tokens: the first is shorter than 64 / 4 and stays, the others are longer
    than 64 / 1 and are 8 times as long."""
    tensors = {tensor.name: tensor.data for tensor in GGUFReader(written(made("llama 3.2"), tmp_path)).tensors}
    assert tensors["rope_freqs.weight"].tolist() == pytest.approx([1, 8, 8, 8])


@pytest.mark.parametrize(("kind", "error"), [("q8_0", 0.01), ("q5_1", 0.06), ("q4_0", 0.15)])
def test_quantized_weights_are_near_and_the_ends_have_8_bits(tmp_path: Path, kind: str, error: float) -> None:
    model = made("llama")
    file = written(model, tmp_path, quantize=kind, dtype=torch.bfloat16)
    types = {tensor.name: tensor.tensor_type for tensor in GGUFReader(file).tensors}
    assert types["token_embd.weight"] == types["output.weight"] == GGMLQuantizationType.Q8_0
    assert types["blk.1.ffn_down.weight"] == GGMLQuantizationType[kind.upper()]
    assert types["blk.1.attn_norm.weight"] == GGMLQuantizationType.F32
    back = read_gguf(file, model.config).state_dict()
    for name, tensor in model.state_dict().items():
        assert (tensor - back[name]).abs().max() <= error * tensor.abs().max(), name


def test_rows_that_no_block_fits_stay_in_16_bits(tmp_path: Path) -> None:
    file = written(random_model(vocab_size=264), tmp_path, quantize="q4_0")  # rows of 16 and 24
    types = {tensor.tensor_type for tensor in GGUFReader(file).tensors}
    assert types == {GGMLQuantizationType.F16, GGMLQuantizationType.F32}


@pytest.mark.parametrize(
    ("model_type", "settings", "words"),
    [
        ("gemma2", {}, "models of type gemma2"),
        ("mistral", {"sliding_window": 8}, "models of type mistral"),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "rope_type linear"),
    ],
)
def test_other_models_are_refused(model_type: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_gguf(random_model(model_type, **settings).config, None)


# -- llama-quantize ---------------------------------------------------------------------------------------------------


def program(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """A stand-in for llama-quantize, alone on PATH."""
    folder.mkdir()
    script = folder / "llama-quantize"
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/bin{os.pathsep}/usr/bin")


def test_k_quants_need_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="llama-quantize, which is not on PATH"):
        check_gguf(random_model().config, "q4_k_m")
    check_gguf(random_model().config, "q4_0")


def test_the_program_is_given_whole_weights_and_the_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "bin", monkeypatch, f'echo "$3" > {tmp_path}/said; cp "$1" "$2"')
    check_gguf(random_model().config, "q4_k_m")
    model = made("llama")
    file = written(model, tmp_path, quantize="q4_k_m")
    assert (tmp_path / "said").read_text() == "Q4_K_M\n"
    assert torch.equal(read_gguf(file, model.config).lm_head.weight, model.lm_head.weight)
    assert [path.name for path in tmp_path.glob("*.gguf")] == ["model.gguf"]


def test_what_the_program_complains_of_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "bin", monkeypatch, "echo 'no such type' >&2; exit 1")
    with pytest.raises(UserError, match="llama-quantize failed: no such type"):
        written(made("llama"), tmp_path, quantize="q4_k_m")


# -- tokenizers -------------------------------------------------------------------------------------------------------


def merging(pre_tokenizer: Any) -> PreTrainedTokenizerFast:
    """Byte-level BPE with the merges l+o and lo+w."""
    alphabet = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "lo", "low"]
    inner = Tokenizer(BPE({token: id for id, token in enumerate(alphabet)}, [("l", "o"), ("lo", "w")]))
    inner.pre_tokenizer = pre_tokenizer
    special: dict[str, Any] = {"bos_token": "<s>", "eos_token": "<|end|>", "additional_special_tokens": ["<t>"]}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **special)


def split_by(regex: str) -> Any:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(regex), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def test_text_becomes_the_same_tokens(tmp_path: Path) -> None:
    tokenizer = merging(pre_tokenizers.ByteLevel(add_prefix_space=False))
    written(made("qwen2"), tmp_path, tokenizer)
    back = AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf")
    for text in ("low lower 12", "Ünï\n\ncode, lowly"):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert back(text, add_special_tokens=False).input_ids == ids
    assert 257 in tokenizer("low").input_ids


LLAMA3_SPLIT = QWEN2.replace(r"\p{N}|", r"\p{N}{1,3}|")


@pytest.mark.parametrize(
    ("pre_tokenizer", "name"),
    [
        (pre_tokenizers.ByteLevel(add_prefix_space=False), "gpt-2"),
        (split_by(QWEN2), "qwen2"),
        (split_by(LLAMA3_SPLIT), "llama-bpe"),
        (
            pre_tokenizers.Sequence(
                [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
            ),
            "smollm",
        ),
    ],
)
def test_the_way_text_is_split_has_a_name(pre_tokenizer: Any, name: str) -> None:
    assert splitting(json.loads(merging(pre_tokenizer).backend_tokenizer.to_str())) == name


@pytest.mark.parametrize("pre_tokenizer", [split_by(r"\s+"), pre_tokenizers.ByteLevel(add_prefix_space=True)])
def test_another_way_is_refused(pre_tokenizer: Any) -> None:
    with pytest.raises(UserError, match="splits text in a way"):
        splitting(json.loads(merging(pre_tokenizer).backend_tokenizer.to_str()))


def test_a_tokenizer_of_another_kind_is_refused(tmp_path: Path) -> None:
    from tests.support.tiny_chat import tiny_tokenizer

    with pytest.raises(UserError, match="byte-level BPE only"):
        written(made("llama"), tmp_path, tiny_tokenizer())
