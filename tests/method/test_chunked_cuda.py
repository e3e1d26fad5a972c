"""The loss on a CUDA device, as far as it can be seen without one: which products it asks for, and how large."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from selfdistill.method import chunked, memory_parts
from selfdistill.method.chunked import limits_on
from selfdistill.method.divergence import chunked_divergence, chunked_logprobs
from selfdistill.settings.method import MethodConfig
from tests.support.dense_oracle import make_case, oracle, with_gradients


class Products(TorchDispatchMode):
    """Collects name, result's shape and result's dtype of every matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[int, ...], torch.dtype]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if (name := str(func)).startswith(("aten.mm", "aten.addmm")):
            self.found.append((name.removeprefix("aten."), tuple(result.shape), result.dtype))
        return result


@pytest.fixture
def on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every matrix is taken for one on CUDA, and torch for one that has its products."""
    monkeypatch.setattr(chunked, "_multiplies_to_fp32", lambda matrix: matrix.dtype == torch.bfloat16)


def meta(rows: int, columns: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(rows, columns, dtype=dtype, device="meta", requires_grad=True)


# -- which products ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.usefixtures("on_cuda")
def test_logits_and_the_heads_gradient_are_made_in_fp32(weighted: bool) -> None:
    """On the meta device, whose kernels check the arguments of torch's own operators."""
    hidden, head = meta(600, 8), meta(300_000, 8)
    weights = torch.empty(600, device="meta") if weighted else None
    with Products() as products:
        chunked_divergence(hidden, head, meta(600, 8), meta(300_000, 8), weights=weights).sum().backward()
    chunks = [
        [
            ("mm.dtype", (rows, 300_000), torch.float32),  # the student's logits
            ("mm.dtype", (rows, 300_000), torch.float32),  # the teacher's
            ("mm.default", (rows, 8), torch.bfloat16),  # the gradient of the hidden states
            ("addmm.dtype_out", (300_000, 8), torch.float32),  # that of the head, whole
        ]
        for rows in (512, 88)
    ]
    expected = [product for chunk in chunks for product in chunk]
    if not weighted:  # the values come first, and the logits once more in the backward pass
        expected = [product for chunk in chunks for product in chunk[:2]] + expected
    assert products.found == expected
    assert hidden.grad is not None
    assert head.grad is not None
    assert (hidden.grad.dtype, head.grad.dtype) == (torch.bfloat16, torch.bfloat16)


@pytest.mark.parametrize(
    ("dtype", "cuda", "new", "expected"),
    [
        (torch.bfloat16, True, True, True),
        (torch.float16, True, True, True),
        (torch.float32, True, True, False),  # fp32 as it is
        (torch.float64, True, True, False),
        (torch.bfloat16, False, True, False),  # no other device has these operators
        (torch.bfloat16, True, False, False),
    ],
)
def test_where_products_are_asked_for_in_fp32(
    dtype: torch.dtype, cuda: bool, new: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Matrix:
        is_cuda = cuda

    Matrix.dtype = dtype  # type: ignore[attr-defined]
    monkeypatch.setattr(chunked, "FP32_PRODUCTS", new)
    assert chunked._multiplies_to_fp32(Matrix()) == expected  # type: ignore[arg-type]


@pytest.mark.usefixtures("on_cuda")
def test_fp32_products_of_bf16_keep_what_rounding_would_lose(monkeypatch: pytest.MonkeyPatch) -> None:
    """With torch's operators replaced by their definition. bf16 has 8 bits: 257 would be rounded to 256, and a logit of
    257 be as likely as one of 256."""

    def product(a: Tensor, b: Tensor, out_dtype: torch.dtype) -> Tensor:
        assert out_dtype == torch.float32
        return (a.double() @ b.double()).float()

    def added(total: Tensor, a: Tensor, b: Tensor, out_dtype: torch.dtype, out: Tensor) -> Tensor:
        return out.copy_(total + product(a, b, out_dtype))

    monkeypatch.setattr(torch, "mm", product)
    monkeypatch.setattr(torch, "addmm", added)
    hidden = torch.tensor([[1.0, 1.0]], dtype=torch.bfloat16)
    head = torch.tensor([[256.0, 1.0], [256.0, 0.0]], dtype=torch.bfloat16)  # logits 257 and 256
    found = chunked_logprobs(hidden, head, torch.tensor([0]))
    assert found.item() == pytest.approx(-math.log(1 + 1 / math.e), abs=1e-4)
    case = make_case(tokens=9, vocabulary=13, spread=2.0).to(torch.bfloat16)
    for weights in (None, torch.linspace(0.1, 2, 9)):
        scale = torch.ones(9) if weights is None else weights
        ones = torch.ones(9)
        ours = with_gradients(lambda c, w=weights: chunked_divergence(*c.tensors, chunk_size=4, weights=w), case, ones)
        dense = with_gradients(lambda c, s=scale: oracle(c) * s, case.to(torch.float64), ones.double())
        torch.testing.assert_close(ours[0], dense[0].float(), rtol=1e-5, atol=1e-6)
        for mine, exact in zip(ours[1:], dense[1:], strict=True):  # rounded to bf16 at the end
            torch.testing.assert_close(mine.double(), exact, rtol=1e-2, atol=1e-2)


# -- how large ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "vocabulary", "rows"),
    [("cuda", 152_064, 512), ("cuda", 49_152, 1365), ("cpu", 152_064, 64), ("cpu", 49_152, 170), ("mps", 49_152, 1365)],
)
def test_rows_in_a_chunk(device: str, vocabulary: int, rows: int) -> None:
    assert limits_on(device).rows(vocabulary) == rows  # 2^26 / 49,152 = 1365.3; 2^23 / 49,152 = 170.7


def test_the_gradient_of_a_head_is_made_in_tiles_on_a_cpu_only() -> None:
    assert limits_on("cuda").tile(152_064 * 3584) == 152_064 * 3584
    assert limits_on("cpu").tile(152_064 * 3584) == 2**23
    assert limits_on("cpu").tile(1000) == 1000


@pytest.mark.parametrize(
    ("on_cpu", "tokens", "head_trained", "expected"),
    [
        # 24 bytes a logit: 64 rows of 200,000 are more than 2^23; the head: 4 * 800,000 and a tile of all of it
        (True, 10_000, True, 24 * 64 * 200_000 + 4 * 800_000 + 2 * 800_000),
        (False, 10_000, True, 24 * 512 * 200_000 + 4 * 800_000 + 2 * 800_000),
        (False, 100, True, 24 * 100 * 200_000 + 4 * 800_000 + 2 * 800_000),  # a chunk has no more rows than there are
        (False, 10_000, False, 24 * 512 * 200_000),
    ],
)
def test_the_estimate_knows_the_chunks_of_the_device(
    on_cpu: bool, tokens: int, head_trained: bool, expected: int
) -> None:
    class Text:
        vocab_size, hidden_size = 200_000, 4

    found = memory_parts.loss_bytes(Text, MethodConfig(), tokens, 2, head_trained=head_trained, on_cpu=on_cpu)
    assert found == expected
