"""What ends a completion, dtypes, devices and adapters."""

import huggingface_hub
import pytest
import torch
import transformers
from peft import PeftModel
from tiny_chat import CHATML, mistake, tiny_model, tiny_tokenizer

from selfdistill.models import loading

# --- end of sequence ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (None, {2}),
        (CHATML, {2, 4}),
        # END is an added token but not a special one; the last word is unknown
        (CHATML.replace("<|im_end|>", "END"), {2}),
        (CHATML.replace("<|im_end|>", "unheard-of"), {2}),
        # nothing follows the answer
        ("{% for m in messages %}{{ m.role }} {{ m.content }}{% endfor %}", {2}),
        # a token that separates turns also stands before each answer, so it ends none
        (
            "{% for m in messages %}{{ m.role }} {{ m.content }} <|im_start|> {% endfor %}"
            "{% if add_generation_prompt %}<|im_start|> assistant {% endif %}",
            {2},
        ),
        # a template that refuses the conversation
        ("{{ raise_exception('no') }}", {2}),
        # a template that drops the assistant's answer
        ("{% for m in messages if m.role == 'user' %}{{ m.content }} <|im_end|>{% endfor %}", {2}),
    ],
)
def test_end_of_turn_token_of_the_template(template, expected):
    assert loading.eos_token_ids(tiny_model(), tiny_tokenizer(template)) == expected


def test_every_declared_end_counts_and_junk_does_not():
    model = tiny_model()
    model.generation_config.eos_token_id = [5, 8, 4000]
    model.config.eos_token_id = None
    assert loading.eos_token_ids(model, tiny_tokenizer(None, eos_token="<s>")) == {1, 5, 8}
    model.generation_config.eos_token_id = None
    model.config.eos_token_id = -1
    assert loading.eos_token_ids(model, tiny_tokenizer(None, eos_token=None)) == set()


def test_ends_of_an_adapted_model():
    adapted = loading.lora(tiny_model(), r=1, alpha=1, dropout=0.0)
    assert loading.eos_token_ids(adapted, tiny_tokenizer()) == {2, 4}


# --- dtype, device, adapters --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_named_dtype(name):
    assert loading.compute_dtype(name, torch.device("cpu")) == getattr(torch, name)


@pytest.mark.parametrize(
    ("units", "expected"),
    [
        ({"amx_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"architecture": "aarch64", "bf16": True}, torch.bfloat16),
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False}, torch.float32),
        ({"amx_tile": True}, torch.float32),
    ],
)
def test_auto_dtype_of_a_cpu(units, expected, monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units, raising=False)
    assert loading.compute_dtype("auto", torch.device("cpu")) == expected
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert loading.compute_dtype("auto", torch.device("cpu")) == torch.float32


@pytest.mark.parametrize("units", [True, False])
def test_auto_dtype_where_torch_lists_no_units(units, monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: units)
    expected = torch.bfloat16 if units else torch.float32
    assert loading.compute_dtype("auto", torch.device("cpu")) == expected


@pytest.mark.parametrize(("support", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_dtype_of_a_gpu(support, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: support)
    assert loading.compute_dtype("auto", torch.device("cuda")) == expected
    assert loading.compute_dtype("auto", torch.device("mps")) == torch.float32


def test_bad_dtype():
    message = mistake(loading.compute_dtype, "fp99", torch.device("cpu"))
    assert "fp99" in message
    assert "bfloat16" in message


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_default_device(cuda, mps, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert loading.default_device() == torch.device(expected)


def test_lora_weights_are_float32_on_any_base():
    adapted = loading.lora(tiny_model().bfloat16(), r=2, alpha=4, dropout=0.0)
    assert isinstance(adapted, PeftModel)
    trained = {name: weight for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert {weight.dtype for weight in trained.values()} == {torch.float32}
    assert len(trained) == 2 * 7  # A and B of q, k, v, o, gate, up, down; none at the head
    assert adapted.lm_head.weight.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("setting", "part"),
    [
        ({"r": 0}, "0"),
        ({"alpha": 0}, "alpha"),
        ({"dropout": 2.0}, "2.0"),
        ({"target_modules": ["zork"]}, "zork"),
        ({"target_modules": ["lm_head"]}, "head"),
    ],
)
def test_bad_lora_setting(setting, part):
    assert part in mistake(loading.lora, tiny_model(), **{"r": 2, "alpha": 4, "dropout": 0.0, **setting})


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
