"""Attention by matrix products against torch's own, values and gradients, and inside whole models."""

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional
from transformers import PreTrainedModel

from selfdistill.models import attention
from selfdistill.models.attention import (
    NAME,
    fit_attention,
    grouped_attention,
    has_plain_attention,
    use_fast_attention,
)

TinyModel = Callable[..., PreTrainedModel]


def inputs(batch: int = 3, heads: int = 6, kv_heads: int = 2, length: int = 7) -> list[torch.Tensor]:
    torch.manual_seed(0)
    # as models give them: transposed views of [batch, length, heads, dim]
    made = [torch.randn(batch, length, n, 4, dtype=torch.float64).transpose(1, 2) for n in (heads, kv_heads, kv_heads)]
    return [x.detach().requires_grad_() for x in made]


@pytest.mark.parametrize("chunk", [1, 6 * 49, 2 * 6 * 49 + 5, 1 << 22])
@pytest.mark.parametrize("masked", [False, True])
def test_agrees_with_torch(monkeypatch: pytest.MonkeyPatch, chunk: int, masked: bool):
    monkeypatch.setattr(attention, "CHUNK_ELEMENTS", chunk)
    query, key, value = inputs()
    mask = None
    if masked:  # left padding of 0, 2 and 5 columns; padded rows see themselves
        causal = torch.ones(7, 7, dtype=torch.bool).tril()
        start = torch.tensor([0, 2, 5])[:, None, None, None]
        mask = (causal & (torch.arange(7) >= start)) | torch.eye(7, dtype=torch.bool)
    ours = grouped_attention(query, key, value, 0.3, mask)
    theirs = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=0.3, enable_gqa=True
    )
    torch.testing.assert_close(ours, theirs)
    weights = torch.randn_like(theirs)
    for a, b in zip(
        torch.autograd.grad((ours * weights).sum(), (query, key, value)),
        torch.autograd.grad((theirs * weights).sum(), (query, key, value)),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_gradcheck():
    query, key, value = inputs(batch=2, length=3)
    assert torch.autograd.gradcheck(lambda q, k, v: grouped_attention(q, k, v, 0.5), (query, key, value))


def test_one_position_attends_to_itself():
    query, key, value = inputs(batch=1, heads=2, kv_heads=1, length=1)
    torch.testing.assert_close(grouped_attention(query, key, value, 1.0), value.expand(1, 2, 1, 4))


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_models_give_the_same_hidden_states_padded_or_not(tiny_model: TinyModel, family: str):
    model = tiny_model(family)
    ids = torch.randint(3, 40, (4, 9))
    mask = (torch.arange(9) >= torch.tensor([0, 1, 4, 8])[:, None]).long()
    plain, padded = (model(input_ids=ids, attention_mask=m).logits for m in (None, mask))
    model.set_attn_implementation(NAME)
    torch.testing.assert_close(model(input_ids=ids).logits, plain)
    torch.testing.assert_close(model(input_ids=ids, attention_mask=mask).logits[mask.bool()], padded[mask.bool()])


def test_only_models_that_fit_are_switched(tiny_model: TinyModel):
    model = tiny_model("llama", dtype=torch.bfloat16)
    use_fast_attention(model)
    assert model.config._attn_implementation == NAME
    for family, settings in (("gemma2", {}), ("mistral", {"sliding_window": 4})):
        other = tiny_model(family, dtype=torch.bfloat16, **settings)
        use_fast_attention(other)
        assert other.config._attn_implementation != NAME
    assert not has_plain_attention(tiny_model("gemma2").config)
    exact = tiny_model("llama")  # fp32 stays with torch's kernel
    use_fast_attention(exact)
    assert exact.config._attn_implementation != NAME


def test_a_model_that_leaves_the_cpu_gets_torchs_attention_back(tiny_model: TinyModel):
    model = tiny_model("llama", dtype=torch.bfloat16)
    use_fast_attention(model)
    fit_attention(model)
    assert model.config._attn_implementation == NAME  # it is still on the CPU
    model.to("meta")  # pyright: ignore[reportArgumentType]
    fit_attention(model)
    assert model.config._attn_implementation == "sdpa"
