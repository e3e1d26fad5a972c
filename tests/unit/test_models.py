"""Names to models and tokenizers, on models of a few thousand weights made here."""

import json
import os
import shutil
from typing import Any

import gguf
import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import errors as hub_errors
from tiny_chat import WORDS, mistake, tiny_model, tiny_tokenizer
from transformers import LlamaForCausalLM

from selfdistill.models import loading


@pytest.fixture
def folder(tmp_path):
    """A saved model with its tokenizer."""
    path = tmp_path / "base"
    tiny_model().save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def cpu(monkeypatch):
    """Expected devices and dtypes must not depend on the machine."""
    monkeypatch.setattr(loading, "default_device", lambda: torch.device("cpu"))


# --- models -------------------------------------------------------------------------------------


def test_folder(folder, cpu, capfd):
    model = loading.load_model(str(folder), dtype="bfloat16", attn_implementation="eager")
    assert model.dtype == torch.bfloat16
    assert model.device.type == "cpu"
    assert model.config._attn_implementation == "eager"
    assert not model.training
    assert capfd.readouterr().out == ""


def test_default_name_is_the_embedded_model(folder, monkeypatch):
    monkeypatch.setattr(loading, "embedded_model_path", lambda: folder)
    model = loading.load_model("smollm2-135m")
    assert model.config._name_or_path == "HuggingFaceTB/SmolLM2-135M-Instruct (Q4_1)"
    assert len(loading.load_tokenizer("smollm2-135m")) == len(WORDS)


def write_gguf(path) -> np.ndarray:
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


def test_gguf_becomes_a_plain_model(tmp_path, cpu, capfd):
    embedding = write_gguf(tmp_path / "small.gguf")
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
    again = loading.load_model(str(tmp_path / "saved"), dtype="float32")
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)


@pytest.fixture
def adapter(folder, tmp_path, cpu):
    """Folder of a LoRA adapter of ``folder``, with the adapted model's logits on the ids 5, 6, 7."""
    model = loading.lora(loading.load_model(str(folder), dtype="float32"), r=2, alpha=4, dropout=0.0)
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter", logits(model)


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model.eval()(input_ids=torch.tensor([[5, 6, 7]])).logits


def set_base(adapter, base: str | None) -> None:
    file = adapter / "adapter_config.json"
    config = {**json.loads(file.read_text()), "base_model_name_or_path": base}
    file.write_text(json.dumps(config))


def test_adapter_is_merged_into_its_base(adapter, folder, tmp_path):
    path, expected = adapter
    merged = loading.load_model(str(path), dtype="float32")
    assert isinstance(merged, LlamaForCausalLM)
    assert not any("lora" in name for name, _ in merged.named_parameters())
    torch.testing.assert_close(logits(merged), expected)
    base = loading.load_model(str(folder), dtype="float32")
    assert (logits(base) - expected).abs().max() > 0.01  # the adapter does something
    assert loading.load_tokenizer(str(path)).get_vocab() == tiny_tokenizer().get_vocab()
    merged.save_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(loading.load_model(str(tmp_path / "merged"), dtype="float32")), expected)


def test_adapter_finds_its_base_beside_it_and_after_a_move(adapter, tmp_path, monkeypatch):
    path, expected = adapter
    set_base(path, "../base")
    shutil.move(tmp_path, moved := tmp_path.parent / f"{tmp_path.name}-moved")
    torch.testing.assert_close(logits(loading.load_model(str(moved / "adapter"), dtype="float32")), expected)
    # An adapter of the embedded model names a folder in the cache of the machine that made it.
    set_base(moved / "adapter", f"C:\\Users\\ada\\{loading.EMBEDDED_FOLDER}")
    monkeypatch.setattr(loading, "embedded_model_path", lambda: moved / "base")
    torch.testing.assert_close(logits(loading.load_model(str(moved / "adapter"), dtype="float32")), expected)


@pytest.mark.parametrize("base", [None, "."])
def test_adapter_without_a_base(adapter, base):
    path, _ = adapter
    set_base(path, base)
    assert "base_model_name_or_path" in mistake(loading.load_model, str(path))
    assert "base_model_name_or_path" in mistake(loading.load_tokenizer, str(path))


