"""A teacher behind a server: the steps are those of the same model at hand, and what goes wrong is told."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from selfdistill.errors import EngineError
from selfdistill.method import teacher_server as module
from selfdistill.method.fingerprints import SERVED
from selfdistill.method.teacher_server import KEY_VARIABLE, TRIES, BadAnswerError, likeliest
from tests.support.checkpointed import resumed
from tests.support.mistakes import mistake
from tests.support.served_teacher import RUN, TAIL, WIDE, FakeTeacher, made, saved, teaching
from tests.support.training import steps, student, weights

JSD: dict[str, Any] = {"divergence": "jsd", "divergence_beta": 0.3}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTeacher]:
    monkeypatch.setattr(module, "FIRST_WAIT", 0.001)
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with teaching(student(**WIDE)) as served:
        yield served


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of the model that the server has."""
    return saved(tmp_path_factory.mktemp("other"), **WIDE)


# -- what it computes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "lora"),
    [
        ({}, False),
        ({"divergence": "reverse_kl", "vocab_clip": 0.3}, True),
        (
            {
                "divergence": "jsd",
                "divergence_beta": 0.3,
                "token_weight": "late",
                "template": "question",
                "learning_rate": 1.0,
            },
            False,
        ),
        ({"divergence_tail": False, "temperature": 0.7}, True),
        ({"anchor_share": 0.34, "options": {"anchor_dataset": [{"prompt": "Say a word."}]}}, False),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else str(value),
)
def test_a_step_is_that_of_the_same_model_at_hand(
    tmp_path: Path, server: FakeTeacher, other: str, settings: dict[str, Any], lora: bool
) -> None:
    chosen: dict[str, Any] = {"max_steps": 2, "num_loss_tokens_to_skip": 1, **TAIL, **settings}
    here = made(tmp_path / "here", lora=lora, teacher_model=other, **chosen)
    there = made(tmp_path / "there", lora=lora, teacher_server=server.url, **chosen)
    before = weights(there)
    for trainer in (here, there):
        trainer.train()
    expected, moved = weights(here), 0.0
    for name, weight in weights(there).items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=2e-6)
        moved = max(moved, float((weight - before[name]).abs().max()))
    assert moved > 1e-3
    for one, two in zip(steps(tmp_path / "here"), steps(tmp_path / "there"), strict=True):
        assert two["divergence"] == pytest.approx(one["divergence"], rel=1e-4)
        assert two["divergence"] > 0


def test_a_sample_is_sent_once_as_it_is(tmp_path: Path, server: FakeTeacher) -> None:
    trainer = made(tmp_path, teacher_server=server.url, **TAIL)
    (probe,) = server.asked
    assert probe["prompt"][-1] == 259  # the tokenizer's last
    server.asked.clear()
    samples = trainer.step.rollout(list(trainer.train_dataset), 0)
    (batch,) = trainer.step.micro_batches(samples, 1)
    sent = sorted([*sample.teacher_ids, *sample.rollout.completion_ids] for sample in samples)
    assert sorted(body["prompt"] for body in server.asked) == sent
    assert {name: value for name, value in server.asked[0].items() if name != "prompt"} == {
        "model": "teacher",
        "prompt_logprobs": 20,
        "max_tokens": 1,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "return_token_ids": True,
    }
    whole = float(trainer.step.learn(batch))
    (half,) = [trainer.step.halved(batch)]
    assert len(half.parts) == 2
    assert float(trainer.step.learn(half)) == pytest.approx(whole, rel=1e-5)
    assert len(server.asked) == len(samples)  # what was scored is halved, not asked for again
    (part,) = batch.parts
    assert part.likeliest is not None
    assert part.likeliest.ids.shape == part.likeliest.log_probs.shape == (sum(part.counts), 20)
    assert (part.likeliest.ids.dtype, part.likeliest.log_probs.dtype) == (torch.int64, torch.float32)
    assert part.teacher_hidden is None


def test_a_part_without_samples_asks_for_nothing(server: FakeTeacher, tmp_path: Path) -> None:
    """Where weights are split over processes, one may have none."""
    trainer = made(tmp_path, teacher_server=server.url, **TAIL)
    samples = trainer.step.rollout(list(trainer.train_dataset)[:1], 0)
    (batch,) = trainer.step.micro_batches(samples, 1)
    empty = replace(batch.parts[0], samples=(), token_ids=torch.empty(0, dtype=torch.int64), likeliest=None)
    server.asked.clear()
    (scored,) = trainer.step.teacher_server.scored([empty])
    assert server.asked == []
    assert scored.likeliest.ids.shape == scored.likeliest.log_probs.shape == (0, 20)


# -- one entry ---------------------------------------------------------------------------------------


def entry(**values: Any) -> dict[str, Any]:
    return {id: {"logprob": math.log(p), "rank": rank} for id, (p, rank) in values.items()}


