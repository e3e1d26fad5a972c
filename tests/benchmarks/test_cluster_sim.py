"""The simulation of a cluster, against answers worked out by hand."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import cluster_sim as sim

SMALL = sim.MODELS[0]


@pytest.mark.parametrize(
    ("servers", "slots", "expected"),
    [
        (1, 2, 7.0),  # together two tokens at 2 s each, then three of the longer one at 1 s
        (1, 1, 7.0),  # one after the other: two and five tokens at 1 s
        (2, 2, 5.0),  # side by side: the longer one
    ],
)
def test_sampling_by_hand(monkeypatch: pytest.MonkeyPatch, servers: int, slots: int, expected: float) -> None:
    monkeypatch.setattr(sim, "SLOTS", slots)
    monkeypatch.setattr(sim, "decoding_seconds", lambda model, live, context: float(live))
    assert sim.sampling_seconds(SMALL, [2, 5], servers, prompt=0) == expected


def test_a_server_that_has_finished_takes_the_next_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sim, "SLOTS", 1)
    monkeypatch.setattr(sim, "decoding_seconds", lambda model, live, context: 1.0)
    assert sim.sampling_seconds(SMALL, [2, 5, 2, 2], 2, prompt=0) == 6.0  # 2 + 2 + 2 beside 5


def test_steps_by_hand() -> None:
    """Sampling 3 s, training 2 s, transfer 1 s: in turn 6 s a step; one step late sampling alone sets the pace."""
    three = [3.0] * 4, [2.0] * 4
    assert sim.step_seconds("apart", *three, 1.0) == 6.0
    assert sim.step_seconds("together", *three, 0.0) == 5.0
    assert sim.step_seconds("late", *three, 1.0) == 3.0
    assert sim.step_seconds("late", [1.0] * 9, [4.0] * 9, 1.0) == 4.0  # training does


def test_training_by_hand() -> None:
    """10 FLOPs per weight and token; between nodes eighths of fp32 gradients are added up."""
    tokens, node = 10**6, sim.training_seconds(SMALL, 10**6, 8)
    assert node == pytest.approx(10 * 7.6e9 * tokens / (8 * sim.FLOPS))
    two = sim.training_seconds(SMALL, 2 * tokens, 16)
    assert two - node == pytest.approx(2 * 4 * 7.6e9 / 8 / 50e9)
    assert sim.transfer_seconds(SMALL) == pytest.approx(2 * 7.6e9 / 50e9)
    assert sim.transfer_seconds(replace(SMALL, trained=0.01)) == pytest.approx(0.02 * 7.6e9 / 50e9)


def test_what_does_not_fit_is_not_offered() -> None:
    large = sim.MODELS[1]
    assert not sim.fits(large, 8)  # 16 bytes for each of 70.6 billion weights, 130 GB on each of 8 GPUs
    assert sim.fits(large, 9)
    assert sim.fits(replace(large, trained=0.01), 4)
    assert sim.simulate(large, "together", 8, 4, steps=2)["seconds"] is None


def test_one_card_takes_about_what_was_measured() -> None:
    one = sim.simulate(SMALL, "together", 1, 32, lengths=lambda step, count: [1024] * count, steps=2)
    assert one["seconds"] == pytest.approx(sim.MEASURED, rel=0.15)
