"""Names to models, configs and tokenizers, on models of a few thousand weights made here."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import huggingface_hub
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import T5Config, T5ForConditionalGeneration

from selfdistill.models import loading, places
from selfdistill.models.embedded import embedded_model_path
from selfdistill.models.output_head import check_head
from selfdistill.models.tokens import eos_token_ids
from selfdistill.settings.groups import DEFAULT_MODEL
from tests.support.mistakes import mistake
from tests.support.tiny import random_model
from tests.support.tiny_chat import WORDS, tiny_tokenizer

# -- models -------------------------------------------------------------------------------------------------------


def test_folder(folder: Path, on_cpu: None, capfd: pytest.CaptureFixture[str]):
    model = loading.load_model(str(folder), dtype="bfloat16", attn_implementation="eager")
    assert model.dtype == torch.bfloat16
    assert model.device.type == "cpu"
    assert model.config._attn_implementation == "eager"
    assert not model.training
    assert model.name_or_path == str(folder)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_file_that_may_not_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch, file: str):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != file)
    for load in (loading.load_model, loading.load_tokenizer, loading.load_config):
        assert mistake(load, str(folder)) == (
            f"--model_name {folder}: {folder / file} can't be read: permission denied. Change its rights."
        )


def test_default_name_is_the_embedded_model(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(places, "embedded_model_path", lambda: folder)
    model = loading.load_model("smollm2-135m")
    assert model.config._name_or_path == "HuggingFaceTB/SmolLM2-135M-Instruct (Q4_1)"
    assert len(loading.load_tokenizer("smollm2-135m")) == len(WORDS)


def write_gguf(path: Path) -> np.ndarray:
    """A one-layer Llama in Q8_0; returns its embedding as the file's blocks decode."""
    writer, rng, heads, width, inner = gguf.GGUFWriter(path, "llama"), np.random.default_rng(0), 2, 64, 64
    writer.add_name("A title")
    writer.add_context_length(32)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(32)
    q8 = gguf.GGMLQuantizationType.Q8_0
    embedding = np.zeros(0)
    square = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"), width)
    for name, rows in {"token_embd": 32, **{f"blk.0.{part}": rows for part, rows in square.items()}}.items():
        packed = gguf.quantize(rng.normal(size=(rows, width)).astype(np.float32), q8)
        writer.add_tensor(f"{name}.weight", packed, raw_dtype=q8)
        if name == "token_embd":
            embedding = gguf.dequantize(packed, q8)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(width, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return embedding


def test_gguf_becomes_a_plain_model(tmp_path: Path, on_cpu: None, capfd: pytest.CaptureFixture[str]):
    embedding = write_gguf(tmp_path / "small.gguf")
    assert loading.load_config(str(tmp_path / "small.gguf")).model_type == "llama"
    model: Any = loading.load_model(str(tmp_path / "small.gguf"), dtype="float32")
    np.testing.assert_array_equal(model.get_input_embeddings().weight.numpy(force=True), embedding)
    assert {type(part) for part in model.modules() if part._parameters} == {
        torch.nn.Embedding,
        torch.nn.Linear,
        type(model.model.norm),
    }
    assert capfd.readouterr().out == ""
    model.save_pretrained(tmp_path / "saved")
    saved = (tmp_path / "saved" / "config.json").read_text()
    assert "quantization_config" not in saved
    assert "A title" not in saved
    again: Any = loading.load_model(str(tmp_path / "saved"), dtype="float32")
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)


# -- folders that are broken --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "content", "part"),
    [
        ("config.json", "{", "valid JSON"),
        ("config.json", '{"model_type": "zork"}', "zork"),
        ("config.json", '{"model_type": "llama", "hidden_size": "wide"}', "hidden_size"),
        ("model.safetensors", "junk", "header"),
        ("model.safetensors", None, "no file named"),
    ],
)
def test_broken_folder(folder: Path, file: str, content: str | None, part: str):
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content)
    message = mistake(loading.load_model, str(folder))
    assert f"--model_name {folder}" in message
    assert part in message


def test_broken_gguf(tmp_path: Path):
    (tmp_path / "small.gguf").write_bytes(b"junk" * 100)
    assert str(tmp_path / "small.gguf") in mistake(loading.load_model, str(tmp_path / "small.gguf"))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


UP = "model.layers.0.mlp.up_proj.weight"


def test_a_missing_weight_is_named_and_not_made_up(folder: Path):
    change_weights(folder, lambda weights: {name: value for name, value in weights.items() if name != UP})
    message = mistake(loading.load_model, str(folder))
    assert message == f"--model_name {folder}: its files hold no weight {UP}. Copy the whole model again."


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_named(folder: Path, value: float):
    def spoil(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        weights[UP][-1, -1] = value
        return weights

    change_weights(folder, spoil)
    message = mistake(loading.load_model, str(folder))
    assert message.startswith(f"--model_name {folder}: {UP} holds numbers that are not finite.")


def test_weights_whose_names_have_a_wrong_prefix_are_missing(folder: Path):
    change_weights(folder, lambda weights: {f"wrapped.{name}": value for name, value in weights.items()})
    message = mistake(loading.load_model, str(folder))
    assert "hold no weight lm_head.weight (11 more are missing)" in message


def test_a_weight_of_another_shape_is_named_with_both(folder: Path):
    change_weights(folder, lambda weights: weights | {UP: torch.zeros(20, 16)})
    message = mistake(loading.load_model, str(folder))
    assert f"{UP} has the shape [20, 16] in its file, and [24, 16] by its config.json" in message


def test_a_config_with_another_vocabulary_than_the_weights(folder: Path):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"vocab_size": 300}))
    message = mistake(loading.load_model, str(folder))
    assert f"[{len(WORDS)}, 16] in its file, and [300, 16] by its config.json" in message


