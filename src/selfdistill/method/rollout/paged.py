"""Rollouts by transformers' continuous batching, for any architecture that it knows.

Sequences of all lengths share one cache of pages, and a sequence that ends makes room for the next one at once. It pays
off where many more completions than ``batch_size`` are sampled on a GPU and their lengths differ.

transformers draws all tokens of a batch from one generator, so that a completion would depend on those beside it.
Here a logits processor draws them instead, with each row's own random numbers.
"""

import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
import transformers
from torch import Tensor
from transformers import ContinuousBatchingConfig, GenerationConfig, LogitsProcessorList, PreTrainedModel
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessor

from selfdistill.errors import brief
from selfdistill.method.rollout.decoding import as_rollout
from selfdistill.method.rollout.engine import InProcessEngine, OnDone, Sampling, in_batches
from selfdistill.method.rollout.sampling import sample, uniforms
from selfdistill.models.attention import NAME
from selfdistill.models.mode import evaluating
from selfdistill.models.output_head import unwrapped
from selfdistill.types import Rollout

NEEDS = (5, 24)
"""Lowest version of transformers that this engine takes. In 5.6 and 5.10 rows come in another order than their numbers;
versions between those and this one were not tested."""
PAGE = 256
"""Tokens per page of the cache."""
MOST_TOKENS = 2048
"""Maximum number of tokens in one forward pass; longer prompts are read in parts."""

logging.getLogger("ContinuousBatchingLogger").setLevel(logging.CRITICAL)  # what it reports is raised here


