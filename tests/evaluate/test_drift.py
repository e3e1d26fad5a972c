"""Drift on tiny models: zero of itself, and the numbers that plain forward passes give."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from selfdistill.evaluate.drift import DriftProbe, any_format
from selfdistill.method.prompts import PromptRenderer
from selfdistill.types import Example
from tests.support.mistakes import mistake
from tests.support.tiny import byte_tokenizer

MakeModel = Callable[..., PreTrainedModel]

EXAMPLES = [
    Example(id=f"drift/{number}", prompt=({"role": "user", "content": prompt},), reference=answer)
    for number, (prompt, answer) in enumerate([("hi", "hello you"), ("a longer question?", "no"), ("and", "so on")])
]


@pytest.fixture
def base(tiny_model: MakeModel, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    return tiny_model(vocab_size=len(tokenizer), eos_token_id=None)


@pytest.fixture
def tuned(tiny_model: MakeModel, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    model = tiny_model(vocab_size=len(tokenizer), eos_token_id=None)
    nudge(model)
    return model


@torch.no_grad()
def nudge(model: PreTrainedModel) -> None:
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter += 0.1 * torch.randn_like(parameter)


def probe(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, **options: Any) -> DriftProbe:
    return DriftProbe(model, tokenizer, EXAMPLES, max_new_tokens=5, **options)


def log_probs(model: Any, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> Tensor:
    """[len(completion), V] at the completion's tokens."""
    logits = model(input_ids=torch.tensor([[*prompt_ids, *completion_ids]])).logits[0]
    return logits[len(prompt_ids) - 1 : -1].log_softmax(-1)


def test_a_model_has_not_moved_from_itself(base: PreTrainedModel, tokenizer: PreTrainedTokenizerFast):
    found = probe(base, tokenizer)
    drift = found.measure(base)
    assert drift.record.kl_per_token == pytest.approx(0, abs=1e-6)
    assert drift.record.reference_nll == pytest.approx(drift.record.base_reference_nll)
    assert [sample.answer for sample in drift.samples] == [sample.base_answer for sample in drift.samples]
    assert found.base.record.kl_per_token == 0
    assert found.base.record.reference_nll == drift.record.reference_nll


def test_numbers_of_plain_forward_passes(
    base: PreTrainedModel, tuned: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
):
    drift = probe(base, tokenizer, batch_size=2).measure(tuned).record
    forward: Any = base
    renderer = PromptRenderer(tokenizer)
    divergences, losses, base_losses = [], [], []
    with torch.no_grad():
        for example in EXAMPLES:
            ids = list(renderer.render(example).student_ids)
            answer = []
            for _ in range(5):
                answer.append(int(forward(input_ids=torch.tensor([ids + answer])).logits[0, -1].argmax()))
                if answer[-1] == tokenizer.eos_token_id:
                    break
            p, q = log_probs(base, ids, answer), log_probs(tuned, ids, answer)
            divergences += (p.exp() * (p - q)).sum(-1).tolist()
            reference = tokenizer.encode(f"{example.reference}<|end|>")
            place = torch.arange(len(reference))
            losses += (-log_probs(tuned, ids, reference)[place, reference]).tolist()
            base_losses += (-log_probs(base, ids, reference)[place, reference]).tolist()
    assert drift.kl_per_token == pytest.approx(sum(divergences) / len(divergences), rel=1e-4)
    assert drift.kl_per_token > 0.01
    assert drift.reference_nll == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    assert drift.base_reference_nll == pytest.approx(sum(base_losses) / len(base_losses), rel=1e-4)
    assert len(base_losses) == len("hello you") + len("no") + len("so on") + 3  # an end of turn each


