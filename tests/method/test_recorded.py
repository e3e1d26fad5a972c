"""The loop for a GPU gives what the loop for a CPU gives, also when its steps are only replayed."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from selfdistill.method.rollout import recorded
from selfdistill.method.rollout.decoding import State
from selfdistill.method.rollout.engine import Sampling
from selfdistill.method.rollout.own import OwnEngine
from selfdistill.method.rollout.sampling import by_blocks, cumulative_by_blocks
from selfdistill.models.adapters import lora
from selfdistill.types import Rollout

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14, 15], [16, 17], [18, 19, 20, 21]]
GREEDY = Sampling(max_new_tokens=30, temperature=0, logprobs=True)
SAMPLED = Sampling(max_new_tokens=30, temperature=1.5, logprobs=True, seeds=(1, 2, 3, 4, 5))
NUCLEUS = Sampling(max_new_tokens=30, temperature=1.2, top_p=0.8, logprobs=True, seeds=(1, 2, 3, 4, 5))


class Plain:
    """Records nothing. Keeps the steps, with the number of their rows and columns."""

    def __init__(self) -> None:
        self.steps: list[Any] = []
        self.sizes: list[tuple[int, int]] = []
        self.forgotten = 0

    def record(self, step: Any) -> Callable[[], None]:
        self.steps.append(step)
        self.sizes.append((len(step.tokens), step.columns))
        return step

    def forget(self) -> None:
        self.forgotten += 1


class Tape(TorchDispatchMode):
    """What a step does, operator by operator."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal.default")
    """Operators whose result has to reach the host, or whose shape depends on values: no CUDA graph can have them."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert not any(f"::{name}" in func.name() for name in self.WAITS), func
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, tensors(result)))
        return result

    def replay(self) -> None:
        for func, args, kwargs, results in self.calls:
            for old, new in zip(results, tensors(func(*args, **kwargs)), strict=True):
                if old.data_ptr() != new.data_ptr():  # views and what is changed in place are there already
                    old.copy_(new)


class FakeGraphs(Plain):
    """Like CUDA graphs: a step's Python runs once, then its operators run again on the same tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.replays: list[int] = []

    def record(self, step: Any) -> Callable[[], None]:
        super().record(step)
        held = [tensor for each in fields(step) for tensor in tensors(getattr(step, each.name))]
        before = [tensor.clone() for tensor in held]
        with Tape() as tape:
            step()
        for tensor, was in zip(held, before, strict=True):
            tensor.copy_(was)
        self.replays.append(0)

        def replay() -> None:
            self.replays[-1] += 1
            tape.replay()

        return replay


def tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [each for each in value if isinstance(each, Tensor)] if isinstance(value, list | tuple) else []


SHORT = {"SEGMENT": 5, "ALIGNED": 4, "FEWEST_REPLAYS": 2, "CHECK_EVERY": 3}


@pytest.fixture
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SHORT.items():
        monkeypatch.setattr(recorded, name, value)


@pytest.fixture(params=[False, True], ids=["one segment", "short segments"])
def segments(request: pytest.FixtureRequest) -> None:
    if request.param:
        request.getfixturevalue("short_segments")


def both(
    model: Any, recorder: Any, sampling: Sampling, eos: set[int], batch_size: int = 64
) -> tuple[list[Rollout], list[Rollout]]:
    """Completions by the loop of recorded steps and by the other one."""
    ours = OwnEngine(model, eos, 0, batch_size, recorder).generate(PROMPTS, sampling)
    return ours, OwnEngine(model, eos, 0, batch_size).generate(PROMPTS, sampling)


def assert_same(ours: list[Rollout], expected: list[Rollout]) -> None:
    assert [(each.completion_ids, each.finish_reason) for each in ours] == [
        (each.completion_ids, each.finish_reason) for each in expected
    ]
    for one, other in zip(ours, expected, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


# -- the same completions ----------------------------------------------------------------------------


@pytest.mark.parametrize("recorder", [Plain, FakeGraphs])
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED, NUCLEUS], ids=["greedy", "sampled", "top_p"])
@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3"])
def test_completions_are_those_of_the_other_loop(
    tiny_model: Any, segments: None, model_type: str, sampling: Sampling, recorder: Any
) -> None:
    model = tiny_model(model_type)
    free = OwnEngine(model, (), 0).generate(PROMPTS, sampling)
    used = recorder()
    assert_same(OwnEngine(model, (), 0, recorder=used).generate(PROMPTS, sampling), free)
    assert used.steps
    eos = {free[0].completion_ids[3], free[2].completion_ids[11]}
    ours, expected = both(model, recorder(), sampling, eos)
    assert_same(ours, expected)
    assert len({len(each.completion_ids) for each in expected}) > 1


