"""Drawing tokens: both ways follow the distribution, the nucleus by hand, one stream of numbers for each row."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from selfdistill.method.rollout.engine import Sampling, row_seeds, with_seeds
from selfdistill.method.rollout.sampling import (
    BLOCK,
    by_blocks,
    by_cumulative_sum,
    cumulative_by_blocks,
    sample,
    uniforms,
)

CPU = torch.device("cpu")
WAYS: list[Any] = [by_cumulative_sum, by_blocks]
PLACES = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK - 1, 2 * BLOCK, 2 * BLOCK + 4]
"""Tokens at the borders of three blocks, the last of which is short."""


def spread() -> Tensor:
    """[V] probabilities: 1/36, 2/36, ... 8/36 at PLACES, 0 elsewhere."""
    probs = torch.zeros(2 * BLOCK + 6)
    probs[PLACES] = torch.arange(1, 9) / 36
    return probs


@pytest.mark.parametrize("way", WAYS)
def test_draws_follow_the_distribution(way: Any) -> None:
    count = 20_000
    drawn = torch.rand(count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tokens = torch.cat([way(spread().expand(1000, -1), numbers) for numbers in drawn.split(1000)])
    assert set(tokens.tolist()) == set(PLACES)
    observed = torch.bincount(tokens, minlength=len(spread()))[PLACES]
    expected = count * spread()[PLACES]
    chi_square = float(((observed - expected) ** 2 / expected).sum())
    assert chi_square < 24.3  # 7 degrees of freedom: exceeded once in a thousand


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("number", "place"),
    [
        pytest.param(0.0, 0, id="the least"),
        pytest.param(0.5 / 36, 0, id="inside the first"),
        pytest.param(1.5 / 36, 1, id="inside the second"),
        pytest.param(9.5 / 36, BLOCK, id="the first of the second block"),
        pytest.param(27.5 / 36, 2 * BLOCK, id="the first of the last block"),
        pytest.param(1 - 1e-7, 2 * BLOCK + 4, id="nearly the most"),
    ],
)
def test_the_token_whose_share_a_number_falls_into(way: Any, number: float, place: int) -> None:
    assert way(spread()[None], torch.tensor([number], dtype=torch.float64)).tolist() == [place]


@pytest.mark.parametrize("way", WAYS)
def test_a_token_without_probability_is_never_drawn(way: Any) -> None:
    """Not at either end, wherever the probability lies."""
    for place in (0, 3, BLOCK, 2 * BLOCK + 5):
        probs = torch.zeros(1, 2 * BLOCK + 6)
        probs[0, place] = 0.7  # not normalised: a nucleus is not, either
        for number in (0.0, 0.3, 1 - 2**-53):
            assert way(probs, torch.tensor([number], dtype=torch.float64)).tolist() == [place]


def test_a_number_that_was_rounded_up_to_1_draws_the_last_token() -> None:
    assert by_blocks(spread()[None], torch.tensor([1.0])).tolist() == [PLACES[-1]]


def test_both_ways_draw_the_same() -> None:
    generator = torch.Generator().manual_seed(1)
    probs = (torch.randn(500, 1300, generator=generator) * 3).softmax(-1)
    drawn = torch.rand(500, generator=generator, dtype=torch.float64)
    same = by_cumulative_sum(probs, drawn) == by_blocks(probs, drawn)
    assert same.float().mean() > 0.99  # but for numbers that lie next to a border, in fp32


# -- the nucleus, temperature, greedy decoding -----------------------------------------------------------


def draws(sampling: Sampling, *probs: float, count: int = 3000) -> tuple[Tensor, Tensor]:
    logits = torch.tensor([probs]).log().repeat(count, 1)
    numbers = torch.rand(count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return sample(logits, sampling, numbers)


def test_top_p_by_hand() -> None:
    # the smallest set that reaches 0.7 is the first two
    tokens, logprobs = draws(Sampling(max_new_tokens=1, top_p=0.7), 0.5, 0.3, 0.15, 0.05)
    assert set(tokens.tolist()) == {0, 1}
    assert (tokens == 0).float().mean() == pytest.approx(0.5 / 0.8, abs=0.05)
    assert sorted(set(logprobs.exp().tolist())) == pytest.approx([0.3, 0.5])  # before the cut
    tokens, _ = draws(Sampling(max_new_tokens=1, top_p=0.1), 0.5, 0.3, 0.15, 0.05)
    assert set(tokens.tolist()) == {0}


def test_temperature_by_hand() -> None:
    # at temperature 0.5 probabilities are squared: 0.64 to 0.04
    tokens, logprobs = draws(Sampling(max_new_tokens=1, temperature=0.5), 0.8, 0.2)
    assert (tokens == 0).float().mean() == pytest.approx(0.64 / 0.68, abs=0.02)
    assert float(logprobs[tokens == 0][0].exp()) == pytest.approx(0.64 / 0.68)


def test_greedy_decoding_draws_nothing() -> None:
    logits = torch.tensor([[0.1, 2.0, 1.0]])
    tokens, logprobs = sample(logits, Sampling(max_new_tokens=1, temperature=0), None)
    assert (tokens.tolist(), logprobs.tolist()) == ([1], [0.0])


# -- random numbers ----------------------------------------------------------------------------------


def test_each_row_has_a_stream_of_its_own() -> None:
    one, other = uniforms((7,), 5, CPU), uniforms((3, 7, 7), 9, CPU)
    assert one is not None
    assert other is not None
    assert torch.equal(one[0], other[1, :5])
    assert torch.equal(other[1], other[2])
    assert not torch.equal(other[0], other[1])
    assert uniforms(None, 5, CPU) is None
    assert uniforms((), 5, CPU).shape == (0, 5)  # type: ignore[union-attr]


class Watch(TorchDispatchMode):
    """Keeps the dtypes of what is computed off the CPU, and by which operators."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: set[torch.dtype] = set()
        self.operators: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor) and tensor.device.type != "cpu":
                self.dtypes.add(tensor.dtype)
                self.operators.add(str(func))
        return result


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_off_the_cpu_nothing_has_64_bits_and_torchs_cumulative_sums_are_not_used(top_p: float) -> None:
    """Some accelerators have no fp64, and CUDA no deterministic cumsum. The meta device stands for one."""
    device = torch.device("meta")
    sampling = Sampling(max_new_tokens=4, top_p=top_p, temperature=0.7)
    with Watch() as watch:
        drawn = uniforms((1, 2, 3), 4, device)
        assert drawn is not None
        tokens, logprobs = sample(torch.zeros(3, 1300, device=device), sampling, drawn[:, 0])
    assert tokens.dtype == torch.int64
    assert logprobs.dtype == torch.float32
    assert torch.float32 in watch.dtypes
    assert torch.float64 not in watch.dtypes
    assert not [name for name in watch.operators if "cumsum" in name]


