"""Collapse: the measures by hand, when they are a warning, and what a run does then."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from selfdistill.method.collapse import WINDOW, Watch, is_collapse, measures, remedy, self_bleu
from selfdistill.method.run_log import RunLog
from selfdistill.settings.method import MethodConfig
from selfdistill.types import Rollout
from tests.support.checkpointed import CHECKPOINTS
from tests.support.engines import Scripted
from tests.support.training import lines, make_trainer, script, steps

MOVING = (
    (0.84, 0.0, 2.92, 46.9),
    (0.79, 0.05, 2.84, 48.0),
    (0.6, 0.34, 1.91, 42.0),
    (0.66, 0.27, 1.18, 24.1),
    (0.8, 0.05, 1.28, 28.6),
    (0.42, 0.22, 1.19, 48.0),
    (0.21, 0.39, 0.59, 48.0),
    (0.23, 0.05, 0.4, 48.0),
    (0.23, 0.27, 0.55, 48.0),
    (0.17, 0.18, 0.44, 48.0),
    (0.17, 0.47, 0.66, 48.0),
    (0.24, 0.58, 1.21, 48.0),
    (0.29, 0.46, 1.88, 48.0),
    (0.08, 0.85, 1.06, 48.0),
    (0.07, 0.86, 0.97, 48.0),
    (0.04, 0.95, 0.61, 48.0),
    (0.01, 0.99, 0.04, 48.0),
    (0.0, 1.0, 0.0, 48.0),
    (0.0, 1.0, 0.0, 48.0),
    (0.0, 1.0, 0.0, 48.0),
)
"""Measures of 20 steps on notes with the embedded model, a live teacher, reverse KL and a learning rate of 5e-4: by the
end every completion is one token again and again."""
FROZEN = (
    (0.84, 0.0, 2.92, 46.9),
    (0.79, 0.05, 2.84, 48.0),
    (0.6, 0.34, 1.91, 42.0),
    (0.77, 0.18, 2.46, 37.5),
    (0.74, 0.29, 1.75, 23.8),
    (0.48, 0.48, 0.44, 27.6),
    (0.52, 0.32, 1.05, 30.1),
    (0.66, 0.04, 1.84, 39.6),
    (0.69, 0.16, 2.26, 38.5),
    (0.65, 0.34, 1.99, 29.9),
    (0.51, 0.39, 1.14, 30.5),
    (0.6, 0.25, 1.07, 23.1),
    (0.52, 0.36, 0.8, 28.1),
    (0.5, 0.4, 0.41, 20.6),
    (0.68, 0.34, 1.71, 31.4),
    (0.55, 0.41, 0.6, 22.8),
    (0.4, 0.64, 0.26, 23.4),
    (0.38, 0.59, 0.46, 29.4),
    (0.45, 0.55, 0.33, 24.9),
    (0.49, 0.5, 0.5, 22.1),
)
"""The same with a frozen teacher."""
VARIED = {"distinct_2": 0.8, "self_bleu": 0.2, "entropy": 2.0, "completion_tokens": 20.0}


# -- measures ----------------------------------------------------------------------------------------


def test_distinct_tokens_and_pairs_by_hand() -> None:
    found = measures([[1, 2, 1, 2], [1, 2, 3]])
    assert found["distinct_1"] == 3 / 7  # 1, 2, 3
    assert found["distinct_2"] == 3 / 5  # 12 21 12, 12 23
    assert found["first_token_share"] == 1
    assert measures([[1, 2], [3, 4], [1, 5], []])["first_token_share"] == 2 / 3


def test_fewer_than_two_completions_are_like_nothing() -> None:
    assert measures([]) == measures([[1, 2]]) == measures([[1, 2], []]) == {}


def test_bleu_against_the_others_by_hand() -> None:
    """1 2 3 4 5 against 1 2 3 4 6: four of five tokens, three of four pairs, two of three triples, one of two fours."""
    expected = math.exp(sum(map(math.log, (4 / 5, 3 / 4, 2 / 3, 1 / 2))) / 4)
    assert self_bleu([[1, 2, 3, 4, 5], [1, 2, 3, 4, 6]]) == pytest.approx(expected)
    assert self_bleu([[1, 2, 3, 4, 5]] * 3) == 1
    assert self_bleu([[1, 2, 3, 4], [5, 6, 7, 8]]) == 0


def test_an_ngram_counts_as_often_as_in_the_other_that_has_most_of_it() -> None:
    """Of 1 2 3 4 1 one 1 and the pair 4 1 are not in 1 2 3 4, whose n-grams all are in it, but which is shorter."""
    longer = math.exp(sum(map(math.log, (4 / 5, 3 / 4, 2 / 3, 1 / 2))) / 4)
    assert self_bleu([[1, 2, 3, 4, 1], [1, 2, 3, 4]]) == pytest.approx((longer + math.exp(1 - 5 / 4)) / 2)
    assert self_bleu([[7, 7], [7, 7], [7]]) == pytest.approx((1 + 1 + math.exp(1 - 2)) / 3)


# -- when it is a warning ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "collapses"),
    [
        ({}, False),
        ({"distinct_2": 0.2, "entropy": 0.5}, True),
        ({"distinct_2": 0.21, "entropy": 0.5}, False),
        ({"distinct_2": 0.2, "entropy": 0.51}, False),  # not sure of it
        ({"self_bleu": 0.95, "entropy": 0.1}, True),
        ({"self_bleu": 0.94, "entropy": 0.1}, False),
        ({"distinct_2": 0.1, "entropy": 0.1, "completion_tokens": 9.0}, False),  # short answers
        ({"distinct_2": 0.1, "entropy": 0.1, "completion_tokens": 10.0}, True),
    ],
    ids=str,
)
def test_what_is_a_collapse(changes: dict[str, float], collapses: bool) -> None:
    assert is_collapse(VARIED, VARIED | changes) == collapses


def test_completions_that_were_alike_from_the_start_have_not_become_so() -> None:
    assert not is_collapse(VARIED | {"self_bleu": 0.9}, VARIED | {"self_bleu": 1.0, "entropy": 0.1})


def test_an_engine_without_logprobs_is_watched_too() -> None:
    before = {name: value for name, value in VARIED.items() if name != "entropy"}
    assert is_collapse(before, before | {"distinct_2": 0.1})


def test_the_last_steps_are_compared_with_the_first_and_told_once() -> None:
    watch = Watch()
    collapsed = VARIED | {"distinct_2": 0.1, "self_bleu": 0.99, "entropy": 0.1}
    said = [watch.see(step) for step in [VARIED] * 12 + [collapsed] * 8]
    (place,) = [number for number, words in enumerate(said) if words]
    assert place == 12 + WINDOW - 1  # a mean over the window, of which one step more would be enough
    assert said[place] == (
        "The student's completions collapse, distinct_2 0.80 to 0.10, self_bleu 0.20 to 0.99, entropy 2.00 to 0.10 "
        "since the first 5 steps"
    )
    assert len(watch.seen) == 2 * WINDOW


def told(run: Sequence[tuple[float, ...]]) -> list[int]:
    """The steps, from 1, at which a watch says something."""
    watch, names = Watch(), ("distinct_2", "self_bleu", "entropy", "completion_tokens")
    return [number for number, step in enumerate(run, start=1) if watch.see(dict(zip(names, step, strict=True)))]


def test_a_run_that_did_collapse_is_told_and_the_same_run_with_a_frozen_teacher_is_not() -> None:
    assert told(MOVING) == [19]
    assert told(FROZEN) == []


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({}, "--teacher frozen"),
        ({"teacher": "live"}, "--teacher frozen"),
        ({"teacher": "frozen"}, "--anchor_share 0.25"),
        ({"teacher_model": "other"}, "--anchor_share 0.25"),
        ({"teacher_server": "http://there"}, "--anchor_share 0.25"),
        ({"method": "reinvoke"}, "--anchor_share 0.25"),
        ({"teacher": "frozen", "anchor_share": 0.1}, "--target budget"),
    ],
)
def test_the_setting_that_helps_is_named(settings: dict[str, Any], flag: str) -> None:
    assert flag in remedy(MethodConfig(**settings))


# -- runs --------------------------------------------------------------------------------------------


class Collapsing(Scripted):
    """Varied completions for ``WINDOW`` steps, then the same token again and again."""

    def generate(self, prompts: Any, sampling: Any, on_done: Any = None) -> list[Rollout]:
        varied = super().generate(prompts, sampling, on_done)
        if len(self.calls) <= WINDOW:
            return [
                Rollout(
                    completion_ids=each.completion_ids,
                    finish_reason="stop",
                    logprobs=(-2.0,) * len(each.completion_ids),
                )
                for each in varied
            ]
        same = Rollout(completion_ids=(70,) * 6, finish_reason="stop", logprobs=(-0.01,) * 6)
        return [
            Rollout(completion_ids=same.completion_ids, finish_reason="stop", logprobs=same.logprobs) for _ in varied
        ]


@pytest.mark.parametrize("stops", [False, True])
def test_a_run_warns_or_ends_with_the_step(tmp_path: Path, stops: bool) -> None:
    settings: dict[str, Any] = {"max_steps": 13, "num_train_epochs": 13, "stop_on_collapse": stops}
    trainer = make_trainer(tmp_path, engine=Collapsing(script()), learning_rate=1e-4, **settings)
    said: list[str] = []
    trainer.checkpoints.on_warning = said.append
    trainer.train()
    logged = steps(tmp_path)
    assert len(logged) == (10 if stops else 13)
    assert [line["entropy"] for line in logged] == pytest.approx([2.0] * 5 + [0.01] * (len(logged) - 5))
    assert logged[-1]["self_bleu"] == 1
    assert logged[-1]["distinct_2"] == 1 / 40
    assert "importance_weight" not in logged[0]
    (warning,) = said
    assert warning.startswith("The student's completions collapse")
    assert ("The run ends after step 10, as stop_on_collapse says." in warning) == stops
    assert "give --teacher frozen" in warning
    assert "train_loss" in lines(tmp_path, "metrics.jsonl")[-1]  # the run has an end as any other


def test_a_resumed_run_knows_its_first_steps(tmp_path: Path) -> None:
    chosen = {**CHECKPOINTS, "rollout_engine": "own"}
    whole = make_trainer(tmp_path / "whole", **chosen)
    whole.train()
    make_trainer(tmp_path / "cut", **chosen).train()
    (tmp_path / "cut" / "checkpoint-4").rename(tmp_path / "gone")
    again = make_trainer(tmp_path / "cut", **chosen)
    again.train(resume_from_checkpoint=True)
    assert watched(again.run_log) == watched(whole.run_log)
    assert len(watched(again.run_log)) == 4
    assert all(0 < step["entropy"] < 6 for step in watched(again.run_log))


def watched(log: RunLog) -> list[dict[str, float]]:
    return log.state().watched


def test_anchors_and_what_others_wrote_are_left_out(tmp_path: Path) -> None:
    options = {"anchor_dataset": [{"prompt": f"Say {n}"} for n in range(3)]}
    make_trainer(tmp_path / "sft", method="sft", max_completion_length=64, anchor_share=0.5, options=options).train()
    make_trainer(tmp_path / "offline", method="offline").train()
    for run in ("sft", "offline"):
        assert not {"entropy", "self_bleu", "distinct_1"} & steps(tmp_path / run)[0].keys()
    mixed: dict[str, Any] = {"completion_source": "mixture", "mixture_share": 0.75, "max_completion_length": 64}
    trainer = make_trainer(tmp_path / "mixture", rollouts_logged_per_step=None, **mixed)
    trainer.train()
    own = [row["completion_ids"] for row in lines(tmp_path / "mixture", "rollouts.jsonl") if row["writer"] == "student"]
    assert len(own) == 2
    assert steps(tmp_path / "mixture")[0]["distinct_2"] == measures(own)["distinct_2"]