@pytest.mark.parametrize("recorder", [Plain, FakeGraphs])
@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_every_batch_is_recorded_for_itself(tiny_model: Any, segments: None, batch_size: int, recorder: Any) -> None:
    assert_same(*both(tiny_model(), recorder(), SAMPLED, {2}, batch_size))


@pytest.mark.parametrize("recorder", [Plain, FakeGraphs])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adapters_count(tiny_model: Any, segments: None, recorder: Any, dtype: torch.dtype) -> None:
    model: Any = lora(tiny_model(dtype=dtype), r=2, alpha=2, dropout=0.0)
    plain, _ = both(model, recorder(), GREEDY, {2})
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    ours, expected = both(model, recorder(), GREEDY, {2})
    assert ours != plain
    if dtype == torch.float32:  # in bf16 another order of additions may choose another token
        assert_same(ours, expected)


@pytest.mark.parametrize("limit", [1, 2, 3, 9])
def test_a_short_limit_is_kept(tiny_model: Any, segments: None, limit: int) -> None:
    settings = Sampling(max_new_tokens=limit, temperature=1.5, logprobs=True, seeds=(1, 2, 3, 4, 5))
    ours, expected = both(tiny_model(), FakeGraphs(), settings, set())
    assert_same(ours, expected)
    assert {len(each.completion_ids) for each in ours} == {limit}


def test_a_row_that_the_context_cuts(tiny_model: Any) -> None:
    settings = Sampling(max_new_tokens=30, context=20, temperature=1.5, logprobs=True, seeds=(1, 2, 3, 4, 5))
    assert_same(*both(tiny_model(max_position_embeddings=20), FakeGraphs(), settings, {2}))


def test_a_model_of_the_next_call_may_lie_elsewhere(tiny_model: Any) -> None:
    """A teacher's tensors replace the student's: what was recorded with the student's must not run."""
    model, teacher = tiny_model(), tiny_model(initializer_range=0.4)
    recorder = FakeGraphs()
    engine = OwnEngine(model, {2}, 0, recorder=recorder)
    found = [engine.generate(PROMPTS, SAMPLED)]
    for parameter, other in zip(model.parameters(), teacher.parameters(), strict=True):
        parameter.data = other.data
    found.append(engine.generate(PROMPTS, SAMPLED))
    assert_same(found[1], OwnEngine(teacher, {2}, 0).generate(PROMPTS, SAMPLED))
    assert found[0] != found[1]
    assert recorder.forgotten == 2


# -- what is recorded ----------------------------------------------------------------------------------


def test_a_segment_is_recorded_once_and_replayed(tiny_model: Any) -> None:
    """30 tokens: the first from the prompt, the second by the step as it is, 28 by replays."""
    recorder = FakeGraphs()
    OwnEngine(tiny_model(), (), 0, recorder=recorder).generate(PROMPTS, SAMPLED)
    assert recorder.sizes == [(5, 64)]
    assert recorder.replays == [28]