def test_a_tied_head_and_weights_too_many_are_no_mistake(tmp_path: Path):
    random_model(tie_word_embeddings=True).save_pretrained(tmp_path)
    change_weights(tmp_path, lambda weights: weights | {"value_head.weight": torch.zeros(1, 16)})
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    model: Any = loading.load_model(str(tmp_path))
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize("load", [loading.load_model, loading.load_config])
def test_what_is_no_causal_language_model_is_refused_in_one_line(load: Any, tmp_path: Path):
    config = T5Config(vocab_size=40, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    assert mistake(load, str(tmp_path)) == (
        f"--model_name {tmp_path} is of type t5, which is no causal language model. Take one such as Llama, Qwen or "
        "Gemma."
    )


def test_bad_device_and_attention(folder: Path):
    assert mistake(loading.load_model, str(folder), device="zork").startswith("Device zork is not available")
    assert "zork" in mistake(loading.load_model, str(folder), attn_implementation="zork")


# -- tokenizers ---------------------------------------------------------------------------------------------------


def test_tokenizer_pads_left_with_eos(folder: Path):
    tokenizer = loading.load_tokenizer(str(folder))
    assert tokenizer.padding_side == "left"
    assert tokenizer.pad_token_id == 2
    batch = tokenizer(["Hi", "Hi Hi"], padding=True, add_special_tokens=False)
    assert batch["input_ids"] == [[2, 5], [5, 5]]


def test_declared_pad_token_is_kept(folder: Path):
    tiny_tokenizer(pad_token="<unk>").save_pretrained(folder)
    assert loading.load_tokenizer(str(folder)).pad_token_id == 0


def test_tokenizer_mistakes(folder: Path):
    tiny_tokenizer(eos_token=None).save_pretrained(folder)
    assert "neither a pad nor" in mistake(loading.load_tokenizer, str(folder))
    for file in folder.glob("tokenizer*"):
        file.unlink()
    assert "tokenizer.json" in mistake(loading.load_tokenizer, str(folder))


def test_chat_template_is_required_and_the_advice_is_no_unknown_setting():
    loading.require_chat_template(tiny_tokenizer(), "some/model")
    message = mistake(loading.require_chat_template, tiny_tokenizer(None), "some/model")
    assert "--model_name some/model" in message
    assert "chat_template.jinja beside its tokenizer" in message
    assert "--set" not in message


def test_the_advice_works(folder: Path):
    """A file chat_template.jinja beside the tokenizer is its chat template."""
    tiny_tokenizer(None).save_pretrained(folder)
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    tokenizer = loading.load_tokenizer(str(folder))
    loading.require_chat_template(tokenizer, str(folder))
    assert tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False) == "Hi"


def test_quiet_libraries():
    logging = transformers.utils.logging
    level = logging.get_verbosity()
    try:
        loading.quiet_libraries()
        assert logging.get_verbosity() == 40  # logging.ERROR
        assert not logging.is_progress_bar_enabled()
        assert huggingface_hub.utils.are_progress_bars_disabled()
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()
        huggingface_hub.utils.enable_progress_bars()


# -- the real one -------------------------------------------------------------------------------------------------


@pytest.mark.model
def test_embedded_model(tmp_path: Path):
    folder = embedded_model_path()
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["dtype"] == "bfloat16"
    generation = json.loads((folder / "generation_config.json").read_text())
    assert (generation["eos_token_id"], generation["pad_token_id"]) == (2, 2)

    tokenizer = loading.load_tokenizer(DEFAULT_MODEL)
    loading.require_chat_template(tokenizer, DEFAULT_MODEL)
    assert tokenizer.model_max_length == 8192
    text = '<|im_start|>user\n  naïve 你好 12\n\n{"a": 1}<|im_end|>\n'
    ids = tokenizer(text).input_ids
    assert (ids[0], ids[-2]) == (1, 2)
    assert tokenizer.decode(ids) == text

    # in fp32: in bf16 the first two candidates are a tenth of a logit apart, and processors round differently
    model: Any = loading.load_model(DEFAULT_MODEL, dtype="float32")
    assert eos_token_ids(model, tokenizer) == {2}
    check_head(model)
    prompt: Any = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    output = model.generate(**prompt.to(model.device), max_new_tokens=16, do_sample=False)
    answer = tokenizer.decode(output[0, prompt["input_ids"].shape[1] :])
    assert answer == "The capital of France is Paris.<|im_end|>"
    model.save_pretrained(tmp_path)  # refused for a model that is still quantized