def test_cumulative_sums_by_blocks_by_hand() -> None:
    values = torch.ones(2, 2 * BLOCK + 6)
    values[1] = 2.0
    sums = torch.arange(1, 2 * BLOCK + 7).float()
    assert torch.equal(cumulative_by_blocks(values), torch.stack([sums, 2 * sums]))


# -- seeds -------------------------------------------------------------------------------------------


def test_a_rows_seed_is_made_of_run_step_and_row_alone() -> None:
    both = row_seeds(42, 3, ["a", "b"])
    assert row_seeds(42, 3, ["b", "c", "a"])[::2] == both[::-1]
    assert len({*both, *row_seeds(42, 4, ["a", "b"]), *row_seeds(43, 3, ["a", "b"])}) == 6
    assert all(0 <= seed < 2**63 for seed in both)


def test_every_occurrence_of_a_row_has_its_own_seed() -> None:
    twice = row_seeds(42, 3, ["a", "b", "a"])
    assert twice[:2] == row_seeds(42, 3, ["a", "b"])
    assert len(set(twice)) == 3


def test_seeds_are_one_for_each_prompt() -> None:
    with pytest.raises(ValueError, match="2 seeds for 3 prompts"):
        with_seeds(Sampling(max_new_tokens=1, seeds=(1, 2)), 3)
    given = Sampling(max_new_tokens=1, seeds=(1, 2))
    assert with_seeds(given, 2) is given
    greedy = Sampling(max_new_tokens=1, temperature=0)
    assert with_seeds(greedy, 3) is greedy
    drawn = with_seeds(Sampling(max_new_tokens=1), 3).seeds
    assert drawn is not None
    assert len(set(drawn)) == 3


def test_a_completion_is_cut_where_the_context_ends() -> None:
    sampling = Sampling(max_new_tokens=10, context=16)
    assert [sampling.limit(length) for length in (1, 6, 7, 15, 16)] == [10, 10, 9, 1, 0]
    assert Sampling(max_new_tokens=10).limit(1000) == 10