class Counting:
    """Stands for a model: the next token is the last one plus one. Keeps what each step is given."""

    def __init__(self) -> None:
        self.positions: list[list[int]] = []
        self.readable: list[list[int]] = []

    def logits(self, hidden: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(hidden[:, 0].long(), 60).float()

    def step(self, tokens: Tensor, positions: Tensor, bias: Tensor, write: Any) -> Tensor:
        key = tokens[:, None, None, None].float()
        keys, values = write(0, key, -key)
        assert torch.equal(keys, -values)
        self.positions.append(positions.tolist())
        self.readable.append((bias == 0).sum(-1).flatten().tolist())
        return tokens[:, None].float() + 1


def counted(first: list[int], padding: list[int], limit: int) -> tuple[Any, Any, list[list[int]]]:
    """Decodes from prompts of 7 columns whose next tokens are ``first``; 20 ends a completion."""
    columns = recorded.cache_columns(7 + limit)
    state = State(
        keys=[recorded.widened(torch.ones(len(first), 1, 7, 1), columns)],
        values=[recorded.widened(-torch.ones(len(first), 1, 7, 1), columns)],
        length=7,
        padding=torch.tensor(padding),
        hidden=torch.tensor(first, dtype=torch.float32)[:, None],
        owners=list(range(len(first))),
    )
    model: Any = Counting()
    recorder = Plain()
    greedy = Sampling(max_new_tokens=limit, temperature=0)
    ids, _ = recorded.decode(model, state, greedy, None, torch.tensor([20]), recorder)
    return model, recorder, ids


def test_finished_rows_leave_between_segments(short_segments: None) -> None:
    """Attention reads 7 + 5 columns, rounded up to 12, for 5 steps. Of 5 rows 3 remain then, and the 2 columns that are
    padding in all of them go: 10 + 5, rounded up to 16, for 6 steps. 2 rows remain, with 16 + 5, rounded up to 24."""
    model, recorder, ids = counted([1, 19, 17, 12, 3], [2, 0, 4, 5, 3], 30)
    assert ids == [list(range(first, 21)) for first in (1, 19, 17, 12, 3)]
    assert recorder.sizes == [(5, 12), (3, 16), (2, 24)]
    assert model.positions[0] == [5, 7, 3, 2, 4]
    assert model.positions[5] == [10, 7, 9]
    assert model.positions[-1] == [5 + 18, 4 + 18]
    assert all(
        [place + 1 for place in places] == seen for places, seen in zip(model.positions, model.readable, strict=True)
    )


def test_after_the_last_end_at_most_eight_tokens_are_decoded() -> None:
    model, _, ids = counted([19, 19], [0, 0], 30)
    assert ids == [[19, 20], [19, 20]]
    assert len(model.positions) == 8


def test_completions_that_end_with_their_first_token_take_no_step() -> None:
    model, recorder, ids = counted([20, 20], [0, 0], 30)
    assert ids == [[20], [20]]
    assert model.positions == recorder.steps == []


@pytest.mark.parametrize(("limit", "recordings"), [(9, 0), (10, 1)])
def test_few_tokens_are_not_worth_a_recording(limit: int, recordings: int) -> None:
    _, recorder, ids = counted([30], [0], limit)
    assert ids == [list(range(30, 30 + limit))]
    assert len(recorder.steps) == recordings


def test_columns_without_a_token_are_zeros() -> None:
    """They are masked, but a masked NaN would still make the sum NaN."""
    wide = recorded.widened(torch.ones(2, 1, 3, 4), 5)
    assert torch.equal(wide, torch.tensor([1.0, 1, 1, 0, 0])[:, None].expand(2, 1, 5, 4))
    assert [recorded.cache_columns(length) for length in (1, 64, 65)] == [64, 64, 128]


@pytest.mark.parametrize("draw", [by_blocks, lambda probs, drawn: cumulative_by_blocks(probs)])
def test_sampling_off_the_cpu_can_be_recorded(draw: Any) -> None:
    torch.manual_seed(0)
    probs, drawn = torch.rand(4, 1300).softmax(-1), torch.tensor([0.0, 0.3, 0.7, 0.999])
    with Tape() as tape:
        found = draw(probs, drawn)
    before = found.clone()
    probs.copy_(torch.rand(4, 1300).softmax(-1))
    drawn.copy_(torch.rand(4))
    tape.replay()
    assert torch.equal(found, draw(probs, drawn))
    assert not torch.equal(found, before)


# -- CUDA graphs -------------------------------------------------------------------------------------


class Graph:
    """Stands for torch.cuda.CUDAGraph."""

    made: list["Graph"]

    def __init__(self) -> None:
        self.replays = 0
        self.made.append(self)

    def pool(self) -> int:
        return id(self)

    def replay(self) -> None:
        self.replays += 1


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Puts fakes in place of torch.cuda's; returns the options of every recording. A step that raises fails it."""
    options: list[dict[str, Any]] = []

    @contextmanager
    def graph(made: Graph, **chosen: Any) -> Iterator[None]:
        options.append(chosen)
        yield

    monkeypatch.setattr(Graph, "made", [], raising=False)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    for name in ("device", "stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, nullcontext)
    return options


def test_a_graph_is_replayed_and_the_next_one_has_its_memory(cuda: list[dict[str, Any]]) -> None:
    graphs, ran = recorded.CudaGraphs(torch.device("cuda", 0)), list[int]()
    runs = [graphs.record(lambda number=number: ran.append(number)) for number in range(2)]
    graphs.forget()
    runs.append(graphs.record(lambda: ran.append(2)))
    assert ran == [0, 1, 2]  # once each, while it is recorded
    for run in (*runs, runs[1]):
        run()
    assert ran == [0, 1, 2]
    assert [graph.replays for graph in Graph.made] == [1, 2, 1]
    assert [chosen["pool"] for chosen in cuda] == [None, id(Graph.made[0]), None]
    assert {chosen["capture_error_mode"] for chosen in cuda} == {"thread_local"}


def test_where_recording_fails_steps_run_as_they_are_which_is_said_once(cuda: list[dict[str, Any]]) -> None:
    graphs = recorded.CudaGraphs(torch.device("cuda", 0))

    def step() -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.warns(UserWarning, match="recording a CUDA graph failed .operation not permitted when stream"):
        assert graphs.record(step) is step
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert graphs.record(step) is step
    assert len(cuda) == 1


def test_recordings_are_released_after_an_error(tiny_model: Any) -> None:
    recorder = Plain()
    with pytest.raises(ValueError, match="the model reads 4"):
        OwnEngine(tiny_model(), (), 0, recorder=recorder).generate(PROMPTS, Sampling(max_new_tokens=9, context=4))
    assert recorder.forgotten == 1
