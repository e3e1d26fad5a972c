"""A teacher behind vLLM's own server, on a CPU: its steps are those of the model at hand, and its limits are told."""

from pathlib import Path
from typing import Any

import pytest
import torch

from selfdistill.method.rollout.copies import CopyOptions
from selfdistill.method.rollout.vllm_server import VLLMServerEngine
from tests.support.mistakes import mistake
from tests.support.served_teacher import TAIL
from tests.support.tiny import byte_tokenizer
from tests.support.training import make_trainer, steps, student, weights
from tests.support.vllm_server import Server, Servers, small


@pytest.fixture
def server(servers: Servers) -> Server:
    """With the weights of ``small()``, whatever it was given before."""
    VLLMServerEngine(small(), {256}, 0, 4, CopyOptions(url=servers.plain.url, trains=True)).sync()
    return servers.plain


@pytest.mark.parametrize("settings", [{}, {"divergence": "reverse_kl", "temperature": 0.7, "divergence_tail": False}])
def test_a_model_behind_a_server_teaches_as_the_same_model_at_hand(
    tmp_path: Path, server: Server, settings: dict[str, Any]
) -> None:
    small().save_pretrained(tmp_path / "teacher")
    byte_tokenizer().save_pretrained(tmp_path / "teacher")
    here = make_trainer(tmp_path / "here", teacher_model=str(tmp_path / "teacher"), **{**TAIL, **settings})
    there = make_trainer(tmp_path / "there", teacher_server=server.url, **{**TAIL, **settings})
    for trainer in (here, there):
        trainer.train()
    expected = weights(here)
    for name, weight in weights(there).items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-5)
    found = steps(tmp_path / "there")[0]["divergence"]
    assert found == pytest.approx(steps(tmp_path / "here")[0]["divergence"], rel=1e-4)


def test_a_teachers_server_tells_its_limits(tmp_path: Path, server: Server) -> None:
    text = mistake(make_trainer, tmp_path, teacher_server=server.url, **{**TAIL, "divergence_top_k": 21})
    assert "greater than max allowed: 20" in text
    assert text.endswith("Serve with --max-logprobs 21, or lower divergence_top_k.")
    larger = student(vocab_size=301)
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([f"<{number}>" for number in range(41)])
    text = mistake(make_trainer, tmp_path, model=larger, tokenizer=tokenizer, teacher_server=server.url, **TAIL)
    assert "Token id 300 is out of vocabulary" in text
    text = mistake(make_trainer, tmp_path, teacher_server=server.url, **{**TAIL, "max_completion_length": 250})
    assert "reads 256 tokens" in text
