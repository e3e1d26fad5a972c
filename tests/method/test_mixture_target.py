"""What others than the student wrote in a mixture, learned by cross-entropy."""

from pathlib import Path
from typing import Any

import pytest
import torch

from selfdistill.method.rows import training_pairs
from selfdistill.method.step import Step
from tests.support.engines import Scripted
from tests.support.tiny import byte_tokenizer
from tests.support.training import ROWS, make_config, script, student


@pytest.mark.parametrize("of", ["demonstration", "teacher"])
def test_what_others_wrote_may_be_learned_by_cross_entropy(tmp_path: Path, of: str) -> None:
    config = make_config(
        tmp_path,
        completion_source="mixture",
        max_completion_length=64,
        mixture_of=of,
        mixture_target="tokens",
        mixture_share=0.5,
    )
    model, tokenizer = student(), byte_tokenizer()
    step = Step(model, tokenizer, config, engine=Scripted(script()))
    pairs = training_pairs(ROWS, config, tokenizer, model.config)
    samples = step.rollout(pairs, 0)
    assert {(sample.writer, sample.target, sample.mixed) for sample in samples} == {
        ("student", "teacher", True),
        (of, "tokens", True),
    }
    found: dict[str, Any] = {}
    step.on_part = lambda part, loss: found.update({part.target: (part, loss.per_token)})
    (batch,) = step.micro_batches(samples, 1)
    step.learn(batch)
    part, values = found["tokens"]
    logits = step.model(input_ids=part.student[0].input_ids).logits.flatten(0, 1)[part.student[0].rows]
    by_hand = torch.nn.functional.cross_entropy(logits, part.token_ids, reduction="none")
    torch.testing.assert_close(values, by_hand.detach(), rtol=1e-5, atol=1e-5)
    assert len(found["teacher"][1]) == sum(len(s.loss_positions) for s in samples if s.writer == "student")
