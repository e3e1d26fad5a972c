"""How long a run takes, from counts worked out by hand and a speed that is given."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from selfdistill.training import duration
from selfdistill.training.duration import Speed, Work, in_words, measured, scoring_work, seconds, total, training_work
from selfdistill.training.prepare import Prepared
from selfdistill.training.run import prepared_run
from selfdistill.types import Example, PromptPair
from tests.support.study_home import QUIET
from tests.support.training import student

STEP: dict[str, Any] = {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2, "max_steps": 10}
"""Ten steps of 6 prompts; completions have up to 20 tokens."""


def pair(prompt: int, teacher: int | None = None, demonstration: int = 0) -> PromptPair:
    return PromptPair(
        example=Example(id="x", prompt=({"role": "user", "content": "Hi"},)),
        student_ids=(3,) * prompt,
        teacher_ids=None if teacher is None else (3,) * teacher,
        demonstration_ids=(3,) * demonstration,
    )


def run(options: Any, *pairs: PromptPair, anchors: tuple[PromptPair, ...] = (), **settings: Any) -> Prepared:
    """A run on ``pairs``."""
    prepared = prepared_run(options(**STEP | settings), QUIET)
    return replace(prepared, pairs=list(pairs), anchors=list(anchors))


def test_demonstrations_are_read_and_learned(options: Any) -> None:
    prepared = run(options, pair(10, demonstration=4), pair(14, demonstration=8), method="sft")
    assert training_work(prepared) == Work(10 * 6 * 3 * (12 + 6), {})


def test_epochs_are_steps(options: Any) -> None:
    rows = [pair(10, demonstration=4)] * 12
    prepared = run(options, *rows, method="sft", max_steps=-1, num_train_epochs=3)
    assert training_work(prepared).tokens == 3 * 12 * 3 * 14


@pytest.mark.parametrize(("settings", "passes"), [({"lora_r": 2}, 2), ({"activation_checkpointing": True}, 4)])
def test_a_base_that_is_not_trained_saves_a_pass_and_activations_made_again_cost_one(
    options: Any, settings: dict[str, Any], passes: int
) -> None:
    prepared = run(options, pair(10, demonstration=4), method="sft", **settings)
    assert training_work(prepared).tokens == 60 * passes * 14


def test_the_student_samples_and_the_teacher_scores(options: Any) -> None:
    prepared = run(options, pair(10, 30), pair(14, 40), method="sdft", template="prior_turn")
    prompt_sampled, learned, scored = 12, 3 * (12 + 20), 35 + 20
    assert training_work(prepared) == Work(10 * 6 * (prompt_sampled + learned + scored), {6: 10 * 20})


def test_the_teacher_samples_where_it_writes(options: Any) -> None:
    prepared = run(options, pair(10, 30), pair(14, 40), method="offline", template="prior_turn")
    assert training_work(prepared) == Work(10 * 6 * (35 + 3 * (12 + 20) + 35 + 20), {6: 10 * 20})


def test_anchors_are_sampled_scored_by_the_start_model_and_learned(options: Any) -> None:
    rows = pair(10, demonstration=4), pair(14, demonstration=8)
    prepared = run(options, *rows, anchors=(pair(7), pair(9)), method="sft", anchor_share=0.25)
    anchor = 8 + 4 * (8 + 20)  # two of them beside the six
    assert training_work(prepared) == Work(10 * (6 * 3 * (12 + 6) + 2 * anchor), {2: 10 * 20})


def test_more_rollouts_are_more_of_everything_and_a_judge_decodes_too(options: Any) -> None:
    rows = pair(10, 30), pair(14, 40)
    chosen: dict[str, Any] = {"method": "sdft", "template": "prior_turn"}
    a_row = 12 + 3 * (12 + 20) + 35 + 20
    assert training_work(run(options, *rows, **chosen, num_rollouts=3)) == Work(10 * 18 * a_row, {18: 10 * 20})
    judged = training_work(run(options, *rows, **chosen, completion_source="accepted"))
    assert judged == Work(10 * 6 * (a_row + 35), {6: 2 * 10 * 20})


def test_demonstrations_in_a_mixture_are_read_instead_of_sampled(options: Any) -> None:
    rows = pair(10, 30, 4), pair(14, 40, 8)
    mixed: dict[str, Any] = {"method": "sdft", "template": "prior_turn", "completion_source": "mixture"}
    sampled, shown, judged = 12 + 3 * (12 + 20) + 35 + 20, 3 * (12 + 6), 35 + 6
    half = training_work(run(options, *rows, **mixed, mixture_target="tokens"))
    assert half == Work(10 * 3 * (sampled + shown), {3: 10 * 20})
    by_teacher = training_work(run(options, *rows, **mixed, mixture_share=1.0))
    assert by_teacher == Work(10 * 6 * (shown + judged), {})
    falling = training_work(run(options, *rows, **mixed, mixture_share=1.0, mixture_steps=5, max_steps=5))
    assert falling.tokens == pytest.approx(5 * 6 * (0.4 * sampled + 0.6 * (shown + judged)))  # 1, 0.8, ... 0.2


def test_rows_are_scored_in_batches(options: Any) -> None:
    prepared = run(options, pair(10, demonstration=4), pair(14, demonstration=8), method="sft")
    assert scoring_work(prepared, 150, 48) == Work(150 * 12, {64: 2 * 48, 22: 48})
    assert scoring_work(prepared, 64, 48) == Work(64 * 12, {64: 48})


def test_seconds_are_work_times_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duration, "PADDED", 1.5)
    work = total([Work(1000, {64: 10}), Work(2000, {64: 20, 5: 100})])
    assert work == Work(3000, {64: 30, 5: 100})
    assert seconds(work, Speed(0.002, {64: 0.5, 5: 0.03})) == pytest.approx(1.5 * 3000 * 0.002 + 30 * 0.5 + 100 * 0.03)


@pytest.mark.parametrize(
    ("taken", "said"),
    [
        (29, "less than a minute"),
        (31, "about 1 minute"),
        (350, "about 6 minutes"),
        (5900, "about 98 minutes"),
        (9000, "about 2.5 hours"),
    ],
)
def test_durations_in_words(taken: float, said: str) -> None:
    assert in_words(taken) == said


def test_the_fastest_try_counts_and_a_slow_one_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that says when each try begins and ends: reading 4 x 64 tokens, then steps of 5 and of 64 sequences."""
    tries = [0.2, 0.064, 0.128], [1.0], [0.25, 0.125]
    now, times = 0.0, []
    for taken in (taken for measurement in tries for taken in measurement):
        times += [now, now + taken]
        now += 100
    clock = iter(times)
    monkeypatch.setattr(duration.time, "perf_counter", lambda: next(clock))
    read: list[tuple[int, ...]] = []
    model = student()
    model.register_forward_pre_hook(lambda _, __, given: read.append(tuple(given["input_ids"].shape)), with_kwargs=True)
    speed = measured(model, [5, 64])
    assert speed.token == pytest.approx(0.064 / 256)
    assert speed.decoding == {5: 1.0, 64: pytest.approx(0.125)}
    assert read == [(4, 64)] * 3 + [(5, 1)] + [(64, 1)] * 2


def test_a_measurement_leaves_mode_and_random_numbers_alone() -> None:
    model = student().train()
    before = torch.get_rng_state()
    assert measured(model, [2]).token > 0
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("dtype", "units"), [(torch.bfloat16, "bf16 units"), (torch.float32, "no bf16 units")])
def test_the_machine_is_named_by_what_decides(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, units: str) -> None:
    monkeypatch.setattr(duration, "compute_dtype", lambda *_: dtype)
    for threads, said in (1, "1 thread"), (2, "2 threads"):
        monkeypatch.setattr(duration.torch, "get_num_threads", lambda threads=threads: threads)
        assert duration.machine(torch.device("cpu")) == f"{units}, {said}"
    assert duration.machine(torch.device("cuda")) == "cuda"