def test_the_prompts_own_token_is_left_out_unless_it_is_among_the_likeliest() -> None:
    own_last = entry(**{"7": (0.01, 30), "3": (0.5, 1), "5": (0.25, 2)})
    assert likeliest(own_last, 2, 10) == ([3, 5], [math.log(0.5), math.log(0.25)])
    assert likeliest(entry(**{"5": (0.25, 2), "3": (0.5, 1)}), 2, 10)[0] == [3, 5]
    equal = entry(**{"7": (0.25, 3), "3": (0.5, 1), "5": (0.25, 2)})
    assert likeliest(equal, 2, 10)[0] == [3, 5]
    without_ranks = {id: {"logprob": one["logprob"]} for id, one in own_last.items()}
    assert likeliest(without_ranks, 2, 10)[0] == [3, 5]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (None, "a token has no prompt_logprobs"),
        ({"x": {"logprob": -1.0}}, "a token has no prompt_logprobs"),
        ({"3": {}}, "a token has no prompt_logprobs"),
        (entry(**{"3": (0.5, 1)}), "a token has fewer than 2 prompt_logprobs"),
        (entry(**{"3": (0.5, 1), "7": (0.01, 30)}), "a token has fewer than 2 prompt_logprobs"),
        ({"3": {"logprob": 14.0}, "5": {"logprob": 12.5}}, "are no log-probabilities (--logprobs-mode)"),
        ({"3": {"logprob": -0.1}, "5": {"logprob": -0.2}}, "are no log-probabilities (--logprobs-mode)"),
        ({"3": {"logprob": math.nan}, "5": {"logprob": -2.0}}, "are no log-probabilities (--logprobs-mode)"),
        (entry(**{"3": (0.5, 1), "12": (0.2, 2)}), "token 12 is none of the student's 10"),
    ],
)
def test_what_is_no_entry_of_prompt_logprobs_is_told(found: Any, words: str) -> None:
    with pytest.raises(BadAnswerError) as caught:
        likeliest(found, 2, 10)
    assert words in str(caught.value)


# -- a server that fails -----------------------------------------------------------------------------


def test_a_server_that_dies_ends_the_run_which_goes_on_with_another(tmp_path: Path, server: FakeTeacher) -> None:
    whole = made(tmp_path / "whole", teacher_server=server.url, **RUN)
    whole.train()
    server.lives_for = 1 + 2 * 8 + 4  # the probe, two steps, half of the third
    cut = made(tmp_path / "cut", teacher_server=server.url, **RUN)
    with pytest.raises(EngineError) as caught:
        cut.train()
    assert caught.value.exit_code == 7
    assert f"teacher_server {server.url} does not teach: Remote end closed connection" in str(caught.value)
    assert "give the same command again to go on from the last checkpoint." in str(caught.value)
    with teaching(student(**WIDE)) as elsewhere:
        again = made(tmp_path / "cut", teacher_server=elsewhere.url, **RUN)
        assert resumed(again) == []
    expected = weights(whole)
    for name, weight in weights(again).items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-6)


def test_a_run_goes_on_with_the_same_teacher_only(tmp_path: Path, server: FakeTeacher) -> None:
    made(tmp_path / "run", teacher_server=server.url, **RUN).train()
    record = json.loads((tmp_path / "run" / "run_config.json").read_text())
    assert record["fingerprints"][SERVED] == "teacher"
    assert record["settings"]["teacher_server"] == server.url
    (tmp_path / "run" / "checkpoint-4").rename(tmp_path / "gone")
    with teaching(student(**WIDE), name="another") as elsewhere:
        again = made(tmp_path / "run", teacher_server=elsewhere.url, **RUN)
        assert "served teacher teacher, now another" in mistake(again.train, resume_from_checkpoint=True)
        assert "served teacher" in resumed(again, allow_changes=True)[0]


def test_a_server_that_is_busy_for_a_while_changes_nothing(tmp_path: Path, server: FakeTeacher) -> None:
    first = made(tmp_path / "first", teacher_server=server.url, **TAIL)
    first.train()
    second = made(tmp_path / "second", teacher_server=server.url, **TAIL)
    server.busy = TRIES - 1
    second.train()
    expected = weights(first)
    assert all(torch.equal(weight, expected[name]) for name, weight in weights(second).items())


def no_logprobs(choice: dict[str, Any]) -> None:
    choice["prompt_logprobs"] = None


def a_hole(choice: dict[str, Any]) -> None:
    choice["prompt_logprobs"][-2] = None


def too_few(choice: dict[str, Any]) -> None:
    last = choice["prompt_logprobs"][-2]
    for id in sorted(last, key=lambda id: last[id]["logprob"])[:2]:
        del last[id]


def shorter(choice: dict[str, Any]) -> None:
    del choice["prompt_logprobs"][1]


def other_ids(choice: dict[str, Any]) -> None:
    choice["prompt_token_ids"] = [1, *choice["prompt_token_ids"]]


def raw_logits(choice: dict[str, Any]) -> None:
    for found in choice["prompt_logprobs"][1:]:
        for one in found.values():
            one["logprob"] += 20


BAD = {
    no_logprobs: "its answer has no prompt_logprobs",
    a_hole: "a token has no prompt_logprobs",
    too_few: "a token has fewer than 20 prompt_logprobs",
    shorter: "it read other tokens than it was sent",
    other_ids: "it read other tokens than it was sent",
    raw_logits: "prompt_logprobs are no log-probabilities (--logprobs-mode)",
}


@pytest.mark.parametrize("change", BAD, ids=lambda change: change.__name__)
def test_a_bad_answer_is_told_at_the_start_and_in_a_run(tmp_path: Path, server: FakeTeacher, change: Any) -> None:
    trainer = made(tmp_path / "run", teacher_server=server.url, **TAIL)
    server.change = change
    text = mistake(made, tmp_path / "start", teacher_server=server.url, **TAIL)
    assert text.startswith(f"teacher_server {server.url}: {BAD[change]}. Serve a model of the student's vocabulary")
    with pytest.raises(EngineError) as caught:
        trainer.train()
    assert str(caught.value).startswith(f"teacher_server {server.url} does not teach: {BAD[change]}.")


def test_a_refusal_in_a_run_is_not_tried_again(tmp_path: Path, server: FakeTeacher) -> None:
    trainer = made(tmp_path, teacher_server=server.url, **TAIL)
    server.max_logprobs = 5
    server.asked.clear()
    with pytest.raises(EngineError, match="greater than max allowed: 5"):
        trainer.train()
    assert len(server.asked) <= 8
