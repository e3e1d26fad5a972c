"""Bytes that the parts of a step take, by a model's config and the settings."""

from dataclasses import dataclass
from typing import Any

from selfdistill.method.chunked import limits_on
from selfdistill.method.methods import METHODS
from selfdistill.method.needs import target_reads
from selfdistill.method.targets import TARGETS
from selfdistill.settings.method import MethodConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherSize:
    """What the estimate knows of the teacher."""

    longest_prompt: int = 0
    """Tokens of the longest prompt that it reads."""
    config: Any = None
    """Transformers config of a teacher that is another model; None for the model's own weights."""
    weight_bytes: int = 0
    """Bytes of that model's weights."""

    def text(self, own: Any) -> Any:
        """Its text config; ``own``: the model's."""
        return own if self.config is None else self.config.get_text_config(decoder=True)


def activation_bytes(text: Any, args: MethodConfig, width: int, adapter: bool) -> int:
    """Bytes per token that autograd saves for all layers; ``width``: bytes per number."""
    block = block_bytes(text, width, adapter)
    if args.activation_checkpointing:
        return block * 2 + text.num_hidden_layers * text.hidden_size * width
    return block * (text.num_hidden_layers + 1)  # one more for gradients of the layer in backward


def block_bytes(text: Any, width: int, adapter: bool) -> int:
    """Bytes per token that autograd saves for one pre-norm gated block."""
    hidden, inner, attended, kv = widths(text)
    norms = 2 * 4 * hidden  # an fp32 copy of the input of each of the two norms
    if not adapter:  # also the norms' outputs, before and after scaling; queries, keys, values; four of the gated block
        return norms + width * (4 * hidden + 2 * attended + 2 * kv + 4 * inner)
    # A frozen layer saves no input, but its adapter does
    return norms + width * (2 * hidden + attended + inner) + width * (attended + 2 * kv + 3 * inner)


def widths(text: Any) -> tuple[int, int, int, int]:
    """Hidden size, width of the gated block, total width of the query heads, total width of the key heads."""
    hidden, heads = text.hidden_size, text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or hidden // heads
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    return hidden, getattr(text, "intermediate_size", None) or 4 * hidden, heads * head_dim, kv_heads * head_dim


def teacher_bytes(args: MethodConfig, width: int, on_cpu: bool) -> tuple[int, int]:
    """Bytes per trained weight of ``width`` bytes: what the teacher, and the start model for anchor prompts and targets
    if that is another, keep on the device, and what their passes take in addition."""
    spec = METHODS[args.method]
    kind = None
    if spec.has_teacher and not args.has_other_teacher:
        kind = "frozen" if spec.teacher == "base_model" else args.teacher
    kept = {"ema": 4, "frozen": width}.get(kind or "", 0)
    started = args.anchor_share > 0 or "start" in target_reads(args)
    starts = width if started and (kind != "frozen" or args.teacher_restart_steps is not None) else 0
    if args.teacher_home == "host" and not on_cpu:
        return 0, width if kept or starts else 0
    return kept + starts, width if kind == "ema" and width < 4 else 0


def loss_bytes(text: Any, args: MethodConfig, tokens: int, width: int, *, head_trained: bool, on_cpu: bool) -> int:
    """Bytes for the loss: fp32 logits, log-probabilities and probabilities of a chunk, for student and teacher (six
    tensors) and for another target (up to four more); the head's gradient in fp32, and one tile of it in the dtype to
    compute in."""
    limits, tensors = limits_on("cpu" if on_cpu else "cuda"), 6 if TARGETS[args.target].log_probs is None else 10
    logits = min(max(limits.logits, limits.fewest_rows * text.vocab_size), tokens * text.vocab_size)
    head = text.vocab_size * text.hidden_size
    return tensors * 4 * logits + (4 * head + width * limits.tile(head) if head_trained else 0)


def score_bytes(
    text: Any, teacher: TeacherSize, args: MethodConfig, prompts: int, width: int, *, head_made: bool
) -> int:
    """Bytes of the scores of the teacher and of the other models that the target reads, kept from their passes to the
    end of the step: hidden states, as wide as the model's or the teacher's, and the output heads that were made for the
    passes. Of a teacher behind a server, ids (8 bytes) and log-probabilities (4); anchor prompts have hidden states."""
    reads = target_reads(args)
    widest = max(text.hidden_size, teacher.text(text).hidden_size)
    rows = prompts * args.max_completion_length if METHODS[args.method].has_teacher or args.anchor_share > 0 else 0
    heads = 0 if not head_made else 2 if "start" in reads and args.teacher_home == "host" else 1
    a_row = width * widest * (1 + len(reads))
    if args.teacher_server is not None:
        a_row = (8 + 4) * args.divergence_top_k + (width * text.hidden_size if args.anchor_share > 0 else 0)
    return a_row * rows + width * text.hidden_size * heads * text.vocab_size
