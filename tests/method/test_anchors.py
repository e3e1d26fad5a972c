"""How many general prompts join a step, which ones, and what they are held to."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from selfdistill.method.rows import anchor_pairs, training_pairs
from selfdistill.method.step import Step
from tests.support.engines import Scripted
from tests.support.tiny import byte_tokenizer
from tests.support.training import ROWS, make_config, make_trainer, script, steps, student

TEN = [{"prompt": f"Say {n} words."} for n in range(10)]


def make_step(folder: Path, share: float, *, prompts: int, seed: int = 42, rows: Any = TEN, **settings: Any) -> Step:
    """A step of so many prompts beside general ones."""
    size = {"per_device_train_batch_size": prompts, "gradient_accumulation_steps": 1}
    config = make_config(folder, anchor_share=share, seed=seed, **size, **settings)
    model, tokenizer = student(), byte_tokenizer()
    anchors = anchor_pairs(rows, config, tokenizer, model.config)
    return Step(model, tokenizer, config, anchors=anchors, engine=Scripted(script()))


@pytest.mark.parametrize(
    ("share", "prompts", "counts"),
    [
        # 4 prompts and 4/9 of an anchor a step: 4 of 40 after nine steps
        pytest.param(0.1, 4, [0, 1, 0, 1, 0, 1, 0, 1, 0], id="less than one a step"),
        pytest.param(0.05, 8, [0, 1, 0, 1, 0, 1, 0, 0, 1], id="8/19 a step"),
        pytest.param(0.25, 1, [0, 1, 0, 0, 1, 0, 0, 1, 0], id="one of four"),
        pytest.param(0.25, 2, [1, 0, 1, 1, 0, 1, 1, 0, 1], id="2/3 a step"),
        pytest.param(0.5, 3, [3, 3, 3], id="as many as the others"),
        pytest.param(0.9, 1, [9, 9], id="nine of ten"),
        pytest.param(0.0, 4, [0, 0, 0], id="none"),
    ],
)
def test_fractions_are_carried_from_step_to_step(tmp_path: Path, share: float, prompts: int, counts: list[int]) -> None:
    step = make_step(tmp_path, share, prompts=prompts)
    assert [len(step.anchors(prompts, number)) for number in range(len(counts))] == counts


def test_an_incomplete_last_batch_takes_fewer(tmp_path: Path) -> None:
    step = make_step(tmp_path, 0.5, prompts=4)
    assert [len(step.anchors(size, number)) for number, size in ((0, 4), (1, 3), (2, 4))] == [4, 3, 4]


def drawn(step: Step, count: int) -> list[str]:
    return [pair.example.id for number in range(count) for pair in step.anchors(4, number)]


def test_they_come_in_shuffled_passes_over_the_data(tmp_path: Path) -> None:
    ids = drawn(make_step(tmp_path, 0.5, prompts=4), 5)  # 20 of ten prompts
    whole = {f"anchor/{n}" for n in range(10)}
    assert set(ids[:10]) == set(ids[10:]) == whole
    assert ids[:10] != ids[10:] != sorted(whole)


def test_they_are_a_function_of_seed_and_step_alone(tmp_path: Path) -> None:
    step, other = make_step(tmp_path, 0.5, prompts=4), make_step(tmp_path, 0.5, prompts=4, seed=7)
    in_order = [step.anchors(4, number) for number in range(4)]
    assert [step.anchors(4, number) for number in (3, 0, 2, 1)] == [in_order[at] for at in (3, 0, 2, 1)]
    assert drawn(step, 4) != drawn(other, 4)


def test_the_whole_run_has_its_share(tmp_path: Path) -> None:
    settings = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "max_steps": 9}
    trainer = make_trainer(tmp_path, anchor_share=0.1, num_train_epochs=9, **settings, options={"anchor_dataset": TEN})
    sizes: list[int] = []
    rollout = trainer.step.rollout
    trainer.step.rollout = lambda pairs, number: _noted(rollout(pairs, number), sizes)  # type: ignore[method-assign]
    trainer.train()
    assert sizes == [4, 5, 4, 5, 4, 5, 4, 5, 4]
    assert ["anchor_divergence" in line for line in steps(tmp_path)] == [size == 5 for size in sizes]


def _noted(samples: list[Any], sizes: list[int]) -> list[Any]:
    sizes.append(len(samples))
    return samples


# -- random numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["own", "generate"])
def test_an_anchor_and_a_row_of_the_same_prompt_are_sampled_apart(tmp_path: Path, engine: str) -> None:
    """With the same random numbers all eight pairs of completions would be alike."""
    config = make_config(tmp_path, anchor_share=0.5, rollout_engine=engine)
    model, tokenizer = student(), byte_tokenizer()
    anchors = anchor_pairs([{"prompt": row["prompt"]} for row in ROWS], config, tokenizer, model.config)
    rows = training_pairs(ROWS, config, tokenizer, model.config)
    samples = Step(model, tokenizer, config, anchors=anchors).rollout(rows, 0)
    general = {sample.pair.student_ids: sample.rollout.completion_ids for sample in samples[8:]}
    assert len(general) == 8
    assert all(general[sample.pair.student_ids] != sample.rollout.completion_ids for sample in samples[:8])


@pytest.mark.parametrize("method", ["sdft", "offline", "reinvoke"])
def test_rows_and_anchors_of_a_step_have_seeds_of_their_own(tmp_path: Path, method: str) -> None:
    base = {"base_weights": dict(student().named_parameters())} if method == "reinvoke" else {}
    options = {"anchor_dataset": TEN, **base}
    trainer = make_trainer(tmp_path, method=method, anchor_share=0.5, options=options)
    trainer.train()
    engine: Any = trainer.step.engine
    seeds = [seed for _, sampling in engine.calls for seed in sampling.seeds]
    assert len(seeds) == len(set(seeds)) == 16


def test_seeds_name_the_row_and_its_occurrence(tmp_path: Path) -> None:
    """Every row and anchor of a step, and every step, has a seed of its own."""
    step = make_step(tmp_path, 0.5, prompts=4, rows=TEN[:2])
    pairs = anchor_pairs(
        [{"prompt": row["prompt"]} for row in ROWS[:4]], step.config, byte_tokenizer(), step.model.config
    )
    for number in range(3):
        step.rollout(pairs, number)
    engine: Any = step.engine
    seeds = [sampling.seeds for _, sampling in engine.calls]
    assert [len(own) for own in seeds] == [8, 8, 8]  # 4 rows, and twice over the 2 anchors
    assert len({seed for own in seeds for seed in own}) == 24


def test_the_start_model_stays_where_a_frozen_teacher_restarts(tmp_path: Path) -> None:
    settings = {"teacher": "frozen", "teacher_restart_steps": 1, "anchor_share": 0.5, "max_steps": 1}
    trainer = make_trainer(tmp_path, **settings, options={"anchor_dataset": TEN})
    start = {name: weight.clone() for name, weight in trainer.step.teachers["start"].state_dict().items()}
    trainer.train()
    now = dict(trainer.model.named_parameters())
    teachers = {role: teacher.state_dict() for role, teacher in trainer.step.teachers.items()}
    assert all(torch.equal(start[name], teachers["start"][name]) for name in start)
    assert all(torch.equal(now[name], teachers["teacher"][name]) for name in start)
    assert any(not torch.equal(now[name], start[name]) for name in start)


def test_they_are_held_to_the_start_model(tmp_path: Path) -> None:
    """Their divergence is 0 until the student has moved; then it grows."""
    settings = {"anchor_share": 0.5, "max_steps": 3, "num_train_epochs": 3, "learning_rate": 1e-1}
    make_trainer(tmp_path, **settings, options={"anchor_dataset": TEN}).train()
    found = [line["anchor_divergence"] for line in steps(tmp_path)]
    assert found[0] == pytest.approx(0, abs=1e-6)
    assert all(one < other for one, other in pairwise(found))
