"""Once too often."""

from app.core.rate import RateLimit


def test_the_limit_may_be_reached_but_not_exceeded() -> None:
    rate = RateLimit(limit=3, period=10)
    assert [rate.exceeded(now) for now in (0, 1, 2, 3)] == [False, False, False, True]


def test_what_is_older_than_the_period_does_not_count() -> None:
    rate = RateLimit(limit=3, period=10)
    assert [rate.exceeded(now) for now in (0, 1, 2, 10.1, 11.1)] == [False] * 5