def test_the_base_may_be_trained_on_after_the_probe_was_made(
    base: PreTrainedModel, tuned: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
):
    expected = probe(base, tokenizer).measure(tuned).record
    found = probe(base, tokenizer)
    nudge(base)  # now it equals tuned
    drift = found.measure(base).record
    assert drift.kl_per_token == pytest.approx(expected.kl_per_token, rel=1e-4)
    assert drift.base_reference_nll == pytest.approx(expected.base_reference_nll)


def test_answers_in_the_tasks_format(base: PreTrainedModel, tuned: PreTrainedModel, tokenizer: PreTrainedTokenizerFast):
    found = probe(base, tokenizer)
    answers = [sample.answer for sample in found.measure(tuned).samples]
    taken = probe(base, tokenizer, format_probe=lambda text: text == answers[1]).measure(tuned)
    share = answers.count(answers[1]) / 3
    assert taken.record.format_leak_rate == pytest.approx(share)
    assert [sample.leaks for sample in taken.samples] == [answer == answers[1] for answer in answers]
    assert taken.record.num_prompts == 3


def test_forms_of_the_tasks():
    for text in ('{"tool": "x"', '```json\n{"tool"', "Thought: I", " Action: x", "<reasoning>\nso"):
        assert any_format(text)
    for text in ("The sky is blue.", '{"answer": 1}', "I use a tool.", "Reasoning: x", ""):
        assert not any_format(text)


def test_another_vocabulary_is_refused(
    base: PreTrainedModel, tiny_model: MakeModel, tokenizer: PreTrainedTokenizerFast
):
    larger = tiny_model(vocab_size=len(tokenizer) + 8, eos_token_id=None)
    assert "--base_model" in mistake(probe(base, tokenizer).measure, larger)


def test_a_model_in_training_is_measured_without_dropout(
    base: PreTrainedModel, tuned: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
):
    found = probe(base, tokenizer)
    expected = found.measure(tuned)
    tuned.config.attention_dropout = 0.5
    body: Any = tuned.get_decoder()
    for layer in body.layers:
        layer.self_attn.attention_dropout = 0.5
    tuned.train()
    assert found.measure(tuned) == expected
    assert tuned.training


def test_each_prompt_has_its_own_divergence_and_both_answers(
    base: PreTrainedModel, tuned: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
):
    found = probe(base, tokenizer).measure(tuned)
    assert [sample.id for sample in found.samples] == ["drift/0", "drift/1", "drift/2"]
    assert found.samples[0].prompt == "[user] hi<|end|>\n[assistant] "
    assert [sample.base_answer for sample in found.samples] == [s.answer for s in probe(base, tokenizer).base.samples]
    alone = [
        DriftProbe(base, tokenizer, [example], max_new_tokens=5).measure(tuned).record.kl_per_token
        for example in EXAMPLES
    ]
    assert [sample.kl_per_token for sample in found.samples] == pytest.approx(alone, rel=1e-4)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_prompt_longer_than_the_context_is_refused(
    tiny_model: MakeModel, tokenizer: PreTrainedTokenizerFast, kind: str
):
    # [user] a longer question?<|end|>, a line's end, [assistant], no<|end|>: 7 + 18 + 2 + 12 + 3 tokens
    fits, short = (tiny_model(kind, vocab_size=len(tokenizer), max_position_embeddings=size) for size in (42, 41))
    assert probe(fits, tokenizer).base.record.num_prompts == 3
    said = mistake(probe, short, tokenizer)
    assert said.startswith("drift/1: prompt and reference answer have 42 tokens, the base model reads 41.")


def test_the_chat_template_gets_what_the_run_gave_it(tiny_model: MakeModel):
    tokenizer = byte_tokenizer("{% for m in messages %}{{ m.content }}{% endfor %}{{ '' if thinking else '</think>' }}")
    model = tiny_model(vocab_size=len(tokenizer), eos_token_id=None)
    for thinking, prompt in ((True, "hi"), (False, "hi</think>")):
        found = probe(model, tokenizer, chat_template_kwargs={"thinking": thinking})
        assert found.base.samples[0].prompt == prompt
