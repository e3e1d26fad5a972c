"""Our decoding loop for a GPU: one token is one function on tensors of fixed shapes, recorded once and replayed.

With some rows a GPU runs a decoding step faster than Python can launch it. So a step reads and writes only tensors that
stay where they are, and waits for nothing: the number of filled columns is a tensor, too, and attention reads a fixed
number of columns, of which a mask leaves the filled ones. Such a step can be a CUDA graph.

A recording is for one segment of at least ``SEGMENT`` tokens. Between two segments finished sequences leave the batch
and attention gets more columns. Nothing recorded outlives one call of the engine, because the next call may find the
weights in other memory: a teacher's tensors replace the student's.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from selfdistill.errors import brief
from selfdistill.method.rollout.decoding import Decoder, State
from selfdistill.method.rollout.engine import Sampling
from selfdistill.method.rollout.sampling import sample

SEGMENT = 256
"""Minimum number of tokens per recording, unless the token limit comes first."""
ALIGNED = 64
"""The cache's number of columns is a multiple of this, so that the memory of one call fits the next one."""
FEWEST_REPLAYS = 8
"""Minimum number of tokens for which recording pays off."""
CHECK_EVERY = 8
"""Number of tokens between two looks at whether all sequences are finished. Each look waits for the GPU."""


class Recorder(Protocol):
    """Records steps."""

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        """Returns a function that does with the step's tensors what ``step`` does, which may be ``step`` itself.

        Recording leaves the tensors as they are. The step has run once before.
        """
        ...

    def forget(self) -> None:
        """Releases the memory of recordings; they are not replayed afterwards."""
        ...


