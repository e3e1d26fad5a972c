"""The prediction of a step's seconds in several processes, by hand."""

import pytest

from benchmarks.replicas import inputs, predicted


def test_by_hand() -> None:
    """Rows take 8 s and the rest 1 s; two processes exchange 100 bytes in 2 s."""
    known = inputs(whole=9.0, half=5.0, gradient_bytes=100, exchange=2.0, cores=2)
    assert (known.rows, known.alike, known.bandwidth) == (8.0, 1.0, 50.0)
    assert predicted(known, 1) == 9.0
    assert predicted(known, 2) == 4 + 1 + 2
    assert predicted(known, 3) == pytest.approx((8 / 3 + 1) * 1.5 + 4 / 3 * 2)  # three share two cores


def test_more_cores_than_processes_change_nothing() -> None:
    two, many = (inputs(whole=9.0, half=5.0, gradient_bytes=100, exchange=2.0, cores=cores) for cores in (2, 64))
    assert predicted(two, 2) == predicted(many, 2)