class PagedEngine(InProcessEngine):
    """Samples by continuous batching, ``batch_size`` sequences at a time.

    The cache is made for each call, large enough for ``batch_size`` sequences of the longest possible length. Rollouts
    have no logprobs: transformers reports those of the processed scores, which leave one token.
    """

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, on_done: OnDone | None = None
    ) -> list[Rollout]:
        """As in RolloutEngine.

        Raises:
            RuntimeError: transformers could not complete a prompt.
        """
        with evaluating(self.model), _known_attention(self.model):
            return in_batches(
                prompts, sampling, max(1, len(prompts)), lambda batch, own: self._complete(batch, own, on_done)
            )

    def _complete(self, prompts: list[Sequence[int]], sampling: Sampling, on_done: OnDone | None) -> list[Rollout]:
        device, limit = self.model.device, sampling.max_new_tokens
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):  # transformers seeds torch
            manager = unwrapped(self.model).init_continuous_batching(
                generation_config=GenerationConfig(max_new_tokens=limit, do_sample=False, eos_token_id=-1),
                continuous_batching_config=self._config(prompts, limit),
            )
            drawn = uniforms(sampling.seeds, limit, torch.device("cpu"))
            if drawn is not None and sampling.temperature > 0:
                processor = manager.logit_processor
                processor.logits_processor = LogitsProcessorList([_Draw(prompts, drawn, sampling)])
                processor.tensors_required, processor.do_processing = 1, True
            ends = sorted(self.eos_token_ids) or -1
            for row, prompt in enumerate(prompts):  # before the start, so that the schedule does not depend on time
                manager.add_request(list(prompt), request_id=str(row), max_new_tokens=limit, eos_token_id=ends)
            found: dict[str, Any] = {}
            manager.start()
            try:
                while len(found) < len(prompts):
                    result = manager.get_result(timeout=1)
                    if result is None:
                        if manager.is_running():
                            continue
                        raise RuntimeError("continuous batching stopped before all prompts were completed")
                    if result.error is not None:
                        raise RuntimeError(f"continuous batching failed: {brief(result.error, 30)}")
                    found[result.request_id] = result.generated_tokens
                    if on_done:
                        on_done(1)
            finally:
                manager.stop(block=True, hard_stop=True)
                manager.destroy()
        return [as_rollout(found[str(row)], None, self.eos_token_ids) for row in range(len(prompts))]

    def _config(self, prompts: list[Sequence[int]], limit: int) -> ContinuousBatchingConfig:
        rows = min(self.batch_size, len(prompts))
        pages = -(-(max(map(len, prompts)) + limit) // PAGE)
        return ContinuousBatchingConfig(
            page_size=PAGE,
            num_blocks=rows * pages,
            max_batch_tokens=max(rows, min(MOST_TOKENS, sum(map(len, prompts)))),
            max_requests_per_batch=rows,
            use_async_batching=False,  # it would ask for a token's random number before the token before it is known
            auto_switch_to_flash=self.model.device.type == "cuda" and self.model.dtype != torch.float32,
        )


class _Draw(ContinuousBatchingLogitsProcessor):
    """Draws the next token of each row and masks all others, so that greedy decoding takes it.

    Args:
        prompts: the token ids of each request, whose id is the index here.
        drawn: [requests, token limit], uniform numbers.
        sampling: temperature and top_p.
    """

    supported_kwargs: ClassVar[dict[str, type]] = {}  # type: ignore[misc]
    ignored_kwargs: ClassVar[tuple[str, ...]] = ()  # type: ignore[misc]

    def __init__(self, prompts: list[Sequence[int]], drawn: Tensor, sampling: Sampling) -> None:
        self._lengths = [len(prompt) for prompt in prompts]
        self._drawn = drawn.float().clamp(max=1 - 2**-24)  # the largest fp32 below 1
        self._sampling = sampling

    def fill_defaults(self, int32_tensor: Tensor) -> None:
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> Tensor:
        """The uniform number of each request's next token, [requests] fp32 in the bits of int32."""
        numbers = [self._number(request.state) for request in requests_with_new_token]
        return torch.tensor(numbers, dtype=torch.float32).view(torch.int32)

    def _number(self, state: Any) -> float:
        row = int(state.request_id)
        # of a request that had to leave the cache and came back, sampled tokens count as part of the prompt
        return float(self._drawn[row, len(state.initial_tokens) + len(state.generated_tokens) - self._lengths[row]])

    def __call__(self, scores: Tensor, tensor_arg: Tensor) -> Tensor:
        """Logits [B, V] to scores [B, V] that are -inf except at the drawn token."""
        tokens, _ = sample(scores.float(), self._sampling, tensor_arg[: len(scores)].view(torch.float32))
        return torch.full_like(scores, float("-inf")).scatter(1, tokens[:, None], 0.0)


@contextmanager
def _known_attention(model: PreTrainedModel) -> Generator[None]:
    """Context in which a model with our attention for CPUs has torch's, which has a paged form in transformers."""
    inner = unwrapped(model)
    ours = inner.config._attn_implementation == NAME
    if ours:
        inner.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        if ours:
            inner.set_attn_implementation(NAME)


@torch.no_grad()
def why_not_paged(model: PreTrainedModel) -> str | None:
    """Returns a sentence saying why continuous batching can't be used for a model; None if it can.

    It can if transformers is new enough and greedy decoding of two short prompts takes tokens that are the likeliest,
    up to rounding, in the model's own forward pass.
    """
    if tuple(int(part) for part in transformers.__version__.split(".")[:2]) < NEEDS:
        return f"It needs transformers {'.'.join(map(str, NEEDS))} or newer, this is {transformers.__version__}."
    kind, size = model.config.model_type, int(model.config.get_text_config(decoder=True).vocab_size)
    prompts = [[(7 * place + 3) % size for place in range(length)] for length in (5, 3)]
    try:
        rollouts = PagedEngine(model, (), 0).generate(prompts, Sampling(max_new_tokens=2, temperature=0))
    except (AttributeError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError) as failure:
        return f"Continuous batching fails on this model of type {kind} ({type(failure).__name__})."
    tolerance = 1e-3 if model.dtype == torch.float32 else 0.05
    with evaluating(model):
        for prompt, rollout in zip(prompts, rollouts, strict=True):
            ids = torch.tensor([[*prompt, *rollout.completion_ids]], device=model.device)
            logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
            missing = logits.amax(-1) - logits.gather(-1, ids[0, len(prompt) :, None])[:, 0]
            if float(missing.max()) > tolerance * float(logits.abs().max()):
                return f"Continuous batching gives other logits than this model of type {kind}."
    return None