class CudaGraphs:
    """Records steps as CUDA graphs. If that fails, steps run as they are from then on, which a warning says once."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._works = True
        self._last: torch.cuda.CUDAGraph | None = None

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        """As in Recorder. Recording computes nothing."""
        if not self._works:
            return step
        graph = torch.cuda.CUDAGraph()
        pool = None if self._last is None else self._last.pool()  # a segment's memory serves the next one
        try:
            with (
                torch.cuda.device(self._device),
                torch.cuda.stream(torch.cuda.current_stream(self._device)),  # comes back if recording fails
                # "thread_local", because other threads of a user's program may use the GPU meanwhile
                torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"),
            ):
                step()
        except RuntimeError as error:
            self._works = False
            warnings.warn(
                f"Sampling is slower than it could be: recording a CUDA graph failed ({brief(error)}).", stacklevel=2
            )
            return step
        self._last = graph
        return graph.replay

    def forget(self) -> None:
        """As in Recorder."""
        self._last = None


def cache_columns(length: int) -> int:
    """The number of columns of a cache for ``length`` tokens."""
    return -(-length // ALIGNED) * ALIGNED


def widened(filled: Tensor, columns: int) -> Tensor:
    """Copies [B, heads, T, dim] to [B, heads, columns, dim] with zeros: a masked column counts nothing, but a NaN in
    uninitialised memory would."""
    return functional.pad(filled, (0, 0, 0, columns - filled.shape[2]))


def decode(
    decoder: Decoder, state: State, sampling: Sampling, drawn: Tensor | None, eos: Tensor, recorder: Recorder
) -> tuple[list[list[int]], list[list[float]]]:
    """Decodes until every sequence has an id of ``eos`` or ``sampling.max_new_tokens`` tokens.

    Args:
        decoder: the model's parts.
        state: the prompts after their forward pass, with a column for each token to come.
        sampling: temperature, top_p and the token limit.
        drawn: [B, token limit], the uniform numbers to sample with; None for greedy decoding.
        eos: int64, the ids that end a completion.
        recorder: records the steps.

    Returns:
        Ids and logprobs of each completion, up to its first id of ``eos``. The same as in the loop of ``own``.
    """
    size, limit, device = len(state.owners), sampling.max_new_tokens, state.padding.device
    tokens, logprobs = sample(decoder.logits(state.hidden), sampling, None if drawn is None else drawn[:, 0])
    all_ids = torch.zeros(limit * size, dtype=torch.int64, device=device)
    all_logprobs = torch.zeros(limit * size, dtype=logprobs.dtype, device=device)
    all_ids[:size], all_logprobs[:size] = tokens, logprobs
    finished, done = _among(tokens, eos), 1
    while done < limit and not bool(finished.all()):
        rows = state.compact({owner for owner, end in zip(state.owners, finished.tolist(), strict=True) if end})
        if rows is not None:
            tokens, finished = tokens[rows], finished[rows]
        owners = torch.tensor(state.owners, device=device)
        step = _Step(
            decoder=decoder,
            sampling=sampling,
            keys=state.keys,
            values=state.values,
            columns=min(state.keys[0].shape[2], cache_columns(state.length + SEGMENT)),
            padding=state.padding,
            eos=eos,
            drawn=None if drawn is None else drawn[owners],
            length=torch.tensor([state.length], device=device),
            tokens=tokens,
            finished=finished,
            places=done * size + owners,
            stride=size,
            count=torch.tensor([done], device=device),
            ids=all_ids,
            logprobs=all_logprobs,
        )
        steps = _run(step, min(limit - done, step.columns - state.length), recorder)
        done, state.length = done + steps, state.length + steps
    whole = zip(
        all_ids.view(limit, size)[:done].T.tolist(), all_logprobs.view(limit, size)[:done].T.tolist(), strict=True
    )
    ends = set(eos.tolist())
    cut = [(ids, values, next((n + 1 for n, id in enumerate(ids) if id in ends), done)) for ids, values in whole]
    return [ids[:end] for ids, _, end in cut], [values[:end] for _, values, end in cut]


@dataclass(slots=True, kw_only=True)
class _Step:
    """One token of every sequence. Calling it changes the contents of its tensors and nothing else."""

    decoder: Decoder
    sampling: Sampling
    keys: list[Tensor]
    """Per layer: [B, key-value heads, C, D]."""
    values: list[Tensor]
    """Per layer, like ``keys``."""
    columns: int
    """Number of columns that attention reads, at most C."""
    padding: Tensor
    """[B] int64: number of padding columns at the left."""
    eos: Tensor
    """int64: the ids that end a completion."""
    drawn: Tensor | None
    """[B, token limit]: uniform numbers; None for greedy decoding."""
    stride: int
    """Number of sequences that the call began with."""
    # what a call changes, besides the keys and values
    length: Tensor
    """[1] int64: number of filled columns."""
    count: Tensor
    """[1] int64: number of tokens sampled so far."""
    tokens: Tensor
    """[B] int64: the last ones."""
    finished: Tensor
    """[B] bool."""
    places: Tensor
    """[B] int64: where the next tokens belong in ``ids``."""
    ids: Tensor
    """[token limit * stride] int64: all tokens, those of one step in a row."""
    logprobs: Tensor
    """Like ``ids``, fp32."""

    def __call__(self) -> None:
        column = torch.arange(self.columns, device=self.tokens.device)
        readable = (column >= self.padding[:, None]) & (column <= self.length)
        bias = torch.zeros(readable.shape, dtype=self.keys[0].dtype, device=readable.device)
        bias = bias.masked_fill_(~readable, float("-inf"))[:, None, None]
        hidden = self.decoder.step(self.tokens, self.length - self.padding, bias, self._write)
        drawn = None if self.drawn is None else self.drawn.index_select(1, self.count)[:, 0]
        tokens, logprobs = sample(self.decoder.logits(hidden), self.sampling, drawn)
        self.ids.index_copy_(0, self.places, tokens)
        self.logprobs.index_copy_(0, self.places, logprobs)
        self.tokens.copy_(tokens)
        self.finished.logical_or_(_among(tokens, self.eos))
        self.length.add_(1)
        self.count.add_(1)
        self.places.add_(self.stride)

    def _write(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self.keys[layer], self.values[layer]
        keys.index_copy_(2, self.length, key.to(keys.dtype))
        values.index_copy_(2, self.length, value.to(values.dtype))
        return keys[:, :, : self.columns], values[:, :, : self.columns]


def _run(step: _Step, most: int, recorder: Recorder) -> int:
    """Runs at most ``most`` steps, fewer if all sequences are finished; returns how many."""
    step()  # as it is: while a graph is recorded, no library may be loaded
    run = recorder.record(step) if most > FEWEST_REPLAYS else step
    done = 1
    while done < most and not (done % CHECK_EVERY == 0 and bool(step.finished.all())):
        run()
        done += 1
    return done


def _among(tokens: Tensor, ids: Tensor) -> Tensor:
    """Whether each of ``tokens`` [B] is one of ``ids``, [B] bool. torch.isin may wait for the device."""
    return (tokens[:, None] == ids).any(-1)