# --- mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("load", [loading.load_model, loading.load_tokenizer])
@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("smollm2-135", "Did you mean smollm2-135m?"),
        ("SmolLM2-135M", "Did you mean smollm2-135m?"),
        ("my-modle", "Did you mean my-model?"),
        ("./my-modle", "Did you mean my-model?"),
        ("gpt2", "Try smollm2-135m."),
        ("a/b/c", "Try smollm2-135m."),
        ("missing.gguf", "Try smollm2-135m."),
    ],
)
def test_unknown_name(load, name, remedy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-model").mkdir()
    message = mistake(load, name)
    assert f"--model_name {name} is" in message
    assert message.endswith(remedy)


def test_folder_without_a_model(tmp_path):
    assert "has no config.json. Pass" in mistake(loading.load_model, str(tmp_path))
    for step, age in ((9, 0), (60, 100)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        file = tmp_path / f"checkpoint-{step}" / "config.json"
        file.write_text("{}")
        os.utime(file, (1000 + age, 1000 + age))
    assert f"Did you mean {tmp_path / 'checkpoint-60'}?" in mistake(loading.load_model, str(tmp_path))


def test_file_that_is_no_gguf(tmp_path):
    (tmp_path / "model.bin").write_text("")
    assert "not a .gguf" in mistake(loading.load_model, str(tmp_path / "model.bin"))


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
def test_broken_folder(folder, file, content, part):
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content)
    message = mistake(loading.load_model, str(folder))
    assert f"--model_name {folder}" in message
    assert part in message


def test_broken_gguf(tmp_path):
    (tmp_path / "small.gguf").write_bytes(b"junk" * 100)
    assert str(tmp_path / "small.gguf") in mistake(loading.load_model, str(tmp_path / "small.gguf"))


def test_bad_device_and_attention(folder, monkeypatch):
    assert mistake(loading.load_model, str(folder), device="zork").startswith("Device zork is not available")
    assert "zork" in mistake(loading.load_model, str(folder), attn_implementation="zork")


def test_hub_id_offline(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    message = mistake(loading.load_model, "no-such-owner/no-such-model")
    assert "--model_name no-such-owner/no-such-model" in message
    assert "HF_HUB_OFFLINE" in message


def hub_error(kind: type[Exception]) -> Exception:
    error = kind.__new__(kind)
    error.args = ("word " * 50,)
    return error


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        (hub_errors.GatedRepoError, "hf auth login"),
        (hub_errors.RepositoryNotFoundError, "Check the spelling"),
        (hub_errors.LocalEntryNotFoundError, "Check the network"),
        (hub_errors.RemoteEntryNotFoundError, "no config.json on the Hub"),
        (hub_errors.HfHubHTTPError, "can't be fetched"),
        (hub_errors.HFValidationError, "can't be fetched"),
    ],
)
@pytest.mark.parametrize("load", [loading.load_model, loading.load_tokenizer])
def test_hub_mistakes(load, kind, part, monkeypatch, tmp_path):
    def fail(*_, **__):
        raise hub_error(kind)

    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "first").mkdir(parents=True)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    message = mistake(load, "runs/frist")
    assert "--model_name runs/frist" in message
    assert part in message
    assert message.endswith(f"Did you mean {os.path.join('runs', 'first')}?")


# --- tokenizers ---------------------------------------------------------------------------------


def test_tokenizer_pads_left_with_eos(folder):
    tokenizer = loading.load_tokenizer(str(folder))
    assert tokenizer.padding_side == "left"
    assert tokenizer.pad_token_id == 2
    batch = tokenizer(["Hi", "Hi Hi"], padding=True, add_special_tokens=False)
    assert batch["input_ids"] == [[2, 5], [5, 5]]


def test_declared_pad_token_is_kept(tmp_path, folder):
    tiny_tokenizer(pad_token="<unk>").save_pretrained(folder)
    assert loading.load_tokenizer(str(folder)).pad_token_id == 0


def test_tokenizer_mistakes(folder):
    tiny_tokenizer(eos_token=None).save_pretrained(folder)
    assert "neither a pad nor" in mistake(loading.load_tokenizer, str(folder))
    for file in folder.glob("tokenizer*"):
        file.unlink()
    assert "tokenizer.json" in mistake(loading.load_tokenizer, str(folder))


def test_chat_template_is_required():
    loading.require_chat_template(tiny_tokenizer(), "some/model")
    message = mistake(loading.require_chat_template, tiny_tokenizer(None), "some/model")
    assert "--model_name some/model" in message
    assert "chat_template" in message


# --- the real one -------------------------------------------------------------------------------


@pytest.mark.model
def test_embedded_model(tmp_path):
    folder = loading.embedded_model_path()
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["dtype"] == "bfloat16"
    generation = json.loads((folder / "generation_config.json").read_text())
    assert (generation["eos_token_id"], generation["pad_token_id"]) == (2, 2)

    tokenizer = loading.load_tokenizer(loading.DEFAULT_MODEL)
    loading.require_chat_template(tokenizer, loading.DEFAULT_MODEL)
    assert tokenizer.model_max_length == 8192
    text = '<|im_start|>user\n  naïve 你好 12\n\n{"a": 1}<|im_end|>\n'
    ids = tokenizer(text).input_ids
    assert (ids[0], ids[-2]) == (1, 2)
    assert tokenizer.decode(ids) == text

    # in fp32: in bf16 the first two candidates are a tenth of a logit apart, and processors round differently
    model: Any = loading.load_model(loading.DEFAULT_MODEL, dtype="float32")
    assert loading.eos_token_ids(model, tokenizer) == {2}
    loading.check_head(model)
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
