"""Drift on tiny models: zero of itself, and the numbers that plain forward passes give."""

import pytest
import torch

from selfdistill.evaluate.drift import DriftProbe, any_format
from selfdistill.method.prompts import PromptRenderer
from selfdistill.types import Example, UserError

EXAMPLES = [
    Example(id=f"drift/{number}", prompt=({"role": "user", "content": prompt},), reference=answer)
    for number, (prompt, answer) in enumerate([("hi", "hello you"), ("a longer question?", "no"), ("and", "so on")])
]


@pytest.fixture
def base(tiny_model, tokenizer):
    return tiny_model(vocab_size=len(tokenizer), eos_token_id=None)


@pytest.fixture
def tuned(tiny_model, tokenizer):
    model = tiny_model(vocab_size=len(tokenizer), eos_token_id=None)
    nudge(model)
    return model


@torch.no_grad()
def nudge(model):
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter += 0.1 * torch.randn_like(parameter)


def probe(model, tokenizer, **options):
    return DriftProbe(model, tokenizer, EXAMPLES, max_new_tokens=5, **options)


def log_probs(model, prompt_ids, completion_ids):
    """[len(completion), V] at the completion's tokens."""
    logits = model(input_ids=torch.tensor([[*prompt_ids, *completion_ids]])).logits[0]
    return logits[len(prompt_ids) - 1 : -1].log_softmax(-1)


def test_a_model_has_not_moved_from_itself(base, tokenizer):
    found = probe(base, tokenizer)
    drift = found.measure(base)
    assert drift.kl_per_token == pytest.approx(0, abs=1e-6)
    assert drift.reference_nll == pytest.approx(drift.base_reference_nll)
    assert [sample.answer for sample in drift.samples] == [sample.base_answer for sample in drift.samples]
    assert found.base.kl_per_token == 0
    assert found.base.reference_nll == drift.reference_nll


def test_numbers_of_plain_forward_passes(base, tuned, tokenizer):
    drift = probe(base, tokenizer, batch_size=2).measure(tuned)
    renderer = PromptRenderer(tokenizer)
    divergences, losses, base_losses = [], [], []
    with torch.no_grad():
        for example in EXAMPLES:
            ids = list(renderer.render(example).student_ids)
            answer = []
            for _ in range(5):
                answer.append(int(base(input_ids=torch.tensor([ids + answer])).logits[0, -1].argmax()))
                if answer[-1] == tokenizer.eos_token_id:
                    break
            p, q = log_probs(base, ids, answer), log_probs(tuned, ids, answer)
            divergences += (p.exp() * (p - q)).sum(-1).tolist()
            reference = tokenizer(f"{example.reference}<|end|>")["input_ids"]
            place = torch.arange(len(reference))
            losses += (-log_probs(tuned, ids, reference)[place, reference]).tolist()
            base_losses += (-log_probs(base, ids, reference)[place, reference]).tolist()
    assert drift.kl_per_token == pytest.approx(sum(divergences) / len(divergences), rel=1e-4)
    assert drift.kl_per_token > 0.01
    assert drift.reference_nll == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    assert drift.base_reference_nll == pytest.approx(sum(base_losses) / len(base_losses), rel=1e-4)
    assert len(base_losses) == len("hello you") + len("no") + len("so on") + 3  # an end of turn each


def test_the_base_may_be_trained_on_after_the_probe_was_made(base, tuned, tokenizer):
    expected = probe(base, tokenizer).measure(tuned)
    found = probe(base, tokenizer)
    nudge(base)  # now it equals tuned
    drift = found.measure(base)
    assert drift.kl_per_token == pytest.approx(expected.kl_per_token, rel=1e-4)
    assert drift.base_reference_nll == pytest.approx(expected.base_reference_nll)


def test_answers_in_the_tasks_format(base, tuned, tokenizer):
    found = probe(base, tokenizer)
    answers = [sample.answer for sample in found.measure(tuned).samples]
    taken = probe(base, tokenizer, format_probe=lambda text: text == answers[1]).measure(tuned)
    share = answers.count(answers[1]) / 3
    assert taken.format_leak_rate == pytest.approx(share)
    assert [sample.leaks for sample in taken.samples] == [answer == answers[1] for answer in answers]
    assert taken.summary()["num_prompts"] == 3
    assert {"kl_per_token", "reference_nll", "format_leak_rate"} < taken.summary().keys()


def test_forms_of_the_tasks():
    for text in ('{"tool": "x"', '```json\n{"tool"', "Thought: I", " Action: x", "<reasoning>\nso"):
        assert any_format(text)
    for text in ("The sky is blue.", '{"answer": 1}', "I use a tool.", "Reasoning: x", ""):
        assert not any_format(text)


def test_another_vocabulary_is_refused(base, tiny_model, tokenizer):
    with pytest.raises(UserError, match="--base_model"):
        probe(base, tokenizer).measure(tiny_model(vocab_size=len(tokenizer) + 8, eos_token_id=None))


def test_a_model_in_training_is_measured_without_dropout(base, tuned, tokenizer):
    found = probe(base, tokenizer)
    expected = found.measure(tuned)
    tuned.config.attention_dropout = 0.5
    for layer in tuned.model.layers:
        layer.self_attn.attention_dropout = 0.5
    tuned.train()
    assert found.measure(tuned) == expected
    assert tuned.training
