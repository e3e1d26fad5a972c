"""Rollouts by our own decoding loops: fewer operations per token, and finished sequences leave the batch.

The prompt goes through the model's own forward pass. Each step then runs one token per sequence through the layers'
projections, with a key-value cache that is allocated once. On a CPU the loop here looks at every token and removes
finished sequences at once; on a GPU, where each look would make it wait, ``recorded`` replays whole steps. Both are for
decoders built like Llama's and are used only if their logits are the model's (``why_not_own``); other models use
transformers' generate.
"""

from collections.abc import Collection, Sequence
from functools import cached_property, partial

import torch
from torch import Tensor
from transformers import PreTrainedModel

from selfdistill.method.rollout import recorded
from selfdistill.method.rollout.decoding import Decoder, advance, as_rollout, make_decoder, prefill, with_room
from selfdistill.method.rollout.engine import BATCH_SIZE, InProcessEngine, OnDone, Sampling, in_batches
from selfdistill.method.rollout.sampling import sample, uniforms
from selfdistill.models.attention import has_plain_attention
from selfdistill.models.mode import evaluating
from selfdistill.types import Rollout


class OwnEngine(InProcessEngine):
    """Samples completions of a Llama-like model.

    Args:
        model: as in InProcessEngine.
        eos_token_ids: as in InProcessEngine.
        pad_token_id: as in InProcessEngine.
        batch_size: as in InProcessEngine.
        recorder: records decoding steps to replay them; by default as CUDA graphs if the model is on a CUDA device.
            Without one, which is the default elsewhere, the loop looks at every token.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        eos_token_ids: Collection[int],
        pad_token_id: int,
        batch_size: int = BATCH_SIZE,
        recorder: recorded.Recorder | None = None,
    ) -> None:
        super().__init__(model, eos_token_ids, pad_token_id, batch_size)
        self._recorder = recorder or (recorded.CudaGraphs(model.device) if model.device.type == "cuda" else None)

    @cached_property
    def _eos(self) -> Tensor:
        """The ids that end a completion, int64, on the model's device."""
        return torch.tensor(sorted(self.eos_token_ids), dtype=torch.int64, device=self.model.device)

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, on_done: OnDone | None = None
    ) -> list[Rollout]:
        """As in RolloutEngine. Logprobs are at the sampling temperature, before top_p."""
        rows = min(self.batch_size, max(1, len(prompts)))
        with evaluating(self.model):
            decoder = make_decoder(self.model, rows, sampling.max_new_tokens)
            complete = self._complete if self._recorder is None else partial(self._complete_recorded, self._recorder)
            try:
                return in_batches(
                    prompts,
                    sampling,
                    self.batch_size,
                    lambda batch, own: complete(batch, own, decoder),
                    on_done,
                    self.shrink,
                )
            finally:
                if self._recorder is not None:
                    self._recorder.forget()

    def decoding_error(self) -> float:
        """Largest difference between this loop's logits and those of the model's own forward pass on two short prompts,
        relative to the largest absolute logit."""
        model = self.model
        size = int(model.config.get_text_config(decoder=True).vocab_size)
        prompts = [[(7 * place + 3) % size for place in range(length)] for length in (5, 3)]
        with evaluating(model):
            decoder = make_decoder(model, len(prompts), 1)
            state = prefill(model, prompts, self.pad_token_id, partial(with_room, room=2))
            ends = decoder.logits(state.hidden)
            tokens = ends.argmax(-1)
            advance(state, tokens, decoder)
            ours = torch.cat([ends, decoder.logits(state.hidden)])
            rows = [[*prompt, token] for prompt, token in zip(prompts, tokens.tolist(), strict=True)]
            whole = [
                model(input_ids=torch.tensor([row], device=model.device), use_cache=False).logits[0, -2:].float()
                for row in rows
            ]
        theirs = torch.stack([logits[place] for place in (0, 1) for logits in whole])
        return float((ours - theirs).abs().max() / theirs.abs().max())

    def _complete(self, prompts: list[Sequence[int]], sampling: Sampling, decoder: Decoder) -> list[Rollout]:
        widen = partial(with_room, room=sampling.max_new_tokens)
        state = prefill(self.model, prompts, self.pad_token_id, widen)
        drawn = uniforms(sampling.seeds, sampling.max_new_tokens, self.model.device)
        ids: list[list[int]] = [[] for _ in prompts]
        logprobs: list[list[float]] = [[] for _ in prompts]
        finished: set[int] = set()
        for step in range(sampling.max_new_tokens):
            numbers = None if drawn is None else drawn[state.owners, step]
            tokens, token_logprobs = sample(decoder.logits(state.hidden), sampling, numbers)
            ended = torch.isin(tokens, self._eos)
            rows = zip(state.owners, tokens.tolist(), token_logprobs.tolist(), ended.tolist(), strict=True)
            for owner, token, logprob, end in rows:
                if owner in finished:
                    continue
                ids[owner].append(token)
                logprobs[owner].append(logprob)
                if end:
                    finished.add(owner)
            if len(finished) == len(prompts) or step + 1 == sampling.max_new_tokens:
                break
            kept = state.compact(finished)
            advance(state, tokens if kept is None else tokens[kept], decoder)
        return self._rollouts(ids, logprobs, sampling)

    def _complete_recorded(
        self, recorder: recorded.Recorder, prompts: list[Sequence[int]], sampling: Sampling, decoder: Decoder
    ) -> list[Rollout]:
        room = recorded.cache_columns(max(map(len, prompts)) + sampling.max_new_tokens)
        state = prefill(self.model, prompts, self.pad_token_id, partial(recorded.widened, columns=room))
        drawn = uniforms(sampling.seeds, sampling.max_new_tokens, self.model.device)
        ids, logprobs = recorded.decode(decoder, state, sampling, drawn, self._eos, recorder)
        return self._rollouts(ids, logprobs, sampling)

    def _rollouts(self, ids: list[list[int]], logprobs: list[list[float]], sampling: Sampling) -> list[Rollout]:
        return [
            as_rollout(row, values if sampling.logprobs else None, self.eos_token_ids)
            for row, values in zip(ids, logprobs, strict=True)
        ]


@torch.no_grad()
def why_not_own(model: PreTrainedModel) -> str | None:
    """Returns a sentence saying why our decoding loop can't be used for a model; None if it can.

    It can if the model's family is known and the loop gives the logits of the model's own forward pass, at the end of
    the prompt and after one decoded token, for two prompts of different lengths. Costs four small forward passes.
    """
    kind = model.config.model_type
    if not has_plain_attention(model.config):
        return f"Our decoding loop does not know models of type {kind}."
    try:
        error = OwnEngine(model, (), 0).decoding_error()
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as failure:
        return f"Our decoding loop fails on this model of type {kind} ({type(failure).__name__})."
    tolerance = 1e-3 if model.dtype == torch.float32 else 0.05
    if error <= tolerance:
        return None
    return f"Our decoding loop gives other logits than this model of type {kind} (relative error {error:.2g})."
