"""The weight of the penalty over the steps, by hand."""

from jacfast.training.schedule import Schedule


def weights(schedule, steps=6):
    return [schedule(step) for step in range(steps)]


def test_constant():
    assert weights(Schedule(0.03)) == [0.03] * 6


def test_post_processing_starts_late():
    assert weights(Schedule(0.5, start=2)) == [0, 0, 0.5, 0.5, 0.5, 0.5]


def test_warm_up_is_linear_and_ends_at_lam():
    assert weights(Schedule(1.0, warmup=4)) == [0.25, 0.5, 0.75, 1, 1, 1]
    assert weights(Schedule(2.0, start=3, warmup=2)) == [0, 0, 0, 1, 2, 2]
